//! What is said about all stories of a world together.

use anyhow::{Context, Result, ensure};
use evercert_e2e::Story;

use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        no_usable_certificate_was_ever_replaced_by_a_fallback,
        the_operator_never_ended_by_itself,
        every_part_of_the_world_still_runs,
    ]
}

/// Where the API server was stopped, and so the watch of Secrets has gaps and parts of the world were seen to end.
pub(crate) fn after_outages() -> Vec<Tale> {
    tales![the_operator_never_ended_by_itself]
}

/// Where the operator ends itself, since it was told to.
pub(crate) fn after_crashes() -> Vec<Tale> {
    tales![
        no_usable_certificate_was_ever_replaced_by_a_fallback,
        every_part_of_the_world_still_runs,
    ]
}

async fn no_usable_certificate_was_ever_replaced_by_a_fallback(story: Story<'_>) -> Result<()> {
    let versions = story.stage.history.verify()?;
    println!("{versions} versions of TLS Secrets were looked at");
    Ok(())
}

async fn the_operator_never_ended_by_itself(story: Story<'_>) -> Result<()> {
    let mut operator = story.stage.operator.lock().await;
    operator.pid().context("it has ended")?;
    let ends = operator.ended_by_itself();
    ensure!(ends.is_empty(), "it ended by itself: {ends:?}");
    let log = std::fs::read_to_string(operator.log()).context("reading its log")?;
    let panics: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("panicked at"))
        .collect();
    ensure!(panics.is_empty(), "{panics:?}");
    Ok(())
}

async fn every_part_of_the_world_still_runs(story: Story<'_>) -> Result<()> {
    let failures = story.stage.world.failures();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
