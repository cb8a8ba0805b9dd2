//! A value without effect is none: each is given another one, and what is rendered has to change.

use anyhow::{Context, Result, ensure};

use crate::Scene;
use crate::text::{confined, everything, values};

/// Other values than those of the set `everything`, as JSON.
const OTHERS: &[(&str, &[&str])] = &[
    (
        "\"other\"",
        &[
            "fullnameOverride",
            "image.tag",
            "lease.name",
            "priorityClassName",
            "serviceAccount.name",
            "solver.forwarder.image",
            "solver.image",
            "solver.serviceAccount.name",
        ],
    ),
    (
        "{\"other\": \"other\"}",
        &[
            "commonLabels",
            "metrics.dashboard.annotations",
            "metrics.dashboard.labels",
            "metrics.podMonitor.labels",
            "metrics.rules.alertLabels",
            "metrics.rules.labels",
            "metrics.service.annotations",
            "metrics.serviceMonitor.labels",
            "nodeSelector",
            "solver.forwarder.nodeSelector",
            "podAnnotations",
            "podLabels",
            "serviceAccount.annotations",
            "solver.serviceAccount.annotations",
        ],
    ),
    (
        "false",
        &[
            "crds.install",
            "ingress.certificatePerHost",
            "metrics.dashboard.enabled",
            "metrics.podMonitor.enabled",
            "metrics.rules.enabled",
            "metrics.service.enabled",
            "metrics.serviceMonitor.enabled",
            "networkPolicy.enabled",
            "podDisruptionBudget.enabled",
            "rbac.create",
            "serviceAccount.create",
            "solver.namespacePlacement",
            "solver.serviceAccount.create",
        ],
    ),
    (
        "[]",
        &[
            "namespaces",
            "dnsServers",
            "extraArgs",
            "extraObjects",
            "networkPolicy.extraEgress",
            "networkPolicy.metricsFrom",
            "networkPolicy.solverFrom",
            "selfCheckNetworks",
            "tolerations",
            "topologySpreadConstraints",
        ],
    ),
    (
        "[7]",
        &[
            "networkPolicy.apiServerPorts",
            "networkPolicy.dnsPorts",
            "networkPolicy.egressPorts",
        ],
    ),
    (
        "7",
        &[
            "concurrency",
            "maxOrders",
            "podDisruptionBudget.maxUnavailable",
            "replicas",
            "terminationGracePeriodSeconds",
        ],
    ),
    (
        "7070",
        &["health.port", "metrics.service.port", "solver.port"],
    ),
    (
        "\"7s\"",
        &[
            "lease.duration",
            "metrics.podMonitor.interval",
            "metrics.serviceMonitor.interval",
            "renewalSpread",
            "solver.idle",
            "solver.routePatience",
        ],
    ),
    (
        "[{\"name\": \"OTHER\"}]",
        &[
            "extraEnv",
            "imagePullSecrets",
            "solver.forwarder.imagePullSecrets",
        ],
    ),
    ("\"other.example.com/evercert\"", &["image.repository"]),
    ("\"\"", &["image.digest", "metrics.rules.runbookUrl"]),
    ("\"Never\"", &["image.pullPolicy"]),
    (
        "[{\"name\": \"other\", \"emptyDir\": {}}]",
        &["extraVolumes"],
    ),
    (
        "[{\"name\": \"roots\", \"mountPath\": \"/other\"}]",
        &["extraVolumeMounts"],
    ),
    ("{\"contour\": \"other\"}", &["ingress.classControllers"]),
    ("\"refuse\"", &["nameSharing"]),
    ("\"Issuer/other\"", &["ingress.defaultIssuer"]),
    ("[\"kube-lego\"]", &["ingress.annotationCompat"]),
    (
        "[\"other\"]",
        &["ingress.classes", "solver.issuerRouteAnnotations"],
    ),
    ("\"all\"", &["ingress.namespaces"]),
    ("\"json\"", &["log.format"]),
    ("\"trace\"", &["log.level"]),
    ("\"0.0.0.0\"", &["health.address"]),
    (
        "{\"limits\": {\"memory\": \"1Gi\"}}",
        &["resources", "solver.forwarder.resources"],
    ),
    (
        "[{\"operator\": \"Exists\"}]",
        &["solver.forwarder.tolerations"],
    ),
    ("{\"fsGroup\": 7}", &["podSecurityContext"]),
    ("{\"privileged\": false}", &["securityContext"]),
    ("{\"podAffinity\": {}}", &["affinity"]),
    (
        "{\"type\": \"Recreate\", \"rollingUpdate\": null}",
        &["strategy"],
    ),
];

/// What is given first, where another value has the last word.
const GIVEN_FIRST: &[(&str, &str)] = &[
    ("image.tag", "image.digest=\"\""),
    (
        "metrics.service.enabled",
        "metrics.serviceMonitor.enabled=false",
    ),
];

/// Without `namespaces` classes are read from the cluster.
const CLASSES_READ: &str = "ingress.classControllers={}";

/// What is nothing beside the other values of `everything`.
const CONFINED: &[&str] = &["ingress.classControllers", "namespaces"];

pub(crate) fn every_value_has_one(scene: &Scene) -> Result<()> {
    let render_on = |values: Vec<String>, given: &[&str]| {
        let given = given.iter().flat_map(|value| ["--set-json", value]);
        let given = given.map(ToOwned::to_owned);
        scene
            .helm
            .template(&values.into_iter().chain(given).collect::<Vec<_>>())
    };
    let render = |given: &[&str]| render_on(everything(), given);
    let plain = render(&[])?;
    ensure!(plain == render(&[])?, "it is not rendered the same twice");
    for value in values()? {
        let name = value.name();
        if name == "global" {
            continue;
        }
        let other = OTHERS
            .iter()
            .find(|(_, names)| names.contains(&name.as_str()));
        let (other, _) = other.with_context(|| format!("{name}: no other value is here"))?;
        let given = format!("{name}={other}");
        if CONFINED.contains(&name.as_str()) {
            let before = render_on(confined(), &[])?;
            let given = [given.as_str(), CLASSES_READ];
            let given = if name == "namespaces" {
                &given[..]
            } else {
                &given[..1]
            };
            ensure!(
                before != render_on(confined(), given)?,
                "{name} has no effect"
            );
            continue;
        }
        let first = GIVEN_FIRST.iter().find(|(of, _)| *of == name);
        let (before, after) = match first {
            Some((_, first)) => (render(&[first])?, render(&[first, &given])?),
            None => (plain.clone(), render(&[&given])?),
        };
        ensure!(before != after, "{name} has no effect");
    }
    Ok(())
}
