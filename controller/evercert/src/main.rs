//! The one binary of Evercert: arguments, crypto provider, log and signals. What it does is in the crates that it calls.

mod args;
mod controller;
mod crds;
mod forwarder;
mod log;
mod page;
mod serve;
mod solver;
mod source;

use std::process::ExitCode;

use clap::Parser;
use evercert_core::source::build_document as source_page;
use evercert_core::trouble::build_document as trouble_page;
use evercert_operator::metrics::build_document as metrics_page;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Controller(args) => controller::run(&args),
        Command::Solver(args) => solver::run(args),
        Command::Forwarder(args) => forwarder::run(&args),
        Command::Crds(args) => crds::run(&args),
        Command::Annotations(args) => page::run(&args, &source_page(), "annotations"),
        Command::Metrics(args) => page::run(&args, &metrics_page(), "metrics"),
        Command::Troubleshooting(args) => page::run(&args, &trouble_page(), "troubleshooting"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain of causes on one line.
            eprintln!("evercert: {error:#}");
            ExitCode::FAILURE
        }
    }
}
