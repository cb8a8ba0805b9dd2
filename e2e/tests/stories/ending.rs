//! What is said about all stories together.

use anyhow::{Context, Result, ensure};
use evercert_e2e::Story;

use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        no_usable_certificate_was_ever_replaced_by_a_fallback,
        the_operator_never_ended_by_itself
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
