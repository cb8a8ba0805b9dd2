//! The writes that are due, and for how long what is not wanted may stay.

use std::collections::BTreeMap;
use std::time::Duration;

use evercert_core::forwarder::forwarder_name;
use evercert_core::key::ObjectKey;
use evercert_core::routes::{Place, service_name};
use futures::FutureExt;
use tokio::time::Instant;

use super::super::object::{Desired, Kind, ObjectId, apply_object, delete_object};
use super::super::pace::{Goal, ORPHAN_PATIENCE};
use super::{LOOK, MEMORY, ProjectionTask, Writes, Written, uid_of};
use crate::effect::Effect;

impl ProjectionTask {
    /// Starts the writes that are due; gives the instant of the next.
    pub(super) fn write(
        &mut self,
        goals: &BTreeMap<ObjectId, Desired>,
        places: &BTreeMap<ObjectKey, Place>,
        now: Instant,
        writes: &mut Writes,
    ) -> Instant {
        let mut next = now + LOOK;
        let mut waiting: Vec<ObjectId> = goals.keys().cloned().collect();
        waiting.extend(
            self.observed
                .objects
                .keys()
                .filter(|id| !goals.contains_key(id))
                .cloned(),
        );
        for id in waiting {
            let desired = goals.get(&id);
            let goal = match desired {
                Some(desired) => Goal::Present(desired, self.patience),
                None => Goal::Absent(self.patience_with(&id, goals)),
            };
            let effect = match desired {
                Some(desired) => Some(desired.effect),
                None => self.deletion_of(&id),
            };
            let Some(effect) = effect else { continue };
            let tracked = self.observed.objects.entry(id.clone()).or_default();
            if tracked.is_under_way() {
                continue;
            }
            let Some(due) = tracked.due(id.kind, goal, now) else {
                continue;
            };
            if due > now {
                next = next.min(due);
                continue;
            }
            tracked.start(goal, now);
            let client = self.calls.clone();
            let uid = tracked.seen().and_then(uid_of);
            let desired = desired.cloned();
            let is_route = desired.is_some() && matches!(id.kind, Kind::Ingress | Kind::Edit);
            let place = places.get(&id.key).filter(|_| is_route).cloned();
            writes.push(
                async move {
                    let result = match &desired {
                        Some(desired) => apply_object(client, id.clone(), desired.clone())
                            .await
                            .map(Some),
                        None => delete_object(client, id.clone(), effect, uid)
                            .await
                            .map(|()| None),
                    };
                    Written { id, place, result }
                }
                .boxed(),
            );
        }
        self.observed.objects.retain(|id, tracked| {
            let recent = tracked
                .answered
                .is_some_and(|answered| answered + MEMORY > now);
            goals.contains_key(id) || recent || !tracked.is_forgettable()
        });
        next
    }

    /// The effect of an object's deletion; none for the open challenges, whose ConfigMap stays, and for a forwarder's Deployment, which
    /// goes with its Service.
    fn deletion_of(&self, id: &ObjectId) -> Option<Effect> {
        Some(match id.kind {
            Kind::ConfigMap => return None,
            Kind::Deployment if is_forwarder(id) => return None,
            _ if is_forwarder(id) => Effect::DeleteForwarder,
            Kind::Deployment => Effect::DeleteSolverDeployment,
            Kind::Service if *id == self.solver_id(Kind::Service) => Effect::DeleteSolverService,
            Kind::Service => Effect::DeleteRouteService,
            Kind::EndpointSlice => Effect::DeleteRouteSlice,
            Kind::Ingress => Effect::DeleteRouteIngress,
            Kind::Edit => Effect::RestoreIngress,
        })
    }

    /// How long what is not wanted may stay. With a Service that stays, a slice or Ingress is one too many; with a Service
    /// that goes, it is the garbage collector's at first.
    fn patience_with(&self, id: &ObjectId, goals: &BTreeMap<ObjectId, Desired>) -> Duration {
        let namespace = &id.key.namespace;
        let stays = |name: &str| goals.contains_key(&ObjectId::new(Kind::Service, namespace, name));
        match id.kind {
            Kind::Deployment => Duration::ZERO,
            Kind::Service if *id == self.solver_id(Kind::Service) => Duration::ZERO,
            Kind::Service | Kind::ConfigMap | Kind::Edit => self.patience,
            Kind::EndpointSlice | Kind::Ingress => {
                if stays(&service_name(namespace)) || stays(&forwarder_name(namespace)) {
                    self.patience
                } else {
                    ORPHAN_PATIENCE
                }
            }
        }
    }
}

/// Whether it is the Service or the Deployment of a forwarder, by the name that nothing else of ours has.
fn is_forwarder(id: &ObjectId) -> bool {
    let has_name = id.key.name == forwarder_name(&id.key.namespace);
    has_name && matches!(id.kind, Kind::Service | Kind::Deployment)
}
