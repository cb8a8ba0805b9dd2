//! `evercert solver`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Args;
use evercert_solver::Config;

use crate::log::LogArgs;
use crate::serve;

#[derive(Args, Debug)]
pub(crate) struct SolverArgs {
    /// The namespace of the ConfigMap with the open challenges
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: String,

    /// Where challenges are answered
    #[arg(
        long,
        env = "EVERCERT_SOLVER_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:8089"
    )]
    listen: SocketAddr,

    /// Where /healthz and /readyz are answered; beside the challenges when absent
    #[arg(
        long,
        env = "EVERCERT_SOLVER_HEALTH_LISTEN",
        value_name = "ADDRESS:PORT"
    )]
    health_listen: Option<SocketAddr>,

    #[command(flatten)]
    log: LogArgs,
}

/// Answers challenges until a signal ends it.
pub(crate) fn run(args: SolverArgs) -> Result<()> {
    serve::run(&args.log, async {
        let client =
            kube::Client::try_from(serve::find_cluster().await?).context("building a client")?;
        let config = Config {
            listen: args.listen,
            health_listen: args.health_listen,
            namespace: args.namespace,
            client,
        };
        Ok(evercert_solver::run(config, serve::shutdown()?).await?)
    })
}
