//! The operator under test: the real binary, with the rights of its ServiceAccount and no others.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use evercert_cluster::{Level, World, address};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::image::EVERCERT;
use crate::pods::Process;
use crate::stage::tail;
use crate::{curl, wait_for};

/// The operator's namespace.
pub const NAMESPACE: &str = "evercert-system";
/// The operator's ServiceAccount.
pub const SERVICE_ACCOUNT: &str = "evercert";
/// The class of the ingress controller of the world that this process runs in; outside of one the usual one.
pub fn ingress_class() -> &'static str {
    static CLASS: OnceLock<String> = OnceLock::new();
    CLASS.get_or_init(|| {
        let controller = World::current().and_then(|world| world.ingress_controller().ok());
        controller.map_or_else(|| "contour".to_owned(), |found| found.class)
    })
}

/// Where the operator serves its health.
const HEALTH: &str = "127.0.0.1:8080";
/// Where a second one does.
const SECOND_HEALTH: &str = "127.0.0.1:8079";
/// The name of the Lease.
pub const LEASE: &str = "evercert";

/// What a process is, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It acts.
    Leader,
    /// It could, and another does.
    Standby,
}

/// The operator as a process. It ends by SIGKILL when this value is dropped.
#[derive(Debug)]
pub struct Operator {
    program: PathBuf,
    identity: &'static str,
    health: &'static str,
    kubeconfig: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    ended_by_itself: Vec<String>,
}

/// The user name of the operator's calls in the audit log.
#[must_use]
pub fn user() -> String {
    user_of(SERVICE_ACCOUNT)
}

/// The user name of the calls that a ServiceAccount of the operator's namespace makes.
#[must_use]
pub fn user_of(account: &str) -> String {
    format!("system:serviceaccount:{NAMESPACE}:{account}")
}

impl Operator {
    /// Gets a token for the operator's ServiceAccount and writes a kubeconfig with it. Nothing is started yet.
    ///
    /// # Errors
    /// The ServiceAccount is missing, or the program is not built.
    pub async fn prepare(world: &World, client: &Client) -> Result<Self> {
        let kubeconfig = world.state().join("operator.kubeconfig");
        write_kubeconfig(world, client, &kubeconfig).await?;
        Ok(Self {
            program: sibling("evercert")?,
            identity: "first",
            health: HEALTH,
            kubeconfig,
            log: world.state().join("operator.log"),
            child: None,
            ended_by_itself: Vec::new(),
        })
    }

    /// A second replica of it. Nothing is started yet.
    #[must_use]
    pub fn second(&self) -> Self {
        Self {
            program: self.program.clone(),
            identity: "second",
            health: SECOND_HEALTH,
            kubeconfig: self.kubeconfig.clone(),
            log: self.log.with_file_name("operator-2.log"),
            child: None,
            ended_by_itself: Vec::new(),
        }
    }

