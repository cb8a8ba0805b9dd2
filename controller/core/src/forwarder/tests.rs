use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use super::*;

fn limits(items: &Value) -> LimitRange {
    serde_json::from_value(json!({ "spec": { "limits": items } })).unwrap()
}

fn fitted(items: &Value) -> [String; 4] {
    let range = limits(items);
    let got = fit(None, &[&range]).unwrap();
    let of = |map: &Option<BTreeMap<String, Quantity>>, name: &str| {
        map.as_ref().unwrap().get(name).unwrap().0.clone()
    };
    [
        of(&got.requests, "cpu"),
        of(&got.limits, "cpu"),
        of(&got.requests, "memory"),
        of(&got.limits, "memory"),
    ]
}

#[test]
fn without_limits_it_asks_for_little_and_says_everything_that_a_quota_may_want() {
    assert_eq!(fitted(&json!([])), ["10m", "100m", "16Mi", "64Mi"]);
}

#[test]
fn a_small_max_cuts_and_a_large_min_raises() {
    let small = json!([{ "type": "Container", "max": { "cpu": "0.05", "memory": "32M" } }]);
    assert_eq!(fitted(&small), ["10m", "0.05", "16Mi", "32M"]);
    let tiny = json!([{ "type": "Pod", "max": { "cpu": "5m", "memory": "12Mi" } }]);
    assert_eq!(fitted(&tiny), ["5m", "5m", "12Mi", "12Mi"]);
    let large = json!([{ "type": "Container", "min": { "cpu": "1", "memory": "32Mi" } }]);
    assert_eq!(fitted(&large), ["1", "1", "32Mi", "64Mi"]);
}

#[test]
fn the_strictest_of_containers_and_pods_counts_and_claims_of_volumes_do_not() {
    let both = json!([
        { "type": "Container", "max": { "memory": "48Mi" } },
        { "type": "Pod", "max": { "memory": "40Mi" }, "min": { "cpu": "20m" } },
        { "type": "PersistentVolumeClaim", "max": { "memory": "1Mi" } },
    ]);
    assert_eq!(fitted(&both), ["20m", "100m", "16Mi", "40Mi"]);
}

#[test]
fn what_is_too_far_apart_is_brought_together_by_a_larger_request() {
    let ratio =
        json!([{ "type": "Container", "maxLimitRequestRatio": { "cpu": "3", "memory": "2" } }]);
    assert_eq!(fitted(&ratio), ["34m", "100m", "33554432", "64Mi"]);
}

#[test]
fn a_resource_that_only_a_limit_range_names_is_said_too() {
    let range = limits(
        &json!([{ "type": "Pod", "max": { "ephemeral-storage": "1Gi" }, "min": { "ephemeral-storage": "1Mi" } }]),
    );
    let got = serde_json::to_value(fit(None, &[&range]).unwrap()).unwrap();
    assert_eq!(got["limits"]["ephemeral-storage"], "1Gi");
    assert_eq!(got["requests"]["ephemeral-storage"], "1Mi");
}

#[test]
fn limits_that_no_pod_can_keep_are_told() {
    let range = limits(
        &json!([{ "type": "Pod", "max": { "cpu": "1" } }, { "type": "Container", "min": { "cpu": "2" } }]),
    );
    let why = fit(None, &[&range]).unwrap_err();
    assert_eq!(
        why,
        "the namespace's LimitRanges take no pod: of cpu at least 2 and at most 1. Remedy: mend them"
    );
}

fn deployment(shape: &ForwarderShape) -> Value {
    let site = Site {
        namespace: "shop",
        limits: &[],
        service_uid: "uid",
        solver: "198.19.0.7:8089",
    };
    serde_json::to_value(build_deployment(&site, shape, "evercert:1").unwrap()).unwrap()
}

#[test]
fn the_pod_is_restricted_and_has_no_credentials() {
    let built = deployment(&ForwarderShape::default());
    let pod = &built["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(
        pod["securityContext"],
        json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } })
    );
    assert_eq!(
        container["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
            "capabilities": { "drop": ["ALL"] },
        })
    );
    assert_eq!(container["image"], "evercert:1");
    let args = [
        "forwarder",
        "--listen",
        "0.0.0.0:8089",
        "--solver",
        "198.19.0.7:8089",
    ];
    assert_eq!(container["args"], json!(args));
    assert_eq!(
        built["metadata"]["ownerReferences"][0]["kind"], "Service",
        "it goes with its Service"
    );
    assert_eq!(
        built["spec"]["selector"]["matchLabels"],
        serde_json::to_value(
            build_service("shop", &BTreeMap::new())
                .spec
                .unwrap()
                .selector
        )
        .unwrap()
    );
}

