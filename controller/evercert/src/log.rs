//! The log, on standard error.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// The form of the log, on standard error
    #[arg(long, env = "EVERCERT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Log")]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace; or by part, such as info,evercert_acme=debug
    #[arg(
        long,
        env = "EVERCERT_LOG",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Log"
    )]
    log_level: String,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// Begins to log; once in a process.
pub(crate) fn begin(args: &LogArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log_level)
        .with_context(|| format!("--log-level {:?}", args.log_level))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let begun = match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        // Of the spans the innermost says what a line is about.
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .try_init(),
    };
    begun
        .map_err(|e| anyhow::anyhow!(e))
        .context("beginning the log")
}
