//! A world with everything on it that a story needs: CRDs, rights, a node, the operator, and the record of all Secrets.

use std::fmt::Write;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use evercert_cluster::{Level, Pebble, World, address};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config};
use tokio::sync::Mutex;

use crate::audit::Audit;
use crate::ca::TestCa;
use crate::history::History;
use crate::operator::{NAMESPACE, Operator, sibling};
use crate::scripted::{ScriptedCa, Settings};
use crate::{chart, image, manifest, node, pods, short, wait_for};

/// Where stories happen.
pub struct Stage {
    /// The world, which this process is in.
    pub world: World,
    /// A client with the administrator's rights.
    pub client: Client,
    /// Every version of every TLS Secret since the beginning.
    pub history: History,
    /// The operator. Only a story that has the stage for itself may end it.
    pub operator: Mutex<Operator>,
    played_node: Option<Child>,
    cas: AtomicU16,
}

impl Stage {
    /// Sets the stage in `world`, which this process has to be in, and starts the operator as a process. Tells each step to
    /// `progress`.
    ///
    /// # Errors
    /// A part does not get ready, or an image is not built.
    pub async fn set(world: World, progress: &dyn Fn(&str)) -> Result<Self> {
        let stage = Self::without_operator(world, progress).await?;
        stage.operator.lock().await.ensure_ready().await?;
        progress("the operator runs, with the rights of its ServiceAccount");
        Ok(stage)
    }

    /// The same, and nobody has started the operator yet.
    ///
    /// # Errors
    /// A part does not get ready, or an image is not built.
    pub async fn without_operator(world: World, progress: &dyn Fn(&str)) -> Result<Self> {
        let client = client(&world.kubeconfig()).await?;
        install(&client).await?;
        progress(
            "the custom resources are served, and the operator's ServiceAccount has its rights",
        );
        let played_node = match world.level() {
            Level::Plane => {
                let node = play_node(&world, &client).await?;
                progress("a node is there, whose pods are played as processes");
                Some(node)
            }
            Level::Node => {
                for image in image::ALL {
                    world.import_image(&image.archive()?)?;
                }
                progress("the node has the images that `make image` built");
                None
            }
        };
        let operator = Mutex::new(Operator::prepare(&world, &client).await?);
        // The world's own Pebble has the first pair of ports.
        Ok(Self {
            history: History::record(client.clone()),
            world,
            client,
            operator,
            played_node,
            cas: AtomicU16::new(1),
        })
    }

    /// A CA of a story's own. Ports in `settings` are chosen here.
    ///
    /// # Errors
    /// It does not start.
    pub async fn ca(&self, name: &str, settings: Pebble) -> Result<TestCa> {
        let number = self.cas.fetch_add(1, Ordering::Relaxed);
        let settings = Pebble {
            port: address::PEBBLE_PORT + number,
            management_port: address::PEBBLE_MANAGEMENT_PORT + number,
            ..settings
        };
        TestCa::start(&self.world, name, settings).await
    }

    /// A scripted CA of a story's own; where it listens is chosen here.
    ///
    /// # Errors
    /// It does not start.
    pub async fn scripted_ca(&self, settings: Settings) -> Result<ScriptedCa> {
        let node: IpAddr = address::NODE.parse().context("the node's address")?;
        let number = self.cas.fetch_add(1, Ordering::Relaxed);
        let listen = SocketAddr::new(node, address::PEBBLE_PORT + number);
        ScriptedCa::start(Settings { listen, ..settings }).await
    }

    /// Counts calls to the API server from now on.
    ///
    /// # Errors
    /// The audit log cannot be read.
    pub fn audit(&self) -> Result<Audit> {
        Audit::from_now(&self.world.audit_log())
    }

    /// Leaves the node and the operator running when this value is dropped.
    pub async fn leave_running(mut self) {
        drop(self.played_node.take());
        self.operator.lock().await.leave_running();
    }

