//! Connections, bounded in number and in time: one request each, so that nobody holds one for long.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

/// How many connections are open at once; the next ones wait in the listener's backlog.
const CONNECTIONS: u32 = 1024;
/// How long a client may take to send its headers.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long a connection lives in all.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// The most that is read of a request's head, in bytes.
const HEAD_CAP: usize = 16 << 10;
/// The pause after a failure to accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `stopped` turns true, then waits for the connections under way.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let accepting = async {
        loop {
            // The semaphore is never closed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(answer(stream, router.clone(), slot))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    drop(listener);
    if timeout(CONNECTION_TIME, slots.acquire_many(CONNECTIONS))
        .await
        .is_err()
    {
        tracing::debug!("connections were still open at the end");
    }
}

async fn answer(stream: TcpStream, router: Router, slot: OwnedSemaphorePermit) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .keep_alive(false)
        .max_buf_size(HEAD_CAP)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection failed"),
        Err(_) => tracing::debug!("connection took too long"),
    }
    drop(slot);
}
