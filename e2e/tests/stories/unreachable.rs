//! A name that the CA cannot reach, then mended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::{Fallback, FallbackMode};
use evercert_api::{Certificate, condition};
use evercert_e2e::history::Version;
use evercert_e2e::story::{SOON, conditions_of};
use evercert_e2e::{Story, curl, dns};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::app::application;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_name_that_leads_nowhere_gets_a_fallback_and_a_certificate_when_it_is_mended,
        without_a_fallback_nothing_is_written
    ]
}

async fn a_name_that_leads_nowhere_gets_a_fallback_and_a_certificate_when_it_is_mended(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("lost");
    // Where nobody says that nobody listens: then the CA's own look decides.
    dns::point(&host, &[dns::NOBODY])?;
    story.apply(&application("lost", &host)).await?;
    story
        .certificate("lost", std::slice::from_ref(&host))
        .await?;

    let failed: Certificate = story
        .until(
            "lost",
            "an attempt failed",
            SOON,
            |certificate: &Certificate| {
                certificate
                    .status
                    .as_ref()
                    .is_some_and(|status| status.last_failure.is_some())
            },
        )
        .await?;
    let status = failed.status.clone().context("no status")?;
    let failure = status.last_failure.clone().context("no failure")?;
    ensure!(
        failure.message.contains(&host),
        "the failure does not name the host: {}",
        failure.message
    );
    ensure!(
        failure
            .message
            .contains("urn:ietf:params:acme:error:connection")
            || failure.message.contains("connection"),
        "the CA's own words are missing: {}",
        failure.message
    );
    let next = status.next_attempt_time.context("no nextAttemptTime")?.0;
    ensure!(
        next > failure.time.0,
        "the next attempt is at {next}, the failure was at {}",
        failure.time.0
    );

    let secret: Secret = story
        .until(
            "lost",
            "a fallback is in the Secret",
            Duration::from_secs(5),
            |secret: &Secret| Version::of(secret, Timestamp::now()).fallback,
        )
        .await?;
    let version = Version::of(&secret, Timestamp::now());
    ensure!(
        version.is_usable_at(Timestamp::now()),
        "the fallback is not usable: {version:?}"
    );
    let leaf = version.leaf.context("no certificate")?;
    ensure!(
        leaf.names == [host.as_str()],
        "the fallback is for {:?}",
        leaf.names
    );
    let (_, message) = story
        .condition("lost", condition::FALLBACK_IN_USE, "True", SOON)
        .await?;
    ensure!(
        message.contains(&host),
        "FallbackInUse does not tell the cause: {message}"
    );
    let (reason, message) = story
        .condition("lost", condition::READY, "False", SOON)
        .await?;
    ensure!(
        message.contains(&next.to_string()),
        "Ready={reason} does not tell the next attempt: {message}"
    );

    let url = format!("https://{host}/");
    let refused = story
        .wait_for("curl refuses the fallback", SOON, async || {
            let answer = curl::get(&url, Some(ca.root()));
            let error = answer.err().context("curl trusts it")?;
            Ok(format!("{error}")
                .contains("exit status: 60")
                .then_some(error))
        })
        .await?;
    ensure!(ca.count()?.orders == 1, "{:?} ({refused})", ca.count()?);
    dns::clear(&host)?;

    let certificate = story.ready("lost", Duration::from_secs(90)).await?;
    let issued_at = Timestamp::now();
    ensure!(
        issued_at >= next,
        "it was issued at {issued_at}, before the attempt that was announced for {next}"
    );
    ensure!(
        !condition::is_true(conditions_of(&certificate), condition::FALLBACK_IN_USE),
        "FallbackInUse stayed"
    );
    let served = story
        .wait_for("the site answers, and curl trusts it", SOON, async || {
            let served = curl::get(&url, Some(ca.root()))?;
            // Envoy may know the site's route before its pod.
            ensure!(served.status != 503, "{served:?}");
            Ok(Some(served))
        })
        .await?;
    ensure!(served.status == 200, "{served:?}");
    let count = ca.count()?;
    ensure!(count.orders == 2 && count.certificates == 1, "{count:?}");
    Ok(())
}

async fn without_a_fallback_nothing_is_written(story: Story<'_>) -> Result<()> {
    let _ca = story.ca().await?;
    // Another one whose name leads nowhere tells that it would be there by now.
    for (name, mode) in [
        ("bare", FallbackMode::None),
        ("beside", FallbackMode::SelfSigned),
    ] {
        let host = story.host(name);
        dns::point(&host, &[dns::NOWHERE])?;
        story
            .certificate_with(name, &[host], |spec| {
                spec.fallback = Some(Fallback {
                    mode,
                    ..Fallback::default()
                });
            })
            .await?;
    }
    for name in ["bare", "beside"] {
        let failed = |certificate: &Certificate| {
            let status = certificate.status.as_ref();
            status.is_some_and(|status| status.last_failure.is_some())
        };
        story.until(name, "an attempt failed", SOON, failed).await?;
    }
    let fallback = |secret: &Secret| Version::of(secret, Timestamp::now()).fallback;
    story
        .until("beside", "a fallback is in the Secret", SOON, fallback)
        .await?;
    let certificate: Certificate = story.api::<Certificate>().get("bare").await?;
    let conditions = conditions_of(&certificate);
    let in_use = condition::find(conditions, condition::FALLBACK_IN_USE);
    ensure!(
        in_use.is_some_and(|c| c.status == "False")
            && !condition::is_true(conditions, condition::READY),
        "{conditions:?}"
    );
    ensure!(
        story.api::<Secret>().get_opt("bare").await?.is_none(),
        "a Secret was written"
    );
    // Nor was one there in between.
    let of = |name: &str| {
        story
            .stage
            .history
            .of(&format!("{}/{name}", story.namespace))
    };
    ensure!(of("bare").is_empty(), "{:?}", of("bare"));
    ensure!(!of("beside").is_empty(), "the history has nothing at all");
    Ok(())
}
