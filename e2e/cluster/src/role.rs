//! A world's own processes are the caller's program in another role.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;

use crate::{Level, init, supervise};

/// The first argument of a process that has a role: nothing that a person or a test harness would give.
const MARK: &str = "evercert-world-process";

/// Has to be the first call in `main` of every program that calls [`World::up`](crate::World::up).
///
/// If this process was started as a part of a world (its supervisor, the one that makes the namespaces, its PID 1), it does
/// that work and never returns; else it returns at once, without any effect.
pub fn take_role() {
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new(MARK)) {
        return;
    }
    let role = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    let code = match (role.to_str(), args.as_slice()) {
        (Some(role), [state, tools, level]) => {
            let level = level.to_str().and_then(|level| level.parse().ok());
            let (state, tools) = (Path::new(state), Path::new(tools));
            match (role, level) {
                ("supervise", Some(level)) => supervise::supervise(state, tools, level),
                ("enter", Some(level)) => supervise::enter(state, tools, level),
                ("init", Some(level)) => init::init(state, tools, level),
                _ => 2,
            }
        }
        _ => 2,
    };
    std::process::exit(code);
}

/// This program in a role. The path leads to the running file even if that was replaced since.
pub(crate) fn command(role: &str, state: &Path, tools: &Path, level: Level) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(MARK).arg(role).arg(state).arg(tools);
    command.arg(level.to_string());
    for proxy in PROXIES {
        command.env_remove(proxy);
    }
    command
}

/// Would lead requests for the world's addresses out of it.
pub(crate) const PROXIES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];
