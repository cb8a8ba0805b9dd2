//! The outer half of a world: who keeps it, who ends it, and who makes its namespaces.

use std::fs;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getegid, geteuid};

use crate::cgroup::{self, Cgroups};
use crate::pki::Pki;
use crate::process::Process;
use crate::world::place;
use crate::world::record::{self, Record};
use crate::{Level, Priority, role};

/// How long the kernel may take to end the processes of a world, after PID 1 was told to go, and again after it was killed.
const END: Duration = Duration::from_secs(5);

enum Event {
    /// The caller's end of the pipe is closed: it is gone, or lets go of the world.
    CallerGone,
    /// Somebody wants the world to end and waits on this connection until it is swept.
    Down(UnixStream),
    Signal(Signal),
    /// The process that made the namespaces ended, and with it everything inside.
    Ended(String),
}

/// The supervisor: starts the world, waits for a reason to end it, ends it, removes its folder.
pub(crate) fn supervise(state: &Path, tools: &Path, level: Level) -> i32 {
    // A session of its own: the terminal's Ctrl-C and hang-up go to the caller, and the caller's end is what counts.
    Priority::of_this_process().begin_session();
    // Whoever asked for the end sees this connection close when the process ends, which is after the sweep.
    let outcome = keep(state, tools, level);
    if let Err(error) = &outcome {
        record::note_failure(state, &format!("supervisor: {error:#}"));
    }
    let swept = place::remove(state);
    if let Err(error) = &swept {
        record::note_failure(state, &format!("supervisor: {error:#}"));
    }
    if let Some(base) = state.parent() {
        // Goes only when this was the last world in it.
        let _ = fs::remove_dir(base);
    }
    i32::from(outcome.is_err() || swept.is_err())
}

fn keep(state: &Path, tools: &Path, level: Level) -> Result<Option<UnixStream>> {
    let (sender, events) = mpsc::channel();
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().context("blocking signals")?;
    watch_signals(signals, sender.clone());
    watch_caller(sender.clone());
    let listener =
        UnixListener::bind(state.join(record::CONTROL)).context("listening for `down`")?;
    watch_control(listener, sender.clone());

    Pki::at(state.join(record::PKI)).write()?;
    if level == Level::Node {
        let name = state.file_name().context("a folder without a name")?;
        let subtree = Cgroups::here()?.subtree(&name.to_string_lossy());
        record::write_cgroups(state, &subtree)?;
        subtree.create()?;
    }
    let mut world = role::command("enter", state, tools, level)
        .env(record::MARKER, state)
        .stdin(Stdio::piped())
        .spawn()
        .context("starting the world")?;
    let lifeline = world.stdin.take();
    watch_world(world, sender);

    let mut ended = false;
    let waiting = loop {
        match events.recv().context("every watcher is gone")? {
            Event::CallerGone => break None,
            Event::Down(connection) => break Some(connection),
            Event::Signal(signal) => {
                eprintln!("supervisor: {signal}");
                break None;
            }
            Event::Ended(how) => {
                // The folder stays as evidence until the caller has seen it.
                ended = true;
                record::note_failure(state, &format!("the world ended by itself: {how}"));
            }
        }
    };
    drop(lifeline);
    if let Some(subtree) = record::cgroups(state) {
        cgroup::thaw(&subtree.groups);
    }
    if !ended && !wait_for_end(&events) {
        if let Some(init) = Record::read(state)
            .map(|record| record.init)
            .filter(|init| init.is_alive())
        {
            kill(Pid::from_raw(init.pid.cast_signed()), Signal::SIGKILL)
                .context("killing the world's PID 1")?;
        }
        if !wait_for_end(&events) {
            return Err(anyhow!(
                "the world's processes did not end within {END:?} after SIGKILL"
            ));
        }
    }
    Ok(waiting)
}

fn wait_for_end(events: &Receiver<Event>) -> bool {
    while let Ok(event) = events.recv_timeout(END) {
        if matches!(event, Event::Ended(_)) {
            return true;
        }
    }
    false
}

fn watch_signals(signals: SigSet, events: Sender<Event>) {
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
}

