//! The solver's Deployment and Service, and what its slices and conditions say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use evercert_api::keys::{
    CHALLENGES_NAME, COMPONENT_LABEL, COMPONENT_SOLVER, FIELD_MANAGER, SOLVER_NAME,
    SOLVER_PORT_NAME,
};
use evercert_core::pod::{Holdup, build_readiness, find_holdup, restrict_container, restrict_pod};
use evercert_core::routes::SolverEndpoints;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec,
    PodTemplateSpec, ResourceRequirements, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::config::Config;

/// The label by which the Service finds the pods.
const NAME_LABEL: &str = "app.kubernetes.io/name";
/// The user that the container runs as: nobody's, in every image.
const USER: i64 = 65532;

/// The solver's Deployment: one replica under PodSecurity "restricted", with the rights of its own ServiceAccount.
pub(super) fn build_deployment(config: &Config) -> Deployment {
    let solver = &config.solver;
    let quantities = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())))
            .collect()
    };
    let container = Container {
        name: "solver".to_owned(),
        image: Some(solver.image.clone()),
        args: Some(vec![
            "solver".to_owned(),
            "--listen".to_owned(),
            format!("0.0.0.0:{}", solver.port),
            "--namespace".to_owned(),
            "$(POD_NAMESPACE)".to_owned(),
        ]),
        env: Some(vec![EnvVar {
            name: "POD_NAMESPACE".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: "metadata.namespace".to_owned(),
                    api_version: None,
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        }]),
        ports: Some(vec![ContainerPort {
            name: Some(SOLVER_PORT_NAME.to_owned()),
            container_port: i32::from(solver.port),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        readiness_probe: Some(build_readiness()),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "10m"), ("memory", "16Mi")])),
            limits: Some(quantities(&[("memory", "64Mi")])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(restrict_container(Some(USER))),
        ..Container::default()
    };
    let pod = PodSpec {
        service_account_name: Some(solver.service_account.clone()),
        enable_service_links: Some(false),
        security_context: Some(restrict_pod(Some(USER))),
        containers: vec![container],
        ..PodSpec::default()
    };
    Deployment {
        metadata: metadata(&config.namespace),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(1),
            // So that a solver that cannot start is told of within the minute.
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
    }
}

