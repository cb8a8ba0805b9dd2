//! The process of a pod: this program in another role, which makes its namespaces, waits for its cable, and becomes the pod's
//! program. The pid stays the same throughout, so whoever started it can end it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::network::{self, Network};

/// The argument that gives a process this role.
pub const POD_ROLE: &str = "become-pod";

/// Where a kubelet mounts the ServiceAccount's files, below `/run` (`/var/run` is a link to it).
const ACCOUNT: &str = "secrets/kubernetes.io/serviceaccount";

/// Everything that the process of a pod needs to know, handed over as a JSON file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) ip: String,
    pub(super) command: Vec<PathBuf>,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    /// The folder with `token`, `ca.crt` and `namespace`.
    pub(super) account: Option<PathBuf>,
    /// An empty folder of the pod's own.
    pub(super) run: PathBuf,
    pub(super) log: PathBuf,
}

/// Starts the process of a pod and connects it to the bridge.
///
/// # Errors
/// Namespaces or cables cannot be made; what there was of the process is ended.
pub(super) fn start(order: &Order, file: &Path, network: &Network) -> Result<Child> {
    fs::write(file, serde_json::to_vec(order)?)
        .with_context(|| format!("writing {}", file.display()))?;
    let mut child = Command::new("/proc/self/exe")
        .arg(POD_ROLE)
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a pod's process")?;
    let connected = hand_over(&mut child, order, network);
    if connected.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    connected.map(|()| child)
}

fn hand_over(child: &mut Child, order: &Order, network: &Network) -> Result<()> {
    let mut said = BufReader::new(child.stdout.take().context("a pipe")?);
    let mut stdin = child.stdin.take().context("a pipe")?;
    let mut expect = |word: &str| -> Result<()> {
        let mut line = String::new();
        said.read_line(&mut line)
            .context("hearing from a pod's process")?;
        ensure!(
            line.trim() == word,
            "a pod's process said {line:?} instead of {word:?}"
        );
        Ok(())
    };
    expect("isolated")?;
    network.connect(child.id(), &order.ip)?;
    stdin
        .write_all(b"connected\n")
        .context("telling a pod's process")?;
    expect("starting")
}

/// The role itself: does not return unless something failed. Has to run before any thread is started.
///
/// # Errors
/// Namespaces, mounts or the network cannot be made, or the program cannot be started.
pub fn become_pod(file: &Path) -> Result<()> {
    let order: Order = serde_json::from_slice(
        &fs::read(file).with_context(|| format!("reading {}", file.display()))?,
    )?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("making namespaces")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("making the mounts private")?;
    println!("isolated");
    std::io::stdin()
        .lock()
        .read_line(&mut String::new())
        .context("waiting for the cable")?;
    network::configure_inside(&order.ip)?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(&order.log)
        .context("opening the log")?;
    let errors = log.try_clone().context("sharing the log")?;
    mount_account(&order)?;
    println!("starting");
    let (program, first) = order
        .command
        .split_first()
        .context("a pod without a command")?;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let error = Command::new(program)
        .args(first)
        .args(&order.args)
        .env_clear()
        .env("PATH", path)
        .envs(&order.env)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}

/// Gives the process a `/run` of its own, with nothing in it but the ServiceAccount's files.
fn mount_account(order: &Order) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        &order.run,
        Some("tmpfs"),
        flags,
        Some("mode=755"),
    )
    .context("own /run")?;
    if let Some(account) = &order.account {
        let place = order.run.join(ACCOUNT);
        fs::create_dir_all(&place).context("creating the ServiceAccount's folder")?;
        for name in ["token", "ca.crt", "namespace"] {
            fs::copy(account.join(name), place.join(name))
                .with_context(|| format!("copying {name}"))?;
        }
    }
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&order.run), "/run", None::<&str>, bind, None::<&str>).context("binding /run")
}
