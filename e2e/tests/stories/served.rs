//! What the entry point really presents, beside what is in the Secret.

use anyhow::{Context, Result, ensure};
use evercert_api::condition::SERVED;
use evercert_e2e::Story;
use evercert_e2e::story::SOON;

use crate::app::application;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        what_is_presented_is_told_fresh_after_issue_and_stale_with_its_serial_while_the_ingress_names_another_secret
    ]
}

async fn what_is_presented_is_told_fresh_after_issue_and_stale_with_its_serial_while_the_ingress_names_another_secret(
    story: Story<'_>,
) -> Result<()> {
    let _ca = story.ca().await?;
    let host = story.host("shop");
    let names = std::slice::from_ref(&host);
    story.apply(&application("old", &host)).await?;
    story.certificate("old", names).await?;
    let first = story.ready("old", SOON).await?;
    let serial = first.status.and_then(|s| s.serial_number);
    let serial = serial.context("no serial number")?;
    let (reason, message) = story.condition("old", SERVED, "True", SOON).await?;
    ensure!(
        reason == "Fresh" && message.ends_with(&serial),
        "{reason}: {message}, not {serial}"
    );
    metric(&story, "old", 1).await?;

    // Nobody presents this one: the Ingress names the Secret of the other.
    story.certificate("new", names).await?;
    story.ready("new", SOON).await?;
    let (reason, message) = story.condition("new", SERVED, "False", SOON).await?;
    ensure!(
        reason == "Stale" && message.contains(&format!("an older certificate, serial {serial},")),
        "{reason}: {message}"
    );
    metric(&story, "new", 0).await?;
    let renamed = application("old", &host).replace("secretName: old", "secretName: new");
    ensure!(renamed.contains("secretName: new"), "{renamed}");
    story.apply(&renamed).await?;
    story.condition("new", SERVED, "True", SOON).await?;
    metric(&story, "new", 1).await?;
    // And of the first it is no longer said.
    let (reason, message) = story.condition("old", SERVED, "False", SOON).await?;
    ensure!(
        reason == "AnotherCertificate" && message.contains(&serial),
        "{reason}: {message}"
    );
    metric(&story, "old", 0).await
}

async fn metric(story: &Story<'_>, name: &str, value: u8) -> Result<()> {
    let line = format!(
        "evercert_certificate_served{{namespace=\"{}\",name=\"{name}\"}} {value}",
        story.namespace
    );
    story
        .wait_for(&format!("the metrics tell {line}"), SOON, async || {
            let metrics = story.stage.operator.lock().await.metrics()?;
            Ok(metrics.contains(&line).then_some(()))
        })
        .await
}
