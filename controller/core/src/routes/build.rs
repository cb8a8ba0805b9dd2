//! The route objects themselves.

use std::collections::BTreeMap;

use evercert_api::challenge::OpenChallenge;
use evercert_api::children::stable_hash;
use evercert_api::keys::{
    CHALLENGE_PATH, COMPONENT_LABEL, COMPONENT_ROUTE, FIELD_MANAGER, GROUP, SOLVER_PORT_NAME,
};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule,
    IngressServiceBackend, IngressSpec, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::cover::IngressIndex;
use super::preset::{ALWAYS, Pair};
use super::refusal::Group;
use super::{Place, SolverEndpoints};
use crate::forwarder::forwarder_name;

/// The port that route Ingresses name; the pods' own port stands in the slices.
const SERVICE_PORT: i32 = 80;
/// The longest part of a class's name that is kept for people to read.
const READABLE: usize = 40;

/// Name of the route Service in `namespace`.
#[must_use]
pub fn service_name(namespace: &str) -> String {
    format!(
        "evercert-{:08x}-route",
        stable_hash(&[namespace, "route"]) >> 32
    )
}

/// Whether an Ingress is a route of Evercert's: it bears the label, and the route Service of its namespace owns it. A label
/// alone does not do, since anybody may copy one.
#[must_use]
pub fn is_route(ingress: &Ingress) -> bool {
    let metadata = &ingress.metadata;
    let label = metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(COMPONENT_LABEL));
    label.is_some_and(|l| l == COMPONENT_ROUTE)
        && metadata.namespace.as_deref().is_some_and(|namespace| {
            let services = [service_name(namespace), forwarder_name(namespace)];
            let owners = metadata.owner_references.iter().flatten();
            owners
                .into_iter()
                .any(|o| o.kind == "Service" && services.contains(&o.name))
        })
}

/// The Service that a path leads to.
pub(super) fn backend_name(namespace: &str, is_forwarded: bool) -> String {
    if is_forwarded {
        forwarder_name(namespace)
    } else {
        service_name(namespace)
    }
}

/// The path that the CA asks for (RFC 8555 §8.3).
pub(super) fn path_of(challenge: &OpenChallenge) -> String {
    format!("{CHALLENGE_PATH}{}", challenge.token())
}

/// `<class cut to 40>-<8 hex>-route`, with a number from the second on. `twin` counts the sets of annotations.
pub(super) fn ingress_name(place: &Place, twin: usize, number: usize) -> String {
    let Group {
        namespace,
        class,
        annotations,
        is_forwarded,
    } = &place.group;
    let readable: String = class
        .0
        .to_ascii_lowercase()
        .chars()
        .take(READABLE)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let readable = match readable.trim_matches('-') {
        "" => "class",
        trimmed => trimmed,
    };
    let (twin_text, cell) = (twin.to_string(), place.cell.text());
    let mut parts = vec![namespace.as_str(), &class.0];
    if twin > 0 {
        parts.extend(["twin", &twin_text]);
    }
    if !cell.is_empty() {
        parts.extend(["cell", &cell]);
    }
    for (key, value) in annotations {
        parts.extend([key.as_str(), value]);
    }
    if *is_forwarded {
        parts.push("forwarded");
    }
    let hash = stable_hash(&parts) >> 32;
    match number {
        0 => format!("{readable}-{hash:08x}-route"),
        n => format!("{readable}-{hash:08x}-route-{}", n + 1),
    }
}

