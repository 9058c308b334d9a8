//! The way of one replica to Postgres: TCP on 127.0.0.1 to Postgres' Unix socket, which can be cut, refused and
//! stalled.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, cuts) = (watch::Sender::new(Way::Open), watch::Sender::new(0));
        let accepting = tokio::spawn(accept(listener, socket.to_owned(), way.subscribe(), cuts.subscribe()));
        Self { address, way, cuts, accepting }
    }

    /// The database of this name, through here.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@{}/{database}?sslmode=disable", self.address)
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Ends all connections there are.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, socket: PathBuf, way: watch::Receiver<Way>, cuts: watch::Receiver<u64>) {
    loop {
        // Without a file left, the next moment may be better.
        let Ok((client, _)) = listener.accept().await else { continue };
        if *way.borrow() != Way::Closed {
            let mut cuts = cuts.clone();
            cuts.mark_unchanged();
            tokio::spawn(forward(client, socket.clone(), way.clone(), cuts));
        }
    }
}

async fn forward(client: TcpStream, socket: PathBuf, way: watch::Receiver<Way>, mut cuts: watch::Receiver<u64>) {
    let both = async {
        let Ok(server) = UnixStream::connect(&socket).await else { return };
        let _ = client.set_nodelay(true);
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        // When one side is gone the other goes too.
        tokio::select! {
            _ = pump(&mut from_client, &mut to_server, way.clone()) => {}
            _ = pump(&mut from_server, &mut to_client, way.clone()) => {}
        }
    };
    tokio::select! {
        () = both => {}
        _ = cuts.changed() => {}
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
