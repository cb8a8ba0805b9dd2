//! The stage itself: an application of the played node behind the ingress controller.

use std::time::Duration;

use anyhow::{Result, ensure};
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, curl};

use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![an_application_answers_through_the_ingress_controller_and_stops_with_its_pod]
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

/// A tiny site, as the demo has it.
pub(crate) fn application(name: &str, host: &str) -> String {
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
  ingressClassName: contour
  tls: [{{hosts: [{host}], secretName: {name}}}]
  rules:
  - host: {host}
    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: {{name: http}}}}}}}}]}}
"
    )
}
