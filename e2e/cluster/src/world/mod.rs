//! A world from outside and from inside: bring it up, find it, run things in it, end it.

mod component;
pub(crate) mod place;
pub(crate) mod record;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::ingress::IngressController;
use crate::pki::Pki;
use crate::process;
use crate::role::{self, PROXIES};
use crate::{Level, Priority, Tools, Traces};
use record::Record;

/// From nothing to ready takes some seconds; on a machine that compiles at the same time it takes longer.
const READY_WITHIN: Duration = Duration::from_mins(3);
const GONE_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A running world.
///
/// One that was brought up with `keep == false` ends when this value is dropped, and also when the process that has it goes
/// in any other way. One that was brought up with `keep == true`, found by [`World::attach`] or entered
/// ([`World::current`]) outlives the value.
#[derive(Debug)]
pub struct World {
    state: PathBuf,
    record: Record,
    tools: Tools,
    inside: bool,
    /// The supervisor; its standard input is the pipe whose end is the world's end.
    supervisor: Option<Child>,
}

/// A line for each running world.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The name given to [`World::up`].
    pub name: String,
    /// How much of a cluster it is; `None` while it comes up.
    pub level: Option<Level>,
    /// Its state folder.
    pub state: PathBuf,
    /// How long it took to be ready, in seconds with one digit; `None` while it is not.
    pub ready: Option<String>,
    /// What went wrong since, a line each: a component that ended, the world that ended by itself.
    pub failures: Vec<String>,
}

impl World {
    /// [`World::up_at`] the level of [`Level::here`].
    ///
    /// # Errors
    /// As these two.
    pub fn up(name: &str, keep: bool) -> Result<Self> {
        Self::up_at(name, keep, Level::here()?)
    }

    /// [`World::up_as`] one with the usual priority.
    ///
    /// # Errors
    /// As there.
    pub fn up_at(name: &str, keep: bool, level: Level) -> Result<Self> {
        Self::up_as(name, keep, level, Priority::Usual)
    }

