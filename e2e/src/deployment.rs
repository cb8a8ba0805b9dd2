//! The operator as its users run it: a pod, with the rights of its own ServiceAccount, from the manifests that are rendered from the chart.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use evercert_cluster::Level;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DeleteParams, PropagationPolicy};
use kube::{Api, Client};

use crate::chart::MANIFESTS;
use crate::operator::NAMESPACE;
use crate::stage::Stage;
use crate::{manifest, pods, wait_for};

/// The Deployment's name.
pub const NAME: &str = "evercert";
/// The label of its pods.
pub const SELECTOR: &str = "app.kubernetes.io/name=evercert";
/// An image that is there already starts within a second or two.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The grace period of a pod that does not hear SIGTERM is 30 s: one that hears it is gone long before.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// Applies the operator's Deployment and waits until it is ready. No other operator may run.
///
/// # Errors
/// The world has no node, a process is the operator already, or not all pods get ready: with the evidence.
pub async fn start(stage: &Stage) -> Result<()> {
    if stage.world.level() != Level::Node {
        bail!("no pod runs in a world of level {}", stage.world.level());
    }
    if stage.operator.lock().await.pid().is_some() {
        bail!("the operator runs already, as a process");
    }
    let manifests = manifest::repository().join(MANIFESTS);
    manifest::apply_file(&stage.client, NAMESPACE, &manifests, |_| true).await?;
    ready(stage).await
}

/// Waits until all of the Deployment's pods are ready: one acts with warm caches, others stand by.
///
/// # Errors
/// It is not within 30 s: with the evidence.
pub async fn ready(stage: &Stage) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let is_ready = wait_for("the operator's pods are ready", READY_WITHIN, async || {
        let deployment = deployments.get(NAME).await?;
        let status = deployment.status.unwrap_or_default();
        let wanted = deployment.spec.and_then(|spec| spec.replicas);
        Ok(
            (status.observed_generation == deployment.metadata.generation
                && status.ready_replicas == wanted)
                .then_some(()),
        )
    });
    match is_ready.await {
        Ok(()) => Ok(()),
        Err(error) => Err(error).context(stage.evidence(&[]).await),
    }
}

/// Deletes the Deployment and waits until its pods are gone.
///
/// # Errors
/// It is not within 15 s: it did not hear SIGTERM.
pub async fn stop(client: &Client) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    deployments
        .delete(NAME, &params)
        .await
        .context("deleting the operator's Deployment")?;
    wait_for("the operator's pods are gone", GONE_WITHIN, async || {
        let left = pods::list(client, NAMESPACE, SELECTOR).await?;
        Ok(left.is_empty().then_some(()))
    })
    .await
}
