//! `placement: Namespace`: a forwarder in the Certificate's namespace passes the challenges on to the solver.

use std::time::Duration;

use anyhow::{Result, ensure};
use evercert_api::{Certificate, condition};
use evercert_cluster::Pebble;
use evercert_core::forwarder::forwarder_name;
use evercert_e2e::ca::TestCa;
use evercert_e2e::chart::Helm;
use evercert_e2e::story::{SOON, issuer_yaml};
use evercert_e2e::{Story, inventory, manifest, operator};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::issue::no_route_stays;
use crate::{Tale, tales};

/// The option, as a variable.
pub(crate) const ALLOWED: (&str, &str) = ("EVERCERT_NAMESPACE_PLACEMENT", "true");
/// What forwarders are like, as a variable.
const SHAPE: &str = "EVERCERT_FORWARDER";
/// The pods of forwarders.
const FORWARDERS: &str = "evercert.dev/component=forwarder";
/// The cluster tries ever more rarely to make a pod that it refused.
const WITH_ROOM: Duration = Duration::from_mins(2);
/// What does not start is told within this.
const TOLD: Duration = Duration::from_mins(1);

pub(crate) fn tales() -> Vec<Tale> {
    let tales = tales![
        without_the_option_no_forwarder_is_made_and_no_order_placed,
        a_challenge_is_passed_on_from_a_restricted_namespace_with_a_limit_range_and_a_quota,
        a_namespace_without_room_for_the_forwarder_costs_no_order_and_issues_when_there_is_room,
        a_forwarder_that_lacks_its_image_or_a_node_is_told_with_what_it_wants_and_costs_no_order,
    ];
    tales.into_iter().map(Tale::on_a_node).collect()
}

/// Gives the operator the rights that the chart gives it with `solver.namespacePlacement: true`.
pub(crate) async fn grant(story: &Story<'_>) -> Result<()> {
    let stage = story.stage;
    let helm = Helm::at(stage.world.tools().program("helm"))?;
    let arguments = [
        "--set=solver.namespacePlacement=true,image.repository=localhost/evercert",
        "--show-only=templates/rbac.yaml",
    ];
    let rights = helm.template(&arguments.map(ToOwned::to_owned))?;
    manifest::apply(&stage.client, operator::NAMESPACE, &rights).await
}

/// Starts the operator again with the option, and without it when `told` has ended.
async fn allowed(story: &Story<'_>, told: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    allowed_with(story, "{}", told).await
}

/// The same with forwarders of a shape.
async fn allowed_with(
    story: &Story<'_>,
    shape: &str,
    told: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    grant(story).await?;
    {
        let mut operator = story.stage.operator.lock().await;
        operator.kill()?;
        operator.restart_with(&[ALLOWED, (SHAPE, shape)])?;
        operator.ready().await?;
    }
    let told = match told().await {
        Ok(()) => Ok(()),
        Err(error) => Err(story.with_evidence(error).await),
    };
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    operator.restart()?;
    operator.ready().await?;
    told
}

/// Issuer `ca` whose routes lead through a forwarder.
async fn apply_issuer(story: &Story<'_>, ca: &TestCa) -> Result<()> {
    let issuer = issuer_yaml("Issuer", "ca", &ca.directory(), &ca.bundle()?);
    let mut issuer: Value = serde_json::from_str(&issuer)?;
    issuer["spec"]["acme"]["http01"] = json!({"placement": "Namespace"});
    story.apply(&issuer.to_string()).await?;
    story.issuer_ready("ca").await.map(drop)
}

/// The namespace takes restricted pods only, small ones, and so many.
async fn restrict(story: &Story<'_>, pods: usize) -> Result<()> {
    let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    story.own_namespace(story.namespace, &restricted).await?;
    let limits = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"},
        "spec": {"limits": [
            {"type": "Container", "max": {"cpu": "50m", "memory": "48Mi"}, "maxLimitRequestRatio": {"memory": "2"}},
            {"type": "Pod", "max": {"cpu": "50m", "memory": "48Mi"}, "min": {"cpu": "20m"}},
        ]},
    });
    story.apply(&limits.to_string()).await?;
    allow_pods(story, pods).await
}

/// The quota takes so many pods, which say what they need, and the API server knows it.
async fn allow_pods(story: &Story<'_>, pods: usize) -> Result<()> {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"},
        "spec": {"hard": {
            "pods": pods.to_string(), "requests.cpu": "50m", "limits.cpu": "50m",
            "requests.memory": "48Mi", "limits.memory": "48Mi",
        }},
    });
    story.apply(&quota.to_string()).await?;
    let wanted = pods.to_string();
    let counted = move |quota: &ResourceQuota| {
        let hard = quota.status.as_ref().and_then(|s| s.hard.as_ref());
        hard.and_then(|hard| hard.get("pods"))
            .is_some_and(|pods| pods.0 == wanted)
    };
    let told = story.until("small", "the quota is counted", SOON, counted);
    told.await.map(drop)
}

