//! What makes a node of a world: containerd, kubelet, kube-proxy, and the scheduler.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::SCRATCH;
use super::components::{Components, gets, read};
use super::config::{self, CONTAINERD, PAUSE, PROXY_HEALTH};
use crate::cgroup::Version;
use crate::pki::Pki;
use crate::{Image, address, level};

/// Needs nothing of the control plane, so it is started first.
pub(super) fn start_containerd(components: &mut Components) -> Result<()> {
    let networks = Path::new(SCRATCH).join("cni");
    fs::create_dir_all(&networks).context("creating a folder for the pods' network")?;
    fs::write(networks.join("10-pods.conflist"), config::cni().to_string())
        .context("writing the pods' network")?;
    let plugins = level::cni_plugins().context("the CNI plugins are missing")?;
    let file = Path::new(SCRATCH).join("containerd.toml");
    fs::write(&file, config::containerd(&plugins, &networks))
        .context("writing containerd's configuration")?;
    let mut containerd = components.system_program("containerd")?;
    containerd.arg("--config").arg(file);
    components.start("containerd", containerd)
}

/// Needs an API server that is ready.
pub(super) fn start(components: &mut Components, cgroups: Version, pki: &Pki) -> Result<()> {
    let mut scheduler = components.program("kube-scheduler");
    scheduler
        .arg(format!(
            "--kubeconfig={}",
            pki.kubeconfig("scheduler").display()
        ))
        .args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
    components.start("kube-scheduler", scheduler)?;

    let file = Path::new(SCRATCH).join("kube-proxy.json");
    fs::write(
        &file,
        config::kube_proxy(&pki.kubeconfig("proxy")).to_string(),
    )
    .context("writing kube-proxy's configuration")?;
    let mut proxy = components.program("kube-proxy");
    proxy.arg(format!("--config={}", file.display()));
    components.start("kube-proxy", proxy)?;

    let file = Path::new(SCRATCH).join("kubelet.json");
    fs::write(
        &file,
        config::kubelet(cgroups, &pki.path("ca.crt")).to_string(),
    )
    .context("writing the kubelet's configuration")?;
    let mut kubelet = components.program("kubelet");
    kubelet
        .arg(format!("--config={}", file.display()))
        .arg(format!(
            "--kubeconfig={}",
            pki.kubeconfig("kubelet").display()
        ))
        .args([
            format!("--hostname-override={}", address::NODE_NAME),
            format!("--node-ip={}", address::NODE),
            "--root-dir=/var/lib/kubelet".to_owned(),
        ]);
    components.start("kubelet", kubelet)
}

/// Needs containerd alone.
pub(super) fn import_pause(components: &mut Components, tools: &Path) -> Result<()> {
    let archive = Path::new(SCRATCH).join("pause.tar");
    let image = Image {
        reference: PAUSE.to_owned(),
        program: tools.join("pod"),
        arguments: vec!["pause".to_owned()],
    };
    image.write(&archive)?;
    let ctr = |components: &Components| -> Result<Command> {
        let mut ctr = components.system_program("ctr")?;
        ctr.args(["--address", CONTAINERD, "--namespace", "k8s.io"]);
        Ok(ctr)
    };
    let mut version = ctr(components)?;
    version.arg("version");
    components.wait_for("containerd", || {
        version.output().is_ok_and(|output| output.status.success())
    })?;
    let mut import = ctr(components)?;
    import.args(["images", "import"]).arg(&archive);
    components.run("importing the pause image", &mut import)
}

/// Waits until pods run and Services lead to them.
pub(super) fn wait(components: &mut Components, api: &str, admin: &[&OsStr]) -> Result<()> {
    components.wait_for("kube-proxy", || {
        gets(&format!("http://{PROXY_HEALTH}/healthz"), [])
    })?;
    let node = format!("{api}/api/v1/nodes/{}", address::NODE_NAME);
    components.wait_for("the node", || {
        read(&node, admin.iter().copied()).is_some_and(|node| is_ready(&node))
    })
}

fn is_ready(node: &str) -> bool {
    let node: serde_json::Value = serde_json::from_str(node).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
