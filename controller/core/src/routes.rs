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
use evercert_api::issuer::Placement;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;

pub use build::{is_route, service_name};
pub use cover::{IngressIndex, RouteClass, class_of};
pub use edit::{Edit, RulePath, build_patch, read_edit, read_rules};
pub use refusal::{PathType, Place, Refusals, Verdict};

use crate::forwarder;
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
    /// Who its issuer wants behind the routes; as the ingress controller needs it where it says nothing.
    pub placement: Option<Placement>,
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
    /// The objects of each namespace whose routes lead to the solver's own pods; a namespace that is not here needs none.
    pub namespaces: BTreeMap<String, NamespaceRoutes>,
    /// Those of each namespace whose routes lead to a forwarder there.
    pub forwarded: BTreeMap<String, NamespaceRoutes>,
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
    /// Whether it leads to the namespace's forwarder.
    pub is_forwarded: bool,
    /// The rule's host, `None` for a rule without host.
    pub host: Option<String>,
    /// The path.
    pub path: String,
    /// Addresses in the status of the Ingress that covers the name, at most [`ENTRY_POINTS`].
    pub entry_points: Vec<IpAddr>,
}

impl RoutePlan {
    /// Whether a namespace has routes.
    #[must_use]
    pub fn has(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace) || self.forwarded.contains_key(namespace)
    }
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
                    is_forwarded: index.is_forwarded(certificate.placement, &spot.class),
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
            let is_forwarded = home.group.is_forwarded;
            let draft = drafts.entry(namespace.clone()).or_default();
            if let Some(ingress) = &home.edit {
                let edit = draft.edits.entry(ingress.clone()).or_default();
                edit.insert(spot.clone(), is_forwarded);
            } else {
                let at = (home.group.clone(), home.cell);
                let contents = draft.places.entry(at).or_default();
                contents.spots.insert(spot.clone());
                if is_first {
                    contents.certificates.insert(&certificate.key);
                }
            }
            let owners = draft.owners.entry(is_forwarded).or_default();
            if namespace == certificate.key.namespace {
                owners.insert(&certificate.key.name, &certificate.uid);
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
    /// The paths in users' own Ingresses, and whether each leads to the forwarder.
    edits: BTreeMap<ObjectKey, BTreeMap<Spot, bool>>,
    /// Names and UIDs of Certificates, by whether their routes lead to the forwarder.
    owners: BTreeMap<bool, BTreeMap<&'a str, &'a str>>,
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

/// Where a path is.
#[derive(Debug)]
struct Found {
    ingress: ObjectKey,
    is_edit: bool,
    is_forwarded: bool,
}

fn assemble(
    drafts: BTreeMap<String, Draft<'_>>,
    claims: Vec<(ObjectKey, Result<Claim, String>)>,
    index: &IngressIndex,
    solver: &SolverEndpoints,
    refusals: &Refusals,
) -> RoutePlan {
    let mut plan = RoutePlan::default();
    let mut ingress_names: BTreeMap<(String, Spot), Found> = BTreeMap::new();
    for (namespace, draft) in drafts {
        let mut ingresses: BTreeMap<bool, Vec<Ingress>> = BTreeMap::new();
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
                    let ingress = build::ingress(&name, &place, annotations, index, paths);
                    let is_forwarded = place.group.is_forwarded;
                    ingresses.entry(is_forwarded).or_default().push(ingress);
                    let key = ObjectKey::new(namespace.clone(), name);
                    for spot in chunk {
                        let at = (namespace.clone(), spot.clone());
                        ingress_names.entry(at).or_insert_with(|| Found {
                            ingress: key.clone(),
                            is_edit: false,
                            is_forwarded,
                        });
                    }
                    plan.places.insert(key, place.clone());
                }
            }
        }
        for (key, spots) in draft.edits {
            let Some(class) = spots.keys().next().map(|spot| spot.class.clone()) else {
                continue;
            };
            let preset = index.preset(&class);
            let group = Group {
                namespace: namespace.clone(),
                class,
                // No other Ingress is written with it.
                annotations: BTreeMap::from([(String::new(), key.name.clone())]),
                is_forwarded: false,
            };
            let path_type = refusals.path_type(&group, Cell::ALL, preset.path_type);
            let path_of = |s: &Spot| (s.host.clone(), s.path.clone());
            let edit = Edit {
                paths: spots.keys().map(path_of).collect(),
                forwarded: spots
                    .iter()
                    .filter(|(_, is_forwarded)| **is_forwarded)
                    .map(|(spot, _)| path_of(spot))
                    .collect(),
                path_type: Some(path_type),
            };
            for (spot, is_forwarded) in spots {
                let found = Found {
                    ingress: key.clone(),
                    is_edit: true,
                    is_forwarded,
                };
                ingress_names.insert((namespace.clone(), spot), found);
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
        for (is_forwarded, owners) in draft.owners {
            let ingresses = ingresses.remove(&is_forwarded).unwrap_or_default();
            if is_forwarded {
                let routes = NamespaceRoutes {
                    service: forwarder::build_service(&namespace, &owners),
                    slices: Vec::new(),
                    ingresses,
                };
                plan.forwarded.insert(namespace.clone(), routes);
            } else {
                let routes = NamespaceRoutes {
                    service: build::service(&namespace, &owners, solver.port),
                    slices: build::slices(&namespace, solver),
                    ingresses,
                };
                plan.namespaces.insert(namespace.clone(), routes);
            }
        }
    }
    for (key, claim) in claims {
        let routes = plan.certificates.entry(key).or_default();
        match claim {
            Err(sentence) => {
                routes.refused.get_or_insert(sentence);
            }
            Ok(claim) => {
                let at = (claim.namespace, claim.spot);
                if let Some(found) = ingress_names.get(&at) {
                    routes.paths.push(PathRoute {
                        name: claim.name,
                        ingress: found.ingress.clone(),
                        is_edit: found.is_edit,
                        is_forwarded: found.is_forwarded,
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
