//! Small truths about processes: who is still the one we started, and what its log says.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: its start, in ticks since boot.
    started: u64,
}

impl Process {
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses, and may have blanks and parentheses of its own.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (state != "Z").then_some(Self { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The last lines of a file, for an error's evidence; empty when there is none.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}

/// A program in the PATH or in the folders of the administrator's programs, which an ordinary user's PATH may lack.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&path_with(None))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A PATH: `first`, then the caller's own, then the usual folders.
pub(crate) fn path_with(first: Option<&Path>) -> std::ffi::OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let usual = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    let dirs = first
        .map(Path::to_path_buf)
        .into_iter()
        .chain(std::env::split_paths(&own))
        .chain(usual.iter().map(PathBuf::from));
    // Only a folder with a colon in its name cannot be joined; then the caller's own PATH has to do.
    std::env::join_paths(dirs).unwrap_or(own)
}
