//! Routes from the internet's entry points to the solver, as a pure function of the open challenges and the cluster's Ingresses.
//!
//! In each namespace that has open challenges: one selector-less Service, one EndpointSlice for each address family of the
//! solver, and one Ingress for each ingress class. A rule carries the host of the user's rule that covers the name, so that
//! a route never shadows a site; the token in the path makes it unique.

mod build;
mod cover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use evercert_api::challenge::OpenChallenge;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;

pub use build::{is_route, service_name};
pub use cover::{IngressIndex, RouteClass, class_of};

use crate::key::ObjectKey;

/// The most paths in one route Ingress; more make a second one.
pub const PATHS_PER_INGRESS: usize = 200;

/// The most addresses of entry points that are kept for a name.
pub const ENTRY_POINTS: usize = 4;

/// What one Certificate has open at its CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateChallenges {
    /// The Certificate.
    pub key: ObjectKey,
    /// Its UID, for the owner reference of the Service.
    pub uid: String,
    /// The ingress class of the source Ingress of a name, where it has one.
    pub sources: BTreeMap<String, String>,
    /// The ingress class that its issuer names.
    pub class: Option<String>,
    /// The challenges that wait for an answer.
    pub challenges: Vec<OpenChallenge>,
}

/// Where the solver answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SolverEndpoints {
    /// The addresses of its ready pods, both families.
    pub addresses: BTreeSet<IpAddr>,
    /// The port that they listen on.
    pub port: u16,
}

/// The routes that should exist, and which of them each Certificate needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoutePlan {
    /// The objects of each namespace; a namespace that is not here needs none.
    pub namespaces: BTreeMap<String, NamespaceRoutes>,
    /// What each Certificate waits for.
    pub certificates: BTreeMap<ObjectKey, CertificateRoutes>,
}

/// The route objects of one namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct NamespaceRoutes {
    /// The Service, owned by the Certificates concerned.
    pub service: Service,
    slices: Vec<EndpointSlice>,
    ingresses: Vec<Ingress>,
}

/// The routes of one Certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateRoutes {
    /// Why one of its names has no route, a sentence that names the remedy.
    pub refused: Option<String>,
    /// One for each challenge that has a route.
    pub paths: Vec<PathRoute>,
}

/// The route of one challenge. It may be in another Certificate's namespace, when both wait for the same challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRoute {
    /// The challenged name.
    pub name: String,
    /// The route Ingress that holds the path.
    pub ingress: ObjectKey,
    /// The rule's host, `None` for a rule without host.
    pub host: Option<String>,
    /// The path.
    pub path: String,
    /// Addresses in the status of the Ingress that covers the name, at most [`ENTRY_POINTS`].
    pub entry_points: Vec<IpAddr>,
}

impl NamespaceRoutes {
    /// The slices and Ingresses, owned by the applied Service whose UID is `service_uid`.
    #[must_use]
    pub fn owned_by(&self, service_uid: &str) -> (Vec<EndpointSlice>, Vec<Ingress>) {
        let owner = build::service_reference(&self.service, service_uid);
        let mut slices = self.slices.clone();
        for slice in &mut slices {
            slice.metadata.owner_references = Some(vec![owner.clone()]);
        }
        let mut ingresses = self.ingresses.clone();
        for ingress in &mut ingresses {
            ingress.metadata.owner_references = Some(vec![owner.clone()]);
        }
        (slices, ingresses)
    }
}