#[test]
fn its_shape_is_what_the_operator_is_told() {
    let shape: ForwarderShape = serde_json::from_value(json!({
        "image": "mirror/evercert:2",
        "imagePullSecrets": [{ "name": "pull" }],
        "resources": { "limits": { "memory": "32Mi" } },
        "nodeSelector": { "pool": "edge" },
        "tolerations": [{ "key": "edge", "operator": "Exists" }],
    }))
    .unwrap();
    assert_eq!(shape.check(), Ok(()));
    let built = deployment(&shape);
    let pod = &built["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "mirror/evercert:2");
    assert_eq!(
        pod["containers"][0]["resources"]["limits"]["memory"],
        "32Mi"
    );
    assert_eq!(pod["imagePullSecrets"], json!([{ "name": "pull" }]));
    assert_eq!(pod["nodeSelector"], json!({ "pool": "edge" }));
    assert_eq!(pod["tolerations"][0]["key"], "edge");
}

#[test]
fn a_shape_that_cannot_be_is_refused_with_its_field() {
    let shape: ForwarderShape =
        serde_json::from_value(json!({ "resources": { "requests": { "cpu": "much" } } })).unwrap();
    let why = shape.check().unwrap_err();
    assert!(
        why.contains("resources.requests: cpu: \"much\" is no quantity"),
        "{why}"
    );
    assert!(serde_json::from_value::<ForwarderShape>(json!({ "privileged": true })).is_err());
}

#[test]
fn a_pod_of_the_generation_before_is_not_ready() {
    let status = |observed: i64, ready: i64| json!({ "metadata": { "generation": 2 }, "status": { "observedGeneration": observed, "readyReplicas": ready } });
    assert!(is_ready(&status(2, 1)));
    assert!(!is_ready(&status(1, 1)) && !is_ready(&status(2, 0)));
    assert!(!is_ready(&json!({ "metadata": { "generation": 1 } })));
}

#[test]
fn what_holds_it_back_is_told_in_the_clusters_words_with_the_remedy() {
    let told = |kind: &str, status: &str, message: &str| {
        let condition = json!({ "type": kind, "status": status, "message": message });
        describe_start(
            "shop",
            Some(&json!({ "status": { "conditions": [condition] } })),
        )
    };
    let quota = told(
        "ReplicaFailure",
        "True",
        "pods \"x\" is forbidden: exceeded quota: small",
    );
    assert!(
        quota.contains("exceeded quota: small. Remedy: make room"),
        "{quota}"
    );
    let security = told(
        "ReplicaFailure",
        "True",
        "violates PodSecurity \"restricted:latest\"",
    );
    assert!(
        security.contains("Remedy: the pod conforms to restricted"),
        "{security}"
    );
    let other = told("ReplicaFailure", "True", "denied by a webhook");
    assert!(
        other.contains("Remedy: let the namespace take one small pod"),
        "{other}"
    );
    let slow = told("Progressing", "False", "timed out progressing");
    assert!(
        slow.contains("timed out progressing. It wants a node, the solver's answer. Remedy: see by kubectl -n shop"),
        "{slow}"
    );
    assert!(describe_start("shop", None).contains("being made"));
}

/// Nobody reads its pod, so it is said what that needs.
#[test]
fn a_pod_that_is_made_and_not_ready_is_told_with_all_that_it_wants() {
    let pod = json!({
        "containers": [{ "image": "mirror/evercert:2" }],
        "imagePullSecrets": [{ "name": "pull" }],
        "nodeSelector": { "disk": "fast", "pool": "edge" },
    });
    let told = |pods: i64| {
        let spec = json!({ "template": { "spec": pod } });
        describe_start(
            "shop",
            Some(&json!({ "spec": spec, "status": { "replicas": pods } })),
        )
    };
    let name = forwarder_name("shop");
    assert_eq!(
        told(1),
        format!(
            "Deployment {name} has a pod that is not ready yet: it wants its image mirror/evercert:2, the pull secret pull in this \
             namespace, a node with disk=fast and pool=edge, the solver's answer"
        )
    );
    assert_eq!(told(0), format!("Deployment {name} has no pod yet"));
}

#[test]
fn a_missing_right_is_told_with_the_value_and_the_option() {
    for why in [
        describe_refusal("alb", false),
        describe_refusal("alb", true),
    ] {
        assert!(
            why.contains("solver.namespacePlacement: true")
                && why.contains("--namespace-placement"),
            "{why}"
        );
    }
    assert!(describe_refusal("alb", false).contains("ingress class alb"));
}
