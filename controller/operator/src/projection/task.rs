//! The task behind the handle: it takes what the cluster and the Certificates say, looks at what should be, and writes the
//! difference.
//!
//! ```text
//! wishes + leftovers ──► ConfigMap ──► (challenges in it) ──► Service ──► (its UID) ──► slices ──► Ingresses
//!                   └──► Deployment, Service of the solver ──► (its slices) ───────────┘
//! ```
//!
//! Each object waits only for what stands left of it, and for its own pace, so one refused namespace holds back no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use evercert_api::challenge::OpenChallenge;
use evercert_api::keys::{CHALLENGES_NAME, SOLVER_NAME};
use evercert_core::forwarder::{ForwarderShape, forwarder_name};
use evercert_core::routes::{
    CertificateChallenges, Place, Refusals, RoutePlan, SolverEndpoints, Verdict, is_route,
    plan_routes, service_name,
};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::Ingress;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::time::Instant;

use super::challenges::{build_challenges, read_leftovers};
use super::difference::challenges_of;
use super::object::{Desired, Kind, ObjectId, Seen};
use super::observed::Observed;
use super::pace::Tracked;
use super::present::Scene;
use super::shared::{Shared, Wishes};
use super::solver::{build_deployment, build_service, describe_start, gather_endpoints};
use super::watch::{Change, watch_all};
use super::{Presentation, SolverReadiness};
use crate::apply::ApplyError;
use crate::config::Config;
use crate::effect::Effect;

mod writes;

/// The longest time between two looks, whatever happens.
const LOOK: Duration = Duration::from_mins(5);
/// How many changes are taken before the next look.
const BATCH: usize = 1000;
/// How long an object that is gone is remembered, so that late events of it are known as late.
const MEMORY: Duration = Duration::from_mins(1);

/// The task that does the work of [`super::Projections`].
pub struct ProjectionTask {
    shared: Arc<Shared>,
    calls: Client,
    changes: SelectAll<BoxStream<'static, Change>>,
    namespace: String,
    challenges_id: ObjectId,
    idle: Option<Duration>,
    /// How long a change that can wait does.
    patience: Duration,
    deployment: Desired,
    service: Desired,
    pub(super) port: u16,

    pub(super) observed: Observed,
    /// What admission has refused of the routes.
    refusals: Refusals,
    /// When the solver was last needed.
    needed: Option<Instant>,
    /// Whether something was open at the last look.
    was_open: bool,
    starting_since: Option<Timestamp>,
    /// What forwarders are like, where there may be some, and the image where that says none.
    pub(super) shape: Option<ForwarderShape>,
    pub(super) image: String,
    /// Since when each namespace's forwarder has been starting.
    pub(super) forwarders_since: BTreeMap<String, Timestamp>,
    loaded: bool,
}

/// What one look found.
struct Found {
    plan: RoutePlan,
    /// The forwarders that are wanted, by namespace.
    forwarders: BTreeMap<String, SolverReadiness>,
    goals: BTreeMap<ObjectId, Desired>,
    /// The challenges that the solver can answer.
    answered: BTreeSet<OpenChallenge>,
    endpoints: SolverEndpoints,
    solver_is_wanted: bool,
}

/// A write that ended.
struct Written {
    id: ObjectId,
    /// What it holds, if it is a route Ingress that was applied.
    place: Option<Place>,
    result: Result<Option<Seen>, ApplyError>,
}

type Writes = FuturesUnordered<BoxFuture<'static, Written>>;

