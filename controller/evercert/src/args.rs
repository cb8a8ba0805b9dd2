//! The command line; each command's own arguments are in its file.

use clap::{Parser, Subcommand};

use crate::controller::ControllerArgs;
use crate::crds::CrdsArgs;
use crate::forwarder::ForwarderArgs;
use crate::page::PageArgs;
use crate::solver::SolverArgs;

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
    /// Needs the custom resources to be installed (evercert crds | kubectl apply --server-side -f -) and the rights of its
    /// ServiceAccount. The cluster is the one that KUBECONFIG or ~/.kube/config names, else the one that it runs in. It ends on
    /// SIGTERM or SIGINT, and goes on where it was when it is started again.
    Controller(Box<ControllerArgs>),
    /// Answer HTTP-01 challenges: the only part that faces the internet
    ///
    /// Reads the ConfigMap evercert-challenges in its namespace, and answers GET /.well-known/acme-challenge/TOKEN when host
    /// and token are those of an open challenge; everything else is 404. The controller starts it when it is needed.
    Solver(SolverArgs),
    /// Pass HTTP-01 challenges on to the solver: where a load balancer takes only pods of the Ingress's namespace
    ///
    /// Passes on GET and HEAD of /.well-known/acme-challenge/TOKEN with the Host that they came with; everything else is 404. It has
    /// no credentials. The controller starts it where spec.acme.http01.placement asks for it.
    Forwarder(ForwarderArgs),
    /// Print the custom resource definitions, or write or check their files
    ///
    /// To install them: evercert crds | kubectl apply --server-side -f -
    Crds(CrdsArgs),
    /// Print the page about the annotations of an Ingress, or write or check its file
    Annotations(PageArgs),
    /// Print the page about the metrics, or write or check its file
    Metrics(PageArgs),
    /// Print the page about what goes wrong, what it means and what to do, or write or check its file
    Troubleshooting(PageArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
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

    /// A kubelet gives each pod variables about every Service of its namespace: `evercert-solver`, which is there when the
    /// operator starts again, would set EVERCERT_SOLVER_PORT to a URL.
    #[test]
    fn no_variable_can_be_one_that_a_kubelet_sets_for_a_service() {
        let of_a_service = |name: &str| {
            name.ends_with("_PORT")
                || ["_PORT_", "_SERVICE_HOST", "_SERVICE_PORT"]
                    .iter()
                    .any(|part| name.contains(part))
        };
        assert!(of_a_service("EVERCERT_SOLVER_PORT"));
        for command in Cli::command().get_subcommands() {
            for variable in command.get_arguments().filter_map(clap::Arg::get_env) {
                let variable = variable.to_string_lossy();
                assert!(!of_a_service(&variable), "{variable}");
            }
        }
    }
}