    /// What it calls itself, in the Lease and to the API server.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.identity
    }

    /// The program that runs as the operator.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// From here on the build that ships runs: the one whose speed and memory matter. True if it does. Not on a world without a
    /// node, which needs no image: one that is there may be old.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn run_as_shipped(&mut self, world: &World) -> Result<bool> {
        let shipped = match world.level() {
            Level::Plane => None,
            Level::Node => EVERCERT.built_program(),
        };
        let Some(shipped) = shipped else {
            return Ok(false);
        };
        if self.program != shipped {
            self.program = shipped;
            self.kill()?;
        }
        self.ensure_ready().await?;
        Ok(true)
    }

    /// Starts the operator again, with the same arguments. The log is continued.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.restart_with(&[])
    }

    /// The same with more variables in its environment, this once; one that is that of an argument counts in its place.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn restart_with(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        if self.pid().is_some() {
            bail!("the operator runs already");
        }
        if let Some(mut dead) = self.child.take() {
            self.ended_by_itself.push(format!("{:?}", dead.wait()));
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .context("opening the operator's log")?;
        let child = Command::new(&self.program)
            .args(self.arguments(variables))
            .env("KUBECONFIG", &self.kubeconfig)
            .envs(variables.iter().copied())
            // Ctrl-C in a terminal is not for it: it ends with the stage or with the world.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts the operator where it does not run, and waits until it is ready: what went wrong in one story is not the next
    /// one's.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn ensure_ready(&mut self) -> Result<()> {
        if self.pid().is_none() {
            self.restart()?;
        }
        self.ready().await
    }

    /// How it ended each time that nobody had ended it.
    #[must_use]
    pub fn ended_by_itself(&self) -> &[String] {
        &self.ended_by_itself
    }

    /// Waits until the operator says that it acts: its caches are warm, and it holds the Lease.
    ///
    /// # Errors
    /// It has ended, or does not act within 30 s: the error has the end of its log.
    pub async fn ready(&mut self) -> Result<()> {
        self.is(Role::Leader, Duration::from_secs(30)).await
    }

    /// Waits until the process says that it is ready, and what.
    ///
    /// # Errors
    /// It has ended, or is something else when time is up: the error has the end of its log.
    pub async fn is(&mut self, role: Role, within: Duration) -> Result<()> {
        let what = format!("the operator {} is {role:?}", self.identity);
        let ready = wait_for(&what, within, async || {
            let Some(_) = self.pid() else {
                return Ok(Some(false));
            };
            Ok((self.role()? == Some(role)).then_some(true))
        })
        .await;
        match ready {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the operator has ended\n{}", tail(&self.log, 40)),
            Err(error) => Err(error).with_context(|| tail(&self.log, 40)),
        }
    }

    /// What it is at the moment, as it says itself; nothing while it is not ready.
    ///
    /// # Errors
    /// It does not answer.
    pub fn role(&self) -> Result<Option<Role>> {
        let served = curl::get_at(self.health, "localhost", "/readyz")?;
        Ok(match (served.status, served.body.trim()) {
            (200, "leader") => Some(Role::Leader),
            (200, "standby") => Some(Role::Standby),
            _ => None,
        })
    }

    /// The text of its metrics.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&self) -> Result<String> {
        let served = curl::get_at(self.health, "localhost", "/metrics")?;
        ensure!(served.status == 200, "HTTP {}", served.status);
        Ok(served.body)
    }

    /// Freezes it by SIGSTOP.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.send(Signal::SIGSTOP)
    }

    /// Whether it stands still at the moment.
    ///
    /// # Errors
    /// It does not run.
    pub fn is_standing_still(&mut self) -> Result<bool> {
        let pid = self.pid().context("the operator does not run")?;
        Ok(Process(pid).status("State")?.starts_with('T'))
    }

    /// Waits until it stands still, as it was told to.
    ///
    /// # Errors
    /// It does not when time is up, or has ended: the error has the end of its log.
    pub async fn stands_still(&mut self, within: Duration) -> Result<()> {
        wait_for("the operator stands still", within, async || {
            Ok(self.is_standing_still()?.then_some(()))
        })
        .await
        .with_context(|| tail(&self.log, 40))
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&mut self) -> Result<()> {
        self.send(Signal::SIGCONT)
    }

    /// Asks it to end by SIGTERM, as a kubelet would, and does not wait.
    ///
    /// # Errors
    /// It does not run.
    pub fn ask_to_end(&mut self) -> Result<()> {
        self.send(Signal::SIGTERM)
    }

    fn send(&mut self, signal: Signal) -> Result<()> {
        let pid = self.pid().context("the operator does not run")?;
        kill(Pid::from_raw(pid.cast_signed()), signal).with_context(|| format!("sending {signal}"))
    }

    /// Ends the operator by SIGKILL, as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)
    }

    /// Asks the operator to end by SIGTERM, as a kubelet would, and waits until it is gone.
    ///
    /// # Errors
    /// It does not run.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)
    }

    /// Waits until the operator has ended by itself, as it was told to, and tells how. It does not count among
    /// [`Self::ended_by_itself`].
    ///
    /// # Errors
    /// It still runs when time is up: the error has the end of its log.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the operator does not run")?;
        let ended = wait_for("the operator's end", within, async || Ok(child.try_wait()?)).await;
        ended.map_err(|error| {
            let error = error.context(tail(&self.log, 40));
            self.child = Some(child);
            error
        })
    }

    fn signal(&mut self, signal: Signal) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the operator does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)
            .with_context(|| format!("sending {signal}"))?;
        child.wait().context("waiting for the operator's end")
    }

    /// How the operator is told about the world that it is in. Its identity stays, as that of a container in its pod: one that
    /// starts again does not wait for its own earlier claim.
    fn arguments(&self, variables: &[(&str, &str)]) -> Vec<String> {
        let given = [
            ("--namespace", NAMESPACE),
            ("--solver-image", EVERCERT.reference),
            ("--health-listen", self.health),
            ("--lease-identity", self.identity),
            ("--default-issuer", "Issuer/ca"),
            ("--annotation-compat", "cert-manager,kube-lego"),
        ];
        let is_given_otherwise = |argument: &str| {
            let name = argument.trim_start_matches("--").replace('-', "_");
            let name = format!("EVERCERT_{}", name.to_uppercase());
            variables.iter().any(|(variable, _)| *variable == name)
        };
        let words = given.iter().filter(|(name, _)| !is_given_otherwise(name));
        let words = words.flat_map(|(name, value)| [*name, *value]);
        std::iter::once("controller")
            .chain(words)
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Lets go of the process, which stays.
    pub fn leave_running(&mut self) {
        drop(self.child.take());
    }

    /// The pid while it runs.
    pub fn pid(&mut self) -> Option<u32> {
        let child = self.child.as_mut()?;
        matches!(child.try_wait(), Ok(None)).then(|| child.id())
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// The operator does not run.
    pub fn resident_memory(&mut self) -> Result<u64> {
        Process(self.pid().context("the operator does not run")?).resident_memory()
    }

    /// The most resident memory that it has had since it was started, in bytes.
    ///
    /// # Errors
    /// The operator does not run.
    pub fn peak_memory(&mut self) -> Result<u64> {
        Process(self.pid().context("the operator does not run")?).peak_memory()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program that was built beside this one.
///
/// # Errors
/// It is not there.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let current = std::env::current_exe().context("finding the current program")?;
    let found = current
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: cargo build --workspace"))
}

async fn write_kubeconfig(world: &World, client: &Client, path: &Path) -> Result<()> {
    use std::io::Write;
    let token = token(client, NAMESPACE, SERVICE_ACCOUNT).await?;
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "world", "cluster": {
            "server": format!("https://{}:{}", address::NODE, address::API_SERVER_PORT),
            "certificate-authority": world.cluster_ca(),
        }}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "world", "context": {"cluster": "world", "user": "operator", "namespace": NAMESPACE}}],
        "current-context": "world",
    });
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    writeln!(file, "{config:#}").context("writing a kubeconfig")
}

/// A token of a ServiceAccount, good for a day.
///
/// # Errors
/// There is no such ServiceAccount.
pub async fn token(client: &Client, namespace: &str, account: &str) -> Result<String> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(24 * 3600),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer: TokenRequest = accounts
        .create_subresource("token", account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("a token for {namespace}/{account}"))?;
    Ok(answer
        .status
        .context("a token request without an answer")?
        .token)
}