/// Nothing of a forwarder is in the namespace any more.
async fn nothing_stays(story: &Story<'_>) -> Result<()> {
    no_route_stays(story).await?;
    let name = forwarder_name(story.namespace);
    story
        .wait_for("the forwarder is gone", SOON, async || {
            let found = inventory::list(&story.stage.client, story.namespace).await?;
            let left: Vec<String> = found
                .iter()
                .filter(|item| item.name.starts_with(&name))
                .map(ToString::to_string)
                .collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        })
        .await
}

async fn a_challenge_is_passed_on_from_a_restricted_namespace_with_a_limit_range_and_a_quota(
    story: Story<'_>,
) -> Result<()> {
    let story = &story;
    allowed(story, async || {
        restrict(story, 1).await?;
        let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
        apply_issuer(story, &ca).await?;
        story.certificate("www", &[story.host("www")]).await?;
        let pods = story.api::<Pod>();
        let pod = story
            .wait_for("the forwarder's pod", SOON, async || {
                let of_ours = ListParams::default().labels(FORWARDERS);
                Ok(pods.list(&of_ours).await?.items.pop())
            })
            .await?;
        let spec = pod.spec.unwrap_or_default();
        ensure!(
            spec.automount_service_account_token == Some(false)
                && spec.volumes.is_none_or(|volumes| volumes.is_empty()),
            "it has credentials"
        );
        story.ready("www", SOON).await?;
        let count = ca.count()?;
        ensure!(count.orders == 1 && count.challenges == 1, "{count:?}");
        nothing_stays(story).await
    })
    .await
}

async fn a_namespace_without_room_for_the_forwarder_costs_no_order_and_issues_when_there_is_room(
    story: Story<'_>,
) -> Result<()> {
    let story = &story;
    allowed(story, async || {
        restrict(story, 0).await?;
        let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
        apply_issuer(story, &ca).await?;
        story.certificate("www", &[story.host("www")]).await?;
        let message = story
            .condition_says("www", condition::READY, "exceeded quota: small", SOON)
            .await?;
        ensure!(message.contains("Remedy: make room"), "{message}");
        ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);
        allow_pods(story, 1).await?;
        story.ready("www", WITH_ROOM).await?;
        ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);
        nothing_stays(story).await
    })
    .await
}

/// The operator reads no pods there, so it says what they want and where to look.
async fn a_forwarder_that_lacks_its_image_or_a_node_is_told_with_what_it_wants_and_costs_no_order(
    story: Story<'_>,
) -> Result<()> {
    let story = &story;
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    let cases = [
        (
            "image",
            r#"{"image": "localhost/nobody:1"}"#,
            "it wants its image localhost/nobody:1, a node,",
        ),
        (
            "node",
            r#"{"nodeSelector": {"pool": "nowhere"}}"#,
            "a node with pool=nowhere, the solver's answer",
        ),
    ];
    for (name, shape, wants) in cases {
        allowed_with(story, shape, async || {
            apply_issuer(story, &ca).await?;
            story.certificate(name, &[story.host(name)]).await?;
            story
                .condition_says(name, condition::READY, wants, SOON)
                .await?;
            if name == "image" {
                let where_to_look = format!("kubectl -n {} describe pods", story.namespace);
                let ready = condition::READY;
                story
                    .condition_says(name, ready, &where_to_look, TOLD)
                    .await?;
            }
            ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);
            story
                .api::<Certificate>()
                .delete(name, &DeleteParams::default())
                .await?;
            nothing_stays(story).await
        })
        .await?;
    }
    Ok(())
}

async fn without_the_option_no_forwarder_is_made_and_no_order_placed(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    apply_issuer(&story, &ca).await?;
    story.certificate("www", &[story.host("www")]).await?;
    let asked = "solver.namespacePlacement: true";
    let message = story
        .condition_says("www", condition::STALLED, asked, SOON)
        .await?;
    ensure!(message.contains("--namespace-placement"), "{message}");
    ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);
    let name = forwarder_name(story.namespace);
    let found = inventory::list(&story.stage.client, story.namespace).await?;
    ensure!(
        found.iter().all(|item| !item.name.starts_with(&name)),
        "{found:?}"
    );
    Ok(())
}
