//! Watches: caches that are filled once and followed, and what wakes a Certificate beside its own changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use evercert_api::{Certificate, CertificateSpec, children, keys};
use evercert_core::key::ObjectKey;
use evercert_core::routes::IngressIndex;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::future;
use futures::stream::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::context::{Context, key_of, reference};
use crate::execute::forget;
use crate::issuer::{IssuerId, IssuerResource};
use crate::run::IssuerWakers;
use crate::territory::Events;

/// A watch is begun anew after so many seconds, so that one on a dead connection is noticed.
const WATCH_TIMEOUT: u32 = 90;
/// How often the clock is compared with the one that timers go by.
const CLOCK_CHECK: Duration = Duration::from_secs(10);
/// What counts as a jump of the clock; below is what a time server mends.
const JUMP: Duration = Duration::from_secs(2);

/// A cache, and what changes in it.
pub(crate) struct Followed<K: Resource<DynamicType = ()> + Clone + 'static> {
    /// The cache.
    pub(crate) store: Store<K>,
    /// Objects that are new, whose spec or annotations changed, or whose status is of somebody else: our own wakes nobody.
    pub(crate) changes: UnboundedReceiver<K>,
    /// Objects that were deleted.
    pub(crate) gone: UnboundedReceiver<K>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Followed<K> {
    /// Drops what changes, for ever: nobody acts yet, and whoever begins to finds all of it in the cache.
    pub(crate) async fn ignore_changes(&mut self) {
        let (changes, gone) = (&mut self.changes, &mut self.gone);
        let dropped = changes.for_each(|_| future::ready(()));
        future::join(dropped, gone.for_each(|_| future::ready(()))).await;
        // The watch is over, and with it the stint.
        future::pending::<()>().await;
    }

    /// All that is there now, and then each change.
    pub(crate) fn from_now(
        cache: &Store<K>,
        changes: UnboundedReceiver<K>,
    ) -> impl Stream<Item = K> + Send + Unpin + 'static
    where
        K: Send + Sync,
    {
        let now: Vec<K> = cache.state().iter().map(|k| k.as_ref().clone()).collect();
        futures::stream::iter(now).chain(changes)
    }
}

/// Follows all objects of a watch, for as long as `tasks` are there. One with a status that is `foreign` counts as changed.
pub(crate) fn follow<K>(
    watch: Events<K>,
    tasks: &mut JoinSet<()>,
    foreign: impl Fn(&K) -> bool + Send + Sync + 'static,
) -> Followed<K>
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let (cache, writer) = reflector::store();
    let (wanted, changes) = unbounded();
    let (removed, gone) = unbounded();
    let stream = watch
        .modify(|object: &mut K| keep_source(&mut object.meta_mut().managed_fields))
        .reflect(writer);
    tasks.spawn(pass_on(stream, cache.clone(), foreign, wanted, removed));
    Followed {
        store: cache,
        changes,
        gone,
    }
}

/// How a watch of a cache is told to go on.
pub(crate) fn watch_config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_TIMEOUT)
}

/// Of the managed fields only whether the source is a manager: the rest is often the largest part of an object.
fn keep_source(fields: &mut Option<Vec<ManagedFieldsEntry>>) {
    let Some(entries) = fields else { return };
    entries.retain(|entry| entry.manager.as_deref() == Some(keys::SOURCE_MANAGER));
    for entry in entries.iter_mut() {
        entry.fields_v1 = None;
    }
    if entries.is_empty() {
        *fields = None;
    }
}

/// What a listing gives is passed on when the cache holds it, since a pass for an object that the cache lacks is dropped; what
/// it no longer gives was deleted while nobody watched.
async fn pass_on<K>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    cache: Store<K>,
    foreign: impl Fn(&K) -> bool,
    changed: UnboundedSender<K>,
    deleted: UnboundedSender<K>,
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut stream = std::pin::pin!(stream);
    let mut seen: HashMap<ObjectRef<K>, u64> = HashMap::new();
    let (mut listed, mut before) = (Vec::new(), Vec::new());
    let pass = |seen: &mut HashMap<ObjectRef<K>, u64>, object: K| {
        let version = wanted_version(&object);
        let before = seen.insert(ObjectRef::from_obj(&object), version);
        if before != Some(version) || foreign(&object) {
            let _ = changed.unbounded_send(object);
        }
    };
    while let Some(event) = stream.next().await {
        // A closed channel means that nobody is interested in that part.
        match event {
            Ok(Event::Apply(object)) => pass(&mut seen, object),
            Ok(Event::Init) => {
                listed.clear();
                before = cache.state();
            }
            Ok(Event::InitApply(object)) => listed.push(object),
            Ok(Event::InitDone) => {
                for object in std::mem::take(&mut before) {
                    let reference = ObjectRef::from_obj(object.as_ref());
                    if cache.get(&reference).is_none() && seen.remove(&reference).is_some() {
                        let _ = deleted.unbounded_send(object.as_ref().clone());
                    }
                }
                for object in std::mem::take(&mut listed) {
                    pass(&mut seen, object);
                }
            }
            Ok(Event::Delete(object)) => {
                seen.remove(&ObjectRef::from_obj(&object));
                let _ = deleted.unbounded_send(object);
            }
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "a watch was interrupted"),
        }
    }
}

