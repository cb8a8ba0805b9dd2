//! `evercert-e2e`: the parts of a stage that are processes of their own, and what is written from the chart.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use evercert_cluster::Tools;
use evercert_e2e::chart::{self, Helm};
use evercert_e2e::node::{self, Images, POD_ROLE};
use evercert_e2e::{sbom, stage};

/// Parts of the test stage: a played node; and what is written from the chart.
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
    /// Write what is made from the chart: the table in its README, the manifests for kubectl, the renderings for readers.
    Chart {
        /// Only the README, which needs no Helm; and nothing is written: exit code 1 when it is not up to date.
        #[arg(long)]
        check_readme: bool,
    },
    /// Write the bill of materials (CycloneDX) of a package's program.
    Sbom {
        /// The package of this workspace.
        #[arg(long, default_value = "evercert")]
        package: String,
        /// What it was built for, as rustc names it.
        #[arg(long)]
        target: String,
        /// The program that was built, of which the checksum is in it.
        #[arg(long)]
        program: PathBuf,
        /// The file to write, as JSON.
        #[arg(long)]
        output: PathBuf,
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
    if let Role::Chart { check_readme } = role {
        return write_from_chart(check_readme);
    }
    if let Role::Sbom {
        package,
        target,
        program,
        output,
    } = role
    {
        return sbom::write(&package, &target, &program, &output);
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
                Role::BecomePod { .. } | Role::Chart { .. } | Role::Sbom { .. } => Ok(()),
            }
        })
}

fn write_from_chart(check_readme: bool) -> Result<()> {
    let readme = chart::build_readme()?;
    if check_readme {
        ensure!(
            readme.is_fresh(),
            "{} is not up to date; run make chart",
            readme.file.display()
        );
        return Ok(());
    }
    readme.write()?;
    let tools = Tools::ensure(&|line| eprintln!("{line}"))?;
    let helm = Helm::at(tools.program("helm"))?;
    chart::render_all(&helm)?
        .iter()
        .try_for_each(chart::Rendered::write)
}
