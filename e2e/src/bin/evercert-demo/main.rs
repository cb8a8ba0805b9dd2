//! `make demo`: a real certificate, end to end, before your eyes. `make up`: the same world, kept for playing.

mod screen;
mod tour;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use evercert_cluster::{Level, World, take_role};
use evercert_e2e::operator::{NAMESPACE, sibling};
use evercert_e2e::{Stage, deployment, image};

use screen::Screen;
use tour::Length;

/// The world that `up` keeps.
const PLAY: &str = "play";

/// Shows Evercert at work on a real cluster with a real CA, all inside of namespaces of its own.
///
/// As root the cluster has a node: containerd and kubelet run the images that `make image` builds, and the operator is a
/// Deployment. Everybody else sees the same without a node: the operator and its pods are processes. EVERCERT_LEVEL=plane asks
/// root for that, too.
#[derive(Parser)]
#[command(
    name = "evercert-demo",
    version,
    args_conflicts_with_subcommands = true
)]
struct Args {
    /// Only the first half: until curl has verified the first certificate.
    #[arg(long)]
    first_half: bool,
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
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    match args.action {
        None if args.first_half => demo(Length::FirstHalf),
        None => demo(Length::Whole),
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
fn demo(length: Length) -> Result<ExitCode> {
    let screen = Screen::new();
    let Some(world) = World::current() else {
        screen.title("A world of real parts");
        return bring_up(&screen, "demo", false)?.reexec_inside();
    };
    let screen = Screen::of(&world);
    runtime()?.block_on(async {
        let stage = Stage::without_operator(world, &|line| screen.step(line)).await?;
        match tour::take(&stage, &screen, length).await {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                eprintln!("\n{}", stage.evidence(&[tour::NAMESPACE]).await);
                Err(error)
            }
        }
    })
}

/// A new world, and what is in it.
fn bring_up(screen: &Screen, name: &str, keep: bool) -> Result<World> {
    let level = Level::here()?;
    let node = match level {
        Level::Plane => "",
        Level::Node => " containerd, kubelet, kube-proxy, kube-scheduler,",
    };
    screen.step(&format!(
        "etcd, kube-apiserver, kube-controller-manager,{node} Pebble with its DNS server, Contour with Envoy …"
    ));
    if level == Level::Node {
        // Before anything is started that would only be ended again.
        for image in image::ALL {
            image.archive()?;
        }
    }
    let world = World::up_at(name, keep, level)?;
    screen.step(&format!(
        "all of them answer, {} s after nothing",
        world.ready_after()
    ));
    screen.hand_over(&world)?;
    Ok(world)
}

fn up() -> Result<ExitCode> {
    if let Ok(world) = World::attach(PLAY) {
        println!("The world is up already.");
        tell(&world)?;
        return Ok(ExitCode::SUCCESS);
    }
    let screen = Screen::new();
    let world = bring_up(&screen, PLAY, true)?;
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
        let stage = Stage::without_operator(world, &|line| screen.step(line)).await?;
        tour::start_operator(&stage, &screen).await?;
        tour::prepare(&stage).await?;
        stage.leave_running().await;
        Ok(ExitCode::SUCCESS)
    })
}

fn tell(world: &World) -> Result<()> {
    let exec = sibling("evercert-world")?;
    let exec = exec.display();
    let log = match world.level() {
        Level::Node => format!(
            "{exec} exec kubectl -n {NAMESPACE} logs deployment/{}",
            deployment::NAME
        ),
        Level::Plane => world.state().join("operator.log").display().to_string(),
    };
    println!(
        "
Evercert runs in it. Its addresses and names exist inside only:
  {exec} exec kubectl apply -f examples/demo
  {exec} exec kubectl -n demo get certificates
  {exec} exec kubectl -n demo describe certificate shop
  {exec} exec bash -c 'curl -sv --cacert <(curl -s --cacert {} https://198.18.0.1:15000/roots/0) https://shop.demo.test'
  {exec} exec bash        (every name leads to the ingress controller)
The operator's log: {log}
End it: make down",
        world.pebble_ca().display(),
    );
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("starting a runtime")
}
