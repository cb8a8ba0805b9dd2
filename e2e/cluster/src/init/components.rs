//! The processes that PID 1 starts: each with a log and a pid file, and watched while the world comes up.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;
use crate::world::record;

const ANSWERS_WITHIN: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(25);

#[derive(Default)]
pub(super) struct Components {
    state: PathBuf,
    tools: PathBuf,
    started: Option<Instant>,
    running: Vec<Component>,
}

struct Component {
    name: String,
    command: Command,
    child: Child,
    /// False once its end was seen: the pid may be another process's by then.
    runs: bool,
    /// Who asked for its end and another start, and hears how that went.
    restart: Option<Sender<Result<()>>>,
}

impl Component {
    fn spawn(&mut self, state: &Path) -> Result<()> {
        self.child = spawn(&self.name, &mut self.command, state)?;
        self.runs = true;
        Ok(())
    }
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

    /// Ends a component by SIGKILL, to be started again by [`Self::ended`]; `done` hears how that went.
    pub(super) fn restart(&mut self, name: &str, done: &Sender<Result<()>>) {
        if let Some(told) = self.end_to_restart(name, done).transpose() {
            // Who asked may be gone.
            let _ = done.send(told);
        }
    }

    /// Nothing while the end of the old process is awaited.
    fn end_to_restart(&mut self, name: &str, done: &Sender<Result<()>>) -> Result<Option<()>> {
        let Some(at) = self.running.iter().position(|one| one.name == name) else {
            let known: Vec<_> = self.running.iter().map(|one| one.name.as_str()).collect();
            bail!("no component is named {name} ({})", known.join(", "));
        };
        let component = &mut self.running[at];
        if !component.runs {
            return component.spawn(&self.state).map(Some);
        }
        if component.restart.is_some() {
            bail!("{name} is being restarted already");
        }
        kill(
            Pid::from_raw(component.child.id().cast_signed()),
            Signal::SIGKILL,
        )
        .with_context(|| format!("ending {name}"))?;
        component.restart = Some(done.clone());
        Ok(None)
    }

    /// A child of PID 1 was collected: a component that was to be restarted is started again. Returns the name of one whose
    /// end nobody asked for.
    pub(super) fn ended(&mut self, pid: u32) -> Option<String> {
        let component = self
            .running
            .iter_mut()
            .find(|component| component.runs && component.child.id() == pid)?;
        component.runs = false;
        let Some(done) = component.restart.take() else {
            return Some(component.name.clone());
        };
        let _ = done.send(component.spawn(&self.state));
        None
    }

    /// A program of the tools, with them in its PATH.
    pub(super) fn program(&self, name: impl AsRef<Path>) -> Command {
        let mut command = Command::new(self.tools.join(name));
        command
            .env("PATH", process::path_with(Some(&self.tools)))
            .env("KUBECACHEDIR", super::KUBECTL_CACHE)
            // Worlds have memory rather than time: without these a seventh of the API server's is collecting garbage.
            .env("GOGC", "400")
            .env("GOMEMLIMIT", "2GiB");
        command
    }

    /// A program of the distribution.
    pub(super) fn system_program(&self, name: &str) -> Result<Command> {
        let program = process::find_program(name)
            .with_context(|| format!("the program {name} is missing"))?;
        let mut command = Command::new(program);
        command.env("PATH", process::path_with(Some(&self.tools)));
        Ok(command)
    }

    /// Starts a component with a log and a pid file; it is started again with the same arguments when that is asked for.
    pub(super) fn start(&mut self, name: &str, mut command: Command) -> Result<()> {
        let path = self.state.join(record::LOGS).join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log")?)
            .stderr(log);
        let child = spawn(name, &mut command, &self.state)?;
        self.running.push(Component {
            name: name.to_owned(),
            command,
            child,
            runs: true,
            restart: None,
        });
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
            for Component { name, child, .. } in &mut self.running {
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

fn spawn(name: &str, command: &mut Command, state: &Path) -> Result<Child> {
    let child = command
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let pid = child.id().to_string();
    record::write_at_once(&state.join(record::PIDS).join(name), pid.as_bytes())
        .with_context(|| format!("writing the pid of {name}"))?;
    Ok(child)
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
