//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use evercert_api::duration::parse_duration;

/// Gets certificates from an ACME certificate authority for a Kubernetes cluster, and keeps them good.
#[derive(Parser, Debug)]
#[command(
    name = "evercert",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the operator: watch Certificates and Issuers, order, store and renew
    ///
    /// Needs the custom resources to be installed (`evercert crds | kubectl apply --server-side -f -`) and the rights of its
    /// ServiceAccount. The cluster is the one that it runs in, else the one that KUBECONFIG or ~/.kube/config names.
    Controller(Box<ControllerArgs>),
    /// Answer HTTP-01 challenges: the only part that faces the internet
    ///
    /// Reads the ConfigMap evercert-challenges in its namespace and answers GET /.well-known/acme-challenge/<token> when host
    /// and token are those of an open challenge; everything else is 404. The controller starts it when it is needed.
    Solver(SolverArgs),
    /// Print the custom resource definitions, or write or check their files
    ///
    /// To install them: evercert crds | kubectl apply --server-side -f -
    Crds(CrdsArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ControllerArgs {
    /// The operator's own namespace: its solver and ledger, and the Secrets of ClusterIssuers
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub(crate) namespace: String,

    /// The solver's image, which holds this same program
    #[arg(
        long,
        env = "EVERCERT_SOLVER_IMAGE",
        value_name = "IMAGE",
        help_heading = "Solver"
    )]
    pub(crate) solver_image: String,

    /// The solver's ServiceAccount
    #[arg(
        long,
        env = "EVERCERT_SOLVER_SERVICE_ACCOUNT",
        value_name = "NAME",
        default_value = "evercert-solver",
        help_heading = "Solver"
    )]
    pub(crate) solver_service_account: String,

    /// The port that the solver listens on
    #[arg(
        long,
        env = "EVERCERT_SOLVER_PORT",
        value_name = "PORT",
        default_value_t = 8089,
        value_parser = clap::value_parser!(u16).range(1024..),
        help_heading = "Solver"
    )]
    pub(crate) solver_port: u16,

    /// How long the solver stays after the last challenge, such as 10m; `always` never removes it
    #[arg(
        long,
        env = "EVERCERT_SOLVER_IDLE",
        value_name = "DURATION",
        default_value = "10m",
        value_parser = parse_idle,
        help_heading = "Solver"
    )]
    pub(crate) solver_idle: Idle,

    /// Whether a Certificate may have a name that stands in an Ingress or an older Certificate of another namespace
    #[arg(long, env = "EVERCERT_NAME_SHARING", value_enum, default_value_t = NameSharing::Refuse)]
    pub(crate) name_sharing: NameSharing,

    /// The most orders under way at the same time
    #[arg(
        long,
        env = "EVERCERT_MAX_ORDERS",
        value_name = "COUNT",
        default_value_t = 50,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(crate) max_orders: u16,

    /// The most objects of a kind reconciled at the same time
    #[arg(
        long,
        env = "EVERCERT_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(crate) concurrency: u16,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(
        long,
        env = "EVERCERT_HEALTH_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:8080"
    )]
    pub(crate) health_listen: SocketAddr,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SolverArgs {
    /// The namespace of the ConfigMap with the open challenges
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub(crate) namespace: String,

    /// Where challenges are answered
    #[arg(
        long,
        env = "EVERCERT_SOLVER_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:8089"
    )]
    pub(crate) listen: SocketAddr,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CrdsArgs {
    /// Write a file for each definition into this folder instead of printing
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    pub(crate) output: Option<PathBuf>,

    /// Compare the files in this folder with the definitions; exit code 1 when they differ
    #[arg(long, value_name = "DIR")]
    pub(crate) check: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// The form of the log, on standard error
    #[arg(long, env = "EVERCERT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Log")]
    pub(crate) log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace; or by part, such as info,evercert_acme=debug
    #[arg(
        long,
        env = "EVERCERT_LOG",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Log"
    )]
    pub(crate) log_level: String,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameSharing {
    /// Not unless the other namespace is annotated evercert.dev/name-sharing: allow
    Refuse,
    /// Always: for clusters where every namespace is trusted
    Allow,
}

/// How long the solver stays when it has nothing to answer; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Idle(pub(crate) Option<Duration>);

fn parse_idle(text: &str) -> Result<Idle, String> {
    if text == "always" {
        return Ok(Idle(None));
    }
    parse_duration(text)
        .and_then(|idle| Duration::try_from(idle).ok())
        .map(|idle| Idle(Some(idle)))
        .ok_or_else(|| {
            "write a duration above zero such as 90s, 10m or 1h30m, or always".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const CONTROLLER: [&str; 6] = [
        "evercert",
        "controller",
        "--namespace",
        "evercert",
        "--solver-image",
        "evercert:1",
    ];

    fn controller(more: &[&str]) -> Result<ControllerArgs, clap::Error> {
        match Cli::try_parse_from(CONTROLLER.iter().chain(more))?.command {
            Command::Controller(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn solver_stays_ten_minutes_unless_told_otherwise() {
        let idle = |more: &[&str]| {
            controller(more)
                .map(|args| args.solver_idle.0)
                .map_err(|e| e.to_string())
        };
        assert_eq!(idle(&[]), Ok(Some(Duration::from_mins(10))));
        assert_eq!(
            idle(&["--solver-idle", "90s"]),
            Ok(Some(Duration::from_secs(90)))
        );
        assert_eq!(idle(&["--solver-idle", "always"]), Ok(None));
        for bad in ["0s", "10", "never"] {
            let refusal = idle(&["--solver-idle", bad]).unwrap_err();
            assert!(refusal.contains("write a duration above zero"), "{refusal}");
        }
    }

    #[test]
    fn foreign_names_are_refused_unless_told_otherwise() {
        assert_eq!(controller(&[]).unwrap().name_sharing, NameSharing::Refuse);
        assert_eq!(
            controller(&["--name-sharing", "allow"])
                .unwrap()
                .name_sharing,
            NameSharing::Allow
        );
    }

    #[test]
    fn bounds_of_numbers_are_refused_at_the_start() {
        for bad in [
            ["--max-orders", "0"],
            ["--concurrency", "0"],
            ["--solver-port", "80"],
        ] {
            assert!(controller(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn help_of_each_command_tells_of_every_option_and_its_variable() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            for option in command.get_arguments() {
                assert!(
                    option.get_help().is_some(),
                    "{} of {}",
                    option.get_id(),
                    command.get_name()
                );
                if let Some(variable) = option.get_env() {
                    assert!(
                        help.contains(&format!("[env: {}=", variable.display())),
                        "{help}"
                    );
                }
            }
        }
    }
}
