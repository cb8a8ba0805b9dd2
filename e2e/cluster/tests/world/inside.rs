//! What a world offers to those inside.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use evercert_cluster::{Pebble, World, address};

use crate::{shared, wait};

pub(crate) fn kubectl_lists_namespaces() -> Result<()> {
    let namespaces =
        output(
            shared()?
                .command("kubectl")
                .args(["get", "namespaces", "--output", "name"]),
        )?;
    for name in ["namespace/default", "namespace/kube-system"] {
        ensure!(
            namespaces.lines().any(|line| line == name),
            "no {name} in:\n{namespaces}"
        );
    }
    Ok(())
}

pub(crate) fn audit_log_has_a_request_once() -> Result<()> {
    let world = shared()?;
    output(world.command("kubectl").args([
        "create",
        "configmap",
        "counted",
        "--namespace",
        "default",
    ]))?;
    let log = fs::read_to_string(world.audit_log())?;
    let events = log
        .lines()
        .map(serde_json::from_str::<serde_json::Value>)
        .collect::<Result<Vec<_>, _>>()?;
    let count = |verb: &str| {
        let is = |event: &&serde_json::Value| {
            event["verb"] == verb && event["objectRef"]["resource"] == "configmaps"
        };
        let by_admin = |event: &&serde_json::Value| event["user"]["username"] == "admin";
        events.iter().filter(is).filter(by_admin).count()
    };
    ensure!(
        count("create") == 1,
        "{} requests to create a config map in {}",
        count("create"),
        world.audit_log().display()
    );
    ensure!(count("delete") == 0, "a request that nobody made");
    Ok(())
}

pub(crate) fn pebble_answers_to_its_own_ca_only() -> Result<()> {
    let world = shared()?;
    let directory = Pebble::default().directory();
    let answer = output(
        curl(world)
            .arg("--cacert")
            .arg(world.pebble_ca())
            .arg(&directory),
    )?;
    ensure!(answer.contains("newOrder"), "{directory} answered {answer}");
    let other = curl(world)
        .arg("--cacert")
        .arg(world.cluster_ca())
        .arg(&directory)
        .output()?;
    // 60: curl does not trust the certificate.
    ensure!(
        other.status.code() == Some(60),
        "trusted by another CA: {}",
        String::from_utf8_lossy(&other.stdout)
    );
    Ok(())
}

pub(crate) fn another_pebble_takes_other_settings() -> Result<()> {
    let world = shared()?;
    let pebble = Pebble {
        port: 14100,
        management_port: 15100,
        external_account_required: true,
        external_accounts: [(
            "kid-1".to_owned(),
            "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W".to_owned(),
        )]
        .into(),
        profiles: [("minute".to_owned(), std::time::Duration::from_mins(1))].into(),
        ..Pebble::default()
    };
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    pebble
        .command(world, dir.path())?
        .stdout(fs::File::create(&log)?)
        .spawn()?;
    wait::until("the other Pebble's directory", || {
        let mut get = curl(world);
        let answer = output(
            get.arg("--cacert")
                .arg(world.pebble_ca())
                .arg(pebble.directory()),
        );
        let told = answer.map_err(|error| {
            format!(
                "{error:#}\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            )
        })?;
        let fits =
            told.contains("\"externalAccountRequired\": true") && told.contains("\"minute\"");
        if fits { Ok(()) } else { Err(told) }
    })
}

/// By name over DNS, through Envoy, to a process at an address of the bridge.
pub(crate) fn contour_serves_an_ingress_of_the_default_class() -> Result<()> {
    const POD: &str = "198.18.0.10";
    let world = shared()?;
    let site = tempfile::tempdir()?;
    fs::write(site.path().join("index.html"), "hello from the pod")?;
    output(
        world
            .command("ip")
            .args(["address", "add", &format!("{POD}/32"), "dev", "kube0"]),
    )?;
    world
        .command("python3")
        .args(["-m", "http.server", "8080", "--bind", POD, "--directory"])
        .arg(site.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    apply(
        world,
        &include_str!("site.yaml").replace("POD_ADDRESS", POD),
    )?;
    wait::until("the site through the ingress controller", || {
        match output(curl(world).arg("http://site.example.test/")) {
            Ok(body) if body == "hello from the pod" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let resolved = output(
        world
            .command("getent")
            .args(["ahostsv4", "site.example.test"]),
    )?;
    ensure!(
        resolved.starts_with(address::INGRESS),
        "resolved to {resolved}"
    );
    Ok(())
}

pub(crate) fn curl(world: &World) -> Command {
    let mut command = world.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "5"]);
    command
}

pub(crate) fn apply(world: &World, manifest: &str) -> Result<()> {
    let mut kubectl = world
        .command("kubectl")
        .args(["apply", "--filename", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    kubectl
        .stdin
        .take()
        .context("no standard input")?
        .write_all(manifest.as_bytes())?;
    ensure!(kubectl.wait()?.success(), "kubectl apply failed");
    Ok(())
}

pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!(
            "{:?}: {}\n{}",
            command.get_args(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
