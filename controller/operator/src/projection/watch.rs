//! The watches of the projections, as one stream of changes.

use std::collections::BTreeMap;

use evercert_api::keys::{
    CHALLENGES_NAME, COMPONENT_FORWARDER, COMPONENT_LABEL, COMPONENT_ROUTE, COMPONENT_SOLVER,
    SOLVER_NAME,
};
use evercert_core::key::ObjectKey;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, LimitRange, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, IngressClassSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;

use super::object::{Kind, Seen};
use crate::config::Config;
use crate::territory::{Events, Territory};

/// How long one watch lasts, in seconds: what bounds the time that a connection may hang unnoticed.
const WATCH_TIME: u32 = 90;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scope {
    /// The ConfigMap of challenges.
    Challenges,
    /// Services of routes and of the solver.
    Services,
    /// Slices of routes.
    Slices,
    /// The solver's Deployment, and those of forwarders.
    Deployment,
    /// All Ingresses.
    Ingresses,
    /// All IngressClasses.
    Classes,
    /// Slices of the solver's own Service.
    Endpoints,
    /// The solver's pods. Nothing waits for them: they only tell why it does not start.
    Pods,
    /// All LimitRanges.
    Limits,
}

impl Scope {
    /// Every watch that something waits for; what only forwarders need where there may be some.
    pub(super) fn all(forwarders: bool) -> Vec<Self> {
        let mut all = vec![
            Self::Challenges,
            Self::Services,
            Self::Slices,
            Self::Deployment,
            Self::Ingresses,
            Self::Classes,
            Self::Endpoints,
        ];
        all.extend(forwarders.then_some(Self::Limits));
        all
    }

    /// The kind of our own objects among what is watched.
    pub(super) fn kind(self) -> Option<Kind> {
        match self {
            Self::Challenges => Some(Kind::ConfigMap),
            Self::Services => Some(Kind::Service),
            Self::Slices => Some(Kind::EndpointSlice),
            Self::Deployment => Some(Kind::Deployment),
            Self::Ingresses => Some(Kind::Ingress),
            Self::Classes | Self::Endpoints | Self::Pods | Self::Limits => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Challenges => "the ConfigMap of open challenges",
            Self::Services => "Services",
            Self::Slices => "EndpointSlices",
            Self::Deployment => "the Deployments of solver and forwarders",
            Self::Ingresses => "Ingresses",
            Self::Classes => "IngressClasses",
            Self::Endpoints => "the solver's EndpointSlices",
            Self::Pods => "the solver's pods",
            Self::Limits => "LimitRanges",
        }
    }
}

/// A change in the cluster.
#[derive(Debug)]
pub(super) enum Change {
    /// To an object that may be ours.
    Own(Scope, Event<Seen>),
    /// To an Ingress, anybody's.
    Ingress(Event<Ingress>),
    /// To an IngressClass.
    Class(Event<IngressClass>),
    /// To a slice of the solver's Service.
    Endpoints(Event<EndpointSlice>),
    /// To a pod of the solver.
    Pod(Box<Event<Pod>>),
    /// To a LimitRange.
    Limits(Event<LimitRange>),
    /// A watch failed and begins anew by itself.
    Failed(Scope, String),
}

