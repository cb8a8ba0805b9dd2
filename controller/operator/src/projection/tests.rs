//! The projections against an API server in memory, on a clock that the tests move: what is written, when, and what not.

mod admission;
pub(crate) mod api_server;
mod edit;
mod routes;
mod solver;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use evercert_api::Identifier;
use evercert_api::challenge::OpenChallenge;
use evercert_core::key::ObjectKey;
use evercert_core::lease::Candidacy;
use evercert_core::routes::{CertificateChallenges, service_name};
use evercert_core::source::SourceConfig;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Presentation, Projections, SolverReadiness};
use crate::config::{Config, LeaseConfig, SolverConfig};
use crate::territory::Territory;
use api_server::{ApiServer, Change};

const CONFIG_MAP: &str = "configmaps/evercert/evercert-challenges";
const DEPLOYMENT: &str = "deployments/evercert/evercert-solver";
const SOLVER_SERVICE: &str = "services/evercert/evercert-solver";
const SOLVER_SLICE: &str = "endpointslices/evercert/evercert-solver-x";

/// A running task on an API server.
struct World {
    server: ApiServer,
    projections: Projections,
    task: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    /// A cluster with a default class and a solver that is ready as soon as it is wanted.
    fn new() -> Self {
        let server = ApiServer::default();
        server.put(
            "ingressclasses//contour",
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
                "metadata": { "annotations": { "ingressclass.kubernetes.io/is-default-class": "true" } },
            }),
        );
        server.put(SOLVER_SLICE, solver_slice(&["198.18.1.5"]));
        Self::on(server, Some(Duration::from_mins(10)), &[])
    }

    /// An operator that starts on `server` as it is, and finds these Certificates.
    fn on(server: ApiServer, idle: Option<Duration>, existing: &[&str]) -> Self {
        let (projections, task) =
            Projections::new(server.client(), &server.client(), &config(idle));
        projections.retain_existing(&existing.iter().map(|name| key(name)).collect());
        Self {
            server,
            projections,
            task: tokio::spawn(task.run()),
        }
    }

    /// The operator dies, and another one starts that finds these Certificates.
    fn restarted(self, existing: &[&str]) -> Self {
        let server = self.server.clone();
        drop(self);
        Self::on(server, Some(Duration::from_mins(10)), existing)
    }

    /// Waits for `condition`; a minute of the moved clock is the deadline.
    async fn until<T>(&self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(found) = condition(self) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "not within a minute: {what}\nrequests: {:#?}\nobjects: {:#?}",
                self.server.requests(),
                self.server.names()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_applied(&self, certificate: &str) -> Presentation {
        self.until(&format!("{certificate} is presented"), |w| {
            let presented = w.projections.presented(&key(certificate));
            matches!(presented, Presentation::Applied { .. }).then_some(presented)
        })
        .await
    }

    async fn until_failed(&self, certificate: &str) -> String {
        self.until(&format!("{certificate} fails"), |w| {
            match w.projections.presented(&key(certificate)) {
                Presentation::Failed { message } => Some(message),
                Presentation::Pending | Presentation::Applied { .. } => None,
            }
        })
        .await
    }

    /// The requests after the first `skip`, the solver's cold start left out, as `METHOD object`.
    fn written(&self, skip: usize) -> Vec<String> {
        let requests = self.server.requests();
        let cold = [DEPLOYMENT, SOLVER_SERVICE];
        requests
            .iter()
            .skip(skip)
            .filter(|r| !cold.contains(&r.object.as_str()))
            .map(|r| format!("{} {}", r.method, r.object))
            .collect()
    }

    /// Nothing is written while the clock goes on by `time`.
    async fn assert_silence(&self, time: Duration) {
        let before = self.server.requests().len();
        tokio::time::sleep(time).await;
        let after = self.server.requests();
        assert_eq!(
            after.len(),
            before,
            "no silence: {:#?}",
            after.get(before..)
        );
    }
}

fn config(idle: Option<Duration>) -> Config {
    Config {
        namespace: "evercert".to_owned(),
        territory: Territory::default(),
        ingress_classes: BTreeMap::new(),
        source: SourceConfig::default(),
        solver: SolverConfig {
            image: "evercert:test".to_owned(),
            service_account: "evercert-solver".to_owned(),
            idle,
            port: 8089,
        },
        forwarder: None,
        name_sharing_allowed: false,
        concurrency: 1,
        max_orders: 1,
        renewal_spread: Duration::ZERO,
        dns_servers: Vec::new(),
        self_check_networks: Vec::new(),
        route_patience: Duration::from_secs(3),
        issuer_route_annotations: Vec::new(),
        user_agent: String::new(),
        health_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        lease: LeaseConfig {
            name: "evercert".to_owned(),
            candidacy: Candidacy {
                identity: "test".to_owned(),
                duration: Duration::from_secs(10),
            },
        },
    }
}

fn key(text: &str) -> ObjectKey {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectKey::new(namespace, name)
}

/// Challenges of the Certificate `ns/name`, one for each host; the token follows from both.
fn open(certificate: &str, hosts: &[&str]) -> CertificateChallenges {
    let challenge = |host: &&str| {
        let token = format!(
            "{}-{}",
            certificate.replace('/', "-"),
            host.replace('.', "_")
        );
        let answer = format!("{token}.thumb");
        OpenChallenge::new(Identifier::parse(host).unwrap(), &token, &answer).unwrap()
    };
    CertificateChallenges {
        key: key(certificate),
        uid: format!("uid-of-{certificate}"),
        sources: BTreeMap::new(),
        class: None,
        annotations: BTreeMap::new(),
        edit_in_place: None,
        placement: None,
        challenges: hosts.iter().map(challenge).collect(),
    }
}

fn solver_slice(addresses: &[&str]) -> Value {
    let endpoint = |a: &&str| json!({ "addresses": [a], "conditions": { "ready": true } });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "labels": { "kubernetes.io/service-name": "evercert-solver" } },
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "http", "port": 8089, "protocol": "TCP" }],
    })
}

fn service_of(namespace: &str) -> String {
    format!("services/{namespace}/{}", service_name(namespace))
}

fn slice_of(namespace: &str) -> String {
    format!(
        "endpointslices/{namespace}/{}-ipv4",
        service_name(namespace)
    )
}

/// The one route Ingress in `namespace`.
fn ingress_of(server: &ApiServer, namespace: &str) -> Option<(String, Value)> {
    let prefix = format!("ingresses/{namespace}/");
    let name = server
        .names()
        .into_iter()
        .find(|n| n.starts_with(&prefix) && n.ends_with("-route"))?;
    let content = server.get(&name)?;
    Some((name, content))
}

fn hosts_in(ingress: &Value) -> BTreeSet<String> {
    let rules = ingress.pointer("/spec/rules").and_then(Value::as_array);
    rules
        .into_iter()
        .flatten()
        .filter_map(|r| r.get("host").and_then(Value::as_str).map(ToOwned::to_owned))
        .collect()
}

fn assert_gaps(requests: &[Change], least: Duration) {
    for (n, request) in requests.iter().enumerate() {
        let next = requests
            .iter()
            .skip(n + 1)
            .find(|r| r.object == request.object);
        if let Some(next) = next {
            let gap = next.at - request.at;
            assert!(gap >= least, "{gap:?} between {request:?} and {next:?}");
        }
    }
}
