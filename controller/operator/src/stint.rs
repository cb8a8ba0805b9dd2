//! One stint: caches that fill, a time of standing by, and a time of acting, which ends with the claim on the Lease.
//!
//! Nothing of it outlives it. What was remembered while this process acted is no longer true once another has acted, so the next
//! stint begins as a new process would: with empty memory, and a ledger that is read anew.

use std::collections::HashSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use evercert_api::{Certificate, ClusterIssuer, Issuer};
use evercert_core::key::ObjectKey;
use evercert_core::lease::Lost;
use evercert_probe::{Dns, Prober};
use futures::channel::mpsc::{UnboundedReceiver, unbounded};
use futures::future::{self, BoxFuture, Shared};
use futures::stream::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{Instrument, Span};

use crate::config::Config;
use crate::context::{Context, key_of};
use crate::echo::Echoes;
use crate::error::Error;
use crate::follow::{
    Followed, call_next, follow, forget_gone, forget_gone_issuers, wake_after_jumps,
    wake_namespaces, wake_presented, wake_routed, watch_config, watch_secrets,
};
use crate::health::{Health, Role};
use crate::issuer::{self, IssuerResource, Sessions, Turns};
use crate::lease::{Candidate, Mandate};
use crate::ledger::Ledger;
use crate::memory::Memory;
use crate::metrics::{Kind, note_pass};
use crate::orphans::{Orphans, sweep};
use crate::polls::Polls;
use crate::preflight::Preflights;
use crate::projection::Projections;
use crate::reconcile::{after_error, reconcile};
use crate::run::{Clients, IssuerWakers, RunError};
use crate::served::{ServedLooks, wake_unserved};
use crate::slots::Slots;
use crate::source;
use crate::territory::Territory;

/// How long passes may go on after they were asked to end: less than a kubelet waits, so that the Lease is given up in any case.
const GRACE: Duration = Duration::from_secs(20);
/// How often a ledger is tried again that an API server in trouble did not give.
const AGAIN: Duration = Duration::from_secs(2);

/// Completes when the process is asked to end.
pub(crate) type Shutdown = Shared<BoxFuture<'static, ()>>;

/// Why a stint ended.
pub(crate) enum Ended {
    /// The process was asked to end.
    Shutdown,
    /// The claim on the Lease is over.
    Lost(Lost),
}

/// What is followed all the time.
struct Caches {
    certificates: Followed<Certificate>,
    issuers: Followed<Issuer>,
    cluster_issuers: Followed<ClusterIssuer>,
    namespaces: Followed<Namespace>,
    projections: Projections,
    echoes: Arc<Echoes>,
}

impl Caches {
    fn follow(
        watching: &Client,
        territory: &Territory,
        projections: Projections,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let config = watch_config();
        let echoes = Arc::new(Echoes::default());
        let (of_certificates, of_issuers, of_cluster_issuers) =
            (echoes.clone(), echoes.clone(), echoes.clone());
        Self {
            certificates: follow(
                territory.watch(watching, &config),
                tasks,
                move |c: &Certificate| of_certificates.is_foreign(&c.metadata, c.status.as_ref()),
            ),
            issuers: follow(
                territory.watch(watching, &config),
                tasks,
                move |i: &Issuer| of_issuers.is_foreign(&i.metadata, i.status.as_ref()),
            ),
            cluster_issuers: follow(
                territory.watch_cluster(watching, &config, Vec::new()),
                tasks,
                move |i: &ClusterIssuer| {
                    of_cluster_issuers.is_foreign(&i.metadata, i.status.as_ref())
                },
            ),
            // What stands in a namespace's status is nobody's business here.
            namespaces: follow(
                territory.watch_cluster(watching, &config, Vec::new()),
                tasks,
                |_| false,
            ),
            projections,
            echoes,
        }
    }

    /// Completes when all of them are filled.
    fn filled(&self) -> impl Future<Output = ()> + use<> {
        let stores = (
            self.certificates.store.clone(),
            self.issuers.store.clone(),
            self.cluster_issuers.store.clone(),
            self.namespaces.store.clone(),
            self.projections.ingresses(),
        );
        async move {
            let _ = future::join5(
                stores.0.wait_until_ready(),
                stores.1.wait_until_ready(),
                stores.2.wait_until_ready(),
                stores.3.wait_until_ready(),
                stores.4.wait_until_ready(),
            )
            .await;
        }
    }

