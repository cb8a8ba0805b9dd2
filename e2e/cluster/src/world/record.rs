//! What a world's folder has: the names of its files, and who is who.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::Level;
use crate::cgroup::Subtree;
use crate::process::Process;

/// In the environment of everything that runs in a world: its state folder.
pub(crate) const MARKER: &str = "EVERCERT_WORLD";
pub(crate) const CONTROL: &str = "control.sock";
/// Where PID 1 is asked to start a component again.
pub(crate) const RESTARTS: &str = "restart.sock";
/// Which cgroups are the world's; none at the level `plane`.
const CGROUPS: &str = "cgroups.json";
pub(crate) const PKI: &str = "pki";
pub(crate) const LOGS: &str = "log";
pub(crate) const READY: &str = "ready";
pub(crate) const PIDS: &str = "pid";
/// The word on the control socket that ends a world.
pub(crate) const DOWN: &[u8; 4] = b"down";
/// The word on the supervisor's pipe that makes a world stay without its caller.
pub(crate) const KEEP: &[u8; 4] = b"keep";
const FAILED: &str = "failed";
const RECORD: &str = "world.json";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) tools: PathBuf,
    pub(crate) level: Level,
    pub(crate) init: Process,
    pub(crate) user_namespace: bool,
    pub(crate) network: String,
    pub(crate) mounts: String,
    pub(crate) processes: String,
}

impl Record {
    pub(crate) fn read(state: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(state.join(RECORD)).ok()?).ok()
    }

    pub(crate) fn write(&self, state: &Path) -> Result<()> {
        write_at_once(&state.join(RECORD), &serde_json::to_vec_pretty(self)?)
    }
}

/// Written before the first of the groups is made, so that whoever finds the folder finds them all.
pub(crate) fn write_cgroups(state: &Path, subtree: &Subtree) -> Result<()> {
    write_at_once(&state.join(CGROUPS), &serde_json::to_vec_pretty(subtree)?)
}

pub(crate) fn cgroups(state: &Path) -> Option<Subtree> {
    serde_json::from_slice(&fs::read(state.join(CGROUPS)).ok()?).ok()
}

/// Adds a line to what went wrong in this world.
pub(crate) fn note_failure(state: &Path, line: &str) {
    eprintln!("{line}");
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(state.join(FAILED));
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
        eprintln!("noting that failure: {error}");
    }
}

pub(crate) fn failures(state: &Path) -> Vec<String> {
    let text = fs::read_to_string(state.join(FAILED)).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
}

/// A reader sees the whole file or none.
pub(crate) fn write_at_once(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("writing {}", path.display()))
}

/// The name of one of this process's namespaces, such as `net:[4026531840]`.
pub(crate) fn namespace(kind: &str) -> std::io::Result<String> {
    Ok(fs::read_link(format!("/proc/self/ns/{kind}"))?
        .to_string_lossy()
        .into_owned())
}

/// Whether a supervisor answers for this folder.
pub(crate) fn is_supervised(state: &Path) -> bool {
    UnixStream::connect(state.join(CONTROL)).is_ok()
}
