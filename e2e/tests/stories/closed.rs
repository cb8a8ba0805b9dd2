//! Port 80 is closed to the CA, or to some of the places that it looks from, which nobody can see from here: what it says is told
//! with what helps against that, and the name is not tried again and again.

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_api::condition::{self, RATE_LIMITED};
use evercert_e2e::Story;
use evercert_e2e::scripted::{Problem, Settings, Verdict};
use evercert_e2e::story::{SOON, conditions_of};
use jiff::{SignedDuration, Timestamp};

use crate::requested::ask;
use crate::{Tale, tales};

/// The most failed validations of one name in an hour.
const MOST: usize = 4;

pub(crate) fn tales() -> Vec<Tale> {
    tales![a_port_that_is_closed_to_the_ca_is_told_by_its_kind_and_tried_four_times_an_hour_at_most]
}

async fn a_port_that_is_closed_to_the_ca_is_told_by_its_kind_and_tried_four_times_an_hour_at_most(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let timeout = |host: &str| {
        format!(
            "198.18.0.2: Fetching http://{host}/.well-known/acme-challenge/x: Timeout during connect (likely firewall problem)"
        )
    };
    let cases = [
        ("closed", "", "let the CA reach port 80"),
        (
            "abroad",
            "During secondary validation: ",
            "let port 80 answer the whole world",
        ),
    ];
    for (name, from, remedy) in cases {
        let host = story.host(name);
        let problem = Problem::new(400, "connection", format!("{from}{}", timeout(&host)));
        ca.script().validation(&host, Verdict::Invalid(problem));
        story.certificate(name, std::slice::from_ref(&host)).await?;
        let failed = failed_after(&story, name, None).await?;
        let message = &failed.1;
        ensure!(
            message.contains(from) && message.contains(remedy) && message.contains(&host),
            "{name}: {message}"
        );
        let words = message.to_lowercase();
        let addresses = [
            "allow-list",
            "allowlist",
            "whitelist",
            "addresses of the ca",
        ];
        let advice = addresses.iter().find(|advice| words.contains(**advice));
        ensure!(
            advice.is_none(),
            "nobody knows a CA's addresses: {advice:?} in {message}"
        );
    }

    // Whatever a person asks for.
    let mut last = failed_after(&story, "abroad", None).await?;
    loop {
        let soon = Timestamp::now() + SignedDuration::from_secs(1);
        ask(&story, "abroad", &soon.to_string()).await?;
        let limited = story.condition_says("abroad", RATE_LIMITED, "failed validations of", SOON);
        tokio::select! {
            biased;
            failed = failed_after(&story, "abroad", Some(last.0)) => last = failed?,
            limited = limited => {
                limited?;
                break;
            }
        }
        let tried = ca.journal().naming(&story.host("abroad"));
        ensure!(ca.count().challenges <= MOST + 1, "{tried}");
    }
    let certificate = story.api::<Certificate>().get("abroad").await?;
    let limited = condition::find(conditions_of(&certificate), RATE_LIMITED).context("not told")?;
    ensure!(
        limited.status == "True" && limited.message.contains(&story.host("abroad")),
        "{limited:?}"
    );
    Ok(())
}

/// Waits for a failure after the one at this instant, and gives its own and its message.
async fn failed_after(
    story: &Story<'_>,
    name: &str,
    before: Option<Timestamp>,
) -> Result<(Timestamp, String)> {
    let failure = |certificate: &Certificate| {
        let failure = certificate.status.as_ref()?.last_failure.as_ref()?;
        let is_new = before.is_none_or(|before| failure.time.0 > before);
        is_new.then(|| (failure.time.0, failure.message.clone()))
    };
    let failed: Certificate = story
        .until(name, "an attempt failed", SOON, |c| failure(c).is_some())
        .await?;
    failure(&failed).context("the failure is gone")
}
