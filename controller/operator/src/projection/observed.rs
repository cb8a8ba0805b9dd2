//! What was seen in the cluster: the projections' own objects, everybody's Ingresses, the classes, the solver's slices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use evercert_api::keys::{
    CHALLENGES_NAME, COMPONENT_FORWARDER, COMPONENT_LABEL, COMPONENT_ROUTE, SOLVER_NAME,
};
use evercert_core::forwarder::forwarder_name;
use evercert_core::routes::{IngressIndex, is_route, service_name};
use k8s_openapi::api::core::v1::{LimitRange, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use serde_json::Value;
use tokio::time::Instant;

use super::object::{Kind, ObjectId, Seen};
use super::pace::Tracked;
use super::watch::{Cache, Change, Scope};

/// What was seen in the cluster.
pub(super) struct Observed {
    namespace: String,
    /// The projections' own objects, and those of them that are only wished for as yet.
    pub(super) objects: BTreeMap<ObjectId, Tracked>,
    /// The slices of the solver's own Service.
    pub(super) endpoints: Cache<EndpointSlice>,
    /// The solver's pods.
    pub(super) pods: Cache<Pod>,
    ingresses: Writer<Ingress>,
    classes: Cache<IngressClass>,
    /// What the namespaces' pods may ask for and have.
    limits: Cache<LimitRange>,
    /// What has to be listed once before anything is known.
    scopes: Vec<Scope>,
    index: Arc<IngressIndex>,
    index_is_stale: bool,

    /// Listings under way: what they have found, and when they began.
    listings: BTreeMap<Scope, (BTreeSet<ObjectId>, Instant)>,
    /// Watches that were listed once, and those that fail at the moment.
    listed: BTreeSet<Scope>,
    failing: BTreeMap<Scope, String>,
}

impl Observed {
    /// With `forwarders` what these need is looked at, too.
    pub(super) fn new(namespace: &str, forwarders: bool, ingresses: Writer<Ingress>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ingresses,
            classes: Cache::default(),
            limits: Cache::default(),
            scopes: Scope::all(forwarders),
            endpoints: Cache::default(),
            pods: Cache::default(),
            index: Arc::default(),
            index_is_stale: true,
            objects: BTreeMap::new(),
            listings: BTreeMap::new(),
            listed: BTreeSet::new(),
            failing: BTreeMap::new(),
        }
    }

    /// Whether everything was listed once; before, an object that was not seen may still be there.
    pub(super) fn is_complete(&self) -> bool {
        self.scopes.iter().all(|scope| self.listed.contains(scope))
    }

    /// Why a watch fails at the moment, a sentence.
    pub(super) fn failing(&self) -> Option<&str> {
        self.failing.values().next().map(String::as_str)
    }

    /// One of the projections' own objects, as JSON.
    pub(super) fn seen(&self, id: &ObjectId) -> Option<&Value> {
        self.objects.get(id).and_then(Tracked::seen)
    }

    /// The users' hosts, read anew if an Ingress or class has changed since the last call.
    pub(super) fn index(&mut self) -> Arc<IngressIndex> {
        if std::mem::take(&mut self.index_is_stale) {
            let ingresses = self.ingresses.as_reader().state();
            let ingresses = ingresses.iter().map(AsRef::as_ref);
            self.index = Arc::new(IngressIndex::new(ingresses, self.classes.objects.values()));
        }
        Arc::clone(&self.index)
    }

    /// The LimitRanges of a namespace.
    pub(super) fn limits(&self, namespace: &str) -> Vec<&LimitRange> {
        let all = self.limits.objects.iter();
        all.filter(|(key, _)| key.namespace == namespace)
            .map(|(_, limits)| limits)
            .collect()
    }

    /// Takes one change of the cluster.
    pub(super) fn take(&mut self, change: Change) {
        match change {
            Change::Own(scope, event) => {
                self.failing.remove(&scope);
                self.observe(scope, event);
            }
            Change::Ingress(event) => self.take_ingress(&event),
            Change::Class(event) => {
                self.note_listed(Scope::Classes, matches!(event, Event::InitDone));
                self.index_is_stale |= self.classes.take(event);
            }
            Change::Pod(event) => {
                self.failing.remove(&Scope::Pods);
                self.pods.take(*event);
            }
            Change::Limits(event) => {
                self.note_listed(Scope::Limits, matches!(event, Event::InitDone));
                self.limits.take(event);
            }
            Change::Endpoints(event) => {
                self.note_listed(Scope::Endpoints, matches!(event, Event::InitDone));
                self.endpoints.take(event);
            }
            Change::Failed(scope, message) => {
                if self.failing.insert(scope, message.clone()).is_none() {
                    tracing::warn!("{message}");
                }
            }
        }
    }

    fn take_ingress(&mut self, event: &Event<Ingress>) {
        self.failing.remove(&Scope::Ingresses);
        self.ingresses.apply_watcher_event(event);
        let seen = |ingress: &Ingress| Seen::new(Kind::Ingress, ingress);
        let own = match event {
            // One that we know stays ours when somebody takes its label away.
            Event::Apply(i)
                if is_route(i) || self.objects.contains_key(&ObjectId::of(Kind::Ingress, i)) =>
            {
                Some(Event::Apply(seen(i)))
            }
            Event::InitApply(i) if is_route(i) => Some(Event::InitApply(seen(i))),
            Event::Delete(i) => Some(Event::Delete(seen(i))),
            Event::Init => Some(Event::Init),
            Event::InitDone => Some(Event::InitDone),
            Event::Apply(_) | Event::InitApply(_) => None,
        };
        if let Some(edit) = self.edit_event(event) {
            self.observe(Scope::Ingresses, edit);
        }
        self.index_is_stale |= match event {
            Event::Apply(i) | Event::Delete(i) => !is_route(i),
            Event::InitDone => true,
            Event::Init | Event::InitApply(_) => false,
        };
        if let Some(own) = own {
            self.observe(Scope::Ingresses, own);
        }
    }

    /// What an event of somebody else's Ingress says of our paths in it.
    fn edit_event(&self, event: &Event<Ingress>) -> Option<Event<Seen>> {
        match event {
            Event::Apply(i) if !is_route(i) => match Seen::edit(i) {
                Some(seen) => Some(Event::Apply(seen)),
                None if !self.objects.contains_key(&ObjectId::of(Kind::Edit, i)) => None,
                None => Some(Event::Delete(Seen::new(Kind::Edit, i))),
            },
            Event::InitApply(i) if !is_route(i) => Seen::edit(i).map(Event::InitApply),
            Event::Delete(i) => Some(Event::Delete(Seen::new(Kind::Edit, i))),
            Event::Apply(_) | Event::InitApply(_) | Event::Init | Event::InitDone => None,
        }
    }

    fn note_listed(&mut self, scope: Scope, done: bool) {
        self.failing.remove(&scope);
        if done {
            self.listed.insert(scope);
        }
    }

    /// Takes an event of an object that may be ours.
    fn observe(&mut self, scope: Scope, event: Event<Seen>) {
        match event {
            Event::Apply(seen) if self.is_ours(&seen) => {
                let tracked = self.objects.entry(seen.id).or_default();
                tracked.observe(Some(seen.content), seen.version, false);
            }
            Event::Delete(seen) => {
                if let Some(tracked) = self.objects.get_mut(&seen.id) {
                    tracked.observe(None, seen.version, false);
                }
            }
            Event::Init => {
                self.listings
                    .insert(scope, (BTreeSet::new(), Instant::now()));
            }
            Event::InitApply(seen) if self.is_ours(&seen) => {
                if let Some((found, began)) = self.listings.get_mut(&scope) {
                    found.insert(seen.id.clone());
                    let tracked = self.objects.entry(seen.id).or_default();
                    let written = tracked.answered.is_some_and(|answered| answered >= *began);
                    tracked.observe(Some(seen.content), seen.version, !written);
                }
            }
            Event::Apply(_) | Event::InitApply(_) => {}
            Event::InitDone => {
                self.listed.insert(scope);
                let Some((found, began)) = self.listings.remove(&scope) else {
                    return;
                };
                for (id, tracked) in &mut self.objects {
                    let older = tracked.answered.is_none_or(|answered| answered < began);
                    let kind = match id.kind {
                        Kind::Edit => Kind::Ingress,
                        kind => kind,
                    };
                    if Some(kind) == scope.kind() && older && !found.contains(id) {
                        tracked.vanish();
                    }
                }
            }
        }
    }

    /// Whether an object is the projections' own: by its label and by the name that it would have. A label alone can be
    /// anybody's, and what is ours and not wanted is deleted.
    fn is_ours(&self, seen: &Seen) -> bool {
        let namespace = &seen.id.key.namespace;
        let name = &seen.id.key.name;
        let is_part_of = |component: &str| {
            let label = seen.content.get("metadata").and_then(|m| m.get("labels"));
            label
                .and_then(|l| l.get(COMPONENT_LABEL))
                .and_then(Value::as_str)
                == Some(component)
        };
        let is_route = || is_part_of(COMPONENT_ROUTE);
        let is_forwarder = || is_part_of(COMPONENT_FORWARDER) && *name == forwarder_name(namespace);
        let is_solver = || *namespace == self.namespace && name == SOLVER_NAME;
        match seen.id.kind {
            Kind::ConfigMap => *namespace == self.namespace && name == CHALLENGES_NAME,
            Kind::Deployment => is_solver() || is_forwarder(),
            Kind::Service => {
                is_solver() || is_forwarder() || is_route() && *name == service_name(namespace)
            }
            Kind::EndpointSlice => is_route() && name.starts_with(&service_name(namespace)),
            // Told by its owner, or by where its paths lead, before it came here.
            Kind::Ingress | Kind::Edit => true,
        }
    }
}
