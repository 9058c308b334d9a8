//! Accepts connections: a bounded number, none for ever. hyper itself has no limit on a client that stalls.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::server::graceful::Watcher;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower::util::MapRequest;

use super::address::Peer;
use crate::config;
use crate::shutdown::Shutdown;

/// After an accept that failed, usually for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until `shutdown` goes soft, then lets open connections finish until it goes hard. With TLS where there is an
/// acceptor.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    config: config::Http,
    shutdown: Shutdown,
) {
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(config.max_connections));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = shutdown.soft.cancelled() => break,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let Ok(stream) = prepare(stream, config.stall_timeout) else { continue };
        let connection = Connection {
            router: router.clone(),
            peer,
            header_timeout: config.header_timeout,
            watcher: connections.watcher(),
        };
        let (tls, shutdown) = (tls.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = connection.serve(stream, tls, shutdown.soft) => {}
                () = shutdown.hard.cancelled() => {}
            }
            drop(place);
        });
    }
    drop(listener);
    tokio::select! {
        biased;
        () = connections.shutdown() => {}
        () = shutdown.hard.cancelled() => tracing::warn!("connections were still open and are cut"),
    }
}

/// What a connection is served with.
struct Connection {
    router: Router,
    peer: SocketAddr,
    header_timeout: Duration,
    watcher: Watcher,
}

impl Connection {
    async fn serve(
        self,
        stream: Pin<Box<TimeoutStream<TcpStream>>>,
        tls: Option<TlsAcceptor>,
        stopping: CancellationToken,
    ) {
        let Some(tls) = tls else { return self.answer(stream).await };
        // Who has not shaken hands yet has asked for nothing.
        let shaken = tokio::select! {
            shaken = timeout(self.header_timeout, tls.accept(stream)) => shaken,
            () = stopping.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.answer(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn answer(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(note_peer(self.router, self.peer)));
        // An error here is a client that went away or was too slow: nothing to be done.
        let _ = self.watcher.watch(connection).await;
    }
}

/// Notes in each request from whose connection it is.
fn note_peer(
    router: Router,
    peer: SocketAddr,
) -> MapRequest<Router, impl FnMut(Request<Incoming>) -> Request<Incoming> + Clone> {
    router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        request
    })
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    // Never closed, so this always gives one.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_AGAIN).await;
            None
        }
    }
}

fn prepare(stream: TcpStream, stall_timeout: Duration) -> io::Result<Pin<Box<TimeoutStream<TcpStream>>>> {
    stream.set_nodelay(true)?;
    let mut stream = TimeoutStream::new(stream);
    // Only for writing: reading is bounded by the time-outs of headers and requests, and while an answer is sent there is
    // nothing to read.
    stream.set_write_timeout(Some(stall_timeout));
    Ok(Box::pin(stream))
}
