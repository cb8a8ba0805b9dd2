//! What can be told of the chart without a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use evercert_e2e::chart::{self, Documented, documented, said, with_values};
use evercert_e2e::manifest::{parse, repository};
use evercert_e2e::operator::sibling;
use serde_json::{Value, json};

use crate::Scene;

/// An image, which has no default.
pub(crate) const IMAGE: [&str; 2] = ["--set", "image.repository=registry.example.com/evercert"];

fn template(scene: &Scene, arguments: &[&str]) -> Result<String> {
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    scene.helm.template(&arguments)
}

pub(crate) fn everything() -> Vec<String> {
    with_values(&repository().join("e2e/tests/chart/values/everything.yaml"))
}

/// Values that do not go with others of `everything`.
pub(crate) fn confined() -> Vec<String> {
    with_values(&repository().join("e2e/tests/chart/values/namespaces.yaml"))
}

pub(crate) fn lint(scene: &Scene) -> Result<()> {
    let folder = chart::folder().display().to_string();
    for values in chart::sets()? {
        let values = with_values(&values);
        let words = ["lint".to_owned(), "--strict".to_owned(), folder.clone()];
        let told = scene.helm.output(words.iter().chain(&values))?;
        ensure!(told.contains("0 chart(s) failed"), "{told}");
        for bad in ["[ERROR]", "[WARNING]"] {
            ensure!(!told.contains(bad), "{told}");
        }
    }
    Ok(())
}

pub(crate) fn renderings(scene: &Scene) -> Result<()> {
    let all = chart::render_all(&scene.helm)?;
    ensure!(all.len() > 4, "{} files", all.len());
    let stale: Vec<_> = all.iter().filter(|file| !file.is_fresh()).collect();
    let files: Vec<_> = stale.iter().map(|file| &file.file).collect();
    ensure!(
        stale.is_empty(),
        "run make chart: {files:?}\n{}",
        stale[0].text
    );
    Ok(())
}

pub(crate) fn custom_resources(scene: &Scene) -> Result<()> {
    said(
        Command::new(sibling("evercert")?)
            .args(["crds", "--check"])
            .arg(chart::folder().join("files/crds"))
            .output()?,
    )?;
    let rendered = parse(&template(scene, &IMAGE)?)?;
    let crds = rendered.iter().filter(|object| {
        let types = object.types.as_ref();
        types.is_some_and(|types| types.kind == "CustomResourceDefinition")
    });
    let mut count = 0;
    for crd in crds {
        count += 1;
        let name = crd.metadata.name.as_deref().context("a name")?;
        let file = fs::read_to_string(repository().join("crds").join(format!("{name}.yaml")))?;
        let [source] = &parse(&file)?[..] else {
            anyhow::bail!("more than one in {name}");
        };
        ensure!(
            is_same(&crd.data, &source.data),
            "{name} is changed by the template"
        );
        let annotations = crd.metadata.annotations.clone().unwrap_or_default();
        for (key, value) in [
            ("helm.sh/hook", "pre-install,pre-upgrade"),
            ("helm.sh/resource-policy", "keep"),
            ("argocd.argoproj.io/hook", "Skip"),
        ] {
            let found = annotations.get(key).map(String::as_str);
            ensure!(found == Some(value), "{name}: {key} is {found:?}");
        }
    }
    ensure!(count == 3, "{count} of them");
    let (whole, part) = (json!({"a": [0.0, {"b": 1}]}), json!({"a": [0, {"b": 2}]}));
    ensure!(!is_same(&whole, &part), "the test cannot tell");
    Ok(())
}

/// Helm writes 0.0 as 0.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same = |(key, a): (&String, &Value)| other.get(key).is_some_and(|b| is_same(a, b));
            one.len() == other.len() && one.iter().all(same)
        }
        _ => one == other,
    }
}