    /// While nobody acts, nobody hears of changes.
    async fn ignore_changes(&mut self) {
        future::join4(
            self.certificates.ignore_changes(),
            self.issuers.ignore_changes(),
            self.cluster_issuers.ignore_changes(),
            self.namespaces.ignore_changes(),
        )
        .await;
    }
}

/// Fills the caches, stands by until this process holds the Lease, and acts for as long as it does.
///
/// # Errors
/// [`RunError`]: the process cannot act. The Lease is given up before.
pub(crate) async fn stint(
    clients: &Clients,
    config: &Config,
    health: &Health,
    shutdown: Shutdown,
) -> Result<Ended, RunError> {
    health.set(Role::Starting);
    let mut candidate = Candidate::new(
        clients.lease.clone(),
        clients.watching.clone(),
        &config.namespace,
        config.lease.clone(),
    );
    let client = clients.bound_to(&candidate.mandate())?;
    let watching = &clients.watching;
    let mut tasks = JoinSet::new();
    let (projections, projection_task) = Projections::new(client.clone(), watching, config);
    // It watches; it writes only when it is told which Certificates there are.
    tasks.spawn(projection_task.run());
    let mut caches = Caches::follow(watching, &config.territory, projections, &mut tasks);
    let filled = caches.filled();
    let claim = tokio::select! {
        claim = candidate.acquire(filled, || health.set(Role::Standby)) => claim,
        () = caches.ignore_changes() => return Ok(Ended::Shutdown),
        () = shutdown.clone() => return Ok(Ended::Shutdown),
    };
    let identity = &config.lease.candidacy.identity;
    tracing::info!(
        identity,
        transition = claim.transition,
        "this process holds the Lease"
    );
    let mandate = candidate.mandate();
    let grace = async {
        shutdown.clone().await;
        sleep(GRACE).await;
    };
    let ended = tokio::select! {
        lost = candidate.keep(claim) => Ok(Ended::Lost(lost)),
        acted = act(client, watching.clone(), mandate, caches, config.clone(), health, shutdown.clone()) => acted.map(|()| Ended::Shutdown),
        () = grace => Ok(Ended::Shutdown),
    };
    tasks.shutdown().await;
    candidate.release(&claim).await;
    ended
}

/// Acts until `shutdown`, and until the passes that were under way have ended. Dropping it ends everything at once.
async fn act(
    client: Client,
    watching: Client,
    mandate: Mandate,
    caches: Caches,
    config: Config,
    health: &Health,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let ledger = open_ledger(&client, &config.namespace).await?;
    let Caches {
        certificates,
        issuers,
        cluster_issuers,
        namespaces,
        projections,
        echoes,
    } = caches;
    let dns = Dns::new(&config.dns_servers)
        .inspect_err(|error| tracing::warn!(%error, "DNS is not looked at"))
        .ok();
    let (wake, wakes) = unbounded();
    let (wake_issuer, issuer_wakes) = unbounded();
    let (wake_cluster_issuer, cluster_issuer_wakes) = unbounded();
    let context = Arc::new(Context {
        client,
        mandate,
        memory: Memory::default(),
        echoes,
        workers: Semaphore::new(usize::from(config.concurrency)),
        slots: Slots::new(config.max_orders),
        turns: Turns::default(),
        polls: Polls::default(),
        ledger,
        sessions: Sessions::default(),
        served: ServedLooks::new(wake.clone()),
        prober: Prober::new(dns.clone(), &config.self_check_networks),
        preflights: Preflights::new(dns.clone(), wake.clone()),
        dns,
        orphans: Orphans::default(),
        certificates: certificates.store.clone(),
        namespaces: namespaces.store.clone(),
        ingresses: projections.ingresses(),
        news: projections.news(),
        projections,
        wake,
        wake_issuers: IssuerWakers {
            issuers: issuers.store.clone(),
            cluster_issuers: cluster_issuers.store.clone(),
            wake_issuer,
            wake_cluster_issuer,
        },
        config,
    });
    let existing: HashSet<ObjectKey> = context
        .certificates
        .state()
        .iter()
        .map(|c| key_of(c))
        .collect();
    context.projections.retain_existing(&existing);
    health.acts(&context);
    tracing::info!(
        certificates = existing.len(),
        "caches are filled, the loops begin"
    );

    let mut tasks = JoinSet::new();
    tasks.spawn(forget_gone(certificates.gone, context.clone()));
    tasks.spawn(forget_gone_issuers(issuers.gone, context.clone()));
    tasks.spawn(forget_gone_issuers(cluster_issuers.gone, context.clone()));
    tasks.spawn(wake_namespaces(namespaces.changes, context.clone()));
    tasks.spawn(wake_presented(context.clone()));
    tasks.spawn(wake_routed(context.clone()));
    tasks.spawn(wake_unserved(context.clone()));
    tasks.spawn(call_next(context.clone()));
    tasks.spawn(sweep(context.clone()));
    tasks.spawn(wake_after_jumps(context.clone()));
    tasks.spawn(source::run(context.clone()));
    let secrets = watch_secrets(&watching, context.clone());
    let news = context.news.clone();
    let changes = Followed::from_now(&certificates.store, certificates.changes);
    let changes = changes.inspect(move |c| news.note(&c.namespace().unwrap_or_default()));
    // Passes are bounded where they work, not here: one that waits for a CA keeps nobody waiting.
    let certificate_loop = Controller::for_stream(changes.map(Ok), certificates.store)
        .reconcile_on(wakes)
        .reconcile_on(secrets)
        .graceful_shutdown_on(shutdown.clone())
        .run(
            |certificate, context| {
                let span = build_span(certificate.as_ref());
                reconcile(certificate, context).instrument(span)
            },
            |object, error, _| log_error(&object, error),
            context.clone(),
        )
        .for_each(|ended| {
            note_ended(Kind::Certificate, &ended);
            future::ready(())
        });
    let issuer_loop = run_issuers(
        Kind::Issuer,
        issuers.changes,
        issuers.store,
        issuer_wakes,
        shutdown.clone(),
        context.clone(),
    );
    let cluster_issuer_loop = run_issuers(
        Kind::ClusterIssuer,
        cluster_issuers.changes,
        cluster_issuers.store,
        cluster_issuer_wakes,
        shutdown,
        context,
    );
    future::join3(certificate_loop, issuer_loop, cluster_issuer_loop).await;
    Ok(())
}

