//! The one binary of Evercert: arguments, crypto provider, log and signals. What it does is in the crates that it calls.

mod annotations;
mod args;
mod controller;
mod crds;
mod log;
mod serve;
mod solver;
mod source;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Controller(args) => controller::run(&args),
        Command::Solver(args) => solver::run(args),
        Command::Crds(args) => crds::run(&args),
        Command::Annotations(args) => annotations::run(&args),
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
