//! `make demo`: a real certificate, end to end, before your eyes. `make up`: the same world, kept for playing.

mod screen;
mod tour;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use evercert_cluster::{World, take_role};
use evercert_e2e::operator::sibling;
use evercert_e2e::{Stage, stage};

use screen::Screen;

/// The world that `up` keeps.
const PLAY: &str = "play";

/// Shows Evercert at work on a real control plane with a real CA, all inside of namespaces of its own.
#[derive(Parser)]
#[command(name = "evercert-demo", version)]
struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Bring a world up that stays, with the operator running in it, and print how to use it.
    Up,
    /// End that world.
    Down,
    /// What `up` does inside of the world.
    #[command(hide = true)]
    SetStage,
}

fn main() -> ExitCode {
    take_role();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(Args::parse().action.as_ref()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Option<&Action>) -> Result<ExitCode> {
    match action {
        None => demo(),
        Some(Action::Up) => up(),
        Some(Action::Down) => {
            World::attach(PLAY)?.down()?;
            println!("The world is gone.");
            Ok(ExitCode::SUCCESS)
        }
        Some(Action::SetStage) => set_stage(),
    }
}

/// Outside it brings the world up and waits; inside it shows.
fn demo() -> Result<ExitCode> {
    let screen = Screen::new();
    let Some(world) = World::current() else {
        screen.title("A world of real parts");
        screen.step("etcd, kube-apiserver, kube-controller-manager, Pebble with its DNS server, Contour with Envoy …");
        let world = World::up("demo", false)?;
        screen.step(&format!(
            "all of them answer, {} s after nothing",
            world.ready_after()
        ));
        screen.hand_over(&world)?;
        return world.reexec_inside();
    };
    let screen = Screen::of(&world);
    runtime()?.block_on(async {
        let stage = Stage::set(world, &|line| screen.step(line)).await?;
        match tour::take(&stage, &screen).await {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                eprintln!("\n{}", stage.evidence(&[tour::NAMESPACE]).await);
                Err(error)
            }
        }
    })
}

fn up() -> Result<ExitCode> {
    if let Ok(world) = World::attach(PLAY) {
        println!("The world is up already.");
        tell(&world)?;
        return Ok(ExitCode::SUCCESS);
    }
    let screen = Screen::new();
    screen.step("etcd, kube-apiserver, kube-controller-manager, Pebble with its DNS server, Contour with Envoy …");
    let world = World::up(PLAY, true)?;
    screen.step(&format!(
        "all of them answer, {} s after nothing",
        world.ready_after()
    ));
    screen.hand_over(&world)?;
    let set = world
        .command(std::env::current_exe()?)
        .arg("set-stage")
        .status()
        .context("setting the stage")?;
    if !set.success() {
        world.down()?;
        return Ok(ExitCode::FAILURE);
    }
    tell(&world)?;
    Ok(ExitCode::SUCCESS)
}

fn set_stage() -> Result<ExitCode> {
    let world = World::current().context("this has to run inside of a world")?;
    let screen = Screen::of(&world);
    runtime()?.block_on(async {
        let stage = Stage::set(world, &|line| screen.step(line)).await?;
        tour::prepare(&stage).await?;
        stage.leave_running().await;
        Ok(ExitCode::SUCCESS)
    })
}

fn tell(world: &World) -> Result<()> {
    let exec = sibling("evercert-world")?;
    let exec = exec.display();
    let log = world.state().join("operator.log");
    ensure!(
        log.is_file(),
        "no operator runs in this world:\n{}",
        stage::tail(&world.log("init"), 10)
    );
    println!(
        "
Evercert runs in it. Its addresses and names exist inside only:
  {exec} exec kubectl apply -f examples/demo
  {exec} exec kubectl -n demo get certificates
  {exec} exec kubectl -n demo describe certificate shop
  {exec} exec bash -c 'curl -sv --cacert <(curl -s --cacert {} https://198.18.0.1:15000/roots/0) https://shop.demo.test'
  {exec} exec bash        (every name leads to the ingress controller)
The operator's log: {}
End it: make down",
        world.pebble_ca().display(),
        log.display(),
    );
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("starting a runtime")
}
