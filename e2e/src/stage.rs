//! A world with everything on it that a story needs: CRDs, rights, a played node, the operator, and the record of all Secrets.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use evercert_cluster::{Pebble, World, address};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt};
use tokio::sync::Mutex;

use crate::audit::Audit;
use crate::ca::TestCa;
use crate::history::History;
use crate::operator::{NAMESPACE, Operator, sibling};
use crate::{manifest, node, wait_for};

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
    node: Option<Child>,
    cas: AtomicU16,
}

impl Stage {
    /// Sets the stage in `world`, which this process has to be in, and starts the operator. Tells each step to `progress`.
    ///
    /// # Errors
    /// A part does not get ready.
    pub async fn set(world: World, progress: &dyn Fn(&str)) -> Result<Self> {
        let client = client(&world.kubeconfig()).await?;
        install(&client).await?;
        progress(
            "the custom resources are served, and the operator's ServiceAccount has its rights",
        );
        let node = start_node(&world)?;
        let nodes: Api<Node> = Api::all(client.clone());
        wait_for("the played node", Duration::from_secs(20), async || {
            nodes.get_opt(node::NAME).await.map_err(Into::into)
        })
        .await
        .with_context(|| tail(&world.state().join("node.log"), 20))?;
        let history = History::record(client.clone());
        progress("a node is there, whose pods are played as processes");
        let operator = Mutex::new(Operator::start(&world, &client).await?);
        progress("the operator runs, with the rights of its ServiceAccount");
        // The world's own Pebble has the first pair of ports.
        Ok(Self {
            world,
            client,
            history,
            operator,
            node: Some(node),
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

    /// Counts calls to the API server from now on.
    ///
    /// # Errors
    /// The audit log cannot be read.
    pub fn audit(&self) -> Result<Audit> {
        Audit::from_now(&self.world.audit_log())
    }

    /// Leaves the node and the operator running when this value is dropped.
    pub async fn leave_running(mut self) {
        drop(self.node.take());
        self.operator.lock().await.leave_running();
    }

    /// What happened in the operator's namespace and in the logs, for a person who looks for a cause.
    pub async fn evidence(&self, namespaces: &[&str]) -> String {
        let mut text = String::new();
        for namespace in namespaces.iter().chain([&NAMESPACE]) {
            let _ = writeln!(text, "===== namespace {namespace}");
            text.push_str(&manifest::evidence(&self.client, namespace).await);
        }
        let logs = self.world.state().join("node");
        let mut files = vec![
            (self.world.state().join("operator.log"), 80),
            (self.world.state().join("node.log"), 20),
        ];
        files.extend(
            std::fs::read_dir(logs)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| {
                    let path = entry.path();
                    let solver = entry.file_name().to_string_lossy().starts_with(NAMESPACE);
                    (solver && path.extension().is_some_and(|extension| extension == "log"))
                        .then_some((path, 20))
                }),
        );
        files.push((self.world.log("contour"), 5));
        for (file, lines) in files {
            let _ = writeln!(text, "===== {}\n{}", file.display(), tail(&file, lines));
        }
        text
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.take() {
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
    let config = Kubeconfig::read_from(kubeconfig).context("reading the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .context("using the kubeconfig")?;
    Client::try_from(config).context("building a client")
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
    manifest::apply_folder(
        client,
        NAMESPACE,
        &manifest::repository().join("e2e/manifests"),
    )
    .await
}

fn start_node(world: &World) -> Result<Child> {
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

/// The pods of a namespace with a label, by name.
///
/// # Errors
/// The API server does not answer.
pub async fn pods(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut list = pods
        .list(&kube::api::ListParams::default().labels(selector))
        .await?
        .items;
    list.sort_by_key(ResourceExt::name_any);
    Ok(list)
}