/// Reads what was spent, waiting out an API server in trouble.
async fn open_ledger(client: &Client, namespace: &str) -> Result<Ledger, RunError> {
    loop {
        match Ledger::open(client.clone(), namespace).await {
            Ok(ledger) => return Ok(ledger),
            Err(error) if error.is_passing() => {
                tracing::warn!(%error, "the ledger cannot be read, and nothing is ordered before");
                sleep(AGAIN).await;
            }
            Err(source) => {
                return Err(RunError::Ledger {
                    namespace: namespace.to_owned(),
                    source,
                });
            }
        }
    }
}

/// One pass: what is logged in it tells what it is about, whatever the level. JSON calls the span's own name `name`.
fn build_span<K: Resource<DynamicType = ()>>(object: &K) -> Span {
    let meta = object.meta();
    tracing::error_span!(
        "reconcile",
        kind = %K::kind(&()),
        namespace = meta.namespace.as_deref(),
        object = meta.name.as_deref(),
    )
}

fn log_error<K: Resource<DynamicType = ()> + Debug>(
    object: &Arc<K>,
    error: &Error,
) -> controller::Action {
    let meta = object.meta();
    if error.is_conflict() {
        tracing::debug!(kind = %K::kind(&()), namespace = ?meta.namespace, name = ?meta.name, %error, "changed meanwhile");
    } else {
        tracing::warn!(kind = %K::kind(&()), namespace = ?meta.namespace, name = ?meta.name, %error, "a pass failed");
    }
    after_error(error)
}

/// Counts a pass that has ended. What the loop itself says beside them is none.
fn note_ended<T, Q>(kind: Kind, ended: &Result<T, controller::Error<Error, Q>>) {
    match ended {
        Ok(_) => note_pass(kind, None),
        Err(controller::Error::ReconcilerFailed(error, _)) => note_pass(kind, Some(error)),
        Err(
            controller::Error::ObjectNotFound(_)
            | controller::Error::QueueError(_)
            | controller::Error::RunnerError(_),
        ) => {}
    }
}

async fn run_issuers<K: IssuerResource>(
    kind: Kind,
    changes: UnboundedReceiver<K>,
    store: Store<K>,
    wakes: UnboundedReceiver<ObjectRef<K>>,
    shutdown: Shutdown,
    context: Arc<Context>,
) {
    let changes = Followed::from_now(&store, changes);
    Controller::for_stream(changes.map(Ok), store)
        .reconcile_on(wakes)
        .graceful_shutdown_on(shutdown)
        .run(
            |issuer, context| {
                let span = build_span(issuer.as_ref());
                issuer::reconcile(issuer, context).instrument(span)
            },
            |object, error, _| log_error(&object, error),
            context,
        )
        .for_each(|ended| {
            note_ended(kind, &ended);
            future::ready(())
        })
        .await;
}
