//! A Certificate, what it comes from, or its namespace is deleted in the middle of its order: every resource of the API is listed
//! against what may be there.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, keys};
use evercert_e2e::Story;
use evercert_e2e::inventory::{self, Item};
use evercert_e2e::operator::{NAMESPACE, ingress_class};
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::networking::v1::Ingress;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::issue::usable;
use crate::midway::{
    account, begin_in_the_middle, close_the_route, garbage_is_collected, given_back, in_the_middle,
    open_the_route,
};
use crate::{Tale, tales};

/// How long Kubernetes takes for a namespace that nobody holds back.
const GONE: Duration = Duration::from_secs(40);
/// The annotation by which an Ingress asks for certificates.
const ASKS: &str = "evercert.dev/issuer";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_certificate_deleted_in_the_middle_of_its_first_order_leaves_nothing,
        a_certificate_deleted_in_the_middle_of_a_later_order_leaves_its_secret_alone,
        an_ingress_deleted_in_the_middle_of_a_later_order_leaves_its_secret_and_nothing_else,
        an_ingress_that_asks_no_longer_in_the_middle_of_a_later_order_keeps_its_secret_and_nothing_else,
        a_namespace_deleted_in_the_middle_of_an_order_goes_and_the_order_is_given_back,
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

async fn an_ingress_deleted_in_the_middle_of_a_later_order_leaves_its_secret_and_nothing_else(
    story: Story<'_>,
) -> Result<()> {
    asks_no_longer(&story, false, async |ingresses| {
        let deleted = ingresses.delete("site", &DeleteParams::default()).await;
        Ok(deleted.map(drop)?)
    })
    .await
}

async fn an_ingress_that_asks_no_longer_in_the_middle_of_a_later_order_keeps_its_secret_and_nothing_else(
    story: Story<'_>,
) -> Result<()> {
    asks_no_longer(&story, true, async |ingresses| {
        let silent = Patch::Merge(json!({"metadata": {"annotations": {ASKS: null}}}));
        let patched = ingresses
            .patch("site", &PatchParams::default(), &silent)
            .await;
        Ok(patched.map(drop)?)
    })
    .await
}

/// The Ingress that a certificate comes from goes, in one way or another, while a name that it has just got is proved: Pebble uses one
/// authorization of a hundred again, however little it is told to.
async fn asks_no_longer(
    story: &Story<'_>,
    ingress_stays: bool,
    go: impl AsyncFnOnce(Api<Ingress>) -> Result<()>,
) -> Result<()> {
    garbage_is_collected(story).await?;
    let ca = story.ca().await?;
    let mut expected = list(&story.stage.client, story.namespace).await?;
    let ingress = |hosts: &[String]| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "site", "annotations": {ASKS: "ca"}},
            "spec": {
                "ingressClassName": ingress_class(),
                "defaultBackend": {"service": {"name": "site", "port": {"number": 80}}},
                "tls": [{"hosts": hosts, "secretName": "site"}],
            },
        })
        .to_string()
    };
    let hosts = [story.host("a"), story.host("b")];
    let [first, _] = &hosts;
    story.apply(&ingress(std::slice::from_ref(first))).await?;
    story.ready("site", SOON).await?;
    let before = story.secret("site").await?;
    let good = usable(&before).context("no certificate")?;
    close_the_route(story).await?;
    expected.insert(item("ResourceQuota", "no-ingresses"));
    expected.insert(item("Secret", "site"));
    if ingress_stays {
        expected.insert(item("Ingress", "site"));
    }
    story.apply(&ingress(&hosts)).await?;
    let order = in_the_middle(story, "site").await?;

    go(story.api()).await?;
    left(story, &expected).await?;
    given_back(story, &account(story, "ca", &ca).await?, &order).await?;
    nothing_with_the_operator(story).await?;
    let after = story.secret("site").await?;
    ensure!(
        usable(&after) == Some(good) && after.data == before.data,
        "the Secret was changed"
    );
    let count = ca.count()?;
    ensure!(count.placed == 2 && count.certificates == 1, "{count:?}");
    Ok(())
}

/// Its Issuer and the account's key go at the same moment: the operator was up, and has what it needs.
async fn a_namespace_deleted_in_the_middle_of_an_order_goes_and_the_order_is_given_back(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let doomed = format!("{}-doomed", story.namespace);
    story.own_namespace(&doomed, &json!({})).await?;
    let there = Story {
        stage: story.stage,
        namespace: &doomed,
    };
    there.issuer("ca", &ca).await?;
    there.issuer_ready("ca").await?;
    let names = [there.host("a"), there.host("b")];
    let order = begin_in_the_middle(&there, &names).await?;
    let account = account(&there, "ca", &ca).await?;

    let namespaces: Api<Namespace> = Api::all(story.stage.client.clone());
    namespaces.delete(&doomed, &DeleteParams::default()).await?;
    story
        .wait_for("the namespace is gone", GONE, async || {
            Ok(namespaces.get_opt(&doomed).await?.is_none().then_some(()))
        })
        .await?;
    given_back(&story, &account, &order).await?;
    nothing_with_the_operator(&there).await?;
    let count = ca.count()?;
    ensure!(count.placed == 1 && count.certificates == 0, "{count:?}");
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
