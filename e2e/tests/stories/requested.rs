//! What a person asks of a Certificate without changing it: nothing new (`suspend`), or a renewal now (`renew-at`).

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, condition, keys};
use evercert_e2e::story::{SOON, conditions_of};
use evercert_e2e::{Story, dns};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::midway::never_failed;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_suspended_certificate_starts_nothing_new_and_keeps_what_it_has,
        a_renewal_is_made_once_for_each_new_value_and_also_while_backing_off,
    ]
}

async fn a_suspended_certificate_starts_nothing_new_and_keeps_what_it_has(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let names = [story.host("www")];
    let wanted = async |suspend: bool| {
        story
            .certificate_with("www", &names, |spec| spec.suspend = suspend)
            .await
    };
    wanted(true).await?;
    let words = "spec.suspend is true: nothing new is started";
    let message = story
        .condition_says("www", condition::STALLED, words, SOON)
        .await?;
    ensure!(message.contains("Set it to false to go on"), "{message}");
    ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);

    wanted(false).await?;
    let first = serial(&story.ready("www", SOON).await?)?;
    wanted(true).await?;
    story
        .condition_says("www", condition::READY, words, SOON)
        .await?;
    story
        .api::<Secret>()
        .delete("www", &DeleteParams::default())
        .await?;
    story
        .wait_for("the Secret is whole again", SOON, async || {
            Ok(story.api::<Secret>().get_opt("www").await?)
        })
        .await?;
    ask(&story, "www", &Timestamp::now().to_string()).await?;
    let asked = story
        .condition_says("www", condition::READY, "a renewal is asked for", SOON)
        .await?;
    ensure!(asked.contains(words), "{asked}");
    ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);

    wanted(false).await?;
    another(&story, "www", &first).await?;
    ensure!(ca.count()?.orders == 2, "{:?}", ca.count()?);
    never_failed(&story, "www").await
}

async fn a_renewal_is_made_once_for_each_new_value_and_also_while_backing_off(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("late");
    dns::point(&host, &[dns::NOWHERE])?;
    story
        .certificate("late", std::slice::from_ref(&host))
        .await?;
    let _: Certificate = story
        .until("late", "its attempt failed", SOON, |c: &Certificate| {
            let status = c.status.as_ref();
            status.is_some_and(|s| s.last_failure.is_some() && s.order.is_none())
        })
        .await?;
    dns::clear(&host)?;
    // Stored instants are whole seconds, so that one of the next second is later than the failure for certain.
    let soon = Timestamp::now() + jiff::SignedDuration::from_secs(1);
    ask(&story, "late", &soon.to_string()).await?;
    let first = serial(&story.ready("late", SOON).await?)?;
    let spent = ca.count()?.orders;
    ensure!(spent == 2, "{:?}", ca.count()?);

    ask(&story, "late", &Timestamp::now().to_string()).await?;
    let second = another(&story, "late", &first).await?;
    ask(&story, "late", "next week").await?;
    let message = story
        .condition_says("late", condition::READY, keys::RENEW_AT, SOON)
        .await?;
    ensure!(
        message.contains("\"next week\", which is no instant: write one such as"),
        "{message}"
    );
    ensure!(ca.count()?.orders == spent + 1, "{:?}", ca.count()?);
    ask(&story, "late", &Timestamp::now().to_string()).await?;
    another(&story, "late", &second).await?;
    ensure!(ca.count()?.orders == spent + 2, "{:?}", ca.count()?);
    Ok(())
}

pub(crate) fn serial(certificate: &Certificate) -> Result<String> {
    let status = certificate.status.as_ref().context("no status")?;
    status.serial_number.clone().context("no serialNumber")
}

/// Writes the annotation.
pub(crate) async fn ask(story: &Story<'_>, name: &str, value: &str) -> Result<()> {
    let annotated = json!({"metadata": {"annotations": {keys::RENEW_AT: value}}});
    let params = PatchParams::default();
    story
        .api::<Certificate>()
        .patch(name, &params, &Patch::Merge(&annotated))
        .await?;
    Ok(())
}

/// Waits until another certificate than `before` is in place and all is done, and gives its serial number.
pub(crate) async fn another(story: &Story<'_>, name: &str, before: &str) -> Result<String> {
    let found = story
        .until(
            name,
            "another certificate is in place",
            SOON,
            |c: &Certificate| {
                let issued = condition::find(conditions_of(c), condition::READY)
                    .is_some_and(|ready| ready.status == "True" && ready.reason == "Issued");
                issued && serial(c).is_ok_and(|now| now != before)
            },
        )
        .await?;
    serial(&found)
}
