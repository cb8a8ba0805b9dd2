//! Renewal by the fraction, proved with a CA whose certificates live a minute and which says nothing about when to renew them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, CertificateSpec, condition};
use evercert_e2e::Story;
use evercert_e2e::scripted::{Profile, Settings};
use evercert_e2e::story::{SOON, conditions_of};
use jiff::SignedDuration;

use crate::midway::never_failed;
use crate::{Tale, tales};

const LIFETIME: Duration = Duration::from_mins(1);

/// What a spec asks for.
type Wish = fn(&mut CertificateSpec);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_certificate_that_lives_a_minute_is_renewed_in_time,
        a_renewal_that_is_wished_too_early_or_too_late_is_clamped_and_said,
    ]
}

async fn a_certificate_that_lives_a_minute_is_renewed_in_time(story: Story<'_>) -> Result<()> {
    let ca = story
        .scripted_ca(Settings {
            default_profile: Profile {
                backdate: Duration::ZERO,
                ..Profile::living(LIFETIME)
            },
            renewal_info: false,
            ..Settings::default()
        })
        .await?;
    story.certificate("brief", &[story.host("brief")]).await?;
    let first = story
        .ready("brief", SOON)
        .await?
        .status
        .context("no status")?;
    let announced = first.renewal_time.context("no renewalTime")?.0;
    let serial = first.serial_number.context("no serialNumber")?;
    let _: Certificate = story
        .until(
            "brief",
            "another certificate is in place",
            LIFETIME,
            |certificate: &Certificate| {
                let now = certificate
                    .status
                    .as_ref()
                    .and_then(|status| status.serial_number.as_ref());
                now.is_some_and(|now| *now != serial)
            },
        )
        .await?;
    let expiry = first.not_after.context("no notAfter")?.0;
    let versions = story
        .stage
        .history
        .of(&format!("{}/brief", story.namespace));
    let replaced = versions
        .iter()
        .find(|version| {
            version
                .leaf
                .as_ref()
                .is_some_and(|leaf| leaf.not_after > expiry)
        })
        .context("the history has no renewed certificate")?;
    ensure!(
        replaced.at >= announced,
        "renewed at {}, announced for {announced}",
        replaced.at
    );
    ensure!(
        replaced.at < expiry,
        "renewed at {}, expired at {expiry}",
        replaced.at
    );
    let unusable: Vec<_> = versions
        .iter()
        .filter(|version| !version.is_usable_at(version.at))
        .collect();
    ensure!(
        unusable.is_empty(),
        "versions that were not usable: {unusable:?}"
    );
    let count = ca.count();
    ensure!(count.orders == 2 && count.certificates == 2, "{count:?}");
    never_failed(&story, "brief").await
}

/// Of 90 days two thirds are 60 days, and a twentieth is four and a half.
async fn a_renewal_that_is_wished_too_early_or_too_late_is_clamped_and_said(
    story: Story<'_>,
) -> Result<()> {
    let _ca = story
        .scripted_ca(Settings {
            renewal_info: false,
            ..Settings::default()
        })
        .await?;
    // The hours before expiry that come of it.
    let wishes: [(&str, Wish, i64, Option<&str>); 4] = [
        (
            "early",
            |spec| spec.renew_before = Some("1500h".into()),
            60 * 24,
            Some("earlier than two thirds"),
        ),
        (
            "late",
            |spec| spec.renew_before = Some("1h".into()),
            108,
            Some("later than a twentieth"),
        ),
        (
            "small",
            |spec| spec.renew_before_percentage = Some(2),
            108,
            Some("later than a twentieth"),
        ),
        (
            "good",
            |spec| spec.renew_before_percentage = Some(50),
            45 * 24,
            None,
        ),
    ];
    for (name, wish, _, _) in wishes {
        story
            .certificate_with(name, &[story.host(name)], wish)
            .await?;
    }
    for (name, _, hours, said) in wishes {
        let certificate = story.ready(name, SOON).await?;
        let clamped = condition::find(conditions_of(&certificate), condition::RENEW_BEFORE_CLAMPED);
        let status = certificate.status.as_ref().context("no status")?;
        let renewal = status.renewal_time.as_ref().context("no renewalTime")?.0;
        let expiry = status.not_after.as_ref().context("no notAfter")?.0;
        let wanted = SignedDuration::from_hours(hours);
        let off = (expiry.duration_since(renewal) - wanted).abs();
        ensure!(
            off < SignedDuration::from_mins(1),
            "{name} is renewed at {renewal}, it expires at {expiry}"
        );
        ensure!(clamped.is_some() == said.is_some(), "{name}: {clamped:?}");
        if let (Some(clamped), Some(words)) = (clamped, said) {
            ensure!(
                clamped.status == "True"
                    && clamped.message.contains(words)
                    && clamped.message.contains(&renewal.to_string()),
                "{name}: {clamped:?}"
            );
        }
    }
    Ok(())
}
