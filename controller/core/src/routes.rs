//! Routes from the internet's entry points to the solver, as a pure function of the open challenges and the cluster's Ingresses.
//!
//! In each namespace that has open challenges: one selector-less Service, one EndpointSlice for each address family of the
//! solver, and one Ingress for each ingress class and set of annotations. A rule carries the host of the user's rule that
//! covers the name, so that a route never shadows a site; the token in the path makes it unique.

mod build;
mod cover;
mod edit;
mod preset;
mod refusal;
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
pub use edit::{Edit, RulePath, build_patch, read_edit, read_rules};
pub use refusal::{PathType, Place, Refusals, Verdict};

use crate::key::ObjectKey;
use refusal::{Cell, Group};

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
    /// The annotations that its issuer adds to the routes.
    pub annotations: BTreeMap<String, String>,
    /// Whether its issuer wants the paths in the users' own Ingresses; as the ingress controller needs it where it says nothing.
    pub edit_in_place: Option<bool>,
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
    /// The paths that go into the users' own Ingresses.
    pub edits: BTreeMap<ObjectKey, Edit>,
    /// What each Ingress holds of ours.
    pub places: BTreeMap<ObjectKey, Place>,
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
    /// The Ingress that holds the path.
    pub ingress: ObjectKey,
    /// Whether it is a user's own.
    pub is_edit: bool,
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

/// The routes for `open`, in a shape that admission has not refused. Total; the same input gives the same objects on every machine
/// and after every restart. No two paths of one class and host are the same: of Certificates that wait for the same challenge
/// the first by key has the route.
#[must_use]
pub fn plan_routes<'a>(
    open: impl IntoIterator<Item = &'a CertificateChallenges>,
    index: &IngressIndex,
    solver: &SolverEndpoints,
    refusals: &Refusals,
) -> RoutePlan {
    let mut open: Vec<&CertificateChallenges> = open.into_iter().collect();
    open.sort_unstable_by(|a, b| a.key.cmp(&b.key));

    let mut holders: BTreeMap<Spot, Home> = BTreeMap::new();
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
            let is_first = !holders.contains_key(&spot);
            let home = holders.entry(spot.clone()).or_insert_with(|| {
                let group = Group {
                    namespace: certificate.key.namespace.clone(),
                    class: spot.class.clone(),
                    annotations: certificate.annotations.clone(),
                };
                let edits = certificate.edit_in_place;
                let edits = edits.unwrap_or_else(|| index.preset(&spot.class).edit_in_place);
                // A backend is of the Ingress's own namespace.
                let own = |key: &&ObjectKey| edits && key.namespace == group.namespace;
                Home {
                    cell: refusals.cell(&group, &certificate.key),
                    edit: cover.ingresses.iter().find(own).cloned(),
                    group,
                }
            });
            let namespace = home.group.namespace.clone();
            let draft = drafts.entry(namespace.clone()).or_default();
            if let Some(ingress) = &home.edit {
                let edit = draft.edits.entry(ingress.clone()).or_default();
                edit.insert(spot.clone());
            } else {
                let at = (home.group.clone(), home.cell);
                let contents = draft.places.entry(at).or_default();
                contents.spots.insert(spot.clone());
                if is_first {
                    contents.certificates.insert(&certificate.key);
                }
            }
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
    assemble(drafts, claims, index, solver, refusals)
}

/// One path in one Ingress: what may exist only once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    class: RouteClass,
    host: Option<String>,
    path: String,
}

/// Where a path goes.
#[derive(Debug, Clone)]
struct Home {
    group: Group,
    cell: Cell,
    /// The user's own Ingress that it goes into, where it does.
    edit: Option<ObjectKey>,
}

/// A namespace's paths and owners, before they are objects.
#[derive(Debug, Default)]
struct Draft<'a> {
    places: BTreeMap<(Group, Cell), Contents<'a>>,
    edits: BTreeMap<ObjectKey, BTreeSet<Spot>>,
    /// Names and UIDs of Certificates.
    owners: BTreeMap<&'a str, &'a str>,
}

/// What belongs together.
#[derive(Debug, Default)]
struct Contents<'a> {
    spots: BTreeSet<Spot>,
    certificates: BTreeSet<&'a ObjectKey>,
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
    refusals: &Refusals,
) -> RoutePlan {
    let mut plan = RoutePlan::default();
    let mut ingress_names: BTreeMap<(String, Spot), (ObjectKey, bool)> = BTreeMap::new();
    for (namespace, draft) in drafts {
        let mut ingresses = Vec::new();
        for ((group, cell), contents) in draft.places {
            let preset = index.preset(&group.class);
            let place = Place {
                path_type: refusals.path_type(&group, cell, preset.path_type),
                first: preset.path_type,
                certificates: contents.certificates.len(),
                group,
                cell,
            };
            let spots: Vec<Spot> = contents.spots.into_iter().collect();
            for (number, chunk) in spots.chunks(PATHS_PER_INGRESS).enumerate() {
                for (twin, annotations) in preset.annotations.iter().enumerate() {
                    let name = build::ingress_name(&place, twin, number);
                    let paths = chunk.iter().map(|s| (s.host.as_deref(), s.path.as_str()));
                    ingresses.push(build::ingress(&name, &place, annotations, index, paths));
                    let key = ObjectKey::new(namespace.clone(), name);
                    for spot in chunk {
                        let at = (namespace.clone(), spot.clone());
                        ingress_names
                            .entry(at)
                            .or_insert_with(|| (key.clone(), false));
                    }
                    plan.places.insert(key, place.clone());
                }
            }
        }
        for (key, spots) in draft.edits {
            let Some(class) = spots.first().map(|spot| spot.class.clone()) else {
                continue;
            };
            let preset = index.preset(&class);
            let group = Group {
                namespace: namespace.clone(),
                class,
                // No other Ingress is written with it.
                annotations: BTreeMap::from([(String::new(), key.name.clone())]),
            };
            let path_type = refusals.path_type(&group, Cell::ALL, preset.path_type);
            let paths = spots.iter().map(|s| (s.host.clone(), s.path.clone()));
            let edit = Edit {
                paths: paths.collect(),
                path_type: Some(path_type),
            };
            for spot in spots {
                ingress_names.insert((namespace.clone(), spot), (key.clone(), true));
            }
            let place = Place {
                group,
                cell: Cell::ALL,
                path_type,
                first: preset.path_type,
                certificates: 1,
            };
            plan.places.insert(key.clone(), place);
            plan.edits.insert(key, edit);
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
                let at = (claim.namespace, claim.spot);
                if let Some((ingress, is_edit)) = ingress_names.get(&at) {
                    routes.paths.push(PathRoute {
                        name: claim.name,
                        ingress: ingress.clone(),
                        is_edit: *is_edit,
                        host: at.1.host,
                        path: at.1.path,
                        entry_points: claim.entry_points,
                    });
                }
            }
        }
    }
    plan
}
