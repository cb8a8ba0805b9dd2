//! The program `evercert-world`, as a person uses it.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use evercert_cluster::World;

use crate::{end, wait};

const NAME: &str = "by-hand";
const PROGRAM: &str = env!("CARGO_BIN_EXE_evercert-world");

/// Up, used by several processes, a part of it killed, down.
pub(crate) fn kept_world_outlives_its_caller() -> Result<()> {
    let up = evercert_world(&["up", "--name", NAME, "--level", "plane"])?;
    ensure!(up.status.success(), "{}", text(&up));
    let world = World::attach(NAME)?;
    let traces = world.traces();
    let outcome = use_it(&world);
    let down = evercert_world(&["down", "--name", NAME])?;
    ensure!(down.status.success(), "{}", text(&down));
    outcome?;
    end::gone(&traces)
}

fn use_it(world: &World) -> Result<()> {
    let exec = ["exec", "--name", NAME, "--"];
    let get = evercert_world(&[&exec[..], &["kubectl", "get", "--raw", "/version"]].concat())?;
    ensure!(text(&get).contains("v1.37.2"), "{}", text(&get));
    let code = evercert_world(&[&exec[..], &["sh", "-c", "exit 3"]].concat())?;
    ensure!(code.status.code() == Some(3), "{}", code.status);
    let again = evercert_world(&["up", "--name", NAME])?;
    ensure!(
        World::attach(NAME)?.state() == world.state(),
        "a second world: {}",
        text(&again)
    );
    ensure!(
        world.failures().is_empty(),
        "a healthy world is reported as ailing: {:?}",
        world.failures()
    );

    let pebble = world
        .component_pid("pebble")
        .unwrap_or_default()
        .to_string();
    evercert_world(&[&exec[..], &["kill", "-KILL", &pebble]].concat())?;
    wait::until("status names the dead component", || {
        let status = evercert_world(&["status"]).map_err(|error| error.to_string())?;
        let told = text(&status);
        let named = told.contains("pebble ended: SIGKILL")
            && told.contains("by-hand: level plane, ready after")
            && !status.status.success();
        if named { Ok(()) } else { Err(text(&status)) }
    })
}

/// Neither needs a world.
pub(crate) fn level_that_cannot_be_is_refused() -> Result<()> {
    let unknown = Command::new(PROGRAM)
        .args(["up", "--name", "never"])
        .env("EVERCERT_LEVEL", "nodes")
        .output()?;
    ensure!(
        !unknown.status.success()
            && text(&unknown)
                .contains("EVERCERT_LEVEL: a world's level is plane or node, not \"nodes\""),
        "{}",
        text(&unknown)
    );
    // Without capabilities, root or not.
    let powerless = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .arg(PROGRAM)
        .args(["up", "--name", "never", "--level", "node"])
        .output()?;
    let told = text(&powerless);
    ensure!(
        !powerless.status.success()
            && told.contains("no world of level node can be here: ")
            && (told.contains("root lacks CAP_CHOWN") || told.contains("this user is not root")),
        "{told}"
    );
    Ok(())
}

fn evercert_world(args: &[&str]) -> Result<Output> {
    Ok(Command::new(PROGRAM).args(args).output()?)
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}
