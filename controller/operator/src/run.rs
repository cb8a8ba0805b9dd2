//! The start: caches first, then the ledger, then the loops; all of it ends with `shutdown`.

use std::collections::HashSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use evercert_api::certificate::IssuerKind;
use evercert_api::{Certificate, ClusterIssuer, Issuer};
use evercert_core::key::ObjectKey;
use evercert_probe::Dns;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::future::{self, FutureExt};
use futures::stream::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::context::{Context, key_of};
use crate::echo::Echoes;
use crate::follow::{
    call_next, follow, forget_gone, forget_gone_issuers, wake_namespaces, wake_presented,
    watch_secrets,
};
use crate::health;
use crate::issuer::{self, IssuerId, IssuerResource, Sessions};
use crate::ledger::Ledger;
use crate::memory::Memory;
use crate::projection::Projections;
use crate::reconcile::{after_error, reconcile};
use crate::slots::Slots;

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
    issuers: Store<Issuer>,
    cluster_issuers: Store<ClusterIssuer>,
    wake_issuer: UnboundedSender<ObjectRef<Issuer>>,
    wake_cluster_issuer: UnboundedSender<ObjectRef<ClusterIssuer>>,
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

/// Runs the operator until `shutdown` is done.
///
/// # Errors
/// [`RunError`], only at the start: later troubles are waited out.
pub async fn run(
    cluster: kube::Config,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    #[cfg(feature = "failpoints")]
    crate::effect::failpoint::arm()?;
    let shutdown = shutdown.shared();
    let (mut calls, mut watches) = (cluster.clone(), cluster);
    calls.read_timeout = Some(READ_TIMEOUT);
    // Counted from the request: a connection that was idle for long has as much time as a new one.
    calls.reset_reader_on_write = true;
    // Repetition is bounded where the call is made.
    calls.default_retry = false;
    let client = Client::try_from(calls).map_err(RunError::Client)?;
    // Watches are silent for long: a client of their own, without that time-out. The watcher has one for silence.
    watches.read_timeout = None;
    let watching = Client::try_from(watches).map_err(RunError::Client)?;

    let echoes = Arc::new(Echoes::default());
    let known = echoes.clone();
    let certificates = follow(
        Api::<Certificate>::all(watching.clone()),
        move |c: &Certificate| known.is_foreign(&c.metadata, c.status.as_ref()),
    );
    let known = echoes.clone();
    let issuers = follow(Api::<Issuer>::all(watching.clone()), move |i: &Issuer| {
        known.is_foreign(&i.metadata, i.status.as_ref())
    });
    let known = echoes.clone();
    let cluster_issuers = follow(
        Api::<ClusterIssuer>::all(watching.clone()),
        move |i: &ClusterIssuer| known.is_foreign(&i.metadata, i.status.as_ref()),
    );
    // What stands in a namespace's status is nobody's business here.
    let namespaces = follow(Api::<Namespace>::all(watching.clone()), |_| false);

    let ledger = Ledger::open(client.clone(), &config.namespace)
        .await
        .map_err(|source| RunError::Ledger {
            namespace: config.namespace.clone(),
            source,
        })?;
    let health = health::serve(config.health_listen)
        .await
        .map_err(RunError::Health)?;

    let (projections, projection_task) =
        Projections::new(client.clone(), watching.clone(), &config);
    let ingresses = projections.ingresses();
    tokio::spawn(projection_task.run());
    let (wake, wakes) = unbounded();
    let (wake_issuer, issuer_wakes) = unbounded();
    let (wake_cluster_issuer, cluster_issuer_wakes) = unbounded();
    let context = Arc::new(Context {
        client,
        memory: Memory::default(),
        echoes,
        workers: Semaphore::new(usize::from(config.concurrency)),
        slots: Slots::new(config.max_orders),
        ledger,
        sessions: Sessions::default(),
        dns: Dns::new(&config.dns_servers)
            .inspect_err(|error| tracing::warn!(%error, "CAA records are not looked up"))
            .ok(),
        projections,
        certificates: certificates.store.clone(),
        namespaces: namespaces.store.clone(),
        ingresses: ingresses.clone(),
        wake,
        wake_issuers: IssuerWakers {
            issuers: issuers.store.clone(),
            cluster_issuers: cluster_issuers.store.clone(),
            wake_issuer,
            wake_cluster_issuer,
        },
        config,
    });

    let ready = async {
        let stores = (
            certificates.store.wait_until_ready(),
            issuers.store.wait_until_ready(),
            cluster_issuers.store.wait_until_ready(),
            namespaces.store.wait_until_ready(),
            ingresses.wait_until_ready(),
        );
        let _ = future::join5(stores.0, stores.1, stores.2, stores.3, stores.4).await;
    };
    futures::select! {
        () = shutdown.clone() => return Ok(()),
        () = ready.fuse() => {}
    }
    let existing: HashSet<ObjectKey> = context
        .certificates
        .state()
        .iter()
        .map(|c| key_of(c))
        .collect();
    context.projections.retain_existing(&existing);
    health.set_ready();
    tracing::info!(
        certificates = existing.len(),
        "caches are filled, the loops begin"
    );

    tokio::spawn(forget_gone(certificates.gone, context.clone()));
    tokio::spawn(forget_gone_issuers(issuers.gone, context.clone()));
    tokio::spawn(forget_gone_issuers(cluster_issuers.gone, context.clone()));
    tokio::spawn(wake_namespaces(namespaces.changes, context.clone()));
    tokio::spawn(wake_presented(context.clone()));
    tokio::spawn(call_next(context.clone()));
    let secrets = watch_secrets(watching, context.clone());
    // Passes are bounded where they work, not here: one that waits for a CA keeps nobody waiting.
    let certificate_loop = Controller::for_stream(certificates.changes.map(Ok), certificates.store)
        .reconcile_on(wakes)
        .reconcile_on(secrets)
        .graceful_shutdown_on(shutdown.clone())
        .run(
            reconcile,
            |object, error, _| log_error(&object, error),
            context.clone(),
        )
        .for_each(|_| future::ready(()));
    let issuer_loop = run_issuers(
        issuers.changes,
        issuers.store,
        issuer_wakes,
        shutdown.clone(),
        context.clone(),
    );
    let cluster_issuer_loop = run_issuers(
        cluster_issuers.changes,
        cluster_issuers.store,
        cluster_issuer_wakes,
        shutdown,
        context,
    );
    future::join3(certificate_loop, issuer_loop, cluster_issuer_loop).await;
    Ok(())
}

fn log_error<K: Resource<DynamicType = ()> + Debug>(
    object: &Arc<K>,
    error: &crate::error::Error,
) -> controller::Action {
    let meta = object.meta();
    if error.is_conflict() {
        tracing::debug!(kind = %K::kind(&()), namespace = ?meta.namespace, name = ?meta.name, %error, "changed meanwhile");
    } else {
        tracing::warn!(kind = %K::kind(&()), namespace = ?meta.namespace, name = ?meta.name, %error, "a pass failed");
    }
    after_error(error)
}

async fn run_issuers<K: IssuerResource>(
    changes: UnboundedReceiver<K>,
    store: Store<K>,
    wakes: UnboundedReceiver<ObjectRef<K>>,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
    context: Arc<Context>,
) {
    Controller::for_stream(changes.map(Ok), store)
        .reconcile_on(wakes)
        .graceful_shutdown_on(shutdown)
        .run(
            issuer::reconcile,
            |object, error, _| log_error(&object, error),
            context,
        )
        .for_each(|_| future::ready(()))
        .await;
}
