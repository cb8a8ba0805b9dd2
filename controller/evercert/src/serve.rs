//! What both servers need around them: the crypto provider, a runtime, the log, the cluster, and the signals that end them.

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::log::{self, LogArgs};

/// Runs `server` until it ends by itself or by its shutdown.
pub(crate) fn run(args: &LogArgs, server: impl Future<Output = Result<()>>) -> Result<()> {
    // The one provider of the whole process, before anything speaks TLS.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("a crypto provider is installed already"))?;
    log::begin(args)?;
    tokio::runtime::Runtime::new()
        .context("starting the runtime")?
        .block_on(server)
}

/// The cluster that KUBECONFIG or ~/.kube/config names, else the one that this process runs in.
pub(crate) async fn find_cluster() -> Result<kube::Config> {
    kube::Config::infer().await.context("finding the cluster")
}

/// Completes at the first SIGTERM or SIGINT. The second one ends the process at once, for a person who cannot wait.
pub(crate) fn shutdown() -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let asked = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = asked, "ending");
        // Nobody listens any more when the server has ended by itself.
        let _ = stop.send(());
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(1);
    });
    Ok(async {
        // An error means that the task is gone: then no signal can be heard, and ending is right too.
        let _ = stopped.await;
    })
}