/// The solver's Service: its slices are where the operator learns of ready pods.
pub(super) fn build_service(config: &Config) -> Service {
    Service {
        metadata: metadata(&config.namespace),
        spec: Some(ServiceSpec {
            selector: Some(selector()),
            ports: Some(vec![ServicePort {
                name: Some(SOLVER_PORT_NAME.to_owned()),
                port: i32::from(config.solver.port),
                target_port: Some(IntOrString::String(SOLVER_PORT_NAME.to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The ready addresses in the slices of the solver's Service. Where ports differ (a roll-out to another one), the port of the
/// last slice by name counts, with its addresses.
pub(super) fn gather_endpoints<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    default_port: u16,
) -> SolverEndpoints {
    let mut by_port: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut port = default_port;
    for slice in slices {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let named = ports
            .iter()
            .find(|p| p.name.as_deref() == Some(SOLVER_PORT_NAME));
        let number = named
            .or_else(|| ports.first())
            .and_then(|p| u16::try_from(p.port?).ok());
        let Some(number) = number else { continue };
        let ready = slice.endpoints.iter().filter(|e| {
            let conditions = e.conditions.as_ref();
            conditions.is_none_or(|c| c.ready != Some(false) && c.terminating != Some(true))
        });
        let addresses: BTreeSet<IpAddr> = ready
            .flat_map(|e| &e.addresses)
            .filter_map(|a| a.parse().ok())
            .collect();
        if !addresses.is_empty() {
            port = number;
            by_port.entry(number).or_default().extend(addresses);
        }
    }
    SolverEndpoints {
        addresses: by_port.remove(&port).unwrap_or_default(),
        port,
    }
}

/// What holds the solver back, from its Deployment's JSON and its pods.
pub(super) fn describe_start<'a>(
    deployment: Option<&Value>,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> String {
    let Some(deployment) = deployment else {
        return "its Deployment is being made".to_owned();
    };
    let conditions = deployment
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let conditions = || conditions.into_iter().flatten();
    let told = |kind: &str, status: &str| {
        conditions()
            .find(|c| {
                c.get("type").and_then(Value::as_str) == Some(kind)
                    && c.get("status").and_then(Value::as_str) == Some(status)
            })
            .and_then(|c| c.get("message").and_then(Value::as_str))
    };
    if let Some(message) = told("ReplicaFailure", "True") {
        return format!(
            "no pod can be made for Deployment {SOLVER_NAME}: {message}. Remedy: let the operator's namespace take one small pod: see its \
             ResourceQuotas, its LimitRanges and what admits pods there"
        );
    }
    let is_going = |pod: &&Pod| pod.metadata.deletion_timestamp.is_some();
    let mut pods = pods.into_iter().filter(|pod| !is_going(pod));
    if let Some(holdup) = pods.find_map(find_holdup) {
        return describe_holdup(&holdup);
    }
    if let Some(message) = told("Progressing", "False") {
        return format!(
            "Deployment {SOLVER_NAME} does not get a ready pod: {message} (kubectl describe pods -l \
             {NAME_LABEL}={SOLVER_NAME} tells why)"
        );
    }
    format!("Deployment {SOLVER_NAME} has no ready pod yet")
}

/// What keeps its pod from being ready, and what to do.
fn describe_holdup(holdup: &Holdup) -> String {
    match holdup {
        Holdup::Unscheduled(words) => format!(
            "no node takes its pod: {words}. Remedy: let a node take one small pod of the operator's namespace"
        ),
        Holdup::Image(image) => format!(
            "its image {image} cannot be pulled. Remedy: let the nodes pull it (imagePullSecrets in the chart where the registry wants \
             them), or name another one by solver.image there; kubectl describe pods -l {NAME_LABEL}={SOLVER_NAME} has the registry's words"
        ),
        Holdup::NotMade(words) => format!("the container of its pod cannot be made: {words}"),
        Holdup::Ends(how) => format!(
            "its pod ends by itself ({how}). Remedy: see kubectl logs -l {NAME_LABEL}={SOLVER_NAME} --previous"
        ),
        Holdup::NotReady => format!(
            "its pod runs and is not ready before it has read the ConfigMap {CHALLENGES_NAME}. Remedy, where that stays: let the \
             NetworkPolicies of the operator's namespace take the pod to the API server, and bind the solver's Role to its \
             ServiceAccount; kubectl logs -l {NAME_LABEL}={SOLVER_NAME} says which"
        ),
    }
}

fn metadata(namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(SOLVER_NAME.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels()),
        ..ObjectMeta::default()
    }
}

fn labels() -> BTreeMap<String, String> {
    let mut labels = selector();
    labels.insert(COMPONENT_LABEL.to_owned(), COMPONENT_SOLVER.to_owned());
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        FIELD_MANAGER.to_owned(),
    );
    labels
}

fn selector() -> BTreeMap<String, String> {
    BTreeMap::from([(NAME_LABEL.to_owned(), SOLVER_NAME.to_owned())])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(port: i32, endpoints: &Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "health", "port": 1 }, { "name": "http", "port": port }],
        }))
        .unwrap()
    }

    #[test]
    fn only_ready_pods_are_endpoints() {
        let slice = slice(
            8089,
            &json!([
                { "addresses": ["198.18.1.1"], "conditions": { "ready": true } },
                { "addresses": ["198.18.1.2"], "conditions": { "ready": false } },
                { "addresses": ["198.18.1.3"], "conditions": { "ready": true, "terminating": true } },
                { "addresses": ["198.18.1.4"] },
            ]),
        );
        let got = gather_endpoints([&slice], 1);
        let want: BTreeSet<IpAddr> = ["198.18.1.1", "198.18.1.4"]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
        assert_eq!(
            got,
            SolverEndpoints {
                addresses: want,
                port: 8089
            }
        );
        assert_eq!(gather_endpoints([], 8089).addresses, BTreeSet::new());
    }

    #[test]
    fn the_reason_that_no_pod_starts_is_the_clusters_own() {
        let deployment = |conditions: Value| json!({ "status": { "conditions": conditions } });
        let quota = deployment(json!([
            { "type": "Progressing", "status": "False", "message": "timed out" },
            { "type": "ReplicaFailure", "status": "True", "message": "pods is forbidden: exceeded quota" },
        ]));
        let told = describe_start(Some(&quota), []);
        assert!(
            told.starts_with("no pod can be made for Deployment evercert-solver: pods is forbidden: exceeded quota. Remedy: let the"),
            "{told}"
        );
        let slow = deployment(json!([
            { "type": "Progressing", "status": "False", "message": "ReplicaSet has timed out progressing." },
        ]));
        assert!(describe_start(Some(&slow), []).contains("ReplicaSet has timed out progressing."));
        let fresh =
            deployment(json!([{ "type": "Progressing", "status": "True", "message": "m" }]));
        assert_eq!(
            describe_start(Some(&fresh), []),
            "Deployment evercert-solver has no ready pod yet"
        );
        // A pod that is there tells more, unless it goes.
        let mut pod = json!({ "metadata": {}, "status": { "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "0/3 nodes are available" },
        ] } });
        let told = |pod: &Value| {
            let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
            describe_start(Some(&slow), [&pod])
        };
        assert!(told(&pod).starts_with("no node takes its pod: 0/3 nodes are available. Remedy:"));
        pod["metadata"]["deletionTimestamp"] = json!("2026-08-05T00:00:00Z");
        assert!(told(&pod).contains("timed out"));
    }

    #[test]
    fn each_thing_that_keeps_its_pod_from_being_ready_has_a_sentence_of_its_own() {
        let all = [
            Holdup::Unscheduled("words".to_owned()),
            Holdup::Image("words".to_owned()),
            Holdup::NotMade("words".to_owned()),
            Holdup::Ends("words".to_owned()),
            Holdup::NotReady,
        ];
        let told: BTreeSet<String> = all.iter().map(describe_holdup).collect();
        assert_eq!(told.len(), all.len());
        for (holdup, told) in all.iter().zip(all.iter().map(describe_holdup)) {
            let has_words = told.contains("words") || *holdup == Holdup::NotReady;
            assert!(has_words && !told.ends_with('.'), "{told}");
        }
    }
}
