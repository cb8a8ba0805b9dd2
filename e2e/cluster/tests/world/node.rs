//! What a node offers: pods that run, are reached, entered, heard and limited.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use evercert_cluster::{Image, Level, World};

use crate::inside::{apply, curl, output};
use crate::{end, shared, wait};

const SERVE: &str = "[serve, \"8080\"]";

/// From the image's archive to its program's answer: by Service from the node and from another pod, by the API server's
/// ways (exec, logs, port-forward), and by the name of the world's DNS.
pub(crate) fn pod_is_ready_reached_entered_and_heard() -> Result<()> {
    let world = shared()?;
    println!("the shared world was ready after {} s", world.ready_after());
    start(world, "site", SERVE)?;
    start(world, "visitor", SERVE)?;
    let began = Instant::now();
    for pod in ["site", "visitor"] {
        is_ready(world, pod)?;
    }
    println!(
        "two pods were ready after {:.1} s",
        began.elapsed().as_secs_f64()
    );

    let address = kubectl(
        world,
        &[
            "get",
            "service",
            "site",
            "--output=jsonpath={.spec.clusterIP}",
        ],
    )?;
    let url = format!("http://{address}/");
    wait::until("the Service from the node", || {
        greets(output(curl(world).arg(&url)), "site")
    })?;
    for (from, what) in [("visitor", "another pod"), ("site", "the pod itself")] {
        wait::until(&format!("the Service from {what}"), || {
            greets(
                kubectl(world, &["exec", from, "--", "/pod", "get", &url]),
                "site",
            )
        })?;
    }
    apply(world, include_str!("pod-ingress.yaml"))?;
    let url = "http://pods.example.test/";
    wait::until("the Ingress, by its name, from another pod", || {
        greets(
            kubectl(world, &["exec", "visitor", "--", "/pod", "get", url]),
            "site",
        )
    })?;

    let log = kubectl(world, &["logs", "site"])?;
    ensure!(log == "serving on :8080\n", "its log: {log}");
    forwarded(world)
}

fn forwarded(world: &World) -> Result<()> {
    let mut forward = world
        .command("kubectl")
        .args(["--namespace=pods", "port-forward", "pod/site", ":8080"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    // Kept open: it ends when it cannot tell of a connection.
    let mut told = BufReader::new(forward.stdout.take().context("a pipe")?);
    told.read_line(&mut line)?;
    // Forwarding from 127.0.0.1:41231 -> 8080
    let local = line.split_whitespace().nth(2).unwrap_or_default();
    let answer = output(curl(world).arg(format!("http://{local}/")));
    forward.kill()?;
    forward.wait()?;
    greets(answer, "site").map_err(|told| anyhow::anyhow!("by port-forward ({line}): {told}"))
}

pub(crate) fn memory_limit_kills() -> Result<()> {
    let world = shared()?;
    start(world, "eater", "[eat]")?;
    wait::until("the end of a pod that takes too much", || {
        let path = "--output=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
        match kubectl(world, &["get", "pod", "eater", path]) {
            // By SIGKILL. That it was for its memory containerd tells by an event, which may come too late for the kubelet.
            Ok(code) if code == "137" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// The same names and addresses in both; one ends with its pods, and the other does not notice.
pub(crate) fn worlds_stand_side_by_side() -> Result<()> {
    let other = World::up_at("beside", false, Level::Node)?;
    println!(
        "a world beside another was ready after {} s",
        other.ready_after()
    );
    let traces = other.traces();
    for world in [shared()?, &other] {
        start(world, "twin", SERVE)?;
    }
    for world in [shared()?, &other] {
        is_ready(world, "twin")?;
    }
    let groups = |lines: Vec<String>| {
        lines
            .iter()
            .filter(|line| line.starts_with("cgroup "))
            .count()
    };
    ensure!(
        groups(traces.remaining()) > 0,
        "no cgroups: {:#?}",
        traces.remaining()
    );
    other.down()?;
    end::gone(&traces)?;
    let still = shared()?;
    wait::until("the other world's pod", || {
        greets(
            kubectl(
                still,
                &[
                    "exec",
                    "twin",
                    "--",
                    "/pod",
                    "get",
                    "http://127.0.0.1:8080/",
                ],
            ),
            "twin",
        )
    })?;
    ensure!(still.failures().is_empty(), "{:?}", still.failures());
    Ok(())
}

/// The image is imported each time, which replaces it by the same.
fn start(world: &World, pod: &str, arguments: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("image.tar");
    let image = Image {
        reference: "localhost/evercert-test:1".to_owned(),
        program: world.tools().program("pod"),
        arguments: Vec::new(),
    };
    image.write(&archive)?;
    world.import_image(&archive)?;
    let manifest = include_str!("pod.yaml")
        .replace("NAME", pod)
        .replace("ARGUMENTS", arguments);
    // The first pod of a namespace may come before the account that it runs as.
    wait::until(&format!("the pod {pod} is created"), || {
        apply(world, &manifest).map_err(|error| format!("{error:#}"))
    })
}

fn is_ready(world: &World, pod: &str) -> Result<()> {
    let path = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    wait::until(&format!("the pod {pod} is ready"), || {
        match kubectl(world, &["get", "pod", pod, path]) {
            Ok(ready) if ready == "True" => Ok(()),
            other => {
                let events = kubectl(world, &["describe", "pod", pod]).unwrap_or_default();
                Err(format!("{other:?}\n{events}"))
            }
        }
    })
}

fn kubectl(world: &World, args: &[&str]) -> Result<String> {
    output(world.command("kubectl").arg("--namespace=pods").args(args))
}

fn greets(answer: Result<String>, pod: &str) -> std::result::Result<(), String> {
    match answer {
        Ok(text) if text == format!("hello from {pod}\n") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
