//! PID 1 of a world: prepares mounts and network, starts everything, says when it answers, then waits for its own end.

mod components;
mod config;
pub(crate) mod control;
mod mounts;
mod network;
mod node;
mod start;

use std::path::Path;
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, wait};

use crate::world::record::{self, Record};
use crate::{Level, supervise};
use components::Components;

/// Inside the world: the folder on its own tmpfs for what nobody outside needs to see.
const SCRATCH: &str = "/run/evercert";
/// Inside the world: kubectl's discovery cache.
pub(crate) const KUBECTL_CACHE: &str = "/run/evercert/kubectl";

pub(crate) fn init(state: &Path, tools: &Path, level: Level) -> i32 {
    // The kernel ends the whole pid namespace with its PID 1, so this is all that the world's end takes.
    thread::spawn(|| {
        supervise::read_to_the_end(std::io::stdin());
        exit(0);
    });
    let components = boot(state, tools, level).unwrap_or_else(|error| {
        record::note_failure(state, &format!("{error:#}"));
        Arc::default()
    });
    reap(state, &components)
}

fn boot(state: &Path, tools: &Path, level: Level) -> Result<Arc<Mutex<Components>>> {
    let started = Instant::now();
    wait_for_record(state)?;
    mounts::prepare(&[state, tools])
        .with_context(|| format!("preparing the world's mounts{}", supervise::hint()))?;
    let node = match level {
        Level::Plane => None,
        Level::Node => {
            let cgroups = record::cgroups(state)
                .context("no cgroups were made")?
                .cgroups;
            mounts::prepare_node(&cgroups).context("preparing the node's mounts")?;
            Some(cgroups.version)
        }
    };
    network::prepare(level)
        .with_context(|| format!("preparing the world's network{}", supervise::hint()))?;
    let components = Arc::new(Mutex::new(start::everything(state, tools, node, started)?));
    control::listen(state, &components)?;
    let took = format!("{:.1}\n", started.elapsed().as_secs_f64());
    record::write_at_once(&state.join(record::READY), took.as_bytes())?;
    Ok(components)
}

/// The process that started this one shares its mounts, and needs the old /proc to write down who is who.
fn wait_for_record(state: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Record::read(state).is_none() {
        if Instant::now() > deadline {
            bail!("the world's record was not written");
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Collects what ends: the components, which should not unless that was asked for, and orphans, which every PID 1 has to collect.
fn reap(state: &Path, components: &Mutex<Components>) -> i32 {
    loop {
        let (pid, how) = match wait() {
            Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit code {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal.to_string()),
            // Nothing was started, or nothing is left: stay for the sake of the logs and of whoever entered.
            Err(Errno::ECHILD) => loop {
                thread::park();
            },
            Ok(_) | Err(_) => continue,
        };
        let unasked = components
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ended(pid.as_raw().cast_unsigned());
        if let Some(name) = unasked {
            record::note_failure(state, &format!("{name} ended: {how}"));
        }
    }
}