impl ProjectionTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        calls: Client,
        watches: &Client,
        config: &Config,
        ingresses: Writer<Ingress>,
    ) -> Self {
        Self {
            shared,
            calls,
            changes: watch_all(watches, config),
            namespace: config.namespace.clone(),
            challenges_id: ObjectId::new(Kind::ConfigMap, &config.namespace, CHALLENGES_NAME),
            idle: config.solver.idle,
            patience: config.route_patience,
            deployment: Desired::new(Effect::ApplySolverDeployment, &build_deployment(config)),
            service: Desired::new(Effect::ApplySolverService, &build_service(config)),
            port: config.solver.port,
            observed: Observed::new(&config.namespace, config.forwarder.is_some(), ingresses),
            refusals: Refusals::default(),
            needed: None,
            was_open: false,
            starting_since: None,
            shape: config.forwarder.clone(),
            image: config.solver.image.clone(),
            forwarders_since: BTreeMap::new(),
            loaded: false,
        }
    }

    /// Runs for ever; dropping it ends the watches and the writes under way.
    pub async fn run(mut self) {
        let mut changes = std::mem::take(&mut self.changes);
        let mut writes = Writes::new();
        let shared = Arc::clone(&self.shared);
        loop {
            let next = self.look(&mut writes);
            tokio::select! {
                Some(change) = changes.next() => {
                    self.take(change);
                    // What has come together is looked at together.
                    for _ in 1..BATCH {
                        let Some(Some(change)) = changes.next().now_or_never() else { break };
                        self.take(change);
                    }
                }
                Some(written) = writes.next(), if !writes.is_empty() => self.finish(written),
                () = shared.changed() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Takes a change, and then says where an Ingress has changed.
    fn take(&mut self, change: Change) {
        let place = match &change {
            Change::Ingress(Event::Apply(i) | Event::Delete(i)) if !is_route(i) => i.namespace(),
            Change::Ingress(Event::InitDone) => Some(String::new()),
            Change::Ingress(_)
            | Change::Own(..)
            | Change::Class(_)
            | Change::Endpoints(_)
            | Change::Pod(_)
            | Change::Limits(_)
            | Change::Failed(..) => None,
        };
        self.observed.take(change);
        match place.as_deref() {
            None => {}
            Some("") => self.shared.news.note_all(),
            Some(namespace) => self.shared.news.note(namespace),
        }
    }

    /// Takes the end of a write.
    fn finish(&mut self, written: Written) {
        let now = Instant::now();
        let tracked = self.observed.objects.entry(written.id.clone()).or_default();
        match (written.result, &written.place) {
            (Ok(seen), place) => {
                tracked.succeed(seen, now);
                if let Some(place) = place {
                    self.refusals.accept(place);
                }
            }
            (Err(error), Some(place))
                if error.is_by_admission() && self.refusals.refuse(place) == Verdict::Again =>
            {
                tracing::info!(object = %written.id, %error, "a route is tried in another shape");
                tracked.give_way();
            }
            (Err(error), _) => {
                tracing::warn!(object = %written.id, %error, "a projection cannot be written");
                tracked.fail(&error, now);
            }
        }
    }

    /// Looks at everything once: starts the writes that are due, publishes what was found, and tells when to look again.
    fn look(&mut self, writes: &mut Writes) -> Instant {
        let now = Instant::now();
        if !self.observed.is_complete() || !self.shared.knows_existing() {
            self.publish_blindness();
            return now + LOOK;
        }
        if !std::mem::replace(&mut self.loaded, true) {
            let left = self
                .seen(&self.challenges_id)
                .map(read_leftovers)
                .unwrap_or_default();
            self.shared.load(left);
            if self.seen(&self.solver_id(Kind::Deployment)).is_some() {
                self.needed = Some(now);
            }
        }
        let wishes = self.shared.wishes();
        let index = self.observed.index();
        self.shared.set_index(Arc::clone(&index));
        let endpoints = gather_endpoints(self.observed.endpoints.objects.values(), self.port);
        let config_map = self.observed.objects.get(&self.challenges_id);
        let answered: BTreeSet<OpenChallenge> = config_map
            .map(|c| c.certain(challenges_of))
            .unwrap_or_default();
        let open: Vec<CertificateChallenges> =
            wishes.open.iter().map(|c| limit_to(c, &answered)).collect();
        let plan = if open.is_empty() {
            RoutePlan::default()
        } else {
            plan_routes(&open, &index, &endpoints, &self.refusals)
        };
        self.refusals.retain(|namespace| plan.has(namespace));

        let mut goals: BTreeMap<ObjectId, Desired> = BTreeMap::new();
        if !wishes.open.is_empty() || self.seen(&self.challenges_id).is_some() {
            let open = wishes.open.iter().map(AsRef::as_ref);
            let config_map = build_challenges(&self.namespace, open);
            goals.insert(
                self.challenges_id.clone(),
                Desired::new(Effect::ApplyChallenges, &config_map),
            );
        }
        let solver_is_wanted = self.is_solver_wanted(&wishes, now);
        if solver_is_wanted {
            goals.insert(self.solver_id(Kind::Deployment), self.deployment.clone());
            goals.insert(self.solver_id(Kind::Service), self.service.clone());
        }
        self.add_forwarders(&wishes, &plan, &mut goals);
        let forwarders = self.forwarders(&goals);
        self.add_routes(&plan, &forwarders, &mut goals);

        let mut next = self.write(&goals, &plan.places, now, writes);
        if let (Some(idle), Some(needed)) = (self.idle, self.needed)
            && solver_is_wanted
            && wishes.open.is_empty()
        {
            next = next.min(needed + idle);
        }
        if let Some(until) = wishes.forwarded.values().map(|(_, until)| *until).min() {
            next = next.min(until);
        }
        let found = Found {
            plan,
            forwarders,
            goals,
            answered,
            endpoints,
            solver_is_wanted,
        };
        self.publish(&wishes, &found);
        next
    }

    /// Before everything was listed once, Certificates too, nothing is known and nothing is written.
    fn publish_blindness(&self) {
        let presentation = match self.observed.failing() {
            Some(message) => Presentation::Failed {
                message: message.to_owned(),
            },
            None => Presentation::Pending,
        };
        let open = self.shared.wishes().open;
        let found = open
            .into_iter()
            .map(|c| (c, presentation.clone()))
            .collect();
        self.shared
            .publish(found, SolverReadiness::Absent, BTreeMap::new());
    }

    fn is_solver_wanted(&mut self, wishes: &Wishes, now: Instant) -> bool {
        let Some(idle) = self.idle else { return true };
        let is_open = !wishes.open.is_empty();
        if std::mem::replace(&mut self.was_open, is_open) || is_open {
            self.needed = Some(now);
        }
        self.needed = self.needed.max(wishes.asked);
        self.needed.is_some_and(|needed| now < needed + idle)
    }

    /// The route objects; what a Service owns can be made once the Service has a UID.
    fn add_routes(
        &self,
        plan: &RoutePlan,
        forwarders: &BTreeMap<String, SolverReadiness>,
        goals: &mut BTreeMap<ObjectId, Desired>,
    ) {
        for (namespace, routes) in &plan.namespaces {
            let id = ObjectId::new(Kind::Service, namespace, &service_name(namespace));
            if let Some(uid) = self.uid_of_service(&id) {
                let (slices, ingresses) = routes.owned_by(&uid);
                for slice in &slices {
                    let id = ObjectId::of(Kind::EndpointSlice, slice);
                    goals.insert(id, Desired::new(Effect::ApplyRouteSlice, slice));
                }
                self.add_ingresses(&ingresses, self.has_slices(namespace, plan), goals);
            }
            goals.insert(id, Desired::new(Effect::ApplyRouteService, &routes.service));
        }
        let is_ready = |namespace: &str| forwarders.get(namespace) == Some(&SolverReadiness::Ready);
        for (namespace, routes) in &plan.forwarded {
            let id = ObjectId::new(Kind::Service, namespace, &forwarder_name(namespace));
            if let Some(uid) = self.uid_of_service(&id) {
                let (_, ingresses) = routes.owned_by(&uid);
                self.add_ingresses(&ingresses, is_ready(namespace), goals);
            }
        }
        for (key, edit) in &plan.edits {
            let namespace = &key.namespace;
            let leads_somewhere = (!edit.leads_to_solver() || self.has_slices(namespace, plan))
                && (edit.forwarded.is_empty() || is_ready(namespace));
            let id = ObjectId {
                kind: Kind::Edit,
                key: key.clone(),
            };
            if leads_somewhere || self.seen(&id).is_some() {
                goals.insert(id, Desired::edit(edit));
            }
        }
    }

    fn add_ingresses(
        &self,
        ingresses: &[Ingress],
        leads_somewhere: bool,
        goals: &mut BTreeMap<ObjectId, Desired>,
    ) {
        for ingress in ingresses {
            let id = ObjectId::of(Kind::Ingress, ingress);
            if leads_somewhere || self.seen(&id).is_some() {
                goals.insert(id, Desired::new(Effect::ApplyRouteIngress, ingress));
            }
        }
    }

    /// Whether the slices of a namespace's routes are there. An ingress controller that learns of both at the same moment may lose
    /// the endpoints: a new route waits until then.
    fn has_slices(&self, namespace: &str, plan: &RoutePlan) -> bool {
        let service = ObjectId::new(Kind::Service, namespace, &service_name(namespace));
        let routes = plan.namespaces.get(namespace);
        let (Some(routes), Some(uid)) = (routes, self.uid_of_service(&service)) else {
            return false;
        };
        let (slices, _) = routes.owned_by(&uid);
        let is_there = |slice| {
            let tracked = self
                .observed
                .objects
                .get(&ObjectId::of(Kind::EndpointSlice, slice));
            tracked.is_some_and(|tracked| tracked.holds(|_| true))
        };
        !slices.is_empty() && slices.iter().all(is_there)
    }

    /// The UID of a Service that is there, and will be.
    pub(super) fn uid_of_service(&self, id: &ObjectId) -> Option<String> {
        let service = self.observed.objects.get(id);
        let service = service.filter(|s| s.holds(|_| true));
        service.and_then(Tracked::seen).and_then(uid_of)
    }

    /// Tells the Certificates what was found.
    fn publish(&mut self, wishes: &Wishes, found: &Found) {
        let mut slices_missing: BTreeMap<String, Vec<ObjectId>> = BTreeMap::new();
        for (id, desired) in found
            .goals
            .iter()
            .filter(|(id, _)| id.kind == Kind::EndpointSlice)
        {
            let there = self
                .observed
                .objects
                .get(id)
                .is_some_and(|t| t.is_as(desired));
            if !there {
                slices_missing
                    .entry(id.key.namespace.clone())
                    .or_default()
                    .push(id.clone());
            }
        }
        let scene = Scene {
            objects: &self.observed.objects,
            challenges_id: &self.challenges_id,
            answered: &found.answered,
            slices_missing: &slices_missing,
            forwarders: self.shape.is_some().then_some(&found.forwarders),
            solver_has_address: !found.endpoints.addresses.is_empty(),
        };
        let presentations: Vec<_> = wishes
            .open
            .iter()
            .map(|c| {
                (
                    Arc::clone(c),
                    scene.present(c, found.plan.certificates.get(&c.key)),
                )
            })
            .collect();
        let solver = self.solver_readiness(found.solver_is_wanted, &found.endpoints);
        self.shared
            .publish(presentations, solver, found.forwarders.clone());
    }

    fn solver_readiness(&mut self, wanted: bool, endpoints: &SolverEndpoints) -> SolverReadiness {
        let deployment = self.solver_id(Kind::Deployment);
        if !wanted {
            self.starting_since = None;
            return SolverReadiness::Absent;
        }
        let seen = self.seen(&deployment);
        if seen.is_some() && !endpoints.addresses.is_empty() {
            self.starting_since = None;
            return SolverReadiness::Ready;
        }
        let refused = [deployment.clone(), self.solver_id(Kind::Service)]
            .into_iter()
            .find_map(|id| {
                let message = self.observed.objects.get(&id)?.failure()?;
                Some(format!("{id} cannot be written: {message}"))
            });
        let pods = self.observed.pods.objects.values();
        let what = refused.unwrap_or_else(|| describe_start(seen, pods));
        let since = *self.starting_since.get_or_insert_with(Timestamp::now);
        SolverReadiness::Starting { since, what }
    }

    pub(super) fn solver_id(&self, kind: Kind) -> ObjectId {
        ObjectId::new(kind, &self.namespace, SOLVER_NAME)
    }

    pub(super) fn seen(&self, id: &ObjectId) -> Option<&Value> {
        self.observed.seen(id)
    }
}

/// The part of a Certificate's challenges that the solver can answer.
fn limit_to(
    certificate: &CertificateChallenges,
    answered: &BTreeSet<OpenChallenge>,
) -> CertificateChallenges {
    CertificateChallenges {
        challenges: certificate
            .challenges
            .iter()
            .filter(|c| answered.contains(c))
            .cloned()
            .collect(),
        ..certificate.clone()
    }
}

pub(super) fn uid_of(content: &Value) -> Option<String> {
    content
        .pointer("/metadata/uid")?
        .as_str()
        .map(ToOwned::to_owned)
}
