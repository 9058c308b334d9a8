//! SIGTERM: nothing new is taken, and what is under way has its time (DESIGN 1; `http.shutdown_grace`). Parts under way are
//! in `workers`.

use rustix::process::Signal;

use crate::support::{Database, Server, eventually, put_mebibytes};

async fn has_ended(server: &mut Server) {
    eventually("it ends", || {
        let ended = server.has_ended();
        async move { ended.is_some_and(|status| status.success()) }
    })
    .await;
}

/// A server with a file that does not fit into the sockets, and a download of it that has begun.
async fn downloading(database: &Database, grace: &str) -> (Server, reqwest::Response) {
    put_mebibytes(database, 24).await;
    let server = Server::start_with(database, &[("http.shutdown_grace", grace)]).await;
    let url = server.anybody().kick_off("").await.completed().await.urls("output").remove(0);
    let mut response = server.anybody().get(&url).send().await.unwrap();
    response.chunk().await.unwrap().unwrap();
    (server, response)
}

#[tokio::test]
async fn a_download_under_way_is_finished() {
    let database = Database::create().await;
    let (mut server, mut response) = downloading(&database, "60s").await;
    server.signal(Signal::TERM);
    eventually("it is stopping", || async { server.log().contains("stopping") }).await;
    // Nobody is let in any more.
    eventually("it does not listen", || async { server.anybody().get("/metadata").send().await.is_err() }).await;
    while response.chunk().await.unwrap().is_some() {}
    has_ended(&mut server).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_on_keeps_no_server_from_ending() {
    let database = Database::create().await;
    let (mut server, mut response) = downloading(&database, "1s").await;
    server.signal(Signal::TERM);
    has_ended(&mut server).await;
    let rest = async {
        while response.chunk().await?.is_some() {}
        Ok::<_, reqwest::Error>(())
    };
    assert!(rest.await.is_err(), "a download that was cut does not look whole");
}
