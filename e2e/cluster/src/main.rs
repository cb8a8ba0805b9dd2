//! `evercert-world`: the test world by hand.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};
use evercert_cluster::{Level, Tools, World, take_role};

/// A real Kubernetes control plane for playing and testing: etcd, kube-apiserver, kube-controller-manager, Pebble with its DNS
/// server, Contour with Envoy. Everything runs in namespaces of its own and needs neither a container engine nor root. As root,
/// where containerd and runc are, it has a node as well: kubelet, kube-proxy, kube-scheduler.
#[derive(Parser)]
#[command(name = "evercert-world", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build the programs of the world, unless the cache (~/.cache/evercert/tools) has them, and print their folder.
    ///
    /// Needs Go, and Python with pip for one wheel. Cold it takes about ten minutes on two cores.
    Tools,
    /// Bring a world up that stays until `down`, and print how to use it.
    Up {
        /// Worlds of different names stand side by side.
        #[arg(long, default_value = "play")]
        name: String,
        /// How much of a cluster it is: plane or node. Else what EVERCERT_LEVEL says, else node where that can be.
        #[arg(long)]
        level: Option<Level>,
    },
    /// End a world: its processes, its network, its folder.
    Down {
        /// The world's name.
        #[arg(long, default_value = "play", conflicts_with = "all")]
        name: String,
        /// End every world of this user.
        #[arg(long)]
        all: bool,
    },
    /// Run a program inside a world, with its kubectl, its kubeconfig, its addresses and its DNS.
    ///
    /// Example: evercert-world exec kubectl get pods --all-namespaces
    Exec {
        /// The world's name.
        #[arg(long, default_value = "play")]
        name: String,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// List the worlds of this user, and what went wrong in them.
    Status,
    /// Print the level of a world here, and under it what keeps it from being a higher one, a line each.
    Level,
}

fn main() -> ExitCode {
    take_role();
    match run(Args::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Tools => println!(
            "{}",
            Tools::ensure(&|line| eprintln!("{line}"))?.dir().display()
        ),
        Action::Up { name, level } => up(&name, level)?,
        Action::Down { name, all } => down((!all).then_some(name.as_str()))?,
        Action::Exec { name, command } => return exec(&name, &command),
        Action::Status => return Ok(status()),
        Action::Level => level()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &str, level: Option<Level>) -> Result<()> {
    let runs = World::list().iter().any(|world| world.name == name);
    let world = if runs {
        World::attach(name)?
    } else {
        let level = level.map_or_else(Level::here, Ok)?;
        tell_what_is_missing(level);
        World::up_at(name, true, level)?
    };
    let option = if name == "play" {
        String::new()
    } else {
        format!("--name {name} ")
    };
    let program = std::env::current_exe()?;
    let exec = format!("{} exec {option}", program.display());
    println!(
        "The world {name} of level {} is ready (it took {} s). Its folder, with logs and keys: {}

Its addresses and names exist inside only:
  {exec}kubectl get ingressclasses
  {exec}curl --cacert {} https://198.18.0.1:14000/dir
  {exec}bash        (every name leads to the ingress controller, 198.18.0.2)
End it:
  {} down {option}",
        world.level(),
        world.ready_after(),
        world.state().display(),
        world.pebble_ca().display(),
        program.display(),
    );
    Ok(())
}

fn tell_what_is_missing(level: Level) {
    if level < Level::Node {
        for reason in Level::missing_for_node() {
            eprintln!("level {level}, not node: {reason}");
        }
    }
}

fn down(name: Option<&str>) -> Result<()> {
    World::sweep();
    for world in World::list()
        .into_iter()
        .filter(|world| name.is_none_or(|name| name == world.name))
    {
        World::end_at(&world.state)?;
        println!("ended {}", world.name);
    }
    Ok(())
}

fn exec(name: &str, command: &[String]) -> Result<ExitCode> {
    let (program, args) = command
        .split_first()
        .ok_or_else(|| anyhow!("no program given"))?;
    let error = World::attach(name)?.command(program).args(args).exec();
    Err(anyhow!(error).context(format!("starting {program}")))
}

fn level() -> Result<()> {
    let here = Level::here()?;
    let mut lines = vec![here.to_string()];
    if here == Level::Plane {
        let missing = Level::missing_for_node();
        if missing.is_empty() {
            lines.push("EVERCERT_LEVEL asks for no more".to_owned());
        }
        lines.extend(missing);
    }
    // At once: who reads the first line only does not break the pipe of the others.
    println!("{}", lines.join("\n"));
    Ok(())
}

fn status() -> ExitCode {
    let worlds = World::list();
    if worlds.is_empty() {
        println!("no world runs");
    }
    let mut code = ExitCode::SUCCESS;
    for world in worlds {
        let ready = world.ready.map_or_else(
            || "not ready".to_owned(),
            |took| format!("ready after {took} s"),
        );
        let level = world
            .level
            .map_or_else(String::new, |level| format!("level {level}, "));
        println!("{}: {level}{ready}, {}", world.name, world.state.display());
        for failure in world.failures {
            println!("  {failure}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