/// A value as `--set-json` takes it, and words of the sentence that refuses it. The value's name is in each.
const BAD: &[(&str, &str, &str)] = &[
    (
        "replica",
        "2",
        "additional properties 'replica' not allowed",
    ),
    (
        "solver.prot",
        "8089",
        "additional properties 'prot' not allowed",
    ),
    ("replicas", "0", "minimum: got 0, want 1"),
    ("replicas", "\"two\"", "got string, want integer"),
    ("image.pullPolicy", "\"Sometimes\"", "value must be one of"),
    ("image.digest", "\"sha256:12\"", "does not match pattern"),
    ("image.tag", "1", "got number, want string"),
    (
        "nameSharing",
        "\"always\"",
        "value must be one of 'refuse', 'allow'",
    ),
    ("maxOrders", "0", "minimum: got 0, want 1"),
    (
        "renewalSpread",
        "\"half an hour\"",
        "does not match pattern",
    ),
    (
        "dnsServers",
        "[\"ns.example.com\"]",
        "does not match pattern",
    ),
    (
        "ingress.defaultIssuer",
        "\"letsencrypt\"",
        "does not match pattern",
    ),
    (
        "ingress.annotationCompat",
        "[\"traefik\"]",
        "value must be one of 'cert-manager', 'kube-lego'",
    ),
    (
        "ingress.namespaces",
        "\"some\"",
        "value must be one of 'all', 'labelled'",
    ),
    ("namespaces", "[\"Shop\"]", "does not match pattern"),
    (
        "ingress.classControllers",
        "{\"web\": \"a,b\"}",
        "does not match pattern",
    ),
    ("solver.port", "80", "minimum: got 80, want 1,024"),
    ("solver.idle", "\"never\"", "does not match pattern"),
    ("lease.duration", "\"\"", "minLength"),
    ("selfCheckNetworks", "[\"lan\"]", "does not match pattern"),
    (
        "solver.issuerRouteAnnotations",
        "[\"*\"]",
        "does not match pattern",
    ),
    (
        "log.format",
        "\"xml\"",
        "value must be one of 'json', 'text'",
    ),
    ("podDisruptionBudget.maxUnavailable", "-1", "minimum"),
    ("networkPolicy.apiServerPorts", "[]", "minItems"),
    ("networkPolicy.egressPorts", "[70000]", "maximum"),
    ("extraObjects", "{}", "got object, want array"),
    (
        "metrics.rules.runbookUrl",
        "\"docs/runbook\"",
        "does not match pattern",
    ),
    (
        "metrics.rules.alertLabels",
        "{\"severity\": \"info\"}",
        "'not' failed",
    ),
    (
        "metrics.serviceMonitor.interval",
        "\"often\"",
        "does not match pattern",
    ),
];

/// Values that do not go together, and words of the sentence that says so. The first's name is in each.
const TOGETHER: &[(&str, &str, &str)] = &[
    (
        "ingress.namespaces",
        "ingress.namespaces=labelled,namespaces={shop}",
        "labels of namespaces",
    ),
    (
        "ingress.defaultIssuer",
        "ingress.defaultIssuer=ClusterIssuer/le,namespaces={shop}",
        "name an Issuer",
    ),
    (
        "ingress.classControllers",
        "ingress.classControllers.web=example.com/c",
        "is for `namespaces`",
    ),
];

pub(crate) fn refusals(scene: &Scene) -> Result<()> {
    // What they are refused for is theirs: the same command without them is not refused.
    template(scene, &IMAGE)?;
    template(scene, &[IMAGE[0], IMAGE[1], "--set", "global.of.anybody=1"])?;
    let without_image = template(scene, &[]);
    let mut told = vec![(
        "image.repository".to_owned(),
        without_image,
        "none is published yet",
    )];
    for (path, value, words) in BAD {
        let value = format!("{path}={value}");
        let answer = template(scene, &[IMAGE[0], IMAGE[1], "--set-json", &value]);
        told.push(((*path).to_owned(), answer, *words));
    }
    let service = "metrics.serviceMonitor.enabled=true,metrics.service.enabled=false";
    told.push((
        "metrics.serviceMonitor.enabled".to_owned(),
        template(scene, &[IMAGE[0], IMAGE[1], "--set", service]),
        "needs metrics.service.enabled",
    ));
    for (path, given, words) in TOGETHER {
        let answer = template(scene, &[IMAGE[0], IMAGE[1], "--set", given]);
        told.push(((*path).to_owned(), answer, *words));
    }
    for (path, answer, words) in told {
        let Err(refusal) = answer else {
            anyhow::bail!("{path} is not refused");
        };
        let refusal = format!("{refusal:#}");
        // The schema writes the way to a value with strokes, our own sentences with points.
        let named = path.split('.').all(|key| refusal.contains(key));
        ensure!(named && refusal.contains(words), "{path}: {refusal}");
    }
    Ok(())
}

