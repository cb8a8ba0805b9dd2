//! The ways in which a world can end, and what stays of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use evercert_cluster::{Level, Tools, Traces, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{HOLD, PART, SEVEN, level, subject, wait};

/// This program as the subject of a test.
pub(crate) fn play(part: &str) -> Result<ExitCode> {
    let Some(world) = World::current() else {
        return World::up(part, false)?.reexec_inside();
    };
    ensure!(
        Level::here()? == world.level(),
        "inside of a world of level {} it is another",
        world.level()
    );
    if part == SEVEN {
        return Ok(ExitCode::from(7));
    }
    println!("{}", world.state().display());
    // Only the world's end ends this.
    loop {
        std::thread::park();
    }
}

pub(crate) fn down_leaves_nothing() -> Result<()> {
    let world = World::up_at("down", false, Level::Plane)?;
    let traces = world.traces();
    ensure!(
        traces.remaining().len() > 8,
        "a running world shows too little: {:#?}",
        traces.remaining()
    );
    let mut left = leave_behind(&world)?;
    world.down()?;
    let remaining = traces.remaining();
    let ended = left
        .iter_mut()
        .try_for_each(|process| process.kill().and_then(|()| process.wait()).map(drop));
    for process in &left {
        let named = format!("process {} ", process.id());
        ensure!(
            remaining.iter().any(|line| line.starts_with(&named)),
            "{named}was left, reported: {remaining:#?}"
        );
    }
    ensure!(
        remaining.len() == left.len(),
        "more than what was left on purpose: {remaining:#?}"
    );
    ended?;
    gone(&traces)
}

/// Two that the end of the world's pid namespace does not reach: one names the world, one sits in its network namespace.
fn leave_behind(world: &World) -> Result<[Child; 2]> {
    let named = Command::new("sleep")
        .arg("600")
        .env("EVERCERT_WORLD", world.state())
        .spawn()?;
    // The program that `command` starts outside enters the network namespace and stays in the outer pid namespace: here it
    // gets a user's own child instead of the world's.
    let entering = world.command("sleep");
    let kept = entering
        .get_args()
        .filter(|arg| !["--pid", "--mount"].iter().any(|part| arg == part));
    let inside = Command::new(entering.get_program())
        .args(kept)
        .arg("600")
        .spawn()?;
    let link = PathBuf::from(format!("/proc/{}/ns/net", inside.id()));
    let own = fs::read_link("/proc/self/ns/net")?;
    wait::until("a process in the world's network", || {
        match fs::read_link(&link) {
            Ok(name) if name != own => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    Ok([named, inside])
}

pub(crate) fn killed_parent_takes_the_world_along() -> Result<()> {
    let (mut parent, traces) = hold(&mut subject(HOLD, Level::Plane)?)?;
    parent.kill()?;
    parent.wait()?;
    gone(&traces)
}

pub(crate) fn killed_supervisor_takes_the_world_along() -> Result<()> {
    let (mut parent, traces) = hold(&mut subject(HOLD, level()?)?)?;
    let supervisor = traces
        .remaining()
        .iter()
        .find_map(|line| supervisor(line))
        .context("no supervisor")?;
    // The parent would notice and sweep; stopped, it cannot, as if both were killed at once.
    let parent_pid = Pid::from_raw(parent.id().cast_signed());
    kill(parent_pid, Signal::SIGSTOP)?;
    kill(supervisor, Signal::SIGKILL)?;
    let processes = || {
        traces
            .remaining()
            .into_iter()
            .filter(|line| line.starts_with("process"))
    };
    wait::until("the processes of a world without supervisor", || {
        let left: Vec<_> = processes().collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:#?}"))
        }
    })?;
    let remaining = traces.remaining();
    let found: Vec<_> = remaining
        .iter()
        .filter(|line| line.starts_with("folder "))
        .collect();
    ensure!(found.len() == 1, "its folder was to stay: {remaining:#?}");
    let groups = remaining
        .iter()
        .filter(|line| line.starts_with("cgroup "))
        .count();
    ensure!(
        (groups > 0) == (level()? == Level::Node) && groups + 1 == remaining.len(),
        "its cgroups, where it had some, were to stay: {remaining:#?}"
    );
    parent.kill()?;
    parent.wait()?;
    World::sweep();
    gone(&traces)
}

fn supervisor(line: &str) -> Option<Pid> {
    let pid = line.strip_prefix("process ")?.split(' ').next()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is = arguments
        .split(|byte| *byte == 0)
        .any(|argument| argument == b"supervise");
    is.then(|| pid.parse().ok().map(Pid::from_raw)).flatten()
}

pub(crate) fn code_of_the_program_inside_is_returned() -> Result<()> {
    let status = subject(SEVEN, Level::Plane)?.status()?;
    ensure!(status.code() == Some(7), "{status}");
    ensure!(
        World::list().iter().all(|world| world.name != SEVEN),
        "its world outlived it"
    );
    Ok(())
}

/// The programs and this one are copied to where that user can read them.
pub(crate) fn ordinary_user_has_a_world_too() -> Result<()> {
    const NOBODY: u32 = 65534;
    let tools = Tools::ensure(&|line| eprintln!("{line}"))?;
    let home = tempfile::tempdir()?;
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777))?;
    let program = home.path().join("world");
    fs::copy(std::env::current_exe()?, &program)?;
    let copies = home.path().join("tools");
    link_all(tools.dir(), &copies)?;
    let mut user = Command::new("setpriv");
    user.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("EVERCERT_LEVEL")
        .env("EVERCERT_TOOLS", &copies)
        .env("HOME", home.path())
        .env(PART, HOLD)
        .current_dir("/");
    let (mut parent, traces) = hold(&mut user)?;
    let owner = fs::read_to_string(format!("/proc/{}/status", parent.id()))?;
    ensure!(
        owner.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}")),
        "not that user: {owner}"
    );
    let world = World::open(traces.state())?;
    ensure!(
        world.level() == Level::Plane,
        "an ordinary user's world of level {}",
        world.level()
    );
    parent.kill()?;
    parent.wait()?;
    gone(&traces)
}

fn link_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let copy = to.join(path.file_name().context("a file without a name")?);
        if fs::hard_link(&path, &copy).is_err() {
            fs::copy(&path, &copy)?;
        }
    }
    Ok(())
}

/// Starts the subject, waits until it is inside its world, and looks that the traces of that world are seen.
fn hold(subject: &mut Command) -> Result<(Child, Traces)> {
    let mut parent = subject
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut line = String::new();
    BufReader::new(parent.stdout.take().context("no standard output")?).read_line(&mut line)?;
    ensure!(
        !line.is_empty(),
        "the subject brought no world up: {}",
        parent.wait()?
    );
    let traces = World::open(Path::new(line.trim()))?.traces();
    ensure!(
        traces.remaining().len() > 8,
        "a running world shows too little: {:#?}",
        traces.remaining()
    );
    Ok((parent, traces))
}

pub(crate) fn gone(traces: &Traces) -> Result<()> {
    let outcome = wait::until("nothing of the world stays", || {
        let remaining = traces.remaining();
        if remaining.is_empty() {
            Ok(())
        } else {
            Err(format!("{remaining:#?}"))
        }
    });
    // What stayed holds this program's standard error, and whoever reads that would wait for ever.
    outcome.or_else(|left| World::end_at(traces.state()).and(Err(left)))
}
