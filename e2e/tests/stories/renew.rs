//! Renewal by the fraction, proved with a CA whose certificates live a minute and which says nothing about when to renew them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_e2e::Story;
use evercert_e2e::scripted::{Profile, Settings};
use evercert_e2e::story::SOON;

use crate::midway::never_failed;
use crate::{Tale, tales};

const LIFETIME: Duration = Duration::from_mins(1);

pub(crate) fn tales() -> Vec<Tale> {
    tales![a_certificate_that_lives_a_minute_is_renewed_in_time]
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
