//! What a story may do to a component: freeze it, let it go on, start it again.

use anyhow::{Result, ensure};
use evercert_cluster::{Level, Pebble, World, address};

use crate::inside::{curl, output};
use crate::wait;

const API: &str = "kube-apiserver";

/// Frozen it does not answer, thawed it does, and neither that nor a restart is a failure of the world; a death is, and a
/// restart helps then, too.
pub(crate) fn api_server_is_frozen_thawed_and_restarted() -> Result<()> {
    let world = World::up_at("fault", false, Level::Plane)?;
    let first = world.component_pid(API);
    world.freeze(API)?;
    let frozen = version(&world);
    ensure!(frozen.is_err(), "a frozen API server answered {frozen:?}");
    world.thaw(API)?;
    answers(&world)?;
    ensure!(
        world.component_pid(API) == first,
        "it was to be the same process"
    );

    world.freeze(API)?;
    world.restart(API)?;
    let second = world.component_pid(API);
    ensure!(second != first, "not another process: {second:?}");
    answers(&world)?;
    ensure!(world.failures().is_empty(), "{:?}", world.failures());

    let unknown = world
        .restart("kube-dns")
        .map_err(|error| format!("{error:#}"));
    ensure!(
        unknown
            .as_ref()
            .is_err_and(|error| error.contains("no component is named kube-dns")),
        "{unknown:?}"
    );
    let pebble = world.component_pid("pebble").unwrap_or_default();
    output(
        world
            .command("sh")
            .args(["-c", &format!("kill -9 {pebble}")]),
    )?;
    wait::until("a death is told", || {
        let failures = world.failures();
        let told = failures.iter().any(|line| line == "pebble ended: SIGKILL");
        if told {
            Ok(())
        } else {
            Err(format!("{failures:?}"))
        }
    })?;
    world.restart("pebble")?;
    wait::until("Pebble answers again", || {
        let mut get = curl(&world);
        get.arg("--cacert").arg(world.pebble_ca());
        output(get.arg(Pebble::default().directory()))
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    })?;
    world.down()
}

fn answers(world: &World) -> Result<()> {
    wait::until("the API server answers", || {
        version(world)
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    })
}

fn version(world: &World) -> Result<String> {
    let url = format!(
        "https://{}:{}/version",
        address::NODE,
        address::API_SERVER_PORT
    );
    output(
        curl(world)
            .args(["--max-time", "2", "--cacert"])
            .arg(world.cluster_ca())
            .arg(url),
    )
}
