//! What is said about all stories of a world together.

use anyhow::{Context, Result, ensure};
use evercert_e2e::costs::Costs;
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, operator};

use crate::issue::no_route_stays;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        no_usable_certificate_was_ever_replaced_by_a_fallback,
        the_operator_never_ended_by_itself,
        every_part_of_the_world_still_runs,
        what_a_certificate_costs_is_counted_as_another_way_of_counting_does,
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

/// What is told about all stories comes from the same numbers as this one certificate's.
async fn what_a_certificate_costs_is_counted_as_another_way_of_counting_does(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON).await?;
    no_route_stays(&story).await?;
    let (costs, writes) = story
        .wait_for("both count the same calls", SOON, async || {
            let costs = Costs::of(story.stage)?;
            let writes = writes_in_the_text(&story)?;
            Ok((costs.writes_in(story.namespace) == writes).then_some((costs, writes)))
        })
        .await?;
    // An order, its challenge, its certificate, and what goes with them.
    ensure!(
        writes >= 5,
        "only {writes} mutating calls for a certificate"
    );
    ensure!(
        costs.issued_in(story.namespace) == 1,
        "{} certificates, not one",
        costs.issued_in(story.namespace)
    );
    let (all, requests) = (ca.count()?.requests, costs.requests_of(story.namespace));
    // The root was fetched from the management interface, by the test.
    ensure!(
        requests >= 8 && requests <= all,
        "{requests} requests of the operator, and {all} of all"
    );
    Ok(())
}

/// The operator's mutating calls in the story's namespace, by looking for words in the lines of the audit log.
fn writes_in_the_text(story: &Story<'_>) -> Result<usize> {
    let log = std::fs::read_to_string(story.stage.world.audit_log()).context("the audit log")?;
    let user = format!(r#""username":"{}""#, operator::user());
    let namespace = format!(r#""namespace":"{}""#, story.namespace);
    let verbs = ["create", "update", "patch", "delete"].map(|verb| format!(r#""verb":"{verb}""#));
    let is_meant = |line: &&str| {
        line.ends_with('}')
            && [&user, &namespace]
                .into_iter()
                .all(|word| line.contains(word))
            && verbs.iter().any(|verb| line.contains(verb))
    };
    Ok(log.lines().filter(is_meant).count())
}
