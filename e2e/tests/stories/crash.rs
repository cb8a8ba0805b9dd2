//! The operator is killed in the middle and started again: one order, one certificate.

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, keys};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::ca::{Count, TestCa};
use evercert_e2e::story::{SOON, certificate_ready};
use k8s_openapi::api::core::v1::Secret;

use crate::issue::{data, no_route_stays};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        killed_after_the_account_key_it_keeps_that_key,
        killed_after_the_order_it_goes_on_with_that_order,
        killed_after_the_challenge_it_goes_on_with_that_order,
        killed_after_finalize_it_fetches_that_certificate,
        ended_by_a_kubelet_it_stops_by_itself_and_goes_on_later,
    ]
}

/// A CA that asks for some patience, so that there is a middle to be killed in.
async fn patient(story: &Story<'_>) -> Result<TestCa> {
    story
        .ca_with(Pebble {
            retry_after: (3, 3),
            ..Pebble::default()
        })
        .await
}

async fn killed_after_the_account_key_it_keeps_that_key(story: Story<'_>) -> Result<()> {
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    story.issuer("ca", &ca).await?;
    let stored = story
        .until(
            "ca-account",
            "the account's key is stored",
            SOON,
            |_: &Secret| true,
        )
        .await?;
    restart(&story).await?;
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON).await?;
    let kept = story.secret("ca-account").await?;
    ensure!(
        data(&stored, keys::TLS_KEY) == data(&kept, keys::TLS_KEY),
        "the account's key was replaced"
    );
    one_order(&ca)
}

async fn killed_after_the_order_it_goes_on_with_that_order(story: Story<'_>) -> Result<()> {
    let ca = patient(&story).await?;
    story.certificate("site", &[story.host("www")]).await?;
    story
        .until(
            "site",
            "the order is recorded",
            SOON,
            |certificate: &Certificate| {
                certificate
                    .status
                    .as_ref()
                    .is_some_and(|status| status.order.is_some())
            },
        )
        .await?;
    killed_in_the_middle(&story, &ca).await
}

async fn killed_after_the_challenge_it_goes_on_with_that_order(story: Story<'_>) -> Result<()> {
    let ca = patient(&story).await?;
    story.certificate("site", &[story.host("www")]).await?;
    reached(&story, &ca, "the CA was asked to validate", |count| {
        count.challenges > 0
    })
    .await?;
    killed_in_the_middle(&story, &ca).await
}

async fn killed_after_finalize_it_fetches_that_certificate(story: Story<'_>) -> Result<()> {
    let ca = patient(&story).await?;
    story.certificate("site", &[story.host("www")]).await?;
    reached(&story, &ca, "the order is finalized", |count| {
        count.finalized > 0
    })
    .await?;
    killed_in_the_middle(&story, &ca).await
}

async fn ended_by_a_kubelet_it_stops_by_itself_and_goes_on_later(story: Story<'_>) -> Result<()> {
    let ca = patient(&story).await?;
    story.certificate("site", &[story.host("www")]).await?;
    reached(&story, &ca, "the CA was asked to validate", |count| {
        count.challenges > 0
    })
    .await?;
    let mut operator = story.stage.operator.lock().await;
    let status = operator.terminate()?;
    operator.restart()?;
    drop(operator);
    ensure!(status.success(), "SIGTERM ended it with {status}");
    story.ready("site", SOON).await?;
    one_order(&ca)
}

async fn reached(
    story: &Story<'_>,
    ca: &TestCa,
    what: &str,
    there: impl Fn(Count) -> bool,
) -> Result<()> {
    story
        .wait_for(what, SOON, async || Ok(there(ca.count()?).then_some(())))
        .await
}

async fn killed_in_the_middle(story: &Story<'_>, ca: &TestCa) -> Result<()> {
    restart(story)
        .await
        .context("this story proves nothing then")?;
    story.ready("site", SOON).await?;
    no_route_stays(story).await?;
    let companion = story
        .secret(&evercert_api::children::companion_name(
            story.namespace,
            "site",
        ))
        .await?;
    let site = story.secret("site").await?;
    ensure!(
        data(&companion, keys::TLS_CRT) == data(&site, keys::TLS_CRT),
        "companion and Secret hold different certificates"
    );
    one_order(ca)
}

/// Kills the operator while nothing is finished yet, and starts it again.
async fn restart(story: &Story<'_>) -> Result<()> {
    let mut operator = story.stage.operator.lock().await;
    let status = operator.kill()?;
    let early = story
        .api::<Certificate>()
        .get_opt("site")
        .await?
        .is_none_or(|certificate| !certificate_ready(&certificate));
    operator.restart()?;
    ensure!(
        status.code().is_none(),
        "it was not killed by the signal: {status}"
    );
    ensure!(early, "the certificate was there before the kill");
    Ok(())
}

fn one_order(ca: &TestCa) -> Result<()> {
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    Ok(())
}