/// The selector-less Service, owned by the Certificates `owners` (name and UID).
pub(super) fn service(namespace: &str, owners: &BTreeMap<&str, &str>, port: u16) -> Service {
    let owner = |(name, uid): (&&str, &&str)| OwnerReference {
        api_version: format!("{GROUP}/v1"),
        kind: "Certificate".to_owned(),
        name: (*name).to_owned(),
        uid: (*uid).to_owned(),
        controller: Some(false),
        block_owner_deletion: Some(false),
    };
    Service {
        metadata: ObjectMeta {
            owner_references: Some(
                owners
                    .iter()
                    .filter(|(_, uid)| !uid.is_empty())
                    .map(owner)
                    .collect(),
            ),
            ..metadata(namespace, service_name(namespace))
        },
        spec: Some(ServiceSpec {
            ports: Some(vec![ServicePort {
                name: Some(SOLVER_PORT_NAME.to_owned()),
                port: SERVICE_PORT,
                protocol: Some("TCP".to_owned()),
                // Some controllers look the endpoint's port up by this number.
                target_port: Some(IntOrString::Int(i32::from(port))),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The owner reference to the applied Service.
pub(super) fn service_reference(service: &Service, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: service.metadata.name.clone().unwrap_or_default(),
        uid: uid.to_owned(),
        controller: Some(false),
        block_owner_deletion: Some(false),
    }
}

/// One slice for each address family that the solver has, without targetRef: the pods are of another namespace.
pub(super) fn slices(namespace: &str, solver: &SolverEndpoints) -> Vec<EndpointSlice> {
    [("ipv4", "IPv4"), ("ipv6", "IPv6")]
        .into_iter()
        .filter_map(|(suffix, address_type)| {
            let endpoints: Vec<Endpoint> = solver
                .addresses
                .iter()
                .filter(|a| a.is_ipv4() == (suffix == "ipv4"))
                .map(|address| Endpoint {
                    addresses: vec![address.to_string()],
                    conditions: Some(EndpointConditions {
                        ready: Some(true),
                        ..EndpointConditions::default()
                    }),
                    ..Endpoint::default()
                })
                .collect();
            (!endpoints.is_empty()).then(|| {
                let service = service_name(namespace);
                let mut metadata = metadata(namespace, format!("{service}-{suffix}"));
                let labels = metadata.labels.get_or_insert_default();
                labels.insert("kubernetes.io/service-name".to_owned(), service);
                labels.insert(
                    "endpointslice.kubernetes.io/managed-by".to_owned(),
                    GROUP.to_owned(),
                );
                EndpointSlice {
                    metadata,
                    address_type: address_type.to_owned(),
                    endpoints,
                    ports: Some(vec![EndpointPort {
                        name: Some(SOLVER_PORT_NAME.to_owned()),
                        port: Some(i32::from(solver.port)),
                        protocol: Some("TCP".to_owned()),
                        ..EndpointPort::default()
                    }]),
                }
            })
        })
        .collect()
}

/// One Ingress: one rule for each host, one path for each challenge. What the issuer adds goes before the controller's own
/// `annotations`.
pub(super) fn ingress<'a>(
    name: &str,
    place: &Place,
    annotations: &[Pair],
    index: &IngressIndex,
    paths: impl Iterator<Item = (Option<&'a str>, &'a str)>,
) -> Ingress {
    let Group {
        namespace, class, ..
    } = &place.group;
    let mut hosts: BTreeMap<Option<&str>, Vec<HTTPIngressPath>> = BTreeMap::new();
    for (host, path) in paths {
        hosts.entry(host).or_default().push(HTTPIngressPath {
            path: Some(path.to_owned()),
            path_type: place.path_type.as_str().to_owned(),
            backend: IngressBackend {
                service: Some(IngressServiceBackend {
                    name: backend_name(namespace, place.group.is_forwarded),
                    port: Some(ServiceBackendPort {
                        name: Some(SOLVER_PORT_NAME.to_owned()),
                        number: None,
                    }),
                }),
                resource: None,
            },
        });
    }
    let rules = hosts.into_iter().map(|(host, paths)| IngressRule {
        host: host.map(ToOwned::to_owned),
        http: Some(HTTPIngressRuleValue { paths }),
    });
    let owned = |(key, value): &Pair| ((*key).to_owned(), (*value).to_owned());
    let mut all: BTreeMap<String, String> = ALWAYS.iter().chain(annotations).map(owned).collect();
    all.extend(place.group.annotations.clone());
    let legacy = index.is_legacy(class);
    if legacy {
        all.insert("kubernetes.io/ingress.class".to_owned(), class.0.clone());
    }
    let mut metadata = metadata(namespace, name.to_owned());
    metadata.annotations = Some(all);
    Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: (!legacy).then(|| class.0.clone()),
            rules: Some(rules.collect()),
            ..IngressSpec::default()
        }),
        status: None,
    }
}

fn metadata(namespace: &str, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([
            (COMPONENT_LABEL.to_owned(), COMPONENT_ROUTE.to_owned()),
            (
                "app.kubernetes.io/managed-by".to_owned(),
                FIELD_MANAGER.to_owned(),
            ),
        ])),
        ..ObjectMeta::default()
    }
}
