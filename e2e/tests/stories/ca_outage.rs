//! A CA that goes: it is frozen, it ends, it comes back without its memory. Nothing that is good is lost, and no order is wasted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::AttemptOutcome;
use evercert_api::{Certificate, Issuer, condition, keys};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::history::Version;
use evercert_e2e::story::{SOON, conditions_of};
use jiff::{SignedDuration, Timestamp};

use crate::issue::{data, no_route_stays, usable};
use crate::midway::{
    close_the_route, count, counted, event, in_the_middle, never_failed, open_the_route, order_of,
    warnings,
};
use crate::{Tale, tales};

/// A request to a frozen CA is given up after 20 s, and the CA is asked again 15 s later.
const OUTAGE: Duration = Duration::from_secs(90);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_ca_that_forgot_account_and_order_in_the_middle_gets_the_same_key_once_and_the_next_order_in_its_time,
        a_ca_that_forgot_its_accounts_between_two_orders_gets_the_same_key_once_and_one_order,
        a_ca_that_is_frozen_in_the_middle_of_an_order_loses_nothing,
        a_ca_that_is_frozen_when_an_order_is_placed_gets_one_more_at_most,
        a_ca_that_ends_takes_no_certificate_away_and_issues_when_it_is_back,
    ]
}

async fn a_ca_that_forgot_account_and_order_in_the_middle_gets_the_same_key_once_and_the_next_order_in_its_time(
    story: Story<'_>,
) -> Result<()> {
    let mut ca = patient(&story).await?;
    let key = account_key(&story).await?;
    close_the_route(&story).await?;
    story.certificate("site", &[story.host("www")]).await?;
    let order = in_the_middle(&story, "site").await?;
    ca.restart(&story.stage.world).await?;
    open_the_route(&story).await?;

    let failed: Certificate = story
        .until(
            "site",
            "the order is known to be lost",
            OUTAGE,
            |certificate: &Certificate| {
                order_of(certificate).is_none()
                    && certificate
                        .status
                        .as_ref()
                        .is_some_and(|status| status.last_failure.is_some())
            },
        )
        .await?;
    let status = failed.status.context("no status")?;
    let failure = status.last_failure.context("no failure")?;
    ensure!(
        failure.reason == "OrderLost" && failure.message.contains("no longer knows the order"),
        "{failure:?}"
    );
    let next = status.next_attempt_time.context("no nextAttemptTime")?.0;
    let wait = next.duration_since(failure.time.0);
    ensure!(
        wait >= SignedDuration::from_secs(59),
        "the next attempt follows {wait:?} after the failure"
    );
    story
        .until(
            "site",
            "Ready tells the next attempt",
            SOON,
            |certificate: &Certificate| {
                condition::find(conditions_of(certificate), condition::READY)
                    .is_some_and(|ready| ready.message.contains(&next.to_string()))
            },
        )
        .await?;

    story.ready("site", OUTAGE + SOON).await?;
    ensure!(
        Timestamp::now() >= next,
        "it was issued before the attempt that was announced for {next}"
    );
    registered_again(&story, &ca, &key).await?;
    let count = ca.count()?;
    ensure!(
        count.placed == 2 && count.certificates == 1,
        "{count:?}, the lost order was {}",
        order.url
    );
    no_route_stays(&story).await
}

async fn a_ca_that_forgot_its_accounts_between_two_orders_gets_the_same_key_once_and_one_order(
    story: Story<'_>,
) -> Result<()> {
    let mut ca = story.ca().await?;
    let key = account_key(&story).await?;
    story.certificate("first", &[story.host("first")]).await?;
    story.ready("first", SOON).await?;
    let kept = story.secret("first").await?;
    ca.restart(&story.stage.world).await?;

    // Three at once find it out, and the key is registered once.
    let names = ["one", "two", "three"];
    for name in names {
        story.certificate(name, &[story.host(name)]).await?;
    }
    for name in names {
        story.ready(name, SOON).await?;
        never_failed(&story, name).await?;
    }
    registered_again(&story, &ca, &key).await?;
    let count = ca.count()?;
    ensure!(count.placed == 4 && count.certificates == 4, "{count:?}");
    ensure!(
        count.orders <= 7,
        "each of the three was refused once at most: {count:?}"
    );
    ensure!(
        kept == story.secret("first").await?,
        "the Secret of the certificate that was there was touched"
    );
    Ok(())
}