fn watch_caller(events: Sender<Event>) {
    thread::spawn(move || {
        let mut word = [0; 4];
        // The caller of a world that stays lets go of it with a word; any other end of the pipe is the caller's own.
        if std::io::stdin().read_exact(&mut word).is_ok() && &word == record::KEEP {
            return Ok(());
        }
        events.send(Event::CallerGone)
    });
}

fn watch_control(listener: UnixListener, events: Sender<Event>) {
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            // A connection without the word is somebody asking whether the supervisor lives.
            let mut word = [0; 4];
            if connection.read_exact(&mut word).is_ok()
                && &word == record::DOWN
                && events.send(Event::Down(connection)).is_err()
            {
                return;
            }
        }
    });
}

fn watch_world(mut world: Child, events: Sender<Event>) {
    thread::spawn(move || {
        let how = world
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        events.send(Event::Ended(how))
    });
}

pub(crate) fn read_to_the_end(mut source: impl Read) {
    let mut buffer = [0; 64];
    while source.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
}

/// Makes the namespaces, starts PID 1 in them, and waits for its end. Has no thread but its first, as the kernel demands for a
/// new user namespace.
pub(crate) fn enter(state: &Path, tools: &Path, level: Level) -> i32 {
    let started = make_namespaces(state, level)
        .and_then(|user_namespace| start_init(state, tools, level, user_namespace));
    match started {
        Ok(mut init) => match init.wait() {
            Ok(status) => {
                eprintln!("the world's PID 1: {status}");
                status.code().unwrap_or(1)
            }
            Err(error) => {
                eprintln!("waiting for the world's PID 1: {error}");
                1
            }
        },
        Err(error) => {
            record::note_failure(state, &format!("{error:#}"));
            1
        }
    }
}

/// True if a user namespace was among them.
fn make_namespaces(state: &Path, level: Level) -> Result<bool> {
    let parts = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    if level == Level::Node {
        let subtree = record::cgroups(state).context("no cgroups were made")?;
        return subtree
            .join(|| unshare(parts | CloneFlags::CLONE_NEWCGROUP).context("making namespaces"))
            .map(|()| false);
    }
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        match unshare(parts) {
            Ok(()) => return Ok(false),
            // Root of a container without CAP_SYS_ADMIN goes the ordinary user's way.
            Err(Errno::EPERM) => {}
            Err(error) => return Err(error).context("making namespaces"),
        }
    }
    unshare(parts | CloneFlags::CLONE_NEWUSER)
        .with_context(|| format!("making a user namespace{}", hint()))?;
    fs::write("/proc/self/setgroups", "deny").context("denying setgroups in the user namespace")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("mapping the user to root")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("mapping the group to root")?;
    Ok(true)
}

/// The settings by which machines forbid user namespaces, where one of them is set here.
pub(crate) fn hint() -> String {
    let settings = [
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "user.max_user_namespaces=10000",
        ),
    ];
    let forbidding = settings
        .iter()
        .find(|(file, bad, _)| fs::read_to_string(file).is_ok_and(|value| value.trim() == *bad));
    forbidding.map_or_else(String::new, |(_, _, remedy)| {
        format!(" (this machine forbids it to ordinary users: run as root, or `sysctl {remedy}`)")
    })
}

fn start_init(state: &Path, tools: &Path, level: Level, user_namespace: bool) -> Result<Child> {
    let log =
        fs::File::create(state.join(record::LOGS).join("init.log")).context("creating a log")?;
    let init = role::command("init", state, tools, level)
        .stdin(Stdio::inherit())
        .stdout(log.try_clone().context("sharing a log")?)
        .stderr(log)
        .spawn()
        .context("starting PID 1")?;
    let namespace = |kind| {
        record::namespace(kind).with_context(|| format!("reading the {kind} namespace's name"))
    };
    let record = Record {
        tools: tools.to_path_buf(),
        level,
        init: Process::of(init.id()).context("PID 1 ended at once")?,
        user_namespace,
        network: namespace("net")?,
        mounts: namespace("mnt")?,
        processes: namespace("pid_for_children")?,
    };
    record.write(state)?;
    Ok(init)
}
