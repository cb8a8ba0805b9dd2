//! The process: its clients, its health, and one stint after the other until `shutdown`.

use std::future::Future;
use std::time::Duration;

use evercert_api::certificate::IssuerKind;
use evercert_api::{ClusterIssuer, Issuer};
use evercert_core::lease::Lost;
use futures::channel::mpsc::UnboundedSender;
use futures::future::FutureExt;
use http::header::{HeaderValue, USER_AGENT};
use kube::Client;
use kube::client::ClientBuilder;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::health;
use crate::issuer::{IssuerId, IssuerResource};
use crate::lease::Mandate;
use crate::rights::tell_missing;
use crate::stint::{Ended, stint};

/// A call to the API server gets no answer for so long: its connection is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the operator could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No client for the cluster can be made.
    #[error("no connection to the API server can be made")]
    Client(#[source] kube::Error),
    /// The ledger cannot be read; without it nothing may be ordered.
    #[error("the ledger in namespace {namespace} cannot be read")]
    Ledger {
        /// The operator's namespace.
        namespace: String,
        /// Why.
        #[source]
        source: crate::apply::ApplyError,
    },
    /// The health endpoint cannot be served.
    #[error("cannot listen for health checks")]
    Health(#[source] std::io::Error),
    /// A test asked for a stop at a place that does not exist.
    #[cfg(feature = "failpoints")]
    #[error(transparent)]
    Failpoint(#[from] crate::effect::failpoint::Unknown),
}

/// Wakes issuers, and knows which there are.
pub(crate) struct IssuerWakers {
    pub(crate) issuers: Store<Issuer>,
    pub(crate) cluster_issuers: Store<ClusterIssuer>,
    pub(crate) wake_issuer: UnboundedSender<ObjectRef<Issuer>>,
    pub(crate) wake_cluster_issuer: UnboundedSender<ObjectRef<ClusterIssuer>>,
}

impl IssuerWakers {
    /// Whether the issuer exists.
    pub(crate) fn exists(&self, id: &IssuerId) -> bool {
        match (id.kind, &id.namespace) {
            (IssuerKind::Issuer, Some(namespace)) => self
                .issuers
                .get(&ObjectRef::new(&id.name).within(namespace))
                .is_some(),
            (IssuerKind::Issuer, None) => false,
            (IssuerKind::ClusterIssuer, _) => self
                .cluster_issuers
                .get(&ObjectRef::new(&id.name))
                .is_some(),
        }
    }

    /// Has the loops of the issuers pass once more whose account's key is in Secret `name` of `namespace`; of all of them
    /// without a name.
    pub(crate) fn wake_by_account_key(&self, secret: Option<(&str, &str)>, operator: &str) {
        let issuers = self.issuers.state();
        let cluster_issuers = self.cluster_issuers.state();
        let objects = issuers.iter().map(|i| i.object(operator));
        let objects = objects.chain(cluster_issuers.iter().map(|i| i.object(operator)));
        for object in objects {
            let own = object.account_key_name();
            let is_meant = |(namespace, name): (&str, &str)| {
                own == Some(name) && object.secrets_namespace == namespace
            };
            if own.is_some() && secret.is_none_or(is_meant) {
                self.wake(&object.id);
            }
        }
    }

    /// Has the loops of all issuers pass once more.
    pub(crate) fn wake_all(&self, operator: &str) {
        let issuers = self.issuers.state();
        let cluster_issuers = self.cluster_issuers.state();
        let objects = issuers.iter().map(|i| i.object(operator));
        for object in objects.chain(cluster_issuers.iter().map(|i| i.object(operator))) {
            self.wake(&object.id);
        }
    }

    /// Has the issuer's loop pass once more. A closed channel means that the operator is stopping.
    pub(crate) fn wake(&self, id: &IssuerId) {
        match (id.kind, &id.namespace) {
            (IssuerKind::Issuer, Some(namespace)) => {
                let _ = self
                    .wake_issuer
                    .unbounded_send(ObjectRef::new(&id.name).within(namespace));
            }
            (IssuerKind::Issuer, None) => {}
            (IssuerKind::ClusterIssuer, _) => {
                let _ = self
                    .wake_cluster_issuer
                    .unbounded_send(ObjectRef::new(&id.name));
            }
        }
    }
}

/// The ways to the API server.
pub(crate) struct Clients {
    calls: kube::Config,
    /// For calls about the Lease, which gives the right to make the others, and for those that change nothing.
    pub(crate) lease: Client,
    /// For watches, which are silent for long: without a time-out of the client. The watcher has one for silence.
    pub(crate) watching: Client,
}

impl Clients {
    fn new(cluster: kube::Config, config: &Config) -> Result<Self, RunError> {
        let (mut calls, mut watches) = (cluster.clone(), cluster);
        calls.read_timeout = Some(READ_TIMEOUT);
        // Counted from the request: a connection that was idle for long has as much time as a new one.
        calls.reset_reader_on_write = true;
        // Repetition is bounded where the call is made.
        calls.default_retry = false;
        watches.read_timeout = None;
        let identity = &config.lease.candidacy.identity;
        // An audit log then tells which of several processes asked.
        if let Ok(agent) = HeaderValue::from_str(&format!("{} ({identity})", config.user_agent)) {
            for each in [&mut calls, &mut watches] {
                each.headers.push((USER_AGENT, agent.clone()));
            }
        }
        Ok(Self {
            lease: Client::try_from(calls.clone()).map_err(RunError::Client)?,
            calls,
            watching: Client::try_from(watches).map_err(RunError::Client)?,
        })
    }

    /// A client for calls that writes while `mandate` is held.
    pub(crate) fn bound_to(&self, mandate: &Mandate) -> Result<Client, RunError> {
        let client = ClientBuilder::try_from(self.calls.clone()).map_err(RunError::Client)?;
        Ok(client.with_layer(mandate).build())
    }
}

/// Runs the operator until `shutdown` is done.
///
/// # Errors
/// [`RunError`], only at the start, or where the ledger cannot be read when this process begins to act: later troubles are
/// waited out.
pub async fn run(
    cluster: kube::Config,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    #[cfg(feature = "failpoints")]
    crate::effect::failpoint::arm()?;
    let shutdown = shutdown.boxed().shared();
    let clients = Clients::new(cluster, &config)?;
    let health = health::serve(config.health_listen)
        .await
        .map_err(RunError::Health)?;
    // By the client that asks whether it acts or not.
    let mut reviews = JoinSet::new();
    reviews.spawn(tell_missing(clients.lease.clone(), config.clone()));
    loop {
        match Box::pin(stint(&clients, &config, &health, shutdown.clone())).await? {
            Ended::Shutdown => return Ok(()),
            Ended::Lost(Lost::RanOut) => {
                tracing::warn!(
                    "the Lease could not be renewed in time: nothing more is done until it is held again"
                );
            }
            Ended::Lost(Lost::Taken { by }) => {
                tracing::warn!(
                    by,
                    "the Lease was taken: nothing more is done until it is held again"
                );
            }
        }
    }
}
