//! Nobody's trouble is his neighbour's: names that never validate, routes that are refused, CAs that never answer, and a
//! certificate of a hundred names hold no other certificate up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, condition};
use evercert_cluster::{Pebble, address};
use evercert_e2e::ca::TestCa;
use evercert_e2e::story::{SOON, conditions_of, issuer_yaml};
use evercert_e2e::tarpit::Tarpit;
use evercert_e2e::{Story, crowd, dns};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::crowds::{as_shipped, leave};
use crate::{Tale, tales};

/// The bound of the issue: a good one beside the dead ones.
const GOOD_WITHIN: Duration = Duration::from_secs(30);
/// All the dead ones, of which the CA waits for one half: a busy machine takes long, and it is not what is asked here.
const TOLD_WITHIN: Duration = Duration::from_mins(4);
const DEAD: usize = 200;
/// Loopback: connections to it are taken and never answered.
const SILENT: &str = "127.0.0.66";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        two_hundred_names_that_never_validate_hold_no_other_up,
        a_namespace_whose_routes_are_refused_holds_no_other_up,
        cas_that_never_answer_hold_no_other_up,
        a_certificate_of_a_hundred_names_holds_no_other_up,
    ]
}

async fn two_hundred_names_that_never_validate_hold_no_other_up(story: Story<'_>) -> Result<()> {
    as_shipped(&story).await?;
    let _silent = Tarpit::at(&format!("{SILENT}:80")).await?;
    let ca = story.ca().await?;
    story.certificate("warm", &[story.host("warm")]).await?;
    story.ready("warm", SOON).await?;
    let dead = crowd::certificates(&story, "dead", DEAD);
    for (number, certificate) in dead.iter().enumerate() {
        // One half refuses the CA at once, the other lets it wait.
        let leads_to = [dns::NOWHERE, SILENT][number % 2];
        for host in &certificate.spec.dns_names {
            dns::point(host, &[leads_to])?;
        }
    }
    crowd::apply(&story.stage.client, &dead).await?;
    good(&story, "beside", "applied right behind them").await?;
    let ordered = async |orders: usize, within| {
        story
            .wait_for(&format!("{orders} orders"), within, async || {
                Ok((ca.count()?.orders >= orders).then_some(()))
            })
            .await
    };
    ordered(DEAD / 2, SOON).await?;
    good(&story, "amid", "applied when half of them were tried").await?;

    let waiting = story
        .wait_for(
            "each of them says why it failed and when it is tried again",
            TOLD_WITHIN,
            async || {
                let untold = untold(&story).await?;
                ensure!(
                    untold.is_empty(),
                    "{} do not, the first: {}",
                    untold.len(),
                    untold.first().cloned().unwrap_or_default()
                );
                Ok(Some(()))
            },
        )
        .await;
    waiting?;
    // Those that failed first are tried again after a minute.
    ordered(DEAD + 3 + DEAD / 20, Duration::from_secs(70)).await?;
    good(&story, "later", "applied when they are tried again").await?;
    spent(&ca)?;
    leave(&story).await
}

/// One more certificate in the same namespace.
async fn good(story: &Story<'_>, name: &str, when: &str) -> Result<()> {
    let began = Instant::now();
    story.certificate(name, &[story.host(name)]).await?;
    story.ready(name, GOOD_WITHIN).await?;
    println!(
        "a good one beside {DEAD} dead ones, {when}: Ready after {:.2?}",
        began.elapsed()
    );
    Ok(())
}

/// What is wrong with those dead ones that do not say yet what they should.
async fn untold(story: &Story<'_>) -> Result<Vec<String>> {
    let list = story
        .api::<Certificate>()
        .list(&ListParams::default())
        .await?;
    let dead = list
        .items
        .iter()
        .filter(|c| c.name_any().starts_with("dead"));
    let found: Vec<_> = dead.map(|c| (c.name_any(), tells(c))).collect();
    ensure!(found.len() == DEAD, "there are {}", found.len());
    Ok(found
        .into_iter()
        .filter_map(|(name, told)| told.err().map(|error| format!("{name}: {error:#}")))
        .collect())
}