    /// Brings a new world up and waits until every part of it answers, at the level `node` also until the node is ready. Builds the tools where the cache lacks them, with
    /// progress on standard error.
    ///
    /// With `keep == false` the world ends with this process, by whatever way that goes, SIGKILL too. With `keep == true` it
    /// stays until `down`. `name` has lower-case letters, digits and hyphens, at most 30; worlds of other processes may have
    /// the same one.
    ///
    /// The program has to call [`take_role`](crate::take_role) first in its `main`.
    ///
    /// # Errors
    /// This level cannot be here, a program of the distribution is missing, namespaces are forbidden, a component ended or did not get ready in 180 s: the
    /// error has the end of the logs, and nothing of the world stays.
    pub fn up_as(name: &str, keep: bool, level: Level, priority: Priority) -> Result<Self> {
        for program in ["ip", "nsenter", "env", "curl"] {
            if process::find_program(program).is_none() {
                bail!("the program `{program}` is missing: e2e/cluster/packages.sh installs it");
            }
        }
        level.check()?;
        let tools = Tools::ensure(&|line| eprintln!("{line}"))?;
        let ingress = IngressController::chosen(tools.dir())?;
        place::sweep();
        let state = place::create(name)?;
        ingress.keep(&state)?;
        let log = fs::File::create(state.join(record::LOGS).join("supervisor.log"))
            .context("creating a log")?;
        let mut supervisor = role::command("supervise", &state, tools.dir(), level)
            .current_dir("/")
            .envs([priority.variable()])
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("sharing a log")?)
            .stderr(log)
            .spawn()
            .context("starting the supervisor")?;
        // Whatever happens until the world is ready ends it.
        let record = match wait_until_ready(&state, &mut supervisor) {
            Ok(record) => record,
            Err(error) => {
                release(supervisor, &state)?;
                return Err(error);
            }
        };
        let mut world = Self {
            state,
            record,
            tools,
            inside: false,
            supervisor: Some(supervisor),
        };
        if keep {
            world.let_go()?;
        }
        Ok(world)
    }

    /// From here on the world stays when this process goes.
    fn let_go(&mut self) -> Result<()> {
        let pipe = self
            .supervisor
            .as_mut()
            .and_then(|supervisor| supervisor.stdin.as_mut());
        if let Some(pipe) = pipe {
            pipe.write_all(record::KEEP)
                .context("telling the supervisor to keep the world")?;
        }
        self.supervisor = None;
        Ok(())
    }

    /// The running world of this name, the youngest if there are several.
    ///
    /// # Errors
    /// There is none (the error names those that run), or it is not ready.
    pub fn attach(name: &str) -> Result<Self> {
        let all = place::all();
        let found = all
            .iter()
            .rev()
            .find(|state| place::name_of(state) == Some(name));
        let Some(state) = found else {
            let names: Vec<_> = all
                .iter()
                .filter_map(|state| place::name_of(state))
                .collect();
            let known = if names.is_empty() {
                "no world runs".to_owned()
            } else {
                format!("running: {}", names.join(", "))
            };
            bail!("no world is named {name} ({known})");
        };
        if !state.join(record::READY).exists() {
            bail!("the world {name} is not ready{}", evidence(state));
        }
        Self::load(state, false)
    }

    /// The world that this process runs in: `EVERCERT_WORLD` in the environment, and the network namespace is that world's.
    #[must_use]
    pub fn current() -> Option<Self> {
        let state = PathBuf::from(std::env::var_os(record::MARKER)?);
        let world = Self::load(&state, true).ok()?;
        (record::namespace("net").ok()? == world.record.network).then_some(world)
    }

    /// Every world of this user that a supervisor answers for, oldest first.
    #[must_use]
    pub fn list() -> Vec<Summary> {
        let summary = |state: PathBuf| Summary {
            name: place::name_of(&state).unwrap_or_default().to_owned(),
            ready: fs::read_to_string(state.join(record::READY))
                .ok()
                .map(|text| text.trim().to_owned()),
            failures: record::failures(&state),
            level: Record::read(&state).map(|record| record.level),
            state,
        };
        place::all().into_iter().map(summary).collect()
    }

    /// The running world with this state folder, which may be another user's.
    ///
    /// # Errors
    /// The folder is not a world's, or cannot be read.
    pub fn open(state: &Path) -> Result<Self> {
        Self::load(state, false)
    }

    /// Removes the folders and cgroups of this user's worlds that nobody answers for: what a killed supervisor or a lost machine left.
    /// [`World::up`] does it too.
    pub fn sweep() {
        place::sweep();
    }

    fn load(state: &Path, inside: bool) -> Result<Self> {
        let record = Record::read(state)
            .with_context(|| format!("{} is not a world's folder", state.display()))?;
        let tools = Tools::at(&record.tools)?;
        Ok(Self {
            state: state.to_path_buf(),
            record,
            tools,
            inside,
            supervisor: None,
        })
    }

    /// The folder with keys, logs and pids. It is there for as long as the world is, at the same path inside and outside.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The name given to [`World::up`].
    #[must_use]
    pub fn name(&self) -> &str {
        place::name_of(&self.state).unwrap_or_default()
    }

    /// How much of a cluster it is.
    #[must_use]
    pub fn level(&self) -> Level {
        self.record.level
    }

    /// Makes an image known to the node, from a `docker-archive` at any place that this process can read. Pods that use it
    /// need `imagePullPolicy: Never` or `IfNotPresent`: the node reaches no registry. An image of the same name is replaced.
    ///
    /// # Errors
    /// The world has no node, or the file is no such archive.
    pub fn import_image(&self, archive: &Path) -> Result<()> {
        if self.level() != Level::Node {
            bail!("a world of level {} runs no images", self.level());
        }
        let what = || format!("importing the image {}", archive.display());
        // By a stream: the file may be where the world has folders of its own.
        let output = self
            .command("ctr")
            .args(["images", "import", "-"])
            .stdin(fs::File::open(archive).with_context(what)?)
            .output()
            .with_context(what)?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}", what(), told.trim());
        }
        Ok(())
    }

    /// The programs that this world runs on.
    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// A kubeconfig of the group `system:masters`, complete in itself. Its address answers inside the world only.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki().kubeconfig("admin")
    }

    /// The cluster's CA, PEM: what a kubeconfig of another user needs besides a token.
    #[must_use]
    pub fn cluster_ca(&self) -> PathBuf {
        self.pki().path("ca.crt")
    }

    /// The CA of the HTTPS endpoints of every Pebble in this world, PEM: an Issuer's `caBundle`. It is not the root of what a
    /// Pebble issues (that one is at [`Pebble::root_url`](crate::Pebble::root_url)).
    #[must_use]
    pub fn pebble_ca(&self) -> PathBuf {
        self.pki().path("pebble-ca.crt")
    }

    /// The log of a component: `etcd`, `kube-apiserver`, `kube-controller-manager`, `pebble`, `pebble-challtestsrv`, the
    /// programs of the ingress controller (`contour`, `envoy`), `init`, `supervisor`; at the level `node` also `containerd`, `kubelet`, `kube-proxy`, `kube-scheduler`.
    #[must_use]
    pub fn log(&self, component: &str) -> PathBuf {
        self.state
            .join(record::LOGS)
            .join(format!("{component}.log"))
    }

    /// Its ingress controller.
    ///
    /// # Errors
    /// The world's folder is gone.
    pub fn ingress_controller(&self) -> Result<IngressController> {
        IngressController::of(&self.state)
    }

    /// The API server's audit log: a JSON object a line for each answered request, at level Metadata, written before the
    /// answer is sent.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.log("audit")
    }

    /// What went wrong since the start, a line each; empty for a healthy world.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        record::failures(&self.state)
    }

    /// How long it took to be ready, in seconds with one digit.
    #[must_use]
    pub fn ready_after(&self) -> String {
        fs::read_to_string(self.state.join(record::READY))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    pub(crate) fn pki(&self) -> Pki {
        Pki::at(self.state.join(record::PKI))
    }

    /// A command that runs `program` inside the world, in the current folder, with the tools in its PATH, the administrator's
    /// kubeconfig as KUBECONFIG, and no proxy. Arguments, environment and standard streams are the caller's to set; for
    /// another folder use the program's own means (`current_dir` does not reach inside).
    ///
    /// From inside it is the plain program. From outside it is nsenter with it as a child: a signal to nsenter's pid does not
    /// reach the program, but the world's end does.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = if self.inside {
            Command::new(program)
        } else {
            let mut command = self.nsenter();
            // Entering a mount namespace leads to its root folder.
            command
                .args(["env", "-C"])
                .arg(std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")))
                .arg(program);
            command
        };
        for proxy in PROXIES {
            command.env_remove(proxy);
        }
        command
            .env("PATH", process::path_with(Some(self.tools.dir())))
            .env("KUBECONFIG", self.kubeconfig())
            // Its discovery cache goes by address, which is the same in each world.
            .env("KUBECACHEDIR", crate::init::KUBECTL_CACHE)
            // ctr's, for the images and containers of pods.
            .env("CONTAINERD_NAMESPACE", "k8s.io")
            .env(record::MARKER, &self.state);
        command
    }

    fn nsenter(&self) -> Command {
        let mut command = Command::new(
            process::find_program("nsenter").unwrap_or_else(|| PathBuf::from("nsenter")),
        );
        if self.record.init.is_alive() {
            command
                .arg("--target")
                .arg(self.record.init.pid.to_string());
            command.args(["--mount", "--net", "--pid", "--uts", "--ipc"]);
            if self.record.level == Level::Node {
                command.arg("--cgroup");
            }
            if self.record.user_namespace {
                command.args(["--user", "--preserve-credentials"]);
            }
        } else {
            // Its pid may be another process's by now: fail with a name that tells.
            command.arg(format!(
                "--net={}",
                self.state.join("this-world-has-ended").display()
            ));
        }
        command.arg("--");
        command
    }

    /// Runs the current program again inside the world, with the same arguments, folder and standard streams, waits for its
    /// end, and ends the world if it was brought up with `keep == false`. The result is what `main` should return: the
    /// program's code, or 128 and the number of the signal that ended it.
    ///
    /// The program inside sees [`World::current`]. This process stays outside as the one that holds the world: when it goes,
    /// even by SIGKILL, everything inside goes.
    ///
    /// # Errors
    /// The program cannot be started, or the world does not end.
    pub fn reexec_inside(self) -> Result<ExitCode> {
        let program = std::env::current_exe().context("finding the current program")?;
        let status = self
            .command(program)
            .args(std::env::args_os().skip(1))
            .status()
            .context("running the current program inside the world")?;
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal))
            .unwrap_or(1);
        if self.supervisor.is_some() {
            self.down()?;
        }
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }

    /// What to look for when the world has ended: call it before.
    #[must_use]
    pub fn traces(&self) -> Traces {
        let namespaces = [
            &self.record.network,
            &self.record.mounts,
            &self.record.processes,
        ];
        let cgroups = record::cgroups(&self.state).map_or_else(Vec::new, |subtree| subtree.groups);
        Traces::new(
            &self.state,
            namespaces.into_iter().cloned().collect(),
            cgroups,
        )
    }

    /// Ends the world, kept or not, and returns when its processes, its cgroups and its folder are gone.
    ///
    /// # Errors
    /// It was not gone within 20 s, or this process is inside of it.
    pub fn down(mut self) -> Result<()> {
        if self.inside {
            bail!("a world is ended from outside");
        }
        self.end()
    }

    /// Ends the world in this folder (as [`World::list`] gives it), ready or not, and returns when it is gone.
    ///
    /// # Errors
    /// It was not gone within 20 s.
    pub fn end_at(state: &Path) -> Result<()> {
        ask_to_end(state)
    }

    fn end(&mut self) -> Result<()> {
        match self.supervisor.take() {
            Some(supervisor) => release(supervisor, &self.state),
            None => ask_to_end(&self.state),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.supervisor.is_some()
            && let Err(error) = self.end()
        {
            eprintln!("ending a world: {error:#}");
        }
    }
}

