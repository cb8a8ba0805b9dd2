//! Whether a Certificate's challenges are in place, read from what was seen in the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use evercert_api::challenge::OpenChallenge;
use evercert_core::forwarder::{describe_refusal, forwarder_name};
use evercert_core::routes::{
    CertificateChallenges, CertificateRoutes, ENTRY_POINTS, PathRoute, service_name,
};
use serde_json::Value;

use super::difference::paths_of;
use super::object::{Kind, ObjectId};
use super::pace::Tracked;
use super::{Presentation, SolverReadiness};

/// What was seen, as far as presentations depend on it.
pub(super) struct Scene<'a> {
    pub(super) objects: &'a BTreeMap<ObjectId, Tracked>,
    /// The ConfigMap.
    pub(super) challenges_id: &'a ObjectId,
    /// What the solver can answer.
    pub(super) answered: &'a BTreeSet<OpenChallenge>,
    /// The slices that each namespace should have, as they should be, and whether each is so.
    pub(super) slices_missing: &'a BTreeMap<String, Vec<ObjectId>>,
    /// The forwarders that are wanted, by namespace; `None` where there may be none.
    pub(super) forwarders: Option<&'a BTreeMap<String, SolverReadiness>>,
    /// Whether the solver has an address.
    pub(super) solver_has_address: bool,
}

impl Scene<'_> {
    /// The presentation of one Certificate; `routes` is its part of the plan.
    pub(super) fn present(
        &self,
        certificate: &CertificateChallenges,
        routes: Option<&CertificateRoutes>,
    ) -> Presentation {
        if !certificate
            .challenges
            .iter()
            .all(|c| self.answered.contains(c))
        {
            return self.waits_for(self.challenges_id);
        }
        let Some(routes) = routes else {
            return Presentation::Pending;
        };
        if let Some(sentence) = &routes.refused {
            return Presentation::Failed {
                message: sentence.clone(),
            };
        }
        let mut entry_points = BTreeMap::new();
        for path in &routes.paths {
            if path.is_forwarded && self.forwarders.is_none() {
                let is_asked_for = certificate.placement.is_some();
                let class = certificate.class.as_deref().unwrap_or("of its Ingress");
                return Presentation::Failed {
                    message: describe_refusal(class, is_asked_for),
                };
            }
            if let Some(missing) = self.missing(path) {
                return self.waits_for(&missing);
            }
            let addresses = match path.entry_points.as_slice() {
                [] => self.addresses_of(path),
                addresses => addresses.to_vec(),
            };
            entry_points.insert(path.name.clone(), addresses);
        }
        if self.solver_has_address {
            Presentation::Applied { entry_points }
        } else {
            Presentation::Pending
        }
    }

    /// The first object on the way that is not there, or lacks the path.
    fn missing(&self, path: &PathRoute) -> Option<ObjectId> {
        let namespace = &path.ingress.namespace;
        if path.is_forwarded {
            let name = forwarder_name(namespace);
            let is_ready = self.forwarders.and_then(|f| f.get(namespace));
            let service = ObjectId::new(Kind::Service, namespace, &name);
            if !self.holds(&service, |_| true) {
                return Some(service);
            }
            if is_ready != Some(&SolverReadiness::Ready) {
                return Some(ObjectId::new(Kind::Deployment, namespace, &name));
            }
            return self.missing_path(path);
        }
        let service = ObjectId::new(Kind::Service, namespace, &service_name(namespace));
        if !self.holds(&service, |_| true) {
            return Some(service);
        }
        if let Some(slice) = self.slices_missing.get(namespace).and_then(|s| s.first()) {
            return Some(slice.clone());
        }
        self.missing_path(path)
    }

    /// The Ingress of the path, where it lacks it.
    fn missing_path(&self, path: &PathRoute) -> Option<ObjectId> {
        let ingress = ObjectId {
            kind: if path.is_edit {
                Kind::Edit
            } else {
                Kind::Ingress
            },
            key: path.ingress.clone(),
        };
        let rule = (path.host.as_deref(), path.path.as_str());
        let there = self.holds(&ingress, |i| paths_of(i).contains(&rule));
        (!there).then_some(ingress)
    }

    fn waits_for(&self, id: &ObjectId) -> Presentation {
        let tracked = self.objects.get(id);
        if id.kind == Kind::Edit
            && let Some((times, writer)) = tracked.and_then(Tracked::reverted)
        {
            let message = format!(
                "{id} is changed back each time, {times} times so far, by the field manager {writer}: have it leave spec.rules \
                 alone, or set spec.acme.http01.editInPlace: false on the issuer"
            );
            return Presentation::Failed { message };
        }
        match tracked.and_then(Tracked::failure) {
            Some(message) => Presentation::Failed {
                message: format!("{id} cannot be written: {message}"),
            },
            None => Presentation::Pending,
        }
    }

    /// The addresses in the status of our own route.
    fn addresses_of(&self, path: &PathRoute) -> Vec<IpAddr> {
        let ingress = ObjectId {
            kind: Kind::Ingress,
            key: path.ingress.clone(),
        };
        let listed = self
            .seen(&ingress)
            .and_then(|i| i.pointer("/status/loadBalancer/ingress"))
            .and_then(Value::as_array);
        let addresses = listed.into_iter().flatten();
        addresses
            .filter_map(|a| a.get("ip")?.as_str()?.parse().ok())
            .take(ENTRY_POINTS)
            .collect()
    }

    fn holds(&self, id: &ObjectId, test: impl Fn(&Value) -> bool) -> bool {
        self.objects.get(id).is_some_and(|o| o.holds(test))
    }

    fn seen(&self, id: &ObjectId) -> Option<&Value> {
        self.objects.get(id).and_then(Tracked::seen)
    }
}