    /// What happened in the operator's namespace and in the logs, for a person who looks for a cause.
    pub async fn evidence(&self, namespaces: &[&str]) -> String {
        let mut text = String::new();
        for namespace in namespaces {
            text.push_str(&short::certificates(&self.client, namespace).await);
        }
        for namespace in namespaces.iter().chain([&NAMESPACE]) {
            let _ = writeln!(text, "===== namespace {namespace}");
            text.push_str(&manifest::evidence(&self.client, namespace).await);
        }
        let mut files = vec![(self.world.state().join("operator.log"), 80)];
        match self.world.level() {
            Level::Plane => files.extend(played_logs(&self.world)),
            Level::Node => {
                for namespace in namespaces.iter().chain([&NAMESPACE]) {
                    text.push_str(&pods::logs(&self.client, namespace).await);
                }
                files.push((self.world.log("kubelet"), 10));
            }
        }
        let controller = self.world.ingress_controller();
        for program in controller.into_iter().flat_map(|found| found.programs) {
            files.push((self.world.log(&program.name), 5));
        }
        for (file, lines) in files {
            let _ = writeln!(text, "===== {}\n{}", file.display(), tail(&file, lines));
        }
        text
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut node) = self.played_node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage")
            .field("world", &self.world)
            .finish_non_exhaustive()
    }
}

/// A client with the rights of a kubeconfig.
///
/// # Errors
/// The file cannot be used.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    Client::try_from(config(kubeconfig).await?).context("building a client")
}

/// The same, and an answer that asks for patience (429) is one: by itself a client asks again for minutes.
///
/// # Errors
/// The file cannot be used.
pub async fn client_that_asks_once(kubeconfig: &Path) -> Result<Client> {
    let mut config = config(kubeconfig).await?;
    config.default_retry = false;
    Client::try_from(config).context("building a client")
}

async fn config(kubeconfig: &Path) -> Result<Config> {
    let config = Kubeconfig::read_from(kubeconfig).context("reading the kubeconfig")?;
    Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .context("using the kubeconfig")
}

/// Applies the generated CRDs, waits until they are served, and applies the operator's rights.
async fn install(client: &Client) -> Result<()> {
    let crds = manifest::repository().join("crds");
    manifest::apply_folder(client, "default", &crds).await?;
    let served: Api<CustomResourceDefinition> = Api::all(client.clone());
    for name in [
        "certificates.evercert.dev",
        "issuers.evercert.dev",
        "clusterissuers.evercert.dev",
    ] {
        let established = await_condition(served.clone(), name, conditions::is_crd_established());
        tokio::time::timeout(Duration::from_secs(20), established)
            .await
            .with_context(|| format!("{name} is not served"))??;
    }
    manifest::apply(client, NAMESPACE, &chart::namespace()?).await?;
    let manifests = manifest::repository().join(chart::MANIFESTS);
    manifest::apply_file(client, NAMESPACE, &manifests, |kind| kind != "Deployment").await
}

/// Starts the played node and waits until it is there.
async fn play_node(world: &World, client: &Client) -> Result<Child> {
    let child = start_player(world)?;
    let nodes: Api<Node> = Api::all(client.clone());
    wait_for("the played node", Duration::from_secs(20), async || {
        nodes.get_opt(node::NAME).await.map_err(Into::into)
    })
    .await
    .with_context(|| tail(&world.state().join("node.log"), 20))?;
    Ok(child)
}

/// The logs of the played node, and of the pods in the operator's namespace.
fn played_logs(world: &World) -> Vec<(PathBuf, usize)> {
    let pods = std::fs::read_dir(world.state().join("node"));
    let logs = pods.into_iter().flatten().flatten().filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(NAMESPACE) && name.ends_with(".log")
    });
    std::iter::once((world.state().join("node.log"), 20))
        .chain(logs.map(|entry| (entry.path(), 20)))
        .collect()
}

fn start_player(world: &World) -> Result<Child> {
    let log = File::create(world.state().join("node.log")).context("creating the node's log")?;
    world
        .command(sibling("evercert-e2e")?)
        .args(["node", "--dir"])
        .arg(world.state().join("node"))
        .arg("--cluster-ca")
        .arg(world.cluster_ca())
        // Ctrl-C in a terminal is not for it: it ends with the stage or with the world.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("sharing a log")?)
        .stderr(log)
        .spawn()
        .context("starting the node player")
}

/// The last lines of a file; what is wrong with it if it cannot be read.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("{}: {error}", path.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}
