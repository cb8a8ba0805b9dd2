//! The processes that PID 1 starts: each with a log and a pid file, and watched while the world comes up.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::world::record;

const ANSWERS_WITHIN: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(25);

#[derive(Default)]
pub(super) struct Components {
    state: PathBuf,
    tools: PathBuf,
    started: Option<Instant>,
    running: Vec<(&'static str, Child)>,
}

impl Components {
    pub(super) fn new(state: &Path, tools: &Path, started: Instant) -> Self {
        Self {
            state: state.to_path_buf(),
            tools: tools.to_path_buf(),
            started: Some(started),
            running: Vec::new(),
        }
    }

    pub(super) fn name_of(&self, pid: u32) -> Option<&'static str> {
        self.running
            .iter()
            .find(|(_, child)| child.id() == pid)
            .map(|(name, _)| *name)
    }

    /// A program of the tools, with them in its PATH.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.tools.join(name));
        command
            .env("PATH", process::path_with(Some(&self.tools)))
            .env("KUBECACHEDIR", super::KUBECTL_CACHE);
        command
    }

    pub(super) fn start(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        let path = self.state.join(record::LOGS).join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        fs::write(
            self.state.join(record::PIDS).join(name),
            child.id().to_string(),
        )
        .with_context(|| format!("writing the pid of {name}"))?;
        self.running.push((name, child));
        Ok(())
    }

    /// Runs a command to its end; its output is part of the error when it fails.
    pub(super) fn run(&self, what: &str, command: &mut Command) -> Result<()> {
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| what.to_owned())?;
        if !output.status.success() {
            bail!(
                "{what}: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        self.say(what);
        Ok(())
    }

    /// Waits until `answers` is true, and fails at once when a component ends meanwhile.
    pub(super) fn wait_for(&mut self, what: &str, mut answers: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + ANSWERS_WITHIN;
        while !answers() {
            for (name, child) in &mut self.running {
                if let Some(status) = child
                    .try_wait()
                    .with_context(|| format!("watching {name}"))?
                {
                    bail!("{name} ended: {status}");
                }
            }
            if Instant::now() > deadline {
                bail!("{what} did not answer within {ANSWERS_WITHIN:?}");
            }
            thread::sleep(POLL);
        }
        self.say(&format!("{what} answers"));
        Ok(())
    }

    fn say(&self, what: &str) {
        let seconds = self
            .started
            .map_or(0.0, |started| started.elapsed().as_secs_f64());
        eprintln!("[{seconds:.2}] {what}");
    }
}

/// Whether something listens.
pub(super) fn listens(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|address| {
        TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
    })
}

/// Whether a GET is answered with success; `options` are curl's, for whom to trust and who asks.
pub(super) fn gets<'a>(url: &str, options: impl IntoIterator<Item = &'a OsStr>) -> bool {
    read(url, options).is_some()
}

/// The body of a GET that is answered with success.
pub(super) fn read<'a>(url: &str, options: impl IntoIterator<Item = &'a OsStr>) -> Option<String> {
    let output = Command::new("curl")
        .args(["--silent", "--fail", "--max-time", "5"])
        .args(options)
        .arg(url)
        .output()
        .ok()?;
    let body = || String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(body)
}
