//! The forwarders in the namespaces of Certificates: which are wanted, and how far each is.

use std::collections::BTreeMap;

use evercert_core::forwarder::{
    Site, build_deployment, build_service, describe_start, forwarder_name, is_ready,
};
use evercert_core::routes::RoutePlan;
use jiff::Timestamp;
use serde_json::Value;

use super::SolverReadiness;
use super::object::{Desired, Kind, ObjectId};
use super::shared::Wishes;
use super::task::ProjectionTask;
use crate::effect::Effect;

/// Names and UIDs of the Certificates that a namespace's forwarder is for.
type Owners<'a> = BTreeMap<&'a str, &'a str>;

impl ProjectionTask {
    /// Service and Deployment of each forwarder that an open challenge leads through, or that somebody is about to need. The
    /// Deployment can be made once its Service has a UID and the solver's Service an address.
    pub(super) fn add_forwarders(
        &self,
        wishes: &Wishes,
        plan: &RoutePlan,
        goals: &mut BTreeMap<ObjectId, Desired>,
    ) {
        if self.shape.is_none() {
            return;
        }
        for (namespace, owners) in find_owners(wishes, plan) {
            let name = forwarder_name(namespace);
            let service = build_service(namespace, &owners);
            goals.insert(
                ObjectId::new(Kind::Service, namespace, &name),
                Desired::new(Effect::ApplyForwarder, &service),
            );
            if let Some(Ok(deployment)) = self.build_forwarder(namespace) {
                goals.insert(
                    ObjectId::new(Kind::Deployment, namespace, &name),
                    deployment,
                );
            }
        }
    }

    /// How far each forwarder among the goals is.
    pub(super) fn forwarders(
        &mut self,
        goals: &BTreeMap<ObjectId, Desired>,
    ) -> BTreeMap<String, SolverReadiness> {
        let is_service = |id: &&ObjectId| {
            id.kind == Kind::Service && id.key.name == forwarder_name(&id.key.namespace)
        };
        let wanted = goals.keys().filter(is_service);
        let wanted: Vec<String> = wanted.map(|id| id.key.namespace.clone()).collect();
        self.forwarders_since
            .retain(|namespace, _| wanted.contains(namespace));
        let each = wanted.into_iter().map(|namespace| {
            let readiness = match self.what_holds_back(&namespace) {
                None => {
                    self.forwarders_since.remove(&namespace);
                    SolverReadiness::Ready
                }
                Some(what) => {
                    let since = self.forwarders_since.entry(namespace.clone());
                    let since = *since.or_insert_with(Timestamp::now);
                    SolverReadiness::Starting { since, what }
                }
            };
            (namespace, readiness)
        });
        each.collect()
    }

    /// What keeps a namespace's forwarder from being ready, a sentence.
    fn what_holds_back(&self, namespace: &str) -> Option<String> {
        let name = forwarder_name(namespace);
        let ids =
            [Kind::Service, Kind::Deployment].map(|kind| ObjectId::new(kind, namespace, &name));
        if let [service, deployment] = &ids
            && self.uid_of_service(service).is_some()
            && self.seen(deployment).is_some_and(is_ready)
        {
            return None;
        }
        let refused = ids.iter().find_map(|id| {
            let message = self.observed.objects.get(id)?.failure()?;
            Some(format!("{id} cannot be written: {message}"))
        });
        let unfit = || self.build_forwarder(namespace)?.err();
        let told = || {
            let deployment = ids.last().and_then(|id| self.seen(id));
            describe_start(namespace, deployment)
        };
        Some(refused.or_else(unfit).unwrap_or_else(told))
    }

    /// A namespace's Deployment; `None` while something that it needs is not there.
    fn build_forwarder(&self, namespace: &str) -> Option<Result<Desired, String>> {
        let shape = self.shape.as_ref()?;
        let service = ObjectId::new(Kind::Service, namespace, &forwarder_name(namespace));
        let service_uid = self.uid_of_service(&service)?;
        let solver = self.solver_address()?;
        let site = Site {
            namespace,
            limits: &self.observed.limits(namespace),
            service_uid: &service_uid,
            solver: &solver,
        };
        let built = build_deployment(&site, shape, &self.image);
        Some(built.map(|deployment| Desired::new(Effect::ApplyForwarder, &deployment)))
    }

    /// Where the solver's Service answers.
    fn solver_address(&self) -> Option<String> {
        let service = self.seen(&self.solver_id(Kind::Service))?;
        let address = service.pointer("/spec/clusterIP").and_then(Value::as_str)?;
        let port = self.port;
        Some(if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        })
    }
}

fn find_owners<'a>(wishes: &'a Wishes, plan: &RoutePlan) -> BTreeMap<&'a str, Owners<'a>> {
    let mut all: BTreeMap<&str, Owners<'_>> = BTreeMap::new();
    for (key, (uid, _)) in &wishes.forwarded {
        let owners = all.entry(&key.namespace).or_default();
        owners.insert(&key.name, uid);
    }
    for certificate in &wishes.open {
        let key = &certificate.key;
        let routes = plan.certificates.get(key);
        let mut paths = routes.iter().flat_map(|routes| &routes.paths);
        if paths.any(|path| path.is_forwarded && path.ingress.namespace == key.namespace) {
            let owners = all.entry(&key.namespace).or_default();
            owners.insert(&key.name, &certificate.uid);
        }
    }
    all
}
