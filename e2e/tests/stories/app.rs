//! The stage itself: an application of the played node behind the ingress controller.

use std::time::Duration;

use anyhow::{Result, ensure};
use evercert_e2e::operator::ingress_class;
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, curl};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        an_application_answers_through_the_ingress_controller_and_stops_with_its_pod,
        a_pod_whose_process_dies_is_started_again,
    ]
}

/// Deployment and EndpointSlice are the real controllers' work; only the pod is played.
async fn an_application_answers_through_the_ingress_controller_and_stops_with_its_pod(
    story: Story<'_>,
) -> Result<()> {
    let host = story.host("app");
    story.apply(&application("app", &host)).await?;
    let url = format!("http://{host}/");
    let served = story
        .wait_for("the application answers", SOON, async || {
            let served = curl::get(&url, None)?;
            Ok((served.status == 200).then_some(served))
        })
        .await?;
    ensure!(
        served.body.starts_with("Hello from app-"),
        "{}",
        served.body
    );
    story
        .apply(&application("app", &host).replace("replicas: 1", "replicas: 0"))
        .await?;
    story
        .wait_for(
            "the application is gone",
            Duration::from_secs(20),
            async || Ok((curl::get(&url, None)?.status == 503).then_some(())),
        )
        .await
}

async fn a_pod_whose_process_dies_is_started_again(story: Story<'_>) -> Result<()> {
    let host = story.host("app");
    story.apply(&application("app", &host)).await?;
    let pod = story
        .wait_for("the pod's process runs", SOON, async || {
            let pods = story.api::<Pod>().list(&ListParams::default()).await?;
            Ok(pods
                .items
                .first()
                .and_then(|pod| Some((pod.name_any(), process_of(pod)?))))
        })
        .await?;
    let (name, pid) = pod;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    story
        .until(
            "app",
            "the Deployment has its replica again",
            SOON,
            |app: &Deployment| {
                app.status
                    .as_ref()
                    .is_some_and(|status| status.ready_replicas == Some(1))
            },
        )
        .await?;
    story
        .until(&name, "the pod was started again", SOON, |pod: &Pod| {
            let container = pod
                .status
                .as_ref()
                .and_then(|status| status.container_statuses.as_ref()?.first());
            container.is_some_and(|container| container.restart_count == 1 && container.ready)
        })
        .await?;
    let url = format!("http://{host}/");
    story
        .wait_for("the application answers again", SOON, async || {
            Ok((curl::get(&url, None)?.status == 200).then_some(()))
        })
        .await
}

/// The process that has the pod's name in its environment.
fn process_of(pod: &Pod) -> Option<i32> {
    let mark = format!("HOSTNAME={}", pod.name_any());
    let pids = std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
    })
}

/// A tiny site, as the demo has it.
pub(crate) fn application(name: &str, host: &str) -> String {
    let class = ingress_class();
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      automountServiceAccountToken: false
      containers:
      - name: app
        image: localhost/demo-app:dev
        args: [--port=$(PORT)]
        env: [{{name: PORT, value: '8080'}}]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}}}
spec:
  ingressClassName: {class}
  tls: [{{hosts: [{host}], secretName: {name}}}]
  rules:
  - host: {host}
    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: {{name: http}}}}}}}}]}}
"
    )
}
