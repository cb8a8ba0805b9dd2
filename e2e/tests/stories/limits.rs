//! What was spent at a CA is in the ledger, where no tenant and no restart changes it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, Issuer, condition};
use evercert_e2e::ca::TestCa;
use evercert_e2e::story::{SOON, conditions_of};
use evercert_e2e::{Story, dns};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{Tale, tales};

/// How long until a limit is met, by one order after the other.
const MET: Duration = Duration::from_mins(2);
/// Failed validations of a name that the ledger allows at once.
const FAILURES: usize = 3;
/// Orders for a set of names that the ledger allows at once, with a CA that publishes no limit.
const OF_A_SET: usize = 10;

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_tenant_that_clears_its_status_and_makes_its_certificate_anew_spends_no_more_than_the_limit,
        two_writers_that_undo_each_others_names_spend_no_more_than_the_limit_over_a_restart,
    ]
}

async fn a_tenant_that_clears_its_status_and_makes_its_certificate_anew_spends_no_more_than_the_limit(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("dead");
    dns::point(&host, &[dns::NOWHERE])?;
    story
        .certificate("dead", std::slice::from_ref(&host))
        .await?;
    for _ in 0..20 {
        let seen: Certificate = story
            .until(
                "dead",
                "its attempt failed, or is not allowed",
                SOON,
                |c: &Certificate| {
                    let failed = c
                        .status
                        .as_ref()
                        .is_some_and(|s| s.last_failure.is_some() && s.order.is_none());
                    failed || is_limited(c)
                },
            )
            .await?;
        if is_limited(&seen) {
            break;
        }
        clear(&story, "dead").await?;
    }
    limited_for(&story, "dead", &format!("failed validations of {host}")).await?;
    let spent = ca.count()?;
    ensure!(spent.orders == FAILURES, "{spent:?}");

    clear(&story, "dead").await?;
    limited_for(&story, "dead", &host).await?;
    story
        .api::<Certificate>()
        .delete("dead", &DeleteParams::default())
        .await?;
    story
        .wait_for("the Certificate is gone", SOON, async || {
            let found = story.api::<Certificate>().get_opt("dead").await?;
            Ok(found.is_none().then_some(()))
        })
        .await?;
    let two = [host.clone(), story.host("other")];
    story.certificate("dead", &two).await?;
    limited_for(&story, "dead", &host).await?;
    nothing_more(&ca, spent.orders)?;
    story.certificate("good", &[story.host("good")]).await?;
    story.ready("good", SOON).await?;
    nothing_more(&ca, spent.orders + 1)
}

async fn two_writers_that_undo_each_others_names_spend_no_more_than_the_limit_over_a_restart(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let hosts = ["a", "b"].map(|label| vec![story.host("www"), story.host(label)]);
    let mut limited = false;
    let mut round = 0;
    let deadline = tokio::time::Instant::now() + MET;
    while !limited {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "no limit was met: {:?}",
            ca.count()?
        );
        let names = hosts[round % 2].clone();
        story.certificate("torn", &names).await?;
        let seen: Certificate = story
            .until(
                "torn",
                "an order for these names is placed, or not allowed",
                SOON,
                |c: &Certificate| {
                    let ordered = c.status.as_ref().and_then(|s| s.order.as_ref());
                    let issued =
                        condition::find(conditions_of(c), condition::READY).is_some_and(|ready| {
                            ready.status == "True"
                                && ready.observed_generation == c.metadata.generation
                        });
                    ordered.is_some_and(|order| order.names.iter().eq(sorted(&names).iter()))
                        || issued
                        || is_limited(c)
                },
            )
            .await?;
        limited = is_limited(&seen);
        round += 1;
    }
    limited_for(&story, "torn", "this exact set of names").await?;
    let spent = ca.count()?;
    ensure!(
        (OF_A_SET..=2 * OF_A_SET).contains(&spent.orders),
        "{round} rounds, {spent:?}"
    );

    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    operator.restart()?;
    operator.ready().await?;
    drop(operator);
    for names in hosts.iter().chain(&hosts) {
        story.certificate("torn", names).await?;
        let _: Certificate = story
            .until(
                "torn",
                "these names are looked at",
                SOON,
                |c: &Certificate| {
                    let ready = condition::find(conditions_of(c), condition::READY);
                    let looked_at =
                        ready.filter(|r| r.observed_generation == c.metadata.generation);
                    let ordered = c.status.as_ref().is_some_and(|s| s.order.is_some());
                    looked_at.is_some_and(|r| r.status == "True" || ordered || is_limited(c))
                },
            )
            .await?;
    }
    let after = ca.count()?;
    ensure!(
        after.orders <= 2 * OF_A_SET,
        "before the restart {spent:?}, after it {after:?}"
    );
    let issuer: Issuer = story.issuer_ready("ca").await?;
    let budget = issuer
        .status
        .and_then(|s| s.budget)
        .context("no budget in the Issuer's status")?;
    ensure!(
        0 < budget.orders && budget.orders <= budget.most,
        "{budget:?}"
    );
    Ok(())
}

/// A tenant takes the status away.
async fn clear(story: &Story<'_>, name: &str) -> Result<()> {
    let certificates = story.api::<Certificate>();
    let params = PatchParams::default();
    let cleared = json!({"status": Value::Null});
    certificates
        .patch_status(name, &params, &Patch::Merge(&cleared))
        .await?;
    Ok(())
}

fn is_limited(certificate: &Certificate) -> bool {
    condition::is_true(conditions_of(certificate), condition::RATE_LIMITED)
}

/// The condition says which limit it is, and when it goes on.
async fn limited_for(story: &Story<'_>, name: &str, words: &str) -> Result<()> {
    let message = story
        .condition_says(name, condition::RATE_LIMITED, words, MET)
        .await?;
    ensure!(message.contains("Next attempt at 2"), "{message}");
    Ok(())
}

fn nothing_more(ca: &TestCa, orders: usize) -> Result<()> {
    let count = ca.count()?;
    ensure!(count.orders == orders, "{count:?}");
    Ok(())
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names
}