/// Changes with everything but the status: which object it is, its generation, labels, annotations, and whether it is going.
fn wanted_version<K: Resource>(object: &K) -> u64 {
    let meta = object.meta();
    let marks = serde_json::to_string(&(&meta.labels, &meta.annotations)).unwrap_or_default();
    children::stable_hash(&[
        meta.uid.as_deref().unwrap_or_default(),
        &meta.generation.unwrap_or_default().to_string(),
        if meta.deletion_timestamp.is_some() {
            "going"
        } else {
            ""
        },
        &marks,
    ])
}

/// Forgets Certificates that were deleted: without a finalizer no pass sees them go.
pub(crate) async fn forget_gone(mut gone: UnboundedReceiver<Certificate>, context: Arc<Context>) {
    while let Some(certificate) = gone.next().await {
        let key = key_of(&certificate);
        forget(&key, &context);
        context.echoes.forget(&certificate.metadata);
        context.orphans.look();
        context.news.note(&key.namespace);
        // Another Certificate may have waited for the Secret or a name.
        let names = certificate.spec.names();
        context.wake_certificates(|spec, namespace| {
            (namespace == key.namespace && spec.secret_name == certificate.spec.secret_name)
                || spec.names().iter().any(|n| names.contains(n))
        });
    }
}

/// Forgets issuers that were deleted, and wakes who named them.
pub(crate) async fn forget_gone_issuers<K: IssuerResource>(
    mut gone: UnboundedReceiver<K>,
    context: Arc<Context>,
) {
    while let Some(issuer) = gone.next().await {
        let id = issuer.object(&context.config.namespace).id;
        context.sessions.remove(&id);
        context.echoes.forget(issuer.meta());
        // One that was made anew meanwhile may have had its pass already.
        context.wake_issuers.wake(&id);
        context.wake_certificates(|spec, namespace| {
            spec.issuer_refs()
                .any(|reference| IssuerId::of(reference, namespace) == id)
        });
    }
}

/// Wakes the Certificates of namespaces that are new or changed: policies select by their labels.
pub(crate) async fn wake_namespaces(
    mut changes: UnboundedReceiver<Namespace>,
    context: Arc<Context>,
) {
    while let Some(changed) = changes.next().await {
        context.news.note(&changed.name_any());
        context
            .wake_certificates(|_, namespace| changed.metadata.name.as_deref() == Some(namespace));
    }
}

/// Wakes the Certificates whose answers and routes, or whose solver, have changed.
pub(crate) async fn wake_presented(context: Arc<Context>) {
    let mut changes = std::pin::pin!(context.projections.changes());
    while let Some(key) = changes.next().await {
        context.wake(&key);
    }
}

/// Wakes the Certificates that have failed when an Ingress that covers their names is another one: that may have been the cause.
pub(crate) async fn wake_routed(context: Arc<Context>) {
    let mut indexes = context.projections.indexes();
    let mut seen: HashMap<ObjectKey, String> = HashMap::new();
    loop {
        let index = indexes.borrow_and_update().clone();
        if let Some(index) = index {
            let mut marks = HashMap::new();
            for certificate in context.certificates.state() {
                let status = certificate.status.as_ref();
                if status.is_none_or(|status| status.last_failure.is_none()) {
                    continue;
                }
                let key = key_of(&certificate);
                let mark = mark_ingresses(&index, &certificate.spec);
                if seen.get(&key) != Some(&mark) {
                    context.wake(&key);
                }
                marks.insert(key, mark);
            }
            seen = marks;
        }
        if indexes.changed().await.is_err() {
            return;
        }
    }
}

/// A fingerprint of the Ingresses that cover the names of `spec`.
pub(crate) fn mark_ingresses(index: &IngressIndex, spec: &CertificateSpec) -> String {
    let names = spec.names();
    format!("{:016x}", index.mark(names.iter().map(String::as_str)))
}

/// Wakes the Certificates whose turn to order has come.
pub(crate) async fn call_next(context: Arc<Context>) {
    context.slots.call(|key| context.wake(key)).await;
}

