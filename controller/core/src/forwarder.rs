//! The forwarder: a small pod without credentials in a Certificate's namespace that passes challenges on to the solver, for load
//! balancers that take no other pods. Its Service is owned by the Certificates that need it and owns its Deployment, so the
//! garbage collector takes everything away.

mod resources;

use std::collections::BTreeMap;

use evercert_api::children::stable_hash;
use evercert_api::keys::{
    COMPONENT_FORWARDER, COMPONENT_LABEL, FIELD_MANAGER, GROUP, SOLVER_PORT_NAME,
};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, LimitRange, LocalObjectReference, PodSpec, PodTemplateSpec,
    ResourceRequirements, Service, ServicePort, ServiceSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;
use serde_json::Value;

pub use resources::fit;

use crate::pod::{build_readiness, restrict_container, restrict_pod};

/// The port of its Service, which routes name by its name.
const SERVICE_PORT: i32 = 80;
/// The port that it listens on.
const PORT: i32 = 8089;
/// The label by which the Service finds the pods, and what it is there.
const NAME_LABEL: &str = "app.kubernetes.io/name";
const NAME: &str = "evercert-forwarder";

/// What the operator's configuration says of forwarders, and nobody else.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ForwarderShape {
    /// The image, which holds the program; the solver's when absent.
    pub image: Option<String>,
    /// Secrets in the Certificate's namespace to pull it with.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// What it asks for and may have; fitted to the namespace's LimitRanges.
    pub resources: Option<ResourceRequirements>,
    /// Labels of the nodes that it may run on.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it stands.
    pub tolerations: Vec<Toleration>,
}

impl ForwarderShape {
    /// Whether its quantities can be read.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        if self.image.as_deref().is_some_and(str::is_empty) {
            return Err("image is empty: name one, or leave it out for the solver's".to_owned());
        }
        fit(self.resources.as_ref(), &[]).map(drop)
    }
}

/// Name of the forwarder's Deployment and Service in `namespace`.
#[must_use]
pub fn forwarder_name(namespace: &str) -> String {
    format!(
        "evercert-{:08x}-forwarder",
        stable_hash(&[namespace, "forwarder"]) >> 32
    )
}

