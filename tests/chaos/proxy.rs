//! The way of one replica to Postgres: TCP on 127.0.0.1 to Postgres' Unix socket, which can be cut, refused, stalled
//! and silenced.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Connections stay, and nothing gets through.
    Stalled,
    /// New connections are closed at once.
    Closed,
}

pub struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Way>,
    cuts: watch::Sender<u64>,
    silences: watch::Sender<u64>,
    /// Each connection has a share.
    connections: Arc<()>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, cuts, silences) = (watch::Sender::new(Way::Open), watch::Sender::new(0), watch::Sender::new(0));
        let signals = Signals { way: way.subscribe(), cuts: cuts.subscribe(), silences: silences.subscribe() };
        let connections = Arc::new(());
        let accepting = tokio::spawn(accept(listener, socket.to_owned(), signals, Arc::downgrade(&connections)));
        Self { address, way, cuts, silences, connections, accepting }
    }

    /// The database of this name, through here.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@{}/{database}?sslmode=disable&application_name=chaos", self.address)
    }

    /// Connections that the replica holds open, dead ones among them.
    pub fn connections(&self) -> usize {
        Arc::strong_count(&self.connections) - 1
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Ends all connections there are.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Lets all connections there are die without a word, as behind a firewall that has forgotten them: Postgres ends its
    /// sessions, and the replica is not told. New ones work.
    pub fn silence(&self) {
        self.silences.send_modify(|silences| *silences += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

/// What a connection obeys.
#[derive(Clone)]
struct Signals {
    way: watch::Receiver<Way>,
    cuts: watch::Receiver<u64>,
    silences: watch::Receiver<u64>,
}

async fn accept(listener: TcpListener, socket: PathBuf, signals: Signals, connections: Weak<()>) {
    loop {
        // Without a file left, the next moment may be better.
        let Ok((client, _)) = listener.accept().await else { continue };
        if *signals.way.borrow() != Way::Closed {
            let mut signals = signals.clone();
            signals.cuts.mark_unchanged();
            signals.silences.mark_unchanged();
            let (socket, share) = (socket.clone(), connections.upgrade());
            tokio::spawn(async move {
                serve(client, socket, signals).await;
                drop(share);
            });
        }
    }
}

async fn serve(mut client: TcpStream, socket: PathBuf, mut signals: Signals) {
    let _ = client.set_nodelay(true);
    let open = async {
        tokio::select! {
            () = forward(&mut client, &socket, signals.way) => return,
            _ = signals.silences.changed() => {}
        }
        // Takes what comes, until the replica gives up.
        let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
    };
    tokio::select! {
        () = open => {}
        _ = signals.cuts.changed() => {}
    }
}

/// Until one side is gone: then the other goes too.
async fn forward(client: &mut TcpStream, socket: &Path, way: watch::Receiver<Way>) {
    let Ok(mut server) = UnixStream::connect(socket).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::select! {
        _ = pump(&mut from_client, &mut to_server, way.clone()) => {}
        _ = pump(&mut from_server, &mut to_client, way.clone()) => {}
    }
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut way: watch::Receiver<Way>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        let _ = way.wait_for(|way| *way != Way::Stalled).await;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
    }
}
