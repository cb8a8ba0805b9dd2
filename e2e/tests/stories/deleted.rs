//! A Certificate is deleted in the middle of its order: every resource of the API is listed against what may be there.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, keys};
use evercert_e2e::Story;
use evercert_e2e::operator::NAMESPACE;
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, ResourceExt};

use crate::issue::usable;
use crate::midway::{
    account, close_the_route, garbage_is_collected, given_back, in_the_middle, open_the_route,
};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_certificate_deleted_in_the_middle_of_its_first_order_leaves_nothing,
        a_certificate_deleted_in_the_middle_of_a_later_order_leaves_its_secret_alone,
    ]
}

async fn a_certificate_deleted_in_the_middle_of_its_first_order_leaves_nothing(
    story: Story<'_>,
) -> Result<()> {
    garbage_is_collected(&story).await?;
    let ca = story.ca().await?;
    close_the_route(&story).await?;
    let client = &story.stage.client;
    let before = list(client, story.namespace).await?;
    ensure!(
        before.contains("Issuer/ca") && before.contains("Secret/ca-account"),
        "the listing misses what is there: {before:?}"
    );
    let names = [story.host("a"), story.host("b")];
    story.certificate("site", &names).await?;
    let order = in_the_middle(&story, "site").await?;
    let amid = list(client, story.namespace).await?;
    ensure!(
        amid.len() >= before.len() + 3,
        "Certificate, companion and Service at least: {amid:?}"
    );

    delete(&story).await?;
    left(&story, &before).await?;
    given_back(&story, &account(&story, "ca", &ca).await?, &order).await?;
    nothing_with_the_operator(&story).await?;

    // And the name is free for the next one.
    open_the_route(&story).await?;
    story.certificate("site", &names).await?;
    story.ready("site", SOON * 2).await?;
    let count = ca.count()?;
    ensure!(count.placed == 2 && count.certificates == 1, "{count:?}");
    Ok(())
}

async fn a_certificate_deleted_in_the_middle_of_a_later_order_leaves_its_secret_alone(
    story: Story<'_>,
) -> Result<()> {
    garbage_is_collected(&story).await?;
    let ca = story.ca().await?;
    let mut expected = list(&story.stage.client, story.namespace).await?;
    story.certificate("site", &[story.host("a")]).await?;
    story.ready("site", SOON).await?;
    let before = story.secret("site").await?;
    let good = usable(&before).context("no certificate")?;
    close_the_route(&story).await?;
    expected.insert("ResourceQuota/no-ingresses".to_owned());
    expected.insert("Secret/site".to_owned());
    story
        .certificate("site", &[story.host("a"), story.host("b")])
        .await?;
    let order = in_the_middle(&story, "site").await?;

    delete(&story).await?;
    left(&story, &expected).await?;
    given_back(&story, &account(&story, "ca", &ca).await?, &order).await?;
    nothing_with_the_operator(&story).await?;
    let after = story.secret("site").await?;
    ensure!(
        usable(&after) == Some(good) && after.data == before.data,
        "the Secret was changed"
    );
    let count = ca.count()?;
    ensure!(count.placed == 2 && count.certificates == 1, "{count:?}");
    Ok(())
}

async fn delete(story: &Story<'_>) -> Result<()> {
    let certificates = story.api::<Certificate>();
    certificates
        .delete("site", &DeleteParams::default())
        .await?;
    Ok(())
}

/// Waits until the story's namespace holds exactly this.
async fn left(story: &Story<'_>, expected: &BTreeSet<String>) -> Result<()> {
    story
        .wait_for("all that belonged to it is gone", SOON, async || {
            let found = list(&story.stage.client, story.namespace).await?;
            let more: Vec<_> = found.difference(expected).collect();
            let less: Vec<_> = expected.difference(&found).collect();
            ensure!(
                more.is_empty() && less.is_empty(),
                "too much: {more:?}, missing: {less:?}"
            );
            Ok(Some(()))
        })
        .await
}

/// Waits until the operator's namespace holds nothing but what it always may, and no challenge of this story.
async fn nothing_with_the_operator(story: &Story<'_>) -> Result<()> {
    story
        .wait_for("the operator keeps nothing of it", SOON, async || {
            let found = list(&story.stage.client, NAMESPACE).await?;
            ensure!(
                found.contains("Deployment/evercert-solver"),
                "the listing misses what is there: {found:?}"
            );
            let strange: Vec<_> = found
                .iter()
                .filter(|object| !may_stay(object) && !is_of_another_story(object, story.namespace))
                .collect();
            ensure!(strange.is_empty(), "{strange:?}");
            let maps: Api<ConfigMap> = Api::namespaced(story.stage.client.clone(), NAMESPACE);
            let open = maps.get(keys::CHALLENGES_NAME).await?.data;
            let open = format!("{open:?}");
            ensure!(!open.contains(story.namespace), "{open}");
            Ok(Some(()))
        })
        .await
}

/// What the operator's namespace may hold, whatever other stories do: its rights, its ledgers, its solver.
fn may_stay(object: &str) -> bool {
    let exactly = [
        "ConfigMap/kube-root-ca.crt",
        "ConfigMap/evercert-challenges",
        "ServiceAccount/default",
        "ServiceAccount/evercert",
        "ServiceAccount/evercert-solver",
        "Role/evercert",
        "Role/evercert-solver",
        "RoleBinding/evercert",
        "RoleBinding/evercert-solver",
    ];
    let beginning = [
        "ConfigMap/evercert-ledger-",
        "Deployment/evercert",
        "ReplicaSet/evercert-",
        "Pod/evercert-",
        "Service/evercert-solver",
        "Endpoints/evercert-solver",
        "EndpointSlice/evercert-solver",
        "Lease/",
    ];
    exactly.contains(&object) || beginning.iter().any(|start| object.starts_with(start))
}

/// The account of a ClusterIssuer, which a story names after itself.
fn is_of_another_story(object: &str, own: &str) -> bool {
    object.starts_with("Secret/") && object.ends_with("-account") && !object.contains(own)
}

/// `Kind/name` of all objects of all namespaced resources of the API in a namespace, events left out.
async fn list(client: &Client, namespace: &str) -> Result<BTreeSet<String>> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut found = BTreeSet::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let listed = capabilities.scope == Scope::Namespaced
                && capabilities.supports_operation(verbs::LIST)
                && resource.kind != "Event";
            if !listed {
                continue;
            }
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), namespace, &resource);
            let objects = api
                .list(&ListParams::default())
                .await
                .with_context(|| format!("listing {}", resource.plural))?;
            found.extend(
                objects
                    .iter()
                    .map(|object| format!("{}/{}", resource.kind, object.name_any())),
            );
        }
    }
    Ok(found)
}