/// The routes for `open`. Total; the same input gives the same objects on every machine and after every restart. No two
/// paths of one class and host are the same: of Certificates that wait for the same challenge the first by key has the route.
#[must_use]
pub fn plan_routes<'a>(
    open: impl IntoIterator<Item = &'a CertificateChallenges>,
    index: &IngressIndex,
    solver: &SolverEndpoints,
) -> RoutePlan {
    let mut open: Vec<&CertificateChallenges> = open.into_iter().collect();
    open.sort_unstable_by(|a, b| a.key.cmp(&b.key));

    let mut holders: BTreeMap<Spot, String> = BTreeMap::new();
    let mut drafts: BTreeMap<String, Draft<'a>> = BTreeMap::new();
    let mut claims: Vec<(ObjectKey, Result<Claim, String>)> = Vec::new();
    for certificate in open {
        for challenge in &certificate.challenges {
            let name = challenge.host().as_str();
            let source = certificate.sources.get(name).map(String::as_str);
            let class = match index.class_for(source, certificate.class.as_deref(), name) {
                Ok(class) => class,
                Err(sentence) => {
                    claims.push((certificate.key.clone(), Err(sentence)));
                    continue;
                }
            };
            let cover = index.cover(&class, name);
            let spot = Spot {
                class,
                host: cover.host,
                path: build::path_of(challenge),
            };
            let namespace = holders
                .entry(spot.clone())
                .or_insert_with(|| certificate.key.namespace.clone())
                .clone();
            let draft = drafts.entry(namespace.clone()).or_default();
            draft.spots.insert(spot.clone());
            if namespace == certificate.key.namespace {
                draft.owners.insert(&certificate.key.name, &certificate.uid);
            }
            let claim = Claim {
                name: name.to_owned(),
                namespace,
                spot,
                entry_points: cover.entry_points,
            };
            claims.push((certificate.key.clone(), Ok(claim)));
        }
    }
    assemble(drafts, claims, index, solver)
}

/// One path in one Ingress: what may exist only once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    class: RouteClass,
    host: Option<String>,
    path: String,
}

/// A namespace's paths and owners, before they are objects.
#[derive(Debug, Default)]
struct Draft<'a> {
    spots: BTreeSet<Spot>,
    /// Names and UIDs of Certificates.
    owners: BTreeMap<&'a str, &'a str>,
}

/// What one challenge of a Certificate got.
#[derive(Debug)]
struct Claim {
    name: String,
    namespace: String,
    spot: Spot,
    entry_points: Vec<IpAddr>,
}

fn assemble(
    drafts: BTreeMap<String, Draft<'_>>,
    claims: Vec<(ObjectKey, Result<Claim, String>)>,
    index: &IngressIndex,
    solver: &SolverEndpoints,
) -> RoutePlan {
    let mut plan = RoutePlan::default();
    let mut ingress_names: BTreeMap<(String, Spot), String> = BTreeMap::new();
    for (namespace, draft) in drafts {
        let mut classes: BTreeMap<RouteClass, Vec<Spot>> = BTreeMap::new();
        for spot in draft.spots {
            classes.entry(spot.class.clone()).or_default().push(spot);
        }
        let mut ingresses = Vec::new();
        for (class, spots) in classes {
            for (number, chunk) in spots.chunks(PATHS_PER_INGRESS).enumerate() {
                let name = build::ingress_name(&namespace, &class, number);
                let paths = chunk.iter().map(|s| (s.host.as_deref(), s.path.as_str()));
                ingresses.push(build::ingress(&namespace, &name, &class, index, paths));
                ingress_names.extend(
                    chunk
                        .iter()
                        .map(|s| ((namespace.clone(), s.clone()), name.clone())),
                );
            }
        }
        let routes = NamespaceRoutes {
            service: build::service(&namespace, &draft.owners, solver.port),
            slices: build::slices(&namespace, solver),
            ingresses,
        };
        plan.namespaces.insert(namespace, routes);
    }
    for (key, claim) in claims {
        let routes = plan.certificates.entry(key).or_default();
        match claim {
            Err(sentence) => {
                routes.refused.get_or_insert(sentence);
            }
            Ok(claim) => {
                let place = (claim.namespace, claim.spot);
                if let Some(ingress) = ingress_names.get(&place) {
                    let (namespace, spot) = place;
                    routes.paths.push(PathRoute {
                        name: claim.name,
                        ingress: ObjectKey::new(namespace, ingress),
                        host: spot.host,
                        path: spot.path,
                        entry_points: claim.entry_points,
                    });
                }
            }
        }
    }
    plan
}