/// All watches of what `config` says.
pub(super) fn watch_all(client: &Client, config: &Config) -> SelectAll<BoxStream<'static, Change>> {
    let (own_namespace, territory) = (&config.namespace, &config.territory);
    let here = Territory::new([own_namespace.clone()]);
    let watch = || watcher::Config::default().timeout(WATCH_TIME);
    let named = |name: &str| watch().fields(&format!("metadata.name={name}"));
    let components = format!(
        "{COMPONENT_LABEL} in ({COMPONENT_FORWARDER},{COMPONENT_ROUTE},{COMPONENT_SOLVER})"
    );
    let routes = format!("{COMPONENT_LABEL}={COMPONENT_ROUTE}");
    let solver = format!("kubernetes.io/service-name={SOLVER_NAME}");
    let of_solver = format!("{COMPONENT_LABEL}={COMPONENT_SOLVER}");
    let pods = format!("{COMPONENT_LABEL} in ({COMPONENT_FORWARDER},{COMPONENT_SOLVER})");
    let has_forwarders = config.forwarder.is_some();
    let (there, which) = if has_forwarders {
        (territory.with(own_namespace), watch().labels(&pods))
    } else {
        (here.clone(), named(SOLVER_NAME))
    };
    let classes = build_classes(&config.ingress_classes);

    let mut all = select_all([
        own::<ConfigMap>(
            here.watch(client, &named(CHALLENGES_NAME)),
            Scope::Challenges,
            Kind::ConfigMap,
        ),
        own::<Service>(
            territory
                .with(own_namespace)
                .watch(client, &watch().labels(&components)),
            Scope::Services,
            Kind::Service,
        ),
        own::<EndpointSlice>(
            territory.watch(client, &watch().labels(&routes)),
            Scope::Slices,
            Kind::EndpointSlice,
        ),
        own::<Deployment>(
            there.watch(client, &which),
            Scope::Deployment,
            Kind::Deployment,
        ),
        watched(
            territory.watch(client, &watch()),
            Scope::Ingresses,
            Change::Ingress,
        ),
        watched(
            territory.watch_cluster(client, &watch(), classes),
            Scope::Classes,
            Change::Class,
        ),
        watched(
            here.watch(client, &watch().labels(&solver)),
            Scope::Endpoints,
            Change::Endpoints,
        ),
        watched(
            here.watch(client, &watch().labels(&of_solver)),
            Scope::Pods,
            |event| Change::Pod(Box::new(event)),
        ),
    ]);
    if has_forwarders {
        let limits = territory.watch(client, &watch());
        all.push(watched(limits, Scope::Limits, Change::Limits));
    }
    all
}

/// The classes that the operator was told of.
fn build_classes(told: &BTreeMap<String, String>) -> Vec<IngressClass> {
    let class = |(name, controller): (&String, &String)| IngressClass {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(IngressClassSpec {
            controller: Some(controller.clone()),
            ..IngressClassSpec::default()
        }),
    };
    told.iter().map(class).collect()
}

fn own<K>(watch: Events<K>, scope: Scope, kind: Kind) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Serialize + 'static,
{
    let change = move |event: Event<K>| {
        let seen = |object: K| Seen::new(kind, &object);
        Change::Own(
            scope,
            match event {
                Event::Apply(object) => Event::Apply(seen(object)),
                Event::Delete(object) => Event::Delete(seen(object)),
                Event::Init => Event::Init,
                Event::InitApply(object) => Event::InitApply(seen(object)),
                Event::InitDone => Event::InitDone,
            },
        )
    };
    watched(watch, scope, change)
}

fn watched<K>(
    watch: Events<K>,
    scope: Scope,
    change: impl Fn(Event<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + 'static,
{
    let changes = watch.map(move |result| match result {
        Ok(event) => change(event.modify(|object| {
            object.managed_fields_mut().clear();
            // Often the largest part of an object, and the whole of it once more.
            object
                .annotations_mut()
                .remove("kubectl.kubernetes.io/last-applied-configuration");
        })),
        Err(error) => {
            tracing::debug!(%error, watch = scope.words(), "a watch failed and begins anew");
            Change::Failed(
                scope,
                format!("{} cannot be watched: {}", scope.words(), cause_of(error)),
            )
        }
    });
    changes.boxed()
}

/// The API server's own words.
fn cause_of(error: watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => crate::apply::ApplyError::from(error).to_string(),
        watcher::Error::WatchError(status) => status.message.clone(),
        watcher::Error::NoResourceVersion => "the answer has no resourceVersion".to_owned(),
    }
}

fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

/// A small cache of what a watch gave, by namespace and name; a listing under way replaces it when it is complete.
#[derive(Debug)]
pub(super) struct Cache<K> {
    pub(super) objects: BTreeMap<ObjectKey, K>,
    listing: BTreeMap<ObjectKey, K>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: BTreeMap::new(),
        }
    }
}

impl<K: Resource<DynamicType = ()>> Cache<K> {
    /// Takes one event; true when the objects may have changed.
    pub(super) fn take(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Apply(object) => {
                self.objects.insert(key_of(&object), object);
                true
            }
            Event::Delete(object) => self.objects.remove(&key_of(&object)).is_some(),
            Event::Init => {
                self.listing.clear();
                false
            }
            Event::InitApply(object) => {
                self.listing.insert(key_of(&object), object);
                false
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listing);
                true
            }
        }
    }
}
