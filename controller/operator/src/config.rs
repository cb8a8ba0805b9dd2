//! What the operator is told at its start, and by nobody else: no object of a tenant changes any of this.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use evercert_core::forwarder::ForwarderShape;
use evercert_core::lease::Candidacy;
use evercert_core::source::SourceConfig;
use evercert_probe::Network;

use crate::territory::Territory;

/// The operator's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The operator's own namespace: solver, challenges, ledger, and the Secrets of every ClusterIssuer.
    pub namespace: String,
    /// The namespaces that it looks after.
    pub territory: Territory,
    /// The ingress classes and the controller of each, where it is confined and cannot read them.
    pub ingress_classes: BTreeMap<String, String>,
    /// The solver that it runs there.
    pub solver: SolverConfig,
    /// The forwarders that it may run in the namespaces of Certificates; none where it has no rights for them.
    pub forwarder: Option<ForwarderShape>,
    /// Whether a Certificate may have a name that another namespace holds, without that namespace's annotation.
    pub name_sharing_allowed: bool,
    /// How Ingresses are the source of Certificates.
    pub source: SourceConfig,
    /// The most objects that are worked on at the same time, at least 1; those that wait for a CA are not counted.
    pub concurrency: u16,
    /// The most orders that are under way at the CAs at the same time, at least 1. An eighth of them are worked on here, the
    /// others wait for their CA.
    pub max_orders: usize,
    /// The time over which renewals are spread that a CA wants at once.
    pub renewal_spread: Duration,
    /// The DNS servers that are asked; without any those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// Private networks that the self-check may send requests to, beside the addresses of Ingresses.
    pub self_check_networks: Vec<Network>,
    /// What the operator calls itself in each request to a CA (RFC 8555 §6.1).
    pub user_agent: String,
    /// Where `/healthz` and `/readyz` are served.
    pub health_listen: SocketAddr,
    /// How long a path or a route that no challenge needs any more may stay, so that the ends of many orders are one write.
    pub route_patience: Duration,
    /// The keys of annotations that a namespaced Issuer may put on its routes, or `prefix/*` for all keys of a prefix.
    pub issuer_route_annotations: Vec<String>,
    /// The Lease that says which of several processes acts.
    pub lease: LeaseConfig,
}

/// The Lease, in the operator's own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// Its name.
    pub name: String,
    /// What this process calls itself in it, and how long its claim lasts: whole seconds.
    pub candidacy: Candidacy,
}

/// The shape of the solver's Deployment and Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SolverConfig {
    /// The image of its container, which holds this same binary.
    pub image: String,
    /// The ServiceAccount that may read the open challenges and nothing else.
    pub service_account: String,
    /// How long it stays after the last challenge has gone; `None` keeps it always.
    pub idle: Option<Duration>,
    /// The port that it listens on, unprivileged.
    pub port: u16,
}
