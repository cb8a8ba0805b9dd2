//! A great many due at once: those that wait cost little, and hold up nobody who comes later.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_e2e::audit;
use evercert_e2e::story::certificate_ready;
use evercert_e2e::{Story, crowd, operator};
use kube::api::ListParams;

use crate::crowds::{CALLS, leave};
use crate::{Tale, tales};

/// How many, unless `EVERCERT_DUE` says otherwise.
const DUE: usize = 250;
/// In bytes: with as many orders under way as there may be, and for each that is due.
const MOST_AT_WORK: u64 = 85_000_000;
const MOST_FOR_EACH: u64 = 30_000;
/// A build for debugging is larger, and nobody runs it.
const MOST_FOR_DEBUGGING: u64 = 130_000_000;
/// The bound of story 25, for one that comes when all the others are due.
const NEW_WITHIN: Duration = Duration::from_mins(1);
/// For all of them on a busy machine: three a second, where fifty at once are fifteen.
const EACH_WITHIN: Duration = Duration::from_millis(330);

pub(crate) fn tales() -> Vec<Tale> {
    tales![hundreds_due_when_the_operator_starts_are_borne_in_bounded_memory_and_hold_up_no_new_one]
}

async fn hundreds_due_when_the_operator_starts_are_borne_in_bounded_memory_and_hold_up_no_new_one(
    story: Story<'_>,
) -> Result<()> {
    let due = match std::env::var("EVERCERT_DUE") {
        Ok(due) => due.parse().context("EVERCERT_DUE")?,
        Err(_) => DUE,
    };
    let ca = story.ca().await?;
    let mut operator = story.stage.operator.lock().await;
    let shipped = operator.run_as_shipped(&story.stage.world).await?;
    operator.kill()?;
    crowd::apply(
        &story.stage.client,
        &crowd::certificates(&story, "due", due),
    )
    .await?;
    // Of somebody else, who is not to wait for all of those.
    let elsewhere = format!("{}-new", story.namespace);
    story
        .own_namespace(&elsewhere, &serde_json::json!({}))
        .await?;
    let there = Story {
        stage: story.stage,
        namespace: &elsewhere,
    };
    let audit = story.stage.audit()?;
    let started = Instant::now();
    operator.restart()?;
    operator.ready().await?;
    there.issuer("ca", &ca).await?;
    there.certificate("new", &[there.host("new")]).await?;
    there.ready("new", NEW_WITHIN).await?;
    println!(
        "a new one beside {due} that are due: Ready {:.1?} after the operator's start",
        started.elapsed()
    );
    let within = NEW_WITHIN + EACH_WITHIN * u32::try_from(due)?;
    story
        .wait_for("each of them is Ready", within, async || {
            let all = story.api::<Certificate>();
            let all = all.list(&ListParams::default()).await?;
            let ready = all.items.iter().filter(|c| certificate_ready(c)).count();
            ensure!(ready == due, "{ready} of {}", all.items.len());
            Ok(Some(()))
        })
        .await?;
    let (peak, now) = (operator.peak_memory()?, operator.resident_memory()?);
    drop(operator);
    let count = ca.count()?;
    let calls = audit.mutating(&operator::user())?;
    println!(
        "{due} due at once: settled after {:.1?}, {} MB at most, {} MB at the end, {} mutating calls:\n{}",
        started.elapsed(),
        peak / 1_000_000,
        now / 1_000_000,
        calls.len(),
        audit::table(&calls)
    );
    ensure!(
        (count.orders - count.turned_away, count.certificates) == (due + 1, due + 1),
        "{count:?}"
    );
    ensure!(
        calls.len() <= CALLS * (due + 1),
        "{} mutating calls",
        calls.len()
    );
    let at_work = if shipped {
        MOST_AT_WORK
    } else {
        MOST_FOR_DEBUGGING
    };
    let most = at_work + MOST_FOR_EACH * u64::try_from(due)?;
    ensure!(peak <= most, "{peak} bytes, and {most} there may be");
    leave(&story).await
}
