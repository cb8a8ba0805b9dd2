//! The node under the operator is cordoned, drained and uncordoned, as before a reboot.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use evercert_cluster::address;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::{LEASE, NAMESPACE};
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, deployment, pods, stage};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{EvictParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::issue::no_route_stays;
use crate::leaders::amid_an_order;
use crate::{Tale, tales};

/// The label of the solver's pods.
const SOLVER: &str = "app.kubernetes.io/name=evercert-solver";
/// A pod that is asked to go is gone, and another one runs.
const REPLACED: Duration = Duration::from_secs(45);

pub(crate) fn tales() -> Vec<Tale> {
    let tales = tales![a_node_that_is_drained_takes_one_pod_after_the_other_and_costs_no_order];
    tales.into_iter().map(Tale::on_a_node).collect()
}

async fn a_node_that_is_drained_takes_one_pod_after_the_other_and_costs_no_order(
    story: Story<'_>,
) -> Result<()> {
    story.stage.operator.lock().await.terminate()?;
    let told = async {
        deployment::start(story.stage).await?;
        let ca = amid_an_order(&story).await?;
        cordon(&story, true).await?;
        drain(&story, &ca).await
    };
    let told = match told.await {
        Ok(()) => Ok(()),
        Err(error) => Err(story.with_evidence(error).await),
    };
    let uncordoned = cordon(&story, false).await;
    // Whatever became of it: the process is the operator again for whoever comes next.
    let stopped = deployment::stop(&story.stage.client).await;
    told.and(uncordoned).and(stopped)
}

async fn drain(story: &Story<'_>, ca: &TestCa) -> Result<()> {
    let client = stage::client_that_asks_once(&story.stage.world.kubeconfig()).await?;
    let all: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let before: Vec<String> = names(story, deployment::SELECTOR).await?;
    let leader = find_leader(story).await?;
    let standby = before.iter().find(|name| **name != leader);
    let standby = standby.with_context(|| format!("one replica: {before:?}"))?;
    ensure!(
        before.contains(&leader),
        "{leader} leads, there are {before:?}"
    );

    evict(&all, &leader).await?;
    // Its replacement finds no node, so the budget is spent.
    match evict(&all, standby).await {
        Err(error) if error.to_string().contains("disruption budget") => {}
        other => bail!("the budget is not heeded: {other:?}"),
    }
    // The one that stays finishes the order that the other began.
    story.ready("site", SOON).await?;
    ensure!(find_leader(story).await? == *standby, "another one leads");
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");

    // The solver goes in any case. What is asked for without it waits.
    for solver in names(story, SOLVER).await? {
        evict(&all, &solver).await?;
        gone(story, &all, &solver).await?;
    }
    story.certificate("next", &[story.host("next")]).await?;
    story
        .condition_says("next", evercert_api::condition::READY, "solver", SOON)
        .await?;
    let count = ca.count()?;
    ensure!(count.orders == 1, "an order without a solver: {count:?}");

    cordon(story, false).await?;
    story.ready("next", REPLACED).await?;
    deployment::ready(story.stage).await?;
    // There are two again, so the drain goes on where it was held up.
    evict(&all, standby).await?;
    gone(story, &all, standby).await?;
    deployment::ready(story.stage).await?;
    story.certificate("last", &[story.host("last")]).await?;
    story.ready("last", SOON).await?;
    let after = names(story, deployment::SELECTOR).await?;
    ensure!(
        !after.iter().any(|name| before.contains(name)),
        "{before:?} {after:?}"
    );
    let count = ca.count()?;
    ensure!(count.orders == 3 && count.certificates == 3, "{count:?}");
    no_route_stays(story).await
}

/// Takes the node out of service for new pods, or brings it back.
async fn cordon(story: &Story<'_>, is_cordoned: bool) -> Result<()> {
    let nodes: Api<Node> = Api::all(story.stage.client.clone());
    let patch = Patch::Merge(json!({"spec": {"unschedulable": is_cordoned}}));
    nodes
        .patch(address::NODE_NAME, &PatchParams::default(), &patch)
        .await
        .context("cordoning the node")
        .map(drop)
}

async fn names(story: &Story<'_>, selector: &str) -> Result<Vec<String>> {
    let pods = pods::list(&story.stage.client, NAMESPACE, selector).await?;
    Ok(pods.iter().map(ResourceExt::name_any).collect())
}

/// The pod that acts: a pod is called in the Lease as it is called itself.
async fn find_leader(story: &Story<'_>) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(story.stage.client.clone(), NAMESPACE);
    let spec = leases.get(LEASE).await?.spec.unwrap_or_default();
    spec.holder_identity.context("nobody leads")
}

/// As `kubectl drain` does.
async fn evict(pods: &Api<Pod>, name: &str) -> Result<()> {
    pods.evict(name, &EvictParams::default()).await?;
    Ok(())
}

async fn gone(story: &Story<'_>, pods: &Api<Pod>, name: &str) -> Result<()> {
    story
        .wait_for("the evicted pod is gone", REPLACED, async || {
            Ok(pods.get_opt(name).await?.is_none().then_some(()))
        })
        .await
}
