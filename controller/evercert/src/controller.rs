//! `evercert controller`.

mod parse;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use evercert_core::forwarder::ForwarderShape;
use evercert_core::lease::Candidacy;
use evercert_operator::{Config, LeaseConfig, Network, SolverConfig, Territory};

use self::parse::{
    Idle, parse_annotation_key, parse_claim, parse_forwarder, parse_identity, parse_idle,
    parse_namespace, parse_patience, parse_spread,
};
use crate::log::LogArgs;
use crate::serve;
use crate::source::SourceArgs;

#[derive(Args, Debug)]
pub(crate) struct ControllerArgs {
    /// The operator's own namespace: its solver and ledger, and the Secrets of ClusterIssuers
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: String,

    /// The namespaces that are looked after, joined by commas [default: all]
    ///
    /// Rights are then needed in these and in the operator's own only. ClusterIssuers, ingress classes, and the labels and annotations
    /// of namespaces, which are in the cluster as a whole, are not read.
    #[arg(
        long,
        env = "EVERCERT_NAMESPACES",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        value_parser = parse_namespace
    )]
    namespaces: Vec<String>,

    /// Whether a Certificate may have a name that stands in an Ingress or an older Certificate of another namespace
    #[arg(long, env = "EVERCERT_NAME_SHARING", value_enum, default_value_t = NameSharing::Refuse)]
    name_sharing: NameSharing,

    #[command(flatten)]
    source: SourceArgs,

    /// The most orders under way at the same time
    #[arg(
        long,
        env = "EVERCERT_MAX_ORDERS",
        value_name = "COUNT",
        default_value_t = 400,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    max_orders: u16,

    /// The time over which renewals are spread that a CA wants at once, as before a mass revocation: 24h at most, 0s for none
    ///
    /// Never more than a twentieth of a certificate's lifetime. Of those that are due at the same time the soonest expiry comes
    /// first.
    #[arg(
        long,
        env = "EVERCERT_RENEWAL_SPREAD",
        value_name = "DURATION",
        default_value = "30m",
        value_parser = parse_spread
    )]
    renewal_spread: Duration,

    /// The most objects worked on at the same time; those that wait for a CA are not counted
    #[arg(
        long,
        env = "EVERCERT_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    concurrency: u16,

    /// The DNS servers that are asked, joined by commas; those of the system when there is none
    #[arg(
        long = "dns-server",
        env = "EVERCERT_DNS_SERVERS",
        value_name = "ADDRESS:PORT",
        value_delimiter = ','
    )]
    dns_servers: Vec<SocketAddr>,

    /// Private networks, joined by commas, that the self-check may send requests to where a name or a redirect leads there
    ///
    /// Without it only public addresses are asked, and those that stand in the status of the name's Ingress.
    #[arg(
        long = "self-check-network",
        env = "EVERCERT_SELF_CHECK_NETWORKS",
        value_name = "NETWORK",
        value_delimiter = ','
    )]
    self_check_networks: Vec<Network>,

    /// Where /healthz, /readyz (leader or standby) and /metrics are served
    #[arg(
        long,
        env = "EVERCERT_HEALTH_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:8080"
    )]
    health_listen: SocketAddr,

    /// The solver's image, which holds this same program
    #[arg(
        long,
        env = "EVERCERT_SOLVER_IMAGE",
        value_name = "IMAGE",
        help_heading = "Solver"
    )]
    solver_image: String,

    /// The solver's ServiceAccount
    #[arg(
        long,
        env = "EVERCERT_SOLVER_SERVICE_ACCOUNT",
        value_name = "NAME",
        default_value = "evercert-solver",
        help_heading = "Solver"
    )]
    solver_service_account: String,

    /// The port that the solver listens on
    #[arg(
        long,
        env = "EVERCERT_SOLVER_LISTENS_AT",
        value_name = "PORT",
        default_value_t = 8089,
        value_parser = clap::value_parser!(u16).range(1024..),
        help_heading = "Solver"
    )]
    solver_port: u16,

    /// How long the solver stays after the last challenge, such as 10m or 1h30m; `always` never removes it
    #[arg(
        long,
        env = "EVERCERT_SOLVER_IDLE",
        value_name = "DURATION",
        default_value = "10m",
        value_parser = parse_idle,
        help_heading = "Solver"
    )]
    solver_idle: Idle,

    /// How long a path that no challenge needs any more may stay, 0s to 1m: the ends of many orders are then one write
    #[arg(
        long,
        env = "EVERCERT_ROUTE_PATIENCE",
        value_name = "DURATION",
        default_value = "3s",
        value_parser = parse_patience,
        help_heading = "Solver"
    )]
    route_patience: Duration,

    /// Annotations that a namespaced Issuer may put on its routes: keys, or `prefix/*`, joined by commas; a ClusterIssuer may any
    #[arg(
        long,
        env = "EVERCERT_ISSUER_ROUTE_ANNOTATIONS",
        value_name = "KEYS",
        value_delimiter = ',',
        value_parser = parse_annotation_key,
        help_heading = "Solver"
    )]
    issuer_route_annotations: Vec<String>,

    /// Forwarders may run in the namespaces of Certificates, for load balancers that take no other pods; it needs rights for Deployments
    /// and LimitRanges in every namespace
    #[arg(long, env = "EVERCERT_NAMESPACE_PLACEMENT", help_heading = "Solver")]
    namespace_placement: bool,

    /// What forwarders are like, as YAML or JSON: image (the solver's when absent), imagePullSecrets, resources, nodeSelector,
    /// tolerations
    #[arg(
        long,
        env = "EVERCERT_FORWARDER",
        value_name = "YAML",
        default_value = "{}",
        value_parser = parse_forwarder,
        help_heading = "Solver"
    )]
    forwarder: ForwarderShape,

    /// The Lease in the operator's namespace: of several processes that name the same one, its holder acts, the others stand by
    #[arg(
        long,
        env = "EVERCERT_LEASE_NAME",
        value_name = "NAME",
        default_value = "evercert",
        help_heading = "Lease"
    )]
    lease_name: String,

    /// What this process calls itself in the Lease [default: the host's name and a random part]
    ///
    /// No two that run at the same time may have the same. One that starts again under its name, such as a container of a pod
    /// that is called as the pod, does not wait for its own earlier claim to run out.
    #[arg(
        long,
        env = "EVERCERT_LEASE_IDENTITY",
        value_name = "NAME",
        value_parser = parse_identity,
        help_heading = "Lease"
    )]
    lease_identity: Option<String>,

    /// How long a claim on the Lease lasts, 2s to 1m; it is renewed five times in that time, and another takes over when it is
    /// past
    #[arg(
        long,
        env = "EVERCERT_LEASE_DURATION",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_claim,
        help_heading = "Lease"
    )]
    lease_duration: Duration,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum NameSharing {
    /// Not unless the other namespace is annotated evercert.dev/name-sharing: allow
    Refuse,
    /// Always: for clusters where every namespace is trusted
    Allow,
}