/// Wakes everything when the clock has been set, or the machine was asleep: what is waited for may have come.
pub(crate) async fn wake_after_jumps(context: Arc<Context>) {
    let everything = || {
        let wake = |key: &ObjectKey| context.wake(key);
        let operator = &context.config.namespace;
        wake_everything(&context.certificates, wake, &context.wake_issuers, operator);
    };
    await_jumps(Timestamp::now, everything).await;
}

fn wake_everything(
    certificates: &Store<Certificate>,
    wake: impl Fn(&ObjectKey),
    issuers: &IssuerWakers,
    operator: &str,
) {
    for certificate in certificates.state() {
        wake(&key_of(&certificate));
    }
    issuers.wake_all(operator);
}

/// Calls `then` after each jump of `clock`. Timers stand still while the machine sleeps, as the clock that this compares it with.
async fn await_jumps(clock: impl Fn() -> Timestamp, then: impl Fn()) {
    let mut seen = (clock(), Instant::now());
    let mut ticks = interval(CLOCK_CHECK);
    loop {
        ticks.tick().await;
        let looked = (clock(), Instant::now());
        let (wall, steady) = (looked.0.duration_since(seen.0), looked.1 - seen.1);
        seen = looked;
        if has_jumped(wall, steady) {
            tracing::info!(%wall, ?steady, "the clock has jumped: everything is looked at");
            then();
        }
    }
}

/// Whether the clock went on by something else than the time that timers count, which stand still while the machine sleeps.
fn has_jumped(wall: SignedDuration, steady: Duration) -> bool {
    let steady = SignedDuration::try_from(steady).unwrap_or(SignedDuration::MAX);
    wall.saturating_sub(steady).unsigned_abs() > JUMP
}

/// The Certificates whose Secrets change: ours by label, metadata only, deletions too. Issuers whose account's key changes are
/// woken beside.
pub(crate) fn watch_secrets(
    client: &Client,
    context: Arc<Context>,
) -> impl Stream<Item = ObjectRef<Certificate>> + Send + 'static + use<> {
    let config = watch_config().labels(keys::SECRET_ROLE_LABEL);
    let territory = &context.config.territory;
    territory
        .watch::<PartialObjectMeta<Secret>>(client, &config)
        .flat_map(move |event| {
            let concerned = match event {
                Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                    let version = secret.resource_version();
                    context.orphans.note(&secret);
                    find_concerned(&secret, version.as_deref(), &context)
                }
                Ok(Event::Delete(secret)) => {
                    context.orphans.forget(&secret);
                    find_concerned(&secret, None, &context)
                }
                Ok(Event::Init) => Vec::new(),
                // A Secret that was deleted while nobody watched is in no event.
                Ok(Event::InitDone) => find_all(&context),
                Err(error) => {
                    tracing::warn!(kind = "Secret", %error, "a watch was interrupted");
                    Vec::new()
                }
            };
            futures::stream::iter(concerned)
        })
}

fn find_all(context: &Context) -> Vec<ObjectRef<Certificate>> {
    let operator = &context.config.namespace;
    context.wake_issuers.wake_by_account_key(None, operator);
    context.memory.drop_reads();
    let certificates = context.certificates.state();
    certificates.iter().map(|c| reference(&key_of(c))).collect()
}