pub(crate) fn values() -> Result<Vec<Documented>> {
    documented(&fs::read_to_string(chart::folder().join("values.yaml"))?)
}

/// The names of what a schema knows, down to where it leaves the members open.
fn known(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match schema.get("properties").and_then(Value::as_object) {
        Some(members) => {
            for (key, member) in members {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                known(member, &path, found);
            }
        }
        None => {
            found.insert(path.to_owned());
        }
    }
}

pub(crate) fn schema(_: &Scene) -> Result<()> {
    let schema: Value = serde_json::from_str(&fs::read_to_string(
        chart::folder().join("values.schema.json"),
    )?)?;
    let mut in_schema = BTreeSet::new();
    known(&schema, "", &mut in_schema);
    // One value with a comment of its own, whose members are Kubernetes's.
    for member in ["strategy.type", "strategy.rollingUpdate"] {
        ensure!(in_schema.remove(member), "{member} is not in the schema");
    }
    in_schema.insert("strategy".to_owned());
    let documented: BTreeSet<String> = values()?.iter().map(Documented::name).collect();
    ensure!(
        in_schema == documented,
        "in the schema only: {:?}; in values.yaml only: {:?}",
        in_schema.difference(&documented).collect::<Vec<_>>(),
        documented.difference(&in_schema).collect::<Vec<_>>()
    );
    Ok(())
}

/// What the operator is told in a rendering.
fn arguments(rendered: &str) -> Result<Vec<String>> {
    let rendered = parse(rendered)?;
    let deployment = rendered.iter().find(|object| {
        let types = object.types.as_ref();
        types.is_some_and(|types| types.kind == "Deployment")
    });
    let deployment = deployment.context("no Deployment")?;
    let arguments = deployment
        .data
        .pointer("/spec/template/spec/containers/0/args");
    Ok(serde_json::from_value(
        arguments.context("no args")?.clone(),
    )?)
}

pub(crate) fn options(scene: &Scene) -> Result<()> {
    let arguments = arguments(&scene.helm.template(&everything())?)?;
    let of_the_confined = self::arguments(&scene.helm.template(&confined())?)?;
    let evercert = sibling("evercert")?;
    let controller = |words: &[String]| -> Result<String> {
        said(Command::new(&evercert).args(words).arg("--help").output()?)
    };
    // It reads the arguments up to the last, and then prints its help.
    let help = controller(&arguments)?;
    let mut wrong = arguments.clone();
    wrong.push("--no-such-option=1".to_owned());
    controller(&of_the_confined)?;
    ensure!(controller(&wrong).is_err(), "the test cannot tell");

    let options = help.lines().filter_map(|line| {
        let line = line.trim_start().trim_start_matches("-h, ");
        line.starts_with("--").then(|| line.split(' ').next())?
    });
    let mut count = 0;
    for option in options.filter(|option| *option != "--help") {
        count += 1;
        let given = arguments
            .iter()
            .chain(&of_the_confined)
            .any(|argument| argument == option || argument.starts_with(&format!("{option}=")));
        ensure!(given, "{option} is set by no value");
    }
    ensure!(count > 15, "{count} options in\n{help}");
    Ok(())
}

pub(crate) fn versions(_: &Scene) -> Result<()> {
    let chart = fs::read_to_string(chart::folder().join("Chart.yaml"))?;
    for key in ["version", "appVersion"] {
        let line = format!("\n{key}: {}\n", env!("CARGO_PKG_VERSION"));
        ensure!(chart.contains(&line), "no{line}in\n{chart}");
    }
    Ok(())
}
