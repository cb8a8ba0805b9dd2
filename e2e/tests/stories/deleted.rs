//! A Certificate is deleted in the middle of its order: every resource of the API is listed against what may be there.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, keys};
use evercert_e2e::Story;
use evercert_e2e::inventory::{self, Item};
use evercert_e2e::operator::NAMESPACE;
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, DeleteParams};

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
        before.contains(&item("Issuer", "ca")) && before.contains(&item("Secret", "ca-account")),
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
    expected.insert(item("ResourceQuota", "no-ingresses"));
    expected.insert(item("Secret", "site"));
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
async fn left(story: &Story<'_>, expected: &BTreeSet<Item>) -> Result<()> {
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
                found.contains(&item("Deployment", keys::SOLVER_NAME)),
                "the listing misses what is there: {found:?}"
            );
            let strange: Vec<_> = found
                .iter()
                .filter(|item| !inventory::is_operators(item, true))
                .filter(|item| !is_of_another_story(item, story.namespace))
                .collect();
            ensure!(strange.is_empty(), "{strange:?}");
            let written = inventory::list_written_in_cluster(&story.stage.client).await?;
            ensure!(
                written.iter().all(|item| item.kind == "ClusterIssuer"),
                "outside of namespaces it writes the status of ClusterIssuers only: {written:?}"
            );
            let maps: Api<ConfigMap> = Api::namespaced(story.stage.client.clone(), NAMESPACE);
            let open = maps.get(keys::CHALLENGES_NAME).await?.data;
            let open = format!("{open:?}");
            ensure!(!open.contains(story.namespace), "{open}");
            Ok(Some(()))
        })
        .await
}

/// The account of a ClusterIssuer, which a story names after itself.
fn is_of_another_story(item: &Item, own: &str) -> bool {
    item.kind == "Secret" && item.name.ends_with("-account") && !item.name.contains(own)
}

fn item(kind: &str, name: &str) -> Item {
    Item {
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}

async fn list(client: &Client, namespace: &str) -> Result<BTreeSet<Item>> {
    Ok(inventory::list(client, namespace)
        .await?
        .into_iter()
        .collect())
}
