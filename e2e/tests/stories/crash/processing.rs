//! A CA that works on an order for long: it is asked as it wants to be, whatever becomes of the operator, and once for all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::{children, keys};
use evercert_e2e::Story;
use evercert_e2e::scripted::{Endpoint, Journal, RetryAfter, ScriptedCa, Settings, Signing};
use evercert_e2e::story::SOON;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;

use crate::issue::{data, usable};
use crate::{Tale, tales};

/// How long the CA wants to be left alone between two looks.
const PAUSE: SignedDuration = SignedDuration::from_secs(6);
/// How long an order that has been under way for a while is left alone where the CA does not say.
const OWN_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// An instant of the CA's journal and one of the operator's clock belong to different ends of a request.
const ON_THE_WAY: SignedDuration = SignedDuration::from_millis(300);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        an_order_that_the_ca_works_on_for_long_outlives_two_restarts_and_is_asked_for_as_the_ca_says
    ]
}

/// Half a minute instead of seventy. Kept is all that happens to the operator in that time: pauses with `Retry-After`, a restart
/// amid one, pauses without, another restart; only fewer of them. The seventy minutes themselves are told in
/// `evercert_core::plan::order`.
async fn an_order_that_the_ca_works_on_for_long_outlives_two_restarts_and_is_asked_for_as_the_ca_says(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    ca.script().signing(Signing::Held);
    let pause = u64::try_from(PAUSE.as_secs())?;
    ca.script()
        .processing_retry_after(Some(RetryAfter::Seconds(pause)));
    story.certificate("slow", &[story.host("www")]).await?;
    looked_at(&story, &ca, 2).await?;
    let key = pending_key(&story).await?;

    let mut restarts = vec![restart(&story).await?];
    looked_at(&story, &ca, 4).await?;
    // One that has started again looks at once.
    ca.script().processing_retry_after(None);
    let silent_since = Timestamp::now();
    restarts.push(restart(&story).await?);
    looked_at(&story, &ca, 7).await?;

    ca.script().finish_processing();
    let looks = looks(&ca);
    story.ready("slow", SOON).await?;
    let secret = story.secret("slow").await?;
    ensure!(usable(&secret).is_some(), "it is not usable");
    ensure!(
        data(&secret, keys::TLS_KEY) == key,
        "its key is another than that of the order"
    );
    let count = ca.count();
    ensure!(
        (count.orders, count.finalized, count.certificates) == (1, 1, 1),
        "{count:?}\n{}",
        ca.journal()
    );
    let status = story.ready("slow", SOON).await?.status;
    let status = status.context("no status")?;
    ensure!(
        status.failed_attempts.is_none() && status.last_failure.is_none(),
        "{status:?}"
    );
    obeys(&looks, &restarts, silent_since)
}

/// Between two looks is the pause that the first one's answer asked for. One that has started again knows of none: it looks once,
/// and then waits as before.
fn obeys(looks: &Journal, restarts: &[Timestamp], silent_since: Timestamp) -> Result<()> {
    let (mut told, mut untold) = (0, 0);
    for pair in looks.entries().windows(2) {
        let [before, after] = pair else { continue };
        if restarts.iter().any(|at| before.at < *at && *at <= after.at) {
            continue;
        }
        let (least, counted) = if before.at < silent_since {
            (PAUSE, &mut told)
        } else {
            (OWN_PAUSE, &mut untold)
        };
        let waited = after.at.duration_since(before.at);
        ensure!(
            waited >= least - ON_THE_WAY,
            "{waited} instead of {least}:\n{looks}"
        );
        *counted += 1;
    }
    ensure!(
        told >= 2 && untold >= 2,
        "{told} and {untold} pauses prove nothing:\n{looks}"
    );
    Ok(())
}

/// The finalize and the looks at the order that were answered by `processing`.
fn looks(ca: &ScriptedCa) -> Journal {
    ca.journal().filter(|entry| {
        matches!(entry.endpoint, Some(Endpoint::Finalize | Endpoint::Order))
            && entry.note.contains("processing")
    })
}

async fn looked_at(story: &Story<'_>, ca: &ScriptedCa, times: usize) -> Result<()> {
    let what = format!("{times} answers say that the order is processing");
    let within = SOON + Duration::from_secs(10);
    story
        .wait_for(&what, within, async || {
            Ok((looks(ca).len() >= times).then_some(()))
        })
        .await
}

/// The key that the order's certificate is for.
async fn pending_key(story: &Story<'_>) -> Result<Vec<u8>> {
    let companion: Secret = story
        .secret(&children::companion_name(story.namespace, "slow"))
        .await?;
    let data = companion.data.context("the companion is empty")?;
    let key = data.get(keys::PENDING_KEY).context("no pending key")?;
    Ok(key.0.clone())
}

/// Ends the operator as a crash would, and has it lead again.
async fn restart(story: &Story<'_>) -> Result<Timestamp> {
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    let gone = Timestamp::now();
    operator.ensure_ready().await?;
    Ok(gone)
}