/// Why, for which name, and when next.
fn tells(certificate: &Certificate) -> Result<()> {
    let host = certificate.spec.dns_names.first().context("no name")?;
    let status = certificate.status.as_ref().context("no status")?;
    let failure = status.last_failure.as_ref().context("no lastFailure")?;
    ensure!(
        failure.message.contains(host),
        "it does not name {host}: {}",
        failure.message
    );
    if status.order.is_some() {
        return Ok(());
    }
    let next = status
        .next_attempt_time
        .as_ref()
        .context("no nextAttemptTime")?
        .0;
    ensure!(
        next > failure.time.0,
        "the next attempt is at {next}, the failure was at {}",
        failure.time.0
    );
    let ready =
        condition::find(conditions_of(certificate), condition::READY).context("no Ready")?;
    ensure!(ready.status == "False", "Ready is {}", ready.status);
    ensure!(
        ready.message.contains(&next.to_string()) || next <= Timestamp::now(),
        "Ready does not name {next}: {}",
        ready.message
    );
    Ok(())
}

/// No dead name has had more than its first attempt and the one a minute later.
fn spent(ca: &TestCa) -> Result<()> {
    let count = ca.count()?;
    println!("{DEAD} dead names and 4 good ones: {count:?}");
    ensure!(
        count.orders <= 2 * DEAD + 4 && count.challenges <= count.orders,
        "{count:?}"
    );
    ensure!(count.certificates == 4, "{count:?}");
    Ok(())
}

async fn a_namespace_whose_routes_are_refused_holds_no_other_up(story: Story<'_>) -> Result<()> {
    as_shipped(&story).await?;
    let ca = story.ca().await?;
    let walled = format!("{}-walled", story.namespace);
    story.own_namespace(&walled, &serde_json::json!({})).await?;
    let walled = Story {
        stage: story.stage,
        namespace: &walled,
    };
    walled
        .apply(
            "{apiVersion: v1, kind: ResourceQuota, metadata: {name: wall}, \
             spec: {hard: {count/ingresses.networking.k8s.io: 0}}}",
        )
        .await?;
    walled.issuer("ca", &ca).await?;
    walled.issuer_ready("ca").await?;
    let held = crowd::certificates(&walled, "held", 60);
    crowd::apply(&story.stage.client, &held).await?;
    walled
        .condition_says("held0", condition::READY, "exceeded quota", SOON)
        .await?;
    story
        .wait_for("as many orders as there may be", SOON, async || {
            Ok((ca.count()?.orders >= 30).then_some(()))
        })
        .await?;
    let began = Instant::now();
    story.certificate("good", &[story.host("good")]).await?;
    story.ready("good", GOOD_WITHIN).await?;
    println!(
        "beside a namespace with {} orders whose routes are refused: Ready after {:.2?}",
        ca.count()?.orders - 1,
        began.elapsed()
    );
    leave(&walled).await
}

async fn cas_that_never_answer_hold_no_other_up(story: Story<'_>) -> Result<()> {
    let silent = format!("{}:{}", address::NODE, 14_998);
    as_shipped(&story).await?;
    let _silent = Tarpit::at(&silent).await?;
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    let bundle = ca.bundle()?;
    for number in 0..40 {
        let directory = format!("https://{silent}/{number}");
        story
            .apply(&issuer_yaml(
                "Issuer",
                &format!("silent{number}"),
                &directory,
                &bundle,
            ))
            .await?;
    }
    let began = Instant::now();
    story.issuer("ca", &ca).await?;
    story.certificate("good", &[story.host("good")]).await?;
    story.ready("good", GOOD_WITHIN).await?;
    println!(
        "beside 40 issuers whose CA never answers: Ready after {:.2?}",
        began.elapsed()
    );
    Ok(())
}

async fn a_certificate_of_a_hundred_names_holds_no_other_up(story: Story<'_>) -> Result<()> {
    as_shipped(&story).await?;
    let ca = story.ca().await?;
    story.certificate("warm", &[story.host("warm")]).await?;
    story.ready("warm", SOON).await?;
    let names: Vec<String> = (0..100)
        .map(|number| story.host(&format!("n{number}")))
        .collect();
    let began = Instant::now();
    story.certificate("hundred", &names).await?;
    let small = crowd::certificates(&story, "small", 10);
    let times = crowd::issue(&story, &small, GOOD_WITHIN).await?;
    println!("beside one of a hundred names: {times}");
    story.ready("hundred", Duration::from_mins(1)).await?;
    println!("a hundred names: Ready after {:.2?}", began.elapsed());
    let count = ca.count()?;
    ensure!(count.orders == 12 && count.certificates == 12, "{count:?}");
    Ok(())
}