fn wait_until_ready(state: &Path, supervisor: &mut Child) -> Result<Record> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let ended = supervisor
            .try_wait()
            .context("waiting for the supervisor")?;
        if let Some(failure) = record::failures(state).first() {
            return Err(anyhow!(
                "the world did not come up: {failure}{}",
                evidence(state)
            ));
        }
        if let Some(status) = ended {
            return Err(anyhow!(
                "the world's supervisor ended: {status}{}",
                evidence(state)
            ));
        }
        if state.join(record::READY).exists()
            && let Some(record) = Record::read(state)
        {
            return Ok(record);
        }
        if Instant::now() > deadline {
            return Err(anyhow!(
                "the world was not ready within {READY_WITHIN:?}{}",
                evidence(state)
            ));
        }
        thread::sleep(POLL);
    }
}

/// The ends of all logs, the last written last.
fn evidence(state: &Path) -> String {
    let Ok(entries) = fs::read_dir(state.join(record::LOGS)) else {
        return String::new();
    };
    let mut logs: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name() != "audit.log")
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    logs.sort();
    let ends = logs.iter().map(|(_, path)| (path, process::tail(path, 15)));
    let ends: Vec<_> = ends
        .filter(|(_, text)| !text.is_empty())
        .map(|(path, text)| format!("\n--- {}\n{text}", path.display()))
        .collect();
    ends.concat()
}

/// Closes the pipe to the supervisor and waits until it has swept.
fn release(mut supervisor: Child, state: &Path) -> Result<()> {
    drop(supervisor.stdin.take());
    let deadline = Instant::now() + GONE_WITHIN;
    while supervisor
        .try_wait()
        .context("waiting for the supervisor")?
        .is_none()
    {
        if Instant::now() > deadline {
            bail!(
                "the world {} did not end within {GONE_WITHIN:?}",
                state.display()
            );
        }
        thread::sleep(POLL);
    }
    // One that was killed could not sweep.
    if state.exists() {
        ask_to_end(state)
    } else {
        Ok(())
    }
}

fn ask_to_end(state: &Path) -> Result<()> {
    let Ok(mut control) = UnixStream::connect(state.join(record::CONTROL)) else {
        // Nobody answers: what the supervisor left when it was killed goes by itself, the rest goes here.
        return place::remove(state);
    };
    control
        .set_read_timeout(Some(GONE_WITHIN))
        .context("setting a deadline")?;
    control
        .write_all(record::DOWN)
        .context("asking the supervisor to end")?;
    match control.read(&mut [0]) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).context("waiting for the world's end"),
    }
}
