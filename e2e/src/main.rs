//! `evercert-e2e`: the parts of a stage that are processes of their own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use evercert_e2e::node::{self, Images, POD_ROLE};
use evercert_e2e::stage;

/// Parts of the test stage: a played node.
#[derive(Parser)]
#[command(name = "evercert-e2e", version)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Play the node of a world: run its pods as processes.
    Node {
        /// The folder for the pods' files and logs.
        #[arg(long)]
        dir: PathBuf,
        /// The cluster's CA, given to pods with their token.
        #[arg(long)]
        cluster_ca: PathBuf,
        /// The kubeconfig to use.
        #[arg(long, env = "KUBECONFIG")]
        kubeconfig: PathBuf,
    },
    /// The process of a pod, started by `node` only.
    #[command(name = POD_ROLE, hide = true)]
    BecomePod {
        /// What to do, as JSON.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Role) -> Result<()> {
    if let Role::BecomePod { file } = role {
        // Before any thread is there.
        return node::become_pod(&file);
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Runtime::new()
        .context("starting a runtime")?
        .block_on(async {
            match role {
                Role::Node {
                    dir,
                    cluster_ca,
                    kubeconfig,
                } => {
                    node::play(
                        stage::client(&kubeconfig).await?,
                        Images::of_this_build()?,
                        dir,
                        cluster_ca,
                    )
                    .await
                }
                Role::BecomePod { .. } => Ok(()),
            }
        })
}
