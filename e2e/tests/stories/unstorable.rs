//! The result cannot be stored (they change the operator's rights): no order before it is known to be storable, and what is
//! issued is kept until it is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::condition::{self, READY};
use evercert_api::{Certificate, children, keys};
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::history::Version;
use evercert_e2e::story::{SOON, conditions_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, Secret};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::issue::{data, usable};
use crate::midway::{
    begin_in_the_middle, close_the_route, event, in_the_middle, open_the_route, order_of,
};
use crate::requested::{ask, serial};
use crate::rights::withdraw;
use crate::{Tale, tales};

/// What cannot be written is tried again every 30 s.
const AGAIN: Duration = Duration::from_mins(1);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        without_the_right_to_make_secrets_nothing_is_ordered_and_the_right_is_named,
        a_certificate_that_cannot_be_stored_any_more_is_kept_and_stored_later,
        a_certificate_that_a_quota_leaves_no_room_for_is_kept_and_stored_later,
        a_secret_that_a_quota_forbids_costs_no_order,
        a_renewal_that_cannot_be_stored_leaves_what_is_in_place_and_is_stored_later,
    ]
}

async fn without_the_right_to_make_secrets_nothing_is_ordered_and_the_right_is_named(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let withdrawn = withdraw(&story, "secrets", &["create"]).await?;
    let told = async {
        story.certificate("site", &[story.host("www")]).await?;
        let words = "cannot create resource \"secrets\"";
        let message = story.condition_says("site", READY, words, SOON).await?;
        ensure!(message.contains("site"), "{message}");
        let (reason, _) = story.condition("site", READY, "False", SOON).await?;
        ensure!(reason == "SecretNotWritable", "{reason}: {message}");
        ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);
        Ok(())
    };
    let told = told.await;
    withdrawn.give_back().await?;
    told?;
    story.ready("site", AGAIN).await?;
    ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);
    Ok(())
}

async fn a_certificate_that_cannot_be_stored_any_more_is_kept_and_stored_later(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    begin_in_the_middle(&story, &[story.host("www")]).await?;
    let withdrawn = withdraw(&story, "secrets", &["create"]).await?;
    let told = async {
        open_the_route(&story).await?;
        kept(&story, "cannot create resource \"secrets\"").await
    };
    let told = told.await;
    withdrawn.give_back().await?;
    stored(&story, &ca, &told?).await
}

async fn a_certificate_that_a_quota_leaves_no_room_for_is_kept_and_stored_later(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    begin_in_the_middle(&story, &[story.host("www")]).await?;
    // Room for what there is, the companion among it.
    let there = story.api::<Secret>().list(&ListParams::default()).await?;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"},
        "spec": {"hard": {"count/secrets": there.items.len().to_string()}},
    });
    story.apply(&quota.to_string()).await?;
    story
        .until("full", "the quota is counted", SOON, is_counted)
        .await?;
    open_the_route(&story).await?;
    let kept = kept(&story, "exceeded quota: full").await?;
    story
        .api::<ResourceQuota>()
        .delete("full", &DeleteParams::default())
        .await?;
    stored(&story, &ca, &kept).await
}

/// Waits until the certificate is issued, and kept in the companion alone; gives that.
async fn kept(story: &Story<'_>, words: &str) -> Result<Secret> {
    story.condition_says("site", READY, words, SOON * 2).await?;
    let note = event(story, "site", "SecretNotWritable").await?;
    ensure!(
        note.contains("is issued") && note.contains("It is kept"),
        "{note}"
    );
    let companion = children::companion_name(story.namespace, "site");
    let kept = story.secret(&companion).await?;
    ensure!(usable(&kept).is_some(), "the companion has no certificate");
    ensure!(
        story.api::<Secret>().get_opt("site").await?.is_none(),
        "there is a Secret"
    );
    let certificate: Certificate = story.api::<Certificate>().get("site").await?;
    ensure!(
        order_of(&certificate).is_none(),
        "the order is still under way"
    );
    Ok(kept)
}

/// Waits until what was kept is stored, and nothing else was ordered.
async fn stored(story: &Story<'_>, ca: &TestCa, kept: &Secret) -> Result<()> {
    story.ready("site", AGAIN).await?;
    let stored = story.secret("site").await?;
    ensure!(
        data(&stored, keys::TLS_CRT) == data(kept, keys::TLS_CRT)
            && data(&stored, keys::TLS_KEY) == data(kept, keys::TLS_KEY),
        "it is another certificate"
    );
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    Ok(())
}

fn is_counted(quota: &ResourceQuota) -> bool {
    quota.status.as_ref().is_some_and(|s| s.used.is_some())
}

/// There is room for the companion, and not for the TLS Secret.
async fn a_secret_that_a_quota_forbids_costs_no_order(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"count/secrets": "2"}},
    });
    story.apply(&quota.to_string()).await?;
    story
        .until("few", "the quota is counted", SOON, is_counted)
        .await?;
    story.certificate("site", &[story.host("www")]).await?;
    story
        .condition_says("site", READY, "exceeded quota: few", SOON)
        .await?;
    ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);
    story
        .api::<ResourceQuota>()
        .delete("few", &DeleteParams::default())
        .await?;
    story.ready("site", AGAIN).await?;
    let version = Version::of(&story.secret("site").await?, Timestamp::now());
    ensure!(!version.fallback, "{version:?}");
    ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);
    Ok(())
}

/// Before the order, when none is placed, and amid it, when it comes from the CA later: what is in place stays, and is Ready.
async fn a_renewal_that_cannot_be_stored_leaves_what_is_in_place_and_is_stored_later(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("site", &[story.host("www")]).await?;
    let mut last = serial(&story.ready("site", SOON).await?)?;
    for (amid, orders) in [(false, 1), (true, 3)] {
        let good = usable(&story.secret("site").await?).context("no certificate")?;
        let wish = Timestamp::now().to_string();
        if amid {
            close_the_route(&story).await?;
            ask(&story, "site", &wish).await?;
            in_the_middle(&story, "site").await?;
        }
        let withdrawn = withdraw(&story, "secrets", &["update"]).await?;
        let told = async {
            if amid {
                open_the_route(&story).await?;
            } else {
                ask(&story, "site", &wish).await?;
            }
            let words = "cannot update resource \"secrets\"";
            story.condition_says("site", READY, words, SOON).await?;
            story.condition("site", READY, "True", SOON).await?;
            let there = usable(&story.secret("site").await?);
            ensure!(there.as_ref() == Some(&good), "it is another certificate");
            ensure!(ca.count()?.orders == orders, "{:?}", ca.count()?);
            Ok(())
        };
        let told = told.await;
        withdrawn.give_back().await?;
        told?;
        let renewed = |c: &Certificate| {
            let ready = condition::find(conditions_of(c), READY);
            ready.is_some_and(|r| r.status == "True" && r.reason == "Issued")
                && serial(c).is_ok_and(|now| now != last)
        };
        let renewed = story
            .until("site", "the renewed one is in place", AGAIN, renewed)
            .await?;
        last = serial(&renewed)?;
    }
    let count = ca.count()?;
    ensure!(count.orders == 3 && count.certificates == 3, "{count:?}");
    Ok(())
}
