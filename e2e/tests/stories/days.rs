//! The CA's bad days, as its script has them: validation by the world's DNS through the world's entry point, faults at the CA.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, Issuer, condition};
use evercert_e2e::Story;
use evercert_e2e::leaf::Leaf;
use evercert_e2e::scripted::{Answer, Endpoint, Problem, RetryAfter, Settings, Signing};
use evercert_e2e::story::SOON;
use jiff::{SignedDuration, Timestamp};

use crate::midway::events;
use crate::{Tale, tales};

/// Certificates that wait for the end of an outage.
const WAITING: usize = 12;
/// How long what an outage brings takes.
const OUTAGE: Duration = Duration::from_mins(1);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_finalize_whose_answer_is_lost_costs_no_second_order,
        an_order_that_the_ca_works_on_is_asked_for_again_and_not_repeated,
        a_ca_that_is_down_is_asked_by_one_at_a_time_and_approached_slowly_afterwards,
        each_name_that_a_ca_blames_is_told_with_its_own_words,
    ]
}

async fn a_finalize_whose_answer_is_lost_costs_no_second_order(story: Story<'_>) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    ca.script().next_finalize(Answer::lost());
    let host = story.host("www");
    story
        .certificate("www", std::slice::from_ref(&host))
        .await?;
    story.ready("www", SOON).await?;
    let count = ca.count();
    ensure!(
        (count.orders, count.finalized, count.certificates) == (1, 1, 1),
        "{count:?}\n{}",
        ca.journal()
    );
    ensure!(ca.journal().of(Endpoint::Challenge).naming(&host).len() == 1);

    let secret = story.secret("www").await?;
    let data = secret.data.context("no data")?;
    let chain = Leaf::parse_chain(&data.get("tls.crt").context("no chain")?.0)?;
    let leaf = chain.first().context("no leaf")?;
    ensure!(leaf.names == [host], "{leaf:?}");
    ensure!(leaf.issuer == "CN=Scripted Intermediate 1.0", "{leaf:?}");
    Ok(())
}

async fn an_order_that_the_ca_works_on_is_asked_for_again_and_not_repeated(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    ca.script().signing(Signing::Held);
    ca.script()
        .processing_retry_after(Some(RetryAfter::Seconds(1)));
    let names = [story.host("a"), story.host("b")];
    story.certificate("slow", &names).await?;
    story
        .wait_for(
            "the order is read three times meanwhile",
            SOON,
            async || {
                let journal = ca.journal();
                let reads = journal.of(Endpoint::Order);
                let reads = reads.filter(|entry| entry.note.contains("processing"));
                Ok((reads.len() >= 3).then_some(()))
            },
        )
        .await?;
    ca.script().finish_processing();
    story.ready("slow", SOON).await?;
    let count = ca.count();
    ensure!(
        (count.orders, count.finalized, count.challenges) == (1, 1, 2),
        "{count:?}\n{}",
        ca.journal()
    );
    Ok(())
}

/// Two minutes instead of three days: what is done at each end is the same.
async fn a_ca_that_is_down_is_asked_by_one_at_a_time_and_approached_slowly_afterwards(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let before = Timestamp::now();
    ca.script().on_all().always(Answer::unavailable());
    for number in 0..WAITING {
        let name = format!("c{number:02}");
        story.certificate(&name, &[story.host(&name)]).await?;
    }
    let down = |issuer: &Issuer| {
        let status = issuer.status.as_ref();
        let ready = status.and_then(|s| condition::find(&s.conditions, condition::READY));
        ready.is_some_and(|r| {
            r.reason == "CAUnavailable" && r.message.contains("has not been available since")
        })
    };
    story
        .until("ca", "the Issuer says since when", OUTAGE, down)
        .await?;
    story
        .wait_for("the outage is a long one", OUTAGE * 2, async || {
            let over = Timestamp::now().duration_since(before) > SignedDuration::from_secs(75);
            Ok(over.then_some(()))
        })
        .await?;
    let metrics = story.stage.operator.lock().await.metrics()?;
    let told = metrics
        .lines()
        .find_map(|line| line.strip_prefix("evercert_breakers_open{directory=\"other\"} "));
    ensure!(
        told.is_some_and(|open| open.parse().is_ok_and(|open: u32| open > 0)),
        "the metrics tell of no breaker: {told:?}\n{metrics}"
    );
    // Those that were on their way at first; then pauses of at least 15 s, and one request at each end of them.
    let from = before.checked_add(SignedDuration::from_secs(10))?;
    let asked = ca.journal().since(from).requests();
    ensure!((1..=6).contains(&asked.len()), "{asked}");
    for number in 0..WAITING {
        let certificate: Certificate = story.api().get(&format!("c{number:02}")).await?;
        let failed = certificate.status.and_then(|status| status.failed_attempts);
        ensure!(
            failed.is_none(),
            "an outage counts as an attempt: {failed:?}"
        );
    }

    ca.script().calm();
    for number in 0..WAITING {
        story.ready(&format!("c{number:02}"), OUTAGE * 3).await?;
    }
    let orders = ca.journal().of(Endpoint::NewOrder).since(before);
    let orders = orders.filter(|entry| entry.status == Some(201));
    let first = orders.entries().first().context("no order")?.at;
    let minute = first.checked_add(SignedDuration::from_secs(55))?;
    let at_first = orders.filter(|entry| entry.at < minute);
    ensure!(at_first.len() <= 5, "{at_first}");
    ensure!(orders.len() == WAITING, "{orders}");
    story
        .until(
            "ca",
            "the Issuer is Ready again",
            SOON,
            |issuer: &Issuer| {
                let status = issuer.status.as_ref();
                status.is_some_and(|s| condition::is_true(&s.conditions, condition::READY))
            },
        )
        .await?;
    let told = events(&story, "ca", "CAUnavailable").await?;
    ensure!(told.len() == 1, "an outage is one event: {told:?}");
    for number in 0..WAITING {
        let told = events(&story, &format!("c{number:02}"), "CAUnavailable").await?;
        ensure!(told.is_empty(), "{told:?}");
    }
    Ok(())
}

async fn each_name_that_a_ca_blames_is_told_with_its_own_words(story: Story<'_>) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let [good, listed, barred] = ["good", "listed", "barred"].map(|label| story.host(label));
    let refusal = Problem::new(400, "compound", "two names are refused")
        .naming(&listed, "rejectedIdentifier", "it is on a list")
        .naming(&barred, "caa", "its records forbid it");
    ca.script().next_order(Answer::problem(&refusal));
    let names = [good.clone(), listed.clone(), barred.clone()];
    story.certificate("site", &names).await?;
    let message = story
        .condition_says("site", condition::READY, "it is on a list", SOON)
        .await?;
    for (name, words) in [
        (&listed, "it is on a list"),
        (&barred, "its records forbid it"),
    ] {
        let (_, after) = message
            .split_once(&format!("{name}: "))
            .with_context(|| format!("{name} is not blamed in: {message}"))?;
        let own = after.split(';').next().unwrap_or_default();
        ensure!(own.contains(words), "{name} in: {message}");
    }
    ensure!(!message.contains(&good), "{good} is blamed: {message}");
    let seen: Certificate = story.api::<Certificate>().get("site").await?;
    let failure = seen.status.and_then(|status| status.last_failure);
    let failure = failure.context("no lastFailure")?;
    ensure!(
        failure.message.contains(&listed) && failure.message.contains(&barred),
        "{failure:?}"
    );
    Ok(())
}
