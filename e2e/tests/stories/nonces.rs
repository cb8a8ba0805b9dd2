//! A CA that refuses good nonces: a certificate all the same, by a bounded number of requests.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::ca::{Count, TestCa};
use evercert_e2e::story::SOON;

use crate::{Tale, tales};

/// The most times that one request is sent while its nonces are refused.
const ATTEMPTS: usize = 9;
/// Nine refusals in a row count as an outage: then the CA is left alone for 15 s, an account for a minute.
const PATIENCE: Duration = Duration::from_mins(8);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        four_of_five_nonces_refused_make_certificates_slow_and_nothing_worse,
        a_fifth_of_the_nonces_refused_is_not_noticed,
    ]
}

/// Forty names: of more than forty requests that the log tells of, not one refused would be a wonder (0.8 to the power of forty).
async fn a_fifth_of_the_nonces_refused_is_not_noticed(story: Story<'_>) -> Result<()> {
    let (ca, undisturbed) = two(&story, 20).await?;
    let names: Vec<String> = (0..40)
        .map(|number| story.host(&format!("n{number}")))
        .collect();
    for issuer in ["ca", "undisturbed"] {
        issue(&story, issuer, &names, SOON * 2).await?;
    }
    let (count, bare) = (ca.count()?, undisturbed.count()?);
    compare(count, bare, 1)?;
    // How often an order is looked at depends on how fast the machine is.
    let changes = |count: Count| count.changes().iter().sum::<usize>();
    ensure!(
        changes(count) <= 2 * changes(bare),
        "{count:?}, undisturbed {bare:?}"
    );
    Ok(())
}

async fn four_of_five_nonces_refused_make_certificates_slow_and_nothing_worse(
    story: Story<'_>,
) -> Result<()> {
    let (ca, undisturbed) = two(&story, 80).await?;
    for issuer in ["ca", "undisturbed"] {
        for label in ["one", "two", "three"] {
            issue(&story, issuer, &[story.host(label)], PATIENCE).await?;
        }
    }
    let (count, bare) = (ca.count()?, undisturbed.count()?);
    compare(count, bare, 3)?;
    // Each request that is given up is tried again later, a few times at most.
    ensure!(
        count.requests <= 3 * ATTEMPTS * bare.requests,
        "{count:?}, undisturbed {bare:?}"
    );
    Ok(())
}

/// A CA that refuses so many of a hundred nonces, with Issuer `ca`, and one that refuses none, with Issuer `undisturbed`.
async fn two(story: &Story<'_>, per_cent: u8) -> Result<(TestCa, TestCa)> {
    let settings = Pebble {
        nonce_reject_percent: per_cent,
        ..Pebble::default()
    };
    let ca = story.stage.ca(story.namespace, settings).await?;
    let undisturbed = format!("{}-undisturbed", story.namespace);
    let undisturbed = story.stage.ca(&undisturbed, Pebble::default()).await?;
    story.issuer("ca", &ca).await?;
    story.issuer("undisturbed", &undisturbed).await?;
    Ok((ca, undisturbed))
}

async fn issue(story: &Story<'_>, issuer: &str, names: &[String], within: Duration) -> Result<()> {
    let label = names.first().and_then(|name| name.split('.').next());
    let name = format!("{issuer}-{}", label.context("no name")?);
    story
        .certificate_with(&name, names, |spec| {
            issuer.clone_into(&mut spec.issuer_ref.name);
        })
        .await?;
    story.ready(&name, within).await.map(drop)
}

/// The same came of it, and the log tells that some nonces were refused; where none is, it tells of none.
fn compare(count: Count, bare: Count, certificates: usize) -> Result<()> {
    println!("{} of {} requests", bare.requests, count.requests);
    ensure!(
        bare.turned_away == 0 && bare.certificates == certificates,
        "the counter sees what is not there: {bare:?}"
    );
    ensure!(count.turned_away > 0, "no nonce was refused: {count:?}");
    ensure!(
        count.placed == certificates && count.certificates == certificates && count.registered == 1,
        "{count:?}"
    );
    Ok(())
}
