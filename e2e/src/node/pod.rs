//! The life of one pod.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::probe::probe;
use super::process::{self, Order};
use super::spec::{Plan, Readiness};
use super::status::{Report, State};
use super::{Kubelet, network::Network};
use crate::operator::token;

/// What is wanted of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Run,
    /// It is being deleted, and has so many seconds.
    Stop {
        grace: u64,
    },
    /// The object is gone.
    Gone,
}

/// A started container is looked at this often until it is ready; later as often as its probe says.
const EAGER: Duration = Duration::from_millis(100);
const RESTART_FIRST: Duration = Duration::from_secs(1);
const RESTART_LAST: Duration = Duration::from_secs(10);

/// An address that goes back when the pod is gone.
struct Address<'a>(&'a Network, String);

impl Drop for Address<'_> {
    fn drop(&mut self) {
        self.0.give_back(&self.1);
    }
}

/// Runs the pod until its deletion, then removes the object.
pub(super) async fn live(kubelet: Arc<Kubelet>, pod: Pod, mut wish: watch::Receiver<Wish>) {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    if let Err(error) = run(&kubelet, &pod, &mut wish).await {
        eprintln!("{name}: {error:#}");
        let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
        let report = Report {
            container: container
                .map(|container| container.name.clone())
                .unwrap_or_default(),
            image: container
                .and_then(|container| container.image.clone())
                .unwrap_or_default(),
            ip: None,
            started: Timestamp::now(),
            restarts: 0,
            state: State::Waiting {
                reason: "CreateContainerError",
                message: format!("{error:#}"),
            },
        };
        report.send(&kubelet.client, &pod).await;
        let _ = wish.wait_for(|wish| *wish != Wish::Run).await;
    }
    let gone = *wish.borrow() == Wish::Gone;
    if !gone && let Err(error) = delete(&kubelet, &pod).await {
        eprintln!("{name}: {error:#}");
    }
    let _ = fs::remove_dir_all(dir(&kubelet, &pod));
}

/// As a kubelet ends a deletion: at once, and only this very pod.
async fn delete(kubelet: &Kubelet, pod: &Pod) -> Result<()> {
    let pods: Api<Pod> =
        Api::namespaced(kubelet.client.clone(), &pod.namespace().unwrap_or_default());
    let preconditions = Preconditions {
        uid: pod.uid(),
        resource_version: None,
    };
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    match pods.delete(&pod.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error).context("removing the pod"),
    }
}

fn dir(kubelet: &Kubelet, pod: &Pod) -> PathBuf {
    kubelet.dir.join(pod.uid().unwrap_or_default())
}

async fn run(kubelet: &Kubelet, pod: &Pod, wish: &mut watch::Receiver<Wish>) -> Result<()> {
    let address = Address(&kubelet.network, kubelet.network.take()?);
    let plan = Plan::of(pod, &kubelet.images, &address.1)?;
    let order = prepare(kubelet, pod, &plan, &address.1).await?;
    let mut report = Report {
        container: plan.container.clone(),
        image: plan.image.clone(),
        ip: Some(address.1.clone()),
        started: Timestamp::now(),
        restarts: 0,
        state: State::Waiting {
            reason: "ContainerCreating",
            message: String::new(),
        },
    };
    let mut delay = RESTART_FIRST;
    while *wish.borrow() == Wish::Run {
        let file = dir(kubelet, pod).join("order.json");
        let mut child = process::start(&order, &file, &kubelet.network)?;
        report.state = State::Running {
            since: Timestamp::now(),
            ready: false,
        };
        let ended = watch_over(
            kubelet,
            pod,
            &mut child,
            plan.readiness.as_ref(),
            &mut report,
            wish,
        )
        .await;
        let Some(how) = ended else {
            let grace = match *wish.borrow() {
                Wish::Stop { grace } => Duration::from_secs(grace),
                Wish::Run | Wish::Gone => Duration::ZERO,
            };
            return stop(&mut child, grace).await;
        };
        eprintln!("{}: {how}, starting again in {delay:?}", pod.name_any());
        report.restarts += 1;
        report.state = State::Waiting {
            reason: "CrashLoopBackOff",
            message: how,
        };
        report.send(&kubelet.client, pod).await;
        tokio::select! {
            () = sleep(delay) => delay = (delay * 2).min(RESTART_LAST),
            _ = wish.wait_for(|wish| *wish != Wish::Run) => {}
        }
    }
    Ok(())
}

/// Files that the pod sees, and the folder for its own.
async fn prepare(kubelet: &Kubelet, pod: &Pod, plan: &Plan, ip: &str) -> Result<Order> {
    let (dir, namespace) = (dir(kubelet, pod), pod.namespace().unwrap_or_default());
    let (run, files) = (dir.join("run"), dir.join("account"));
    for folder in [&run, &files] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let mut account = None;
    if let Some(name) = &plan.service_account {
        fs::write(
            files.join("token"),
            token(&kubelet.client, &namespace, name).await?,
        )
        .context("writing the token")?;
        fs::write(files.join("namespace"), &namespace).context("writing the namespace")?;
        fs::copy(&kubelet.cluster_ca, files.join("ca.crt")).context("copying the cluster's CA")?;
        account = Some(files);
    }
    Ok(Order {
        ip: ip.to_owned(),
        command: plan.command.clone(),
        args: plan.args.clone(),
        env: plan.env.clone(),
        account,
        run,
        // Beside the pod's folder, so that it stays when the pod is gone.
        log: kubelet
            .dir
            .join(format!("{namespace}.{}.log", pod.name_any())),
    })
}

/// Reports readiness as it changes. Gives how the process ended, or `None` when the pod is to end.
async fn watch_over(
    kubelet: &Kubelet,
    pod: &Pod,
    child: &mut Child,
    readiness: Option<&Readiness>,
    report: &mut Report,
    wish: &mut watch::Receiver<Wish>,
) -> Option<String> {
    let ip = report.ip.clone().unwrap_or_default();
    let started = Instant::now();
    let (mut ready, mut failures) = (readiness.is_none(), 0);
    let mut next_probe = started + readiness.map_or(Duration::ZERO, |readiness| readiness.delay);
    set_ready(report, ready);
    report.send(&kubelet.client, pod).await;
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Some(format!("the process ended: {status}")),
            Err(error) => return Some(format!("waiting for the process: {error}")),
        }
        if let Some(readiness) = readiness.filter(|_| Instant::now() >= next_probe) {
            let good = probe(&ip, readiness).await.is_ok();
            failures = if good { 0 } else { failures + 1 };
            let now_ready = good || (ready && failures < readiness.failures);
            next_probe = Instant::now() + if now_ready { readiness.period } else { EAGER };
            if now_ready != ready {
                ready = now_ready;
                set_ready(report, ready);
                report.send(&kubelet.client, pod).await;
            }
        }
        tokio::select! {
            () = sleep(EAGER) => {}
            _ = wish.wait_for(|wish| *wish != Wish::Run) => return None,
        }
    }
}

fn set_ready(report: &mut Report, value: bool) {
    if let State::Running { ready, .. } = &mut report.state {
        *ready = value;
    }
}

async fn stop(child: &mut Child, grace: Duration) -> Result<()> {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    let deadline = Instant::now() + grace;
    while child
        .try_wait()
        .context("waiting for a pod's process")?
        .is_none()
    {
        if Instant::now() >= deadline {
            let _ = child.kill();
            child.wait().context("waiting for a pod's process")?;
            break;
        }
        sleep(EAGER).await;
    }
    Ok(())
}
