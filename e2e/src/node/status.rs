//! A pod's status, as a kubelet reports it.

use evercert_cluster::address;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// What the container does.
#[derive(Debug, Clone)]
pub(super) enum State {
    Waiting {
        reason: &'static str,
        message: String,
    },
    Running {
        since: Timestamp,
        ready: bool,
    },
}

/// What a pod's status is made of.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) container: String,
    pub(super) image: String,
    pub(super) ip: Option<String>,
    pub(super) started: Timestamp,
    pub(super) restarts: u32,
    pub(super) state: State,
}

impl Report {
    /// Writes the status. Idempotent.
    pub(super) async fn send(&self, client: &Client, pod: &Pod) {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({"metadata": {"uid": pod.uid()}, "status": self.build()}));
        match pods
            .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
            .await
        {
            Ok(_) => {}
            // Deleted, or another pod of the same name by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => eprintln!("reporting {}: {error}", pod.name_any()),
        }
    }

    fn build(&self) -> Value {
        let (phase, ready, state) = match &self.state {
            State::Waiting { reason, message } => (
                "Pending",
                false,
                json!({"waiting": {"reason": reason, "message": message}}),
            ),
            State::Running { since, ready } => (
                "Running",
                *ready,
                json!({"running": {"startedAt": time(*since)}}),
            ),
        };
        let phase = if self.restarts > 0 { "Running" } else { phase };
        let now = time(Timestamp::now());
        let condition = |kind: &str, status: bool| json!({"type": kind, "status": if status { "True" } else { "False" }, "lastTransitionTime": now});
        let ips = self.ip.as_ref().map(|ip| vec![json!({"ip": ip})]);
        json!({
            "phase": phase,
            "hostIP": address::NODE,
            "podIP": self.ip,
            "podIPs": ips,
            "startTime": time(self.started),
            "conditions": [
                condition("PodScheduled", true), condition("Initialized", true),
                condition("ContainersReady", ready), condition("Ready", ready),
            ],
            "containerStatuses": [{
                "name": self.container, "image": self.image, "imageID": self.image, "ready": ready,
                "started": matches!(self.state, State::Running { .. }), "restartCount": self.restarts, "state": state,
            }],
        })
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