async fn a_ca_that_is_frozen_in_the_middle_of_an_order_loses_nothing(
    story: Story<'_>,
) -> Result<()> {
    let ca = patient(&story).await?;
    story.certificate("site", &[story.host("old")]).await?;
    story.ready("site", SOON).await?;
    let before = story.secret("site").await?;
    let old = usable(&before).context("no certificate")?;

    // Other names: Pebble takes an authorization of before for one in a hundred, also when it is told to take none.
    let names = [story.host("new"), story.host("newer")];
    story.certificate("site", &names).await?;
    // A CA that is frozen while it validates finds nobody afterwards.
    counted(&story, &ca, "the CA has validated all names", |count| {
        count.validated == 3
    })
    .await?;
    let asked = ca.count()?;
    ensure!(asked.certificates == 1, "it was issued before: {asked:?}");
    ca.freeze()?;
    let frozen_at = Timestamp::now();
    let told = unavailable(&story, "site", condition::ISSUING, frozen_at).await;
    // Whatever was told, it is not left frozen: a story that failed shows its log.
    ca.thaw()?;
    let told = told?;
    ensure!(
        told.contains("The order under way goes on at"),
        "it does not say that the order goes on: {told}"
    );
    ensure!(
        usable(&story.secret("site").await?) == Some(old),
        "the old certificate did not stay"
    );

    story.ready("site", OUTAGE).await?;
    never_failed(&story, "site").await?;
    count(
        &story,
        &ca,
        "the certificate before and this one",
        |count| {
            count.orders == 2
                && count.placed == 2
                && count.certificates == 2
                && count.registered == 1
        },
    )
    .await?;
    never_without(&story, "site")?;
    no_route_stays(&story).await
}

/// Whether the CA has made the order cannot be known: it counts as spent, and as a failed attempt.
async fn a_ca_that_is_frozen_when_an_order_is_placed_gets_one_more_at_most(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    ca.freeze()?;
    let frozen_at = Timestamp::now();
    let told = async {
        story.certificate("site", &[story.host("www")]).await?;
        let told = unavailable(&story, "site", condition::READY, frozen_at).await?;
        story
            .condition("site", condition::FALLBACK_IN_USE, "True", SOON)
            .await?;
        Ok::<_, anyhow::Error>(told)
    };
    let told = told.await;
    ca.thaw()?;
    let told = told?;
    ensure!(told.contains("Next attempt at"), "{told}");
    story.ready("site", OUTAGE).await?;
    let certificate: Certificate = story.api().get("site").await?;
    let history = certificate.status.context("no status")?.history;
    let failed = history
        .iter()
        .filter(|attempt| attempt.outcome == AttemptOutcome::Failed);
    let told = warnings(&story, "site").await?;
    ensure!(
        failed.count() > 0 && !told.is_empty(),
        "the attempt whose end is unknown did not count: {history:?}, {told:?}"
    );
    let count = ca.count()?;
    ensure!(
        count.placed <= 2 && count.certificates == 1 && count.registered == 1,
        "{count:?}"
    );
    no_route_stays(&story).await
}

async fn a_ca_that_ends_takes_no_certificate_away_and_issues_when_it_is_back(
    story: Story<'_>,
) -> Result<()> {
    let mut ca = story.ca().await?;
    let key = account_key(&story).await?;
    story.certificate("site", &[story.host("old")]).await?;
    story.ready("site", SOON).await?;
    let old = usable(&story.secret("site").await?).context("no certificate")?;

    ca.end()?;
    let ended_at = Timestamp::now();
    let names = [story.host("old"), story.host("new")];
    story.certificate("site", &names).await?;
    story.certificate("late", &[story.host("late")]).await?;
    for name in ["site", "late"] {
        let told = unavailable(&story, name, condition::READY, ended_at).await?;
        ensure!(
            told.contains("Next attempt at"),
            "{name}: it does not tell the next attempt: {told}"
        );
    }
    ensure!(
        usable(&story.secret("site").await?) == Some(old),
        "the old certificate did not stay"
    );
    // What has no certificate at all gets a fallback, what has one keeps it.
    story
        .condition("late", condition::FALLBACK_IN_USE, "True", SOON * 2)
        .await?;
    let (kind, words) = (condition::FALLBACK_IN_USE, "has not been available");
    story.condition_says("late", kind, words, SOON).await?;
    ca.begin(&story.stage.world).await?;
    for name in ["site", "late"] {
        story.ready(name, OUTAGE).await?;
        never_failed(&story, name).await?;
    }
    registered_again(&story, &ca, &key).await?;
    let count = ca.count()?;
    ensure!(count.placed == 3 && count.certificates == 3, "{count:?}");
    never_without(&story, "site")
}

