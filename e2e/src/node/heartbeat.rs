//! The Node object, and the Lease by which the node lifecycle controller knows that it lives.

use std::time::Duration;

use anyhow::{Context, Result};
use evercert_cluster::address;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

use super::NAME;
use crate::manifest::FIELD_MANAGER;

/// The controller gives up on a node after 40 s without.
const EVERY: Duration = Duration::from_secs(10);

pub(super) async fn register(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let node = serde_json::json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NAME, "labels": {"kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux"}},
    });
    nodes
        .patch(NAME, &params, &Patch::Apply(&node))
        .await
        .context("registering the node")?;
    nodes
        .patch_status(NAME, &params, &Patch::Apply(&status()))
        .await
        .context("reporting the node's status")?;
    beat_once(client).await
}

pub(super) async fn beat(client: Client) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = beat_once(&client).await {
            eprintln!("renewing the node's lease: {error:#}");
        }
    }
}

async fn beat_once(client: &Client) -> Result<()> {
    let lease = serde_json::json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": NAME},
        "spec": {"holderIdentity": NAME, "leaseDurationSeconds": 40, "renewTime": format!("{:.6}", Timestamp::now())},
    });
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    leases
        .patch(
            NAME,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(&lease),
        )
        .await
        .context("renewing the node's lease")?;
    Ok(())
}

fn status() -> serde_json::Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let resources = serde_json::json!({"cpu": "2", "memory": "4Gi", "pods": "200"});
    serde_json::json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NAME},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address::NODE}, {"type": "Hostname", "address": NAME}],
            "capacity": resources, "allocatable": resources,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletPlayed", "message": "pods are played as processes",
                "lastHeartbeatTime": now, "lastTransitionTime": now,
            }],
        },
    })
}
