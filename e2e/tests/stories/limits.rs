//! What was spent at a CA is in the ledger, where no tenant and no restart changes it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::{Fallback, FallbackTrigger};
use evercert_api::{Certificate, CertificateSpec, Issuer, children, condition, keys};
use evercert_e2e::ca::TestCa;
use evercert_e2e::scripted::{Endpoint, ScriptedCa, Settings};
use evercert_e2e::story::{SOON, conditions_of};
use evercert_e2e::{Story, dns, ledger};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::issue::usable;
use crate::requested::{another, ask, serial};
use crate::{Tale, tales};

/// How long until a limit is met, by one order after the other.
const MET: Duration = Duration::from_mins(2);
/// Failed validations of a name that the ledger allows at once.
const FAILURES: usize = 3;
/// Orders for a set of names that the ledger allows at once, with a CA that publishes no limit.
const OF_A_SET: usize = 10;
/// And on top of them for a certificate that is lost.
const RESERVE: usize = 2;

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_tenant_that_clears_its_status_and_makes_its_certificate_anew_spends_no_more_than_the_limit,
        two_writers_that_undo_each_others_names_spend_no_more_than_the_limit_over_a_restart,
        a_lost_secret_of_a_set_of_names_that_is_used_up_comes_from_the_companion_and_then_from_the_reserve,
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

/// Four certificates in a week at Let's Encrypt, of five; ten in hours of twelve at a CA that publishes no limit: all but the
/// reserve, which is for those who have nothing left.
async fn a_lost_secret_of_a_set_of_names_that_is_used_up_comes_from_the_companion_and_then_from_the_reserve(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let host = story.host("www");
    let orders = || ca.journal().of(Endpoint::NewOrder).naming(&host).len();
    // So the last part need not wait until it is clear that nothing begins.
    let at_once = |spec: &mut CertificateSpec| {
        spec.fallback = Some(Fallback {
            trigger: FallbackTrigger::Immediately,
            ..Fallback::default()
        });
    };
    story
        .certificate_with("site", std::slice::from_ref(&host), at_once)
        .await?;
    let mut last = serial(&story.ready("site", SOON).await?)?;
    for _ in 1..OF_A_SET {
        ask(&story, "site", &Timestamp::now().to_string()).await?;
        last = another(&story, "site", &last).await?;
    }
    ensure!(orders() == OF_A_SET, "{}", ca.journal());
    write_down(&story, &ca, "site", "beside").await?;
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    operator.ensure_ready().await?;
    drop(operator);
    // One more wish of a person is not granted, and says when it will be.
    ask(&story, "site", &Timestamp::now().to_string()).await?;
    limited_for(&story, "site", "this exact set of names").await?;
    let good = usable(&story.secret("site").await?).context("no certificate")?;
    let gone = DeleteParams::default();
    story.api::<Secret>().delete("site", &gone).await?;
    let back = |secret: &Secret| usable(secret).as_ref() == Some(&good);
    story
        .until("site", "the last good one is back", SOON, back)
        .await?;
    let message = limited_for(&story, "site", "this exact set of names").await?;
    let next = told_instant(&message)?;
    ensure!(next > Timestamp::now(), "{message}");
    ensure!(orders() == OF_A_SET, "{}", ca.journal());
    for reserve in 1..=RESERVE {
        lose_all(&story, "site").await?;
        last = another(&story, "site", &last).await?;
        ensure!(orders() == OF_A_SET + reserve, "{}", ca.journal());
        write_down(&story, &ca, "site", &format!("beside{reserve}")).await?;
    }
    lose_all(&story, "site").await?;
    let message = limited_for(&story, "site", "this exact set of names").await?;
    ensure!(told_instant(&message)? > Timestamp::now(), "{message}");
    story
        .condition("site", condition::FALLBACK_IN_USE, "True", MET)
        .await?;
    let (_, message) = story
        .condition("site", condition::READY, "False", SOON)
        .await?;
    ensure!(told_instant(&message)? > Timestamp::now(), "{message}");
    ensure!(orders() == OF_A_SET + RESERVE, "{}", ca.journal());
    Ok(())
}

/// Without a hurry an order's end is written to the ledger: with the next order, which is one beside it. Until then a restart
/// that finds no certificate takes it for lost.
async fn write_down(story: &Story<'_>, ca: &ScriptedCa, name: &str, beside: &str) -> Result<()> {
    story.certificate(beside, &[story.host(beside)]).await?;
    story.ready(beside, SOON).await?;
    let open = ledger::read(&story.stage.client, Some(&ca.directory())).await?;
    let own = format!("{}/{name}", story.namespace);
    ensure!(!open.intents.contains(&own), "{open:?}");
    Ok(())
}

/// Neither the TLS Secret nor its companion is there any more. What goes last is damaged: a good one that is replaced by a
/// fallback would be a fault.
async fn lose_all(story: &Story<'_>, name: &str) -> Result<()> {
    let companion = children::companion_name(story.namespace, name);
    let (secrets, gone) = (story.api::<Secret>(), DeleteParams::default());
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    secrets.delete(&companion, &gone).await?;
    let damaged = json!({"stringData": {keys::TLS_KEY: "nonsense"}});
    secrets
        .patch(name, &PatchParams::default(), &Patch::Merge(&damaged))
        .await?;
    secrets.delete(name, &gone).await?;
    operator.ensure_ready().await
}

/// The instant at the end of a message.
fn told_instant(message: &str) -> Result<Timestamp> {
    let (_, at) = message
        .rsplit_once("Next attempt at ")
        .with_context(|| format!("no instant is told: {message}"))?;
    at.trim_end_matches('.')
        .parse()
        .with_context(|| format!("no instant is told: {message}"))
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
async fn limited_for(story: &Story<'_>, name: &str, words: &str) -> Result<String> {
    let message = story
        .condition_says(name, condition::RATE_LIMITED, words, MET)
        .await?;
    ensure!(message.contains("Next attempt at 2"), "{message}");
    Ok(message)
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
