//! `evercert forwarder`.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use evercert_solver::ForwarderConfig;

use crate::log::LogArgs;
use crate::serve;

#[derive(Args, Debug)]
pub(crate) struct ForwarderArgs {
    /// Where the solver's Service answers
    #[arg(long, env = "EVERCERT_FORWARDER_SOLVER", value_name = "ADDRESS:PORT")]
    solver: SocketAddr,

    /// Where challenges are taken, and /healthz and /readyz are answered
    #[arg(
        long,
        env = "EVERCERT_FORWARDER_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:8089"
    )]
    listen: SocketAddr,

    #[command(flatten)]
    log: LogArgs,
}

/// Passes challenges on until a signal ends it.
pub(crate) fn run(args: &ForwarderArgs) -> Result<()> {
    serve::run(&args.log, async {
        let config = ForwarderConfig {
            listen: args.listen,
            solver: args.solver,
        };
        Ok(evercert_solver::run_forwarder(config, serve::shutdown()?).await?)
    })
}