/// The host's name, and something that no other process has.
fn build_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let random = RandomState::new().build_hasher().finish();
    let host = parse_identity(host.trim()).unwrap_or_else(|_| "evercert".to_owned());
    format!("{}_{random:016x}", host.get(..200).unwrap_or(&host))
}

/// Runs the operator until a signal ends it.
pub(crate) fn run(args: &ControllerArgs) -> Result<()> {
    args.source.check(!args.namespaces.is_empty())?;
    let config = build_config(args);
    serve::run(&args.log, async {
        let cluster = serve::find_cluster().await?;
        Ok(evercert_operator::run(cluster, config, serve::shutdown()?).await?)
    })
}

fn build_config(args: &ControllerArgs) -> Config {
    Config {
        namespace: args.namespace.clone(),
        territory: Territory::new(args.namespaces.iter().cloned()),
        ingress_classes: args.source.class_controllers(),
        solver: SolverConfig {
            image: args.solver_image.clone(),
            service_account: args.solver_service_account.clone(),
            idle: args.solver_idle.0,
            port: args.solver_port,
        },
        forwarder: args.namespace_placement.then(|| args.forwarder.clone()),
        source: args.source.config(),
        name_sharing_allowed: args.name_sharing == NameSharing::Allow,
        concurrency: args.concurrency,
        max_orders: usize::from(args.max_orders),
        renewal_spread: args.renewal_spread,
        dns_servers: args.dns_servers.clone(),
        self_check_networks: args.self_check_networks.clone(),
        route_patience: args.route_patience,
        issuer_route_annotations: args.issuer_route_annotations.clone(),
        user_agent: concat!("evercert/", env!("CARGO_PKG_VERSION")).to_owned(),
        health_listen: args.health_listen,
        lease: LeaseConfig {
            name: args.lease_name.clone(),
            candidacy: Candidacy {
                identity: args.lease_identity.clone().unwrap_or_else(build_identity),
                duration: args.lease_duration,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    const NEEDED: [&str; 6] = [
        "evercert",
        "controller",
        "--namespace",
        "certs",
        "--solver-image",
        "evercert:1",
    ];

    fn config(more: &[&str]) -> Result<Config, String> {
        match Cli::try_parse_from(NEEDED.iter().chain(more))
            .map_err(|e| e.to_string())?
            .command
        {
            Command::Controller(args) => Ok(build_config(&args)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn namespace_and_image_are_all_that_must_be_given() {
        let config = config(&[]).unwrap();
        assert_eq!(
            (config.namespace.as_str(), config.solver.image.as_str()),
            ("certs", "evercert:1")
        );
        assert!(!config.name_sharing_allowed);
    }

    #[test]
    fn it_looks_after_every_namespace_or_after_those_that_it_is_told() {
        let territory = |more: &[&str]| config(more).map(|config| config.territory);
        assert_eq!(territory(&[]), Ok(Territory::default()));
        let given = territory(&["--namespaces", "shop,blog"]).unwrap();
        assert!(given.is_confined());
        assert!(given.names().iter().eq(["blog", "shop"]));
        for bad in ["Shop", "a b", "a-", "shop,", "a.b"] {
            let refusal = territory(&["--namespaces", bad]).unwrap_err();
            assert!(refusal.contains("the name of a namespace"), "{refusal}");
        }
    }

    #[test]
    fn the_controllers_of_classes_are_told_by_name() {
        let classes = |more: &[&str]| config(more).map(|config| config.ingress_classes);
        let given = [
            "--class-controllers",
            "web=projectcontour.io/c,old=k8s.io/ingress-nginx",
        ];
        let given = classes(&given).unwrap();
        let given: Vec<_> = given
            .iter()
            .map(|(name, by)| (name.as_str(), by.as_str()))
            .collect();
        assert_eq!(
            given,
            [
                ("old", "k8s.io/ingress-nginx"),
                ("web", "projectcontour.io/c")
            ]
        );
        for bad in ["web", "=x", "web="] {
            let refusal = classes(&["--class-controllers", bad]).unwrap_err();
            assert!(refusal.contains("CLASS=CONTROLLER"), "{refusal}");
        }
    }

    #[test]
    fn solver_stays_ten_minutes_unless_told_otherwise() {
        let idle = |more: &[&str]| config(more).map(|config| config.solver.idle);
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
    fn the_annotations_of_an_issuers_routes_are_keys_or_prefixes() {
        let keys = |more: &[&str]| config(more).map(|config| config.issuer_route_annotations);
        assert_eq!(keys(&[]), Ok(Vec::new()));
        let given = ["--issuer-route-annotations", "a.example/x, b.example/*"];
        assert_eq!(
            keys(&given),
            Ok(vec!["a.example/x".to_owned(), "b.example/*".to_owned()])
        );
        for bad in ["*", "", "a b", "a*"] {
            let refusal = keys(&["--issuer-route-annotations", bad]).unwrap_err();
            assert!(refusal.contains("the key of an annotation"), "{refusal}");
        }
    }

    #[test]
    fn forwarders_run_only_on_demand_and_are_as_they_are_told_to_be() {
        let forwarder = |more: &[&str]| config(more).map(|config| config.forwarder);
        let shape = "image: mirror/evercert:1\nresources: {limits: {memory: 32Mi}}";
        assert_eq!(forwarder(&["--forwarder", shape]), Ok(None));
        let given = forwarder(&["--namespace-placement", "--forwarder", shape]).unwrap();
        assert_eq!(
            given.and_then(|f| f.image).as_deref(),
            Some("mirror/evercert:1")
        );
        assert_eq!(
            forwarder(&["--namespace-placement"]),
            Ok(Some(ForwarderShape::default()))
        );
        for (bad, told) in [
            ("{privileged: true}", "unknown field `privileged`"),
            ("{resources: {limits: {cpu: much}}}", "is no quantity"),
            ("{image: ''}", "image is empty"),
        ] {
            let refusal = forwarder(&["--forwarder", bad]).unwrap_err();
            assert!(refusal.contains(told), "{refusal}");
        }
    }

    #[test]
    fn a_mass_renewal_is_spread_over_half_an_hour_unless_told_otherwise() {
        let spread = |more: &[&str]| config(more).map(|config| config.renewal_spread);
        assert_eq!(spread(&[]), Ok(Duration::from_mins(30)));
        assert_eq!(spread(&["--renewal-spread", "0s"]), Ok(Duration::ZERO));
        assert_eq!(
            spread(&["--renewal-spread", "24h"]),
            Ok(Duration::from_hours(24))
        );
        for bad in ["24h1s", "0", "-5m", "half an hour"] {
            let refusal = spread(&["--renewal-spread", bad]).unwrap_err();
            assert!(
                refusal.contains("24h at most") || refusal.contains("unexpected argument"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn a_route_may_stay_three_seconds_unless_told_otherwise() {
        let patience = |more: &[&str]| config(more).map(|config| config.route_patience);
        assert_eq!(patience(&[]), Ok(Duration::from_secs(3)));
        assert_eq!(patience(&["--route-patience", "0s"]), Ok(Duration::ZERO));
        for bad in ["61s", "3", "-1s"] {
            assert!(patience(&["--route-patience", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn dns_servers_are_the_systems_unless_some_are_named() {
        assert_eq!(config(&[]).unwrap().dns_servers, []);
        let two = config(&["--dns-server", "198.18.0.1:53,[::1]:5353"]).unwrap();
        assert_eq!(two.dns_servers.len(), 2);
        assert!(config(&["--dns-server", "ns.example"]).is_err());
    }

    #[test]
    fn the_self_check_stays_outside_of_private_networks_unless_some_are_named() {
        assert_eq!(config(&[]).unwrap().self_check_networks, []);
        let two = config(&["--self-check-network", "10.0.0.0/8,fd00::/8"]).unwrap();
        assert_eq!(two.self_check_networks.len(), 2);
        let refusal = config(&["--self-check-network", "lan"]).unwrap_err();
        assert!(refusal.contains("write a network such as"), "{refusal}");
    }

    #[test]
    fn names_of_other_namespaces_are_free_only_on_demand() {
        assert!(
            config(&["--name-sharing", "allow"])
                .unwrap()
                .name_sharing_allowed
        );
    }

    #[test]
    fn each_process_has_an_identity_of_its_own_unless_it_is_told_one() {
        let identity = |more: &[&str]| config(more).map(|config| config.lease.candidacy.identity);
        let (one, other) = (identity(&[]).unwrap(), identity(&[]).unwrap());
        assert_ne!(one, other);
        assert_eq!(one.split_once('_').unwrap().1.len(), 16, "{one}");
        assert_eq!(
            identity(&["--lease-identity", "evercert-0"]),
            Ok("evercert-0".to_owned())
        );
        for bad in ["", "a b", "ä", &"x".repeat(254)] {
            let refusal = identity(&["--lease-identity", bad]).unwrap_err();
            assert!(refusal.contains("letters, digits"), "{refusal}");
        }
    }

    #[test]
    fn a_claim_lasts_ten_seconds_unless_told_otherwise() {
        let claim = |more: &[&str]| config(more).map(|config| config.lease.candidacy.duration);
        assert_eq!(claim(&[]), Ok(Duration::from_secs(10)));
        assert_eq!(
            claim(&["--lease-duration", "1m"]),
            Ok(Duration::from_mins(1))
        );
        for bad in ["1s", "61s", "2500ms", "0s", "10"] {
            let refusal = claim(&["--lease-duration", bad]).unwrap_err();
            assert!(refusal.contains("whole seconds from 2s to 1m"), "{refusal}");
        }
    }

    #[test]
    fn numbers_that_cannot_work_are_refused_at_the_start() {
        for bad in [
            ["--max-orders", "0"],
            ["--concurrency", "0"],
            ["--solver-port", "80"],
        ] {
            assert!(config(&bad).is_err(), "{bad:?}");
        }
    }
}