/// A CA that asks for some patience, so that there is a middle.
async fn patient(story: &Story<'_>) -> Result<TestCa> {
    story
        .ca_with(Pebble {
            retry_after: (3, 3),
            ..Pebble::default()
        })
        .await
}

async fn account_key(story: &Story<'_>) -> Result<Vec<u8>> {
    let secret = story.secret("ca-account").await?;
    Ok(data(&secret, keys::TLS_KEY).to_vec())
}

/// The same key was registered a second time, once, and people were told.
async fn registered_again(story: &Story<'_>, ca: &TestCa, key: &[u8]) -> Result<()> {
    let count = ca.count()?;
    ensure!(
        count.registered == 2,
        "once at first and once again: {count:?}"
    );
    ensure!(
        account_key(story).await? == key,
        "the account's key was replaced"
    );
    let note = event(story, "ca", "AccountReplaced").await?;
    ensure!(
        note.contains("the same key was registered again"),
        "the event says: {note}"
    );
    let issuer: Issuer = story.api::<Issuer>().get("ca").await?;
    let status = issuer.status.context("the Issuer has no status")?;
    let uri = status.account_uri.context("the Issuer has no account")?;
    ensure!(note.contains(&uri), "{uri} is not in the event: {note}");
    ensure!(
        condition::is_true(&status.conditions, condition::READY),
        "the Issuer is not Ready: {:?}",
        status.conditions
    );
    Ok(())
}

/// Waits until a condition says that the CA is not available, since when, and when it goes on; gives the sentence.
async fn unavailable(
    story: &Story<'_>,
    name: &str,
    kind: &str,
    since: Timestamp,
) -> Result<String> {
    let found: Certificate = story
        .until(
            name,
            &format!("{kind} says that the CA is not available"),
            OUTAGE,
            |certificate: &Certificate| {
                condition::find(conditions_of(certificate), kind)
                    .is_some_and(|c| c.message.contains("has not been available since"))
            },
        )
        .await?;
    let told = condition::find(conditions_of(&found), kind).context("no condition")?;
    let (_, rest) = told
        .message
        .split_once("has not been available since ")
        .with_context(|| format!("since is not told: {}", told.message))?;
    let said: Timestamp = rest
        .split_once(": ")
        .and_then(|(at, _)| at.parse().ok())
        .with_context(|| format!("since is no instant: {}", told.message))?;
    let from = since - SignedDuration::from_secs(1);
    ensure!(
        said >= from && said <= Timestamp::now(),
        "not available since {said}, it was ended at {since}"
    );
    let next = told
        .message
        .rsplit_once(" at ")
        .and_then(|(_, at)| at.trim_end_matches('.').parse::<Timestamp>().ok())
        .with_context(|| format!("the next attempt is not told: {}", told.message))?;
    ensure!(next > said, "{}", told.message);
    Ok(told.message.clone())
}

/// Every version of the Secret held a usable certificate that was issued.
fn never_without(story: &Story<'_>, secret: &str) -> Result<()> {
    let versions = story
        .stage
        .history
        .of(&format!("{}/{secret}", story.namespace));
    let bad: Vec<&Version> = versions
        .iter()
        .filter(|version| version.fallback || !version.is_usable_at(version.at))
        .collect();
    ensure!(!versions.is_empty() && bad.is_empty(), "{bad:?}");
    Ok(())
}
