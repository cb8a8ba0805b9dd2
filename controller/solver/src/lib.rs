//! The HTTP-01 responder: the only part of Evercert that faces the internet.
//!
//! It reads one ConfigMap and nothing else, writes nothing, and answers only what stands in it. Any replica answers alike; a
//! restart loses nothing.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::watch;

mod answers;
mod follow;
mod forward;
mod router;
mod serve;
#[cfg(test)]
mod tests;

pub use answers::Answers;
pub use forward::{ForwarderConfig, forwarder_router, run_forwarder};
pub use router::{health_router, router};

/// What the solver needs to know.
#[derive(Clone)]
pub struct Config {
    /// Where challenges are answered. Without `health_listen`, `/healthz` and `/readyz` are answered here too.
    pub listen: SocketAddr,
    /// Where `/healthz` and `/readyz` are answered, apart from challenges: a flood of the one leaves the other alone.
    pub health_listen: Option<SocketAddr>,
    /// The namespace of the ConfigMap with the open challenges.
    pub namespace: String,
    /// A client that may list and watch the ConfigMap of this name ([`evercert_api::keys::CHALLENGES_NAME`]); nothing else is
    /// asked of it.
    pub client: kube::Client,
}

/// Why the solver cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Answers challenges until `shutdown` completes, then lets the connections under way end (10 s at most). API outages are
/// lived through with the last list read.
///
/// # Errors
/// [`RunError`] when it cannot begin; never later.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    let answers = Answers::default();
    let public = listen(config.listen).await?;
    let (public_router, health) = match config.health_listen {
        Some(address) => (router(answers.clone()), Some(listen(address).await?)),
        None => (
            router(answers.clone()).merge(health_router(answers.clone())),
            None,
        ),
    };
    tracing::info!(listen = %config.listen, namespace = config.namespace, "answering challenges");

    let (stop, stopped) = watch::channel(false);
    let stopping = async {
        shutdown.await;
        // Both servers hold a receiver as long as they run; without one there is nothing to stop.
        let _ = stop.send(true);
    };
    let serving_health = async {
        if let Some(listener) = health {
            serve::serve(listener, health_router(answers.clone()), stopped.clone()).await;
        }
    };
    let serving = serve::serve(public, public_router, stopped.clone());
    tokio::select! {
        ended = follow::follow(config.client, &config.namespace, &answers) => match ended {},
        _ = async { tokio::join!(stopping, serving_health, serving) } => Ok(()),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen { address, source })
}
