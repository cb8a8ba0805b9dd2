//! The alerts and the dashboard: tried by Prometheus's own engine, and nothing in them that does not exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use evercert_e2e::chart::{self, said};
use evercert_e2e::manifest::{parse, repository};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Scene;
use crate::text::{IMAGE, everything};

fn file() -> PathBuf {
    chart::folder().join("files/rules.yaml")
}

fn read() -> Result<Value> {
    Ok(serde_yaml_ng::from_str(&fs::read_to_string(file())?)?)
}

fn promtool(scene: &Scene, words: &[&str], file: &Path) -> Result<String> {
    let program = scene.world.tools().program("promtool");
    said(Command::new(program).args(words).arg(file).output()?)
}

fn check(scene: &Scene, rules: &Value) -> Result<()> {
    let folder = TempDir::new()?;
    let file = folder.path().join("rules.yaml");
    fs::write(&file, serde_yaml_ng::to_string(rules)?)?;
    promtool(
        scene,
        &["check", "rules", "--lint=all", "--lint-fatal"],
        &file,
    )
    .map(drop)
}

/// Plays the cases on `rules`.
fn play(scene: &Scene, rules: &Value) -> Result<()> {
    let folder = TempDir::new()?;
    fs::write(
        folder.path().join("rules.yaml"),
        serde_yaml_ng::to_string(rules)?,
    )?;
    let cases = fs::read_to_string(repository().join("e2e/tests/chart/rules.test.yaml"))?;
    let mut cases: Value = serde_yaml_ng::from_str(&cases)?;
    cases["rule_files"] = json!(["rules.yaml"]);
    let file = folder.path().join("test.yaml");
    fs::write(&file, serde_yaml_ng::to_string(&cases)?)?;
    promtool(scene, &["test", "rules"], &file).map(drop)
}

/// Every alert of the file, as (group, place in it, rule).
fn alerts(rules: &Value) -> Result<Vec<(usize, usize, Value)>> {
    let groups = rules["groups"].as_array().context("no groups")?;
    let mut found = Vec::new();
    for (group, of) in groups.iter().enumerate() {
        let all = of["rules"].as_array().context("no rules")?;
        found.extend(all.iter().enumerate().map(|(at, r)| (group, at, r.clone())));
    }
    ensure!(found.len() > 10, "{} alerts", found.len());
    Ok(found)
}

fn name(alert: &Value) -> Result<&str> {
    alert["alert"].as_str().context("an alert without a name")
}

pub(crate) fn each_fires_and_keeps_still(scene: &Scene) -> Result<()> {
    let rules = read()?;
    check(scene, &rules)?;
    play(scene, &rules)?;
    for (group, at, alert) in alerts(&rules)? {
        let name = name(&alert)?;
        let without = |change: &dyn Fn(&mut Value)| {
            let mut rules = rules.clone();
            change(&mut rules["groups"][group]["rules"][at]);
            play(scene, &rules)
        };
        let silent = without(&|rule| rule["expr"] = json!("vector(1) > 1"));
        ensure!(silent.is_err(), "no case has {name} fire");
        let hasty = without(&|rule| rule["for"] = json!("0s"));
        ensure!(hasty.is_err(), "no case has {name} wait");
    }
    Ok(())
}

pub(crate) fn each_has_its_page(_: &Scene) -> Result<()> {
    let rules = read()?;
    let mut named = BTreeSet::new();
    for (_, _, alert) in alerts(&rules)? {
        named.insert(format!("{}.md", name(&alert)?));
    }
    let mut pages = BTreeSet::new();
    for page in fs::read_dir(repository().join("docs/runbook"))? {
        let page = page?;
        let (file, text) = (page.file_name(), fs::read_to_string(page.path())?);
        let file = file.to_string_lossy().into_owned();
        let title = file.trim_end_matches(".md");
        for line in [
            format!("# {title}\n"),
            "\n## What it means\n".to_owned(),
            "\n## What to look at\n\n```console\n$ ".to_owned(),
            "\n## What to do\n".to_owned(),
            "\n## When it ends\n".to_owned(),
        ] {
            ensure!(text.contains(&line), "{file} has no {line:?}");
        }
        pages.insert(file);
    }
    ensure!(named == pages, "alerts: {named:?}\npages: {pages:?}");
    Ok(())
}

/// The names of metrics in a text; of a histogram without what stands after its own.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("evercert_"))
        .map(|word| {
            let own = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| word.strip_suffix(end));
            own.unwrap_or(word).to_owned()
        })
        .collect()
}

/// Every expression of the dashboard's panels, with Grafana's variables replaced.
fn panels() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(chart::folder().join("files/dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let title = panel["title"].as_str().context("no title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().context("no expression")?;
            let expression = expression.replace("$__rate_interval", "5m");
            ensure!(!expression.contains('$'), "{title}: {expression}");
            found.push((title.to_owned(), expression));
        }
    }
    Ok(found)
}

pub(crate) fn all_metrics_exist(scene: &Scene) -> Result<()> {
    let known = fs::read_to_string(repository().join("docs/metrics.md"))?;
    let known = known
        .lines()
        .filter(|line| line.starts_with("| `evercert_"));
    let known: BTreeSet<String> = known.flat_map(metrics).collect();
    ensure!(known.len() > 15, "{known:?}");
    let mut used = BTreeSet::new();
    for (_, _, alert) in alerts(&read()?)? {
        used.extend(metrics(alert["expr"].as_str().context("no expression")?));
    }
    let panels = panels()?;
    used.extend(
        panels
            .iter()
            .flat_map(|(_, expression)| metrics(expression)),
    );
    ensure!(used == known, "told: {used:?}\nthere are: {known:?}");

    let rules = |expressions: &[(String, String)]| {
        let rules: Vec<Value> = expressions
            .iter()
            .enumerate()
            .map(|(at, (_, expr))| json!({"record": format!("panel:{at}"), "expr": expr}))
            .collect();
        json!({"groups": [{"name": "panels", "rules": rules}]})
    };
    check(scene, &rules(&panels))?;
    let wrong = [("wrong".to_owned(), "max by (a (evercert_leader)".to_owned())];
    ensure!(
        check(scene, &rules(&wrong)).is_err(),
        "the test cannot tell"
    );
    Ok(())
}

pub(crate) fn rendered_as_they_are(scene: &Scene) -> Result<()> {
    let rules = read()?;
    let plain = [
        IMAGE.map(ToOwned::to_owned).to_vec(),
        ["--set", "metrics.rules.enabled=true"]
            .map(ToOwned::to_owned)
            .to_vec(),
    ]
    .concat();
    let of = |arguments: &[String]| -> Result<Value> {
        let all = parse(&scene.helm.template(arguments)?)?;
        let found = all.into_iter().find(|object| {
            let types = object.types.as_ref();
            types.is_some_and(|types| types.kind == "PrometheusRule")
        });
        Ok(found.context("no PrometheusRule")?.data["spec"].clone())
    };
    ensure!(of(&plain)? == rules, "the template changes them");
    let full = of(&everything())?;
    check(scene, &full)?;
    for ((_, _, alert), (_, _, plain)) in alerts(&full)?.iter().zip(alerts(&rules)?) {
        let page = format!("https://wiki.example.com/evercert/{}.md", name(alert)?);
        ensure!(alert["annotations"]["runbook_url"] == page, "{alert}");
        ensure!(alert["labels"]["team"] == "platform", "{alert}");
        ensure!(alert["labels"]["severity"] == plain["labels"]["severity"]);
    }
    Ok(())
}