/// The Certificates that a Secret of ours concerns, which is there in this version, or gone.
fn find_concerned(
    secret: &PartialObjectMeta<Secret>,
    version: Option<&str>,
    context: &Context,
) -> Vec<ObjectRef<Certificate>> {
    let namespace = secret.namespace().unwrap_or_default();
    let name = secret.name_any();
    let role = secret.labels().get(keys::SECRET_ROLE_LABEL);
    if role.is_some_and(|role| role == keys::ROLE_ACCOUNT) {
        let key = Some((namespace.as_str(), name.as_str()));
        let operator = &context.config.namespace;
        context.wake_issuers.wake_by_account_key(key, operator);
        return Vec::new();
    }
    let owner = secret.annotations().get(keys::CERTIFICATE_NAME).cloned();
    let mut keys: Vec<ObjectKey> = context
        .certificates
        .state()
        .iter()
        .filter(|c| c.namespace().as_deref() == Some(&namespace))
        .filter(|c| c.spec.secret_name == name || c.metadata.name == owner)
        .map(|c| key_of(c))
        .collect();
    keys.dedup();
    for key in &keys {
        context.memory.note_secret(key, &name, version);
    }
    keys.iter().map(reference).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use futures::stream;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde::de::DeserializeOwned;
    use tokio::time::sleep;

    use super::*;

    fn namespace(name: &str) -> Namespace {
        Namespace {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        }
    }

    #[test]
    fn a_clock_that_is_set_or_a_machine_that_slept_is_a_jump_and_a_slow_look_is_none() {
        let ten = Duration::from_secs(10);
        let hours = SignedDuration::from_hours;
        assert!(!has_jumped(SignedDuration::from_millis(10_900), ten));
        assert!(
            !has_jumped(hours(1), Duration::from_hours(1)),
            "a frozen process"
        );
        assert!(has_jumped(hours(60), ten), "asleep, or set ahead");
        assert!(has_jumped(-hours(5), ten), "set back");
        assert!(has_jumped(SignedDuration::MIN, Duration::MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_woken_after_a_jump_of_the_clock_and_nothing_as_time_passes() {
        let (certificates, issuers, cluster_issuers) = (
            cache_of(&["a", "b"], "Certificate"),
            cache_of(&["own"], "Issuer"),
            cache_of(&["all"], "ClusterIssuer"),
        );
        let (wake_issuer, mut woken_issuers) = unbounded();
        let (wake_cluster_issuer, mut woken_cluster_issuers) = unbounded();
        let (wake, mut woken) = unbounded();
        let issuers = IssuerWakers {
            issuers,
            cluster_issuers,
            wake_issuer,
            wake_cluster_issuer,
        };
        let began = Instant::now();
        let skew = Arc::new(AtomicI64::new(0));
        let shown = skew.clone();
        let clock = move || {
            let passed = SignedDuration::try_from(began.elapsed()).unwrap();
            let skew = SignedDuration::from_secs(shown.load(Ordering::Relaxed));
            Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1_000) + passed + skew
        };
        let everything = move || {
            let wake = |key: &ObjectKey| wake.unbounded_send(key.to_string()).unwrap();
            wake_everything(&certificates, wake, &issuers, "evercert");
        };
        let task = tokio::spawn(await_jumps(clock, everything));
        // A week asleep, and then set back.
        for jump in [0, 7 * 86_400, -3 * 3_600] {
            skew.fetch_add(jump, Ordering::Relaxed);
            sleep(Duration::from_hours(2)).await;
            let mut names: Vec<String> = Vec::new();
            while let Ok(key) = woken.try_recv() {
                names.push(key);
            }
            while let Ok(issuer) = woken_issuers.try_recv() {
                names.push(issuer.name);
            }
            while let Ok(issuer) = woken_cluster_issuers.try_recv() {
                names.push(issuer.name);
            }
            names.sort_unstable();
            let all = ["all", "own", "shop/a", "shop/b"];
            assert_eq!(names, if jump == 0 { &[][..] } else { &all[..] });
        }
        task.abort();
    }

    /// A cache that holds objects of these names.
    fn cache_of<K>(names: &[&str], kind: &str) -> Store<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + 'static,
    {
        let (cache, mut writer) = reflector::store();
        for name in names {
            let spec = match kind {
                "Certificate" => serde_json::json!({
                    "secretName": name, "dnsNames": ["a.example"], "issuerRef": {"name": "own"},
                }),
                _ => serde_json::json!({"selfSigned": {}}),
            };
            let object = serde_json::json!({
                "apiVersion": "evercert.dev/v1", "kind": kind,
                "metadata": {"name": name, "namespace": (kind != "ClusterIssuer").then_some("shop")},
                "spec": spec,
            });
            let object = serde_json::from_value(object).unwrap();
            writer.apply_watcher_event(&Event::Apply(object));
        }
        cache
    }

    #[tokio::test]
    async fn what_a_new_listing_lacks_is_gone_and_what_it_adds_is_passed_on_when_the_cache_holds_it()
     {
        let (cache, writer) = reflector::store();
        let (wanted, mut passed) = unbounded();
        let (removed, gone) = unbounded();
        let listing = |names: [&str; 2]| {
            let mut events = vec![Event::Init];
            events.extend(names.map(|n| Event::InitApply(namespace(n))));
            events.push(Event::InitDone);
            events
        };
        let events = [listing(["a", "b"]), listing(["b", "c"])].concat();
        let store = cache.clone();
        let stream = stream::iter(events.into_iter().map(Ok)).reflect(writer);
        let task = tokio::spawn(pass_on(stream, cache, |_| false, wanted, removed));
        let mut names = Vec::new();
        while let Some(object) = passed.next().await {
            names.push(object.name_any());
        }
        task.await.unwrap();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(store.get(&ObjectRef::new("c")).is_some());
        let gone: Vec<_> = gone.map(|n| n.name_any()).collect().await;
        assert_eq!(gone, ["a"]);
    }
}