/// Its Service, owned by the Certificates `owners` (name and UID).
#[must_use]
pub fn build_service(namespace: &str, owners: &BTreeMap<&str, &str>) -> Service {
    let owner = |(name, uid): (&&str, &&str)| OwnerReference {
        api_version: format!("{GROUP}/v1"),
        kind: "Certificate".to_owned(),
        name: (*name).to_owned(),
        uid: (*uid).to_owned(),
        controller: Some(false),
        block_owner_deletion: Some(false),
    };
    let owners = owners.iter().filter(|(_, uid)| !uid.is_empty());
    Service {
        metadata: ObjectMeta {
            owner_references: Some(owners.map(owner).collect()),
            ..metadata(namespace)
        },
        spec: Some(ServiceSpec {
            selector: Some(selector()),
            ports: Some(vec![ServicePort {
                name: Some(SOLVER_PORT_NAME.to_owned()),
                port: SERVICE_PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(SOLVER_PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Where a forwarder belongs.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// The LimitRanges there.
    pub limits: &'a [&'a LimitRange],
    /// The UID of its Service.
    pub service_uid: &'a str,
    /// Where the solver's Service answers, `address:port`.
    pub solver: &'a str,
}

/// Its Deployment: one pod under PodSecurity "restricted", without a token.
///
/// # Errors
/// No amount that the LimitRanges take: a sentence that names them.
pub fn build_deployment(
    site: &Site<'_>,
    shape: &ForwarderShape,
    image: &str,
) -> Result<Deployment, String> {
    let container = Container {
        name: "forwarder".to_owned(),
        image: Some(shape.image.clone().unwrap_or_else(|| image.to_owned())),
        args: Some(vec![
            "forwarder".to_owned(),
            "--listen".to_owned(),
            format!("0.0.0.0:{PORT}"),
            "--solver".to_owned(),
            site.solver.to_owned(),
        ]),
        ports: Some(vec![ContainerPort {
            name: Some(SOLVER_PORT_NAME.to_owned()),
            container_port: PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        readiness_probe: Some(build_readiness()),
        resources: Some(fit(shape.resources.as_ref(), site.limits)?),
        security_context: Some(restrict_container(None)),
        ..Container::default()
    };
    let pod = PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: Some(shape.image_pull_secrets.clone()).filter(|s| !s.is_empty()),
        node_selector: Some(shape.node_selector.clone()).filter(|s| !s.is_empty()),
        tolerations: Some(shape.tolerations.clone()).filter(|t| !t.is_empty()),
        // The image's own user is nobody.
        security_context: Some(restrict_pod(None)),
        // Nothing is lost when it goes.
        termination_grace_period_seconds: Some(5),
        containers: vec![container],
        ..PodSpec::default()
    };
    let name = forwarder_name(site.namespace);
    Ok(Deployment {
        metadata: ObjectMeta {
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name,
                uid: site.service_uid.to_owned(),
                controller: Some(false),
                block_owner_deletion: Some(false),
            }]),
            ..metadata(site.namespace)
        },
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(0),
            // So that one that cannot start is told of within the minute.
            progress_deadline_seconds: Some(30),
            selector: LabelSelector {
                match_labels: Some(selector()),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    })
}

/// Whether a pod of the Deployment, as JSON, is ready.
#[must_use]
pub fn is_ready(deployment: &Value) -> bool {
    let status = |field: &str| deployment.pointer(&format!("/status/{field}"))?.as_i64();
    let generation = deployment
        .pointer("/metadata/generation")
        .and_then(Value::as_i64);
    // One that was just changed may still tell of the pods before.
    status("observedGeneration") == generation && status("readyReplicas").is_some_and(|n| n > 0)
}

/// What holds it back, in the cluster's own words, and what to do; from the JSON of its Deployment.
#[must_use]
pub fn describe_start(namespace: &str, deployment: Option<&Value>) -> String {
    let name = forwarder_name(namespace);
    let Some(deployment) = deployment else {
        return "its Deployment is being made".to_owned();
    };
    let conditions = deployment
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let told = |kind: &str, status: &str| {
        let mut conditions = conditions.into_iter().flatten();
        let is =
            |c: &&Value, key: &str, value: &str| c.get(key).and_then(Value::as_str) == Some(value);
        conditions
            .find(|c| is(c, "type", kind) && is(c, "status", status))
            .and_then(|c| c.get("message").and_then(Value::as_str))
    };
    if let Some(message) = told("ReplicaFailure", "True") {
        let remedy = find_remedy(message);
        return format!("no pod can be made for Deployment {name}: {message}. Remedy: {remedy}");
    }
    let wants = list_wants(deployment).join(", ");
    let remedy = format!(
        "Remedy: see by kubectl -n {namespace} describe pods -l {NAME_LABEL}={NAME} which of these it lacks (solver.forwarder in the \
         chart has image, imagePullSecrets and nodeSelector; a NetworkPolicy may keep it from the solver)"
    );
    if let Some(message) = told("Progressing", "False") {
        return format!(
            "Deployment {name} does not get a ready pod: {message}. It wants {wants}. {remedy}"
        );
    }
    let pods = deployment
        .pointer("/status/replicas")
        .and_then(Value::as_i64);
    if pods.is_some_and(|pods| pods > 0) {
        return format!("Deployment {name} has a pod that is not ready yet: it wants {wants}");
    }
    format!("Deployment {name} has no pod yet")
}

/// What a forwarder needs to get ready: the operator reads no pods of other namespaces, so it cannot tell which of them is missing.
fn list_wants(deployment: &Value) -> Vec<String> {
    let pod = |field: &str| deployment.pointer(&format!("/spec/template/spec/{field}"));
    let image = pod("containers/0/image").and_then(Value::as_str);
    let mut wants: Vec<String> = image
        .iter()
        .map(|image| format!("its image {image}"))
        .collect();
    let secrets = pod("imagePullSecrets").and_then(Value::as_array);
    let secrets = secrets.into_iter().flatten();
    let names = secrets.filter_map(|secret| secret.get("name")?.as_str());
    wants.extend(names.map(|name| format!("the pull secret {name} in this namespace")));
    let labels = pod("nodeSelector").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    let labels: Vec<String> = labels.collect();
    wants.push(if labels.is_empty() {
        "a node".to_owned()
    } else {
        format!("a node with {}", labels.join(" and "))
    });
    wants.push("the solver's answer".to_owned());
    wants
}

/// Words of the cluster about a pod that it refuses, and what to do.
pub(crate) const REMEDIES: &[(&str, &str)] = &[
    (
        "exceeded quota",
        "make room in the namespace's ResourceQuota for one small pod, or have it ask for less by solver.forwarder.resources in the chart",
    ),
    (
        "must specify",
        "have it ask for what the namespace's ResourceQuota counts, by solver.forwarder.resources in the chart",
    ),
    (
        "violates PodSecurity",
        "the pod conforms to restricted: see what the image's user or the operator's --forwarder adds to it",
    ),
    (
        "usage per",
        "let the namespace's LimitRange take one small pod, or mend solver.forwarder.resources in the chart",
    ),
];

/// What to do about a pod that is refused.
fn find_remedy(message: &str) -> &'static str {
    let found = REMEDIES.iter().find(|(words, _)| message.contains(words));
    found.map_or(
        "let the namespace take one small pod, or set spec.acme.http01.placement: Operator on the issuer where its load balancer takes \
         pods of other namespaces",
        |(_, remedy)| remedy,
    )
}

/// Why no forwarder may be made: what needs it, and what to do.
#[must_use]
pub fn describe_refusal(class: &str, is_asked_for: bool) -> String {
    let why = if is_asked_for {
        "spec.acme.http01.placement: Namespace on the issuer asks for a forwarder in this namespace"
            .to_owned()
    } else {
        format!(
            "the controller of the ingress class {class} takes only pods of the Ingress's own namespace, so a forwarder is needed here"
        )
    };
    format!(
        "{why}, and the operator has no rights for pods outside of its own: set solver.namespacePlacement: true in the chart \
         (--namespace-placement and its rights), or spec.acme.http01.placement: Operator on the issuer"
    )
}

fn metadata(namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(forwarder_name(namespace)),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels()),
        ..ObjectMeta::default()
    }
}

fn labels() -> BTreeMap<String, String> {
    let mut labels = selector();
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        FIELD_MANAGER.to_owned(),
    );
    labels
}

fn selector() -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAME_LABEL.to_owned(), NAME.to_owned()),
        (COMPONENT_LABEL.to_owned(), COMPONENT_FORWARDER.to_owned()),
    ])
}

#[cfg(test)]
mod tests;
