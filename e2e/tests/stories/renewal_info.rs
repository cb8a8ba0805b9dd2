//! Renewal information (RFC 9773): the CA's word moves a renewal, an order says what it replaces, and a refusal of that costs nothing.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_api::certificate::RenewalInfoStatus;
use evercert_e2e::Story;
use evercert_e2e::curl;
use evercert_e2e::scripted::{
    Advice, Answer, Endpoint, Problem, Profile, RetryAfter, ScriptedCa, Settings,
};
use evercert_e2e::story::SOON;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::midway::{event, events, never_failed};
use crate::requested::{another, ask, serial};
use crate::{Tale, tales};

const INCIDENT: &str = "https://ca.example/incident";
/// Certificates that are revoked together.
const CROWD: usize = 20;
/// What a CA's shortest poll interval, a quarter of the lifetime and the orders take.
const RENEWED: Duration = Duration::from_secs(220);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_ca_that_is_going_to_revoke_its_certificates_has_them_all_replaced_in_time,
        an_order_that_the_ca_refuses_since_it_replaces_is_placed_once_more_without,
        a_window_of_pebbles_moves_the_renewal_and_its_page_is_told,
    ]
}

/// Mass revocation: every window moves to the past.
async fn a_ca_that_is_going_to_revoke_its_certificates_has_them_all_replaced_in_time(
    story: Story<'_>,
) -> Result<()> {
    let ca = story
        .scripted_ca(Settings {
            default_profile: Profile {
                backdate: Duration::ZERO,
                ..Profile::living(Duration::from_mins(8))
            },
            ..Settings::default()
        })
        .await?;
    let minute = Some(RetryAfter::Seconds(60));
    ca.script()
        .renewal(Advice::usual().retry_after(minute.clone()));
    let names: Vec<String> = (0..CROWD).map(|i| format!("site{i}")).collect();
    for name in &names {
        story.certificate(name, &[story.host(name)]).await?;
    }
    let mut before = Vec::new();
    for name in &names {
        let info = informed(&story, name, SOON).await?;
        ensure!(info.window.is_some() && info.failure.is_none(), "{info:?}");
        let first = story.ready(name, SOON).await?;
        let planned = first.status.as_ref().and_then(|s| s.renewal_time.clone());
        before.push((serial(&first)?, planned.context("no renewalTime")?.0));
    }
    let ordered = ca.journal().of(Endpoint::NewOrder);
    ensure!(ordered.len() == CROWD, "{ordered}");
    ensure!(replacing(&ca).is_empty(), "{ordered}");

    let announced = Timestamp::now() + SignedDuration::from_secs(1);
    let advice = Advice::at_once(announced)
        .explained(INCIDENT)
        .retry_after(minute);
    ca.script().renewal_of_older(announced, advice);
    for (name, (serial_before, planned)) in names.iter().zip(&before) {
        let found = story
            .until(
                name,
                "its successor is in place",
                RENEWED,
                |c: &Certificate| serial(c).is_ok_and(|now| now != *serial_before),
            )
            .await?;
        let replaced = story
            .stage
            .history
            .of(&format!("{}/{name}", story.namespace));
        let last = replaced.last().context("no version of the Secret")?;
        ensure!(
            last.at < *planned,
            "{name} was replaced at {}, planned was {planned}: {found:?}",
            last.at
        );
        let unusable: Vec<_> = replaced.iter().filter(|v| !v.is_usable_at(v.at)).collect();
        ensure!(unusable.is_empty(), "{unusable:?}");
        let told = events(&story, name, "RenewalAdvised").await?;
        ensure!(
            told.len() == 1 && told.iter().all(|t| t.contains(INCIDENT)),
            "{told:?}"
        );
        never_failed(&story, name).await?;
    }
    let mut replaced = replacing(&ca);
    replaced.sort_unstable();
    replaced.dedup();
    ensure!(
        replaced.len() == CROWD,
        "{}",
        ca.journal().of(Endpoint::NewOrder)
    );
    let count = ca.count();
    ensure!(
        (count.orders, count.certificates) == (2 * CROWD, 2 * CROWD),
        "{count:?}"
    );
    Ok(())
}

async fn an_order_that_the_ca_refuses_since_it_replaces_is_placed_once_more_without(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    story.certificate("www", &[story.host("www")]).await?;
    informed(&story, "www", SOON).await?;
    let first = serial(&story.ready("www", SOON).await?)?;
    let refusal = Problem::new(409, "alreadyReplaced", "it is replaced already");
    ca.script().next_order(Answer::problem(&refusal));
    ask(&story, "www", &Timestamp::now().to_string()).await?;
    let second = another(&story, "www", &first).await?;
    let orders = ca.journal().of(Endpoint::NewOrder);
    let problems: Vec<_> = orders
        .entries()
        .iter()
        .map(|e| e.problem.as_deref())
        .collect();
    ensure!(
        problems == [None, Some("alreadyReplaced"), None],
        "{orders}"
    );
    ensure!(replacing(&ca).is_empty(), "{orders}");
    never_failed(&story, "www").await?;

    // The next one replaces again.
    informed(&story, "www", SOON).await?;
    ask(&story, "www", &Timestamp::now().to_string()).await?;
    another(&story, "www", &second).await?;
    ensure!(
        replacing(&ca).len() == 1,
        "{}",
        ca.journal().of(Endpoint::NewOrder)
    );
    ensure!(ca.count().placed == 3, "{:?}", ca.count());
    never_failed(&story, "www").await
}

async fn a_window_of_pebbles_moves_the_renewal_and_its_page_is_told(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("www", &[story.host("www")]).await?;
    let info = informed(&story, "www", SOON).await?;
    let window = info.window.context("no window")?;
    let width = window.end.0.duration_since(window.start.0);
    ensure!(
        (47..=49).contains(&width.as_hours()),
        "Pebble's is of two days: {width}"
    );
    let first = story.ready("www", SOON).await?;
    let renewal = |c: &Certificate| c.status.as_ref()?.renewal_time.as_ref().map(|t| t.0);
    let planned = renewal(&first).context("no renewalTime")?;
    ensure!(
        window.start.0 <= planned && planned <= window.end.0,
        "{planned} {window:?}"
    );

    let secret = story.secret("www").await?;
    let chain = &secret
        .data
        .context("no data")?
        .remove("tls.crt")
        .context("no chain")?
        .0;
    let now = Timestamp::now();
    let hour = SignedDuration::from_hours(1);
    let past = json!({
        "suggestedWindow": {"start": now - hour - hour, "end": now - hour},
        "explanationURL": INCIDENT,
    });
    let body =
        json!({"Certificate": String::from_utf8_lossy(chain), "ARIResponse": past.to_string()});
    let (base, _) = ca
        .management_url()
        .split_once("/roots")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .context("no base")?;
    let url = format!("{base}/set-renewal-info/");
    curl::post_jose(&url, ca.endpoint_roots(), &body.to_string())?;
    // Asked anew, since what was known is gone.
    let forgotten = json!({"status": {"renewalInfo": Value::Null}});
    story
        .api::<Certificate>()
        .patch_status("www", &PatchParams::default(), &Patch::Merge(&forgotten))
        .await?;
    let note = event(&story, "www", "RenewalAdvised").await?;
    ensure!(
        note.contains(INCIDENT) && note.contains("sooner than planned"),
        "{note}"
    );
    // Before it is asked anew the renewal goes by the lifetime for a moment, which may be sooner than planned, too.
    let moved: Certificate = story
        .until("www", "its renewal is moved", SOON, |c: &Certificate| {
            renewal(c).is_some_and(|at| at < planned.min(now + hour * 24))
        })
        .await?;
    let rest = renewal(&moved)
        .context("no renewalTime")?
        .duration_since(now);
    ensure!(
        (SignedDuration::from_hours(5)..SignedDuration::from_hours(7)).contains(&rest),
        "a new certificate rests for six hours: {rest}"
    );

    ask(&story, "www", &Timestamp::now().to_string()).await?;
    another(&story, "www", &serial(&first)?).await?;
    let log = fs::read_to_string(ca.log()).context("reading Pebble's log")?;
    let told = log
        .lines()
        .filter(|line| line.contains("is a replacement of"))
        .count();
    ensure!(told == 1, "Pebble has seen {told} orders that replace");
    ensure!(ca.count()?.orders == 2, "{:?}", ca.count()?);
    never_failed(&story, "www").await
}

/// Waits until the CA was asked about the certificate in place.
async fn informed(story: &Story<'_>, name: &str, within: Duration) -> Result<RenewalInfoStatus> {
    let of = |c: &Certificate| c.status.as_ref().and_then(|s| s.renewal_info.clone());
    let found: Certificate = story
        .until(
            name,
            "the CA was asked about it",
            within,
            |c: &Certificate| of(c).is_some(),
        )
        .await?;
    of(&found).context("it is gone")
}

/// What the orders that were placed say that they replace.
fn replacing(ca: &ScriptedCa) -> Vec<String> {
    let orders = ca.journal().of(Endpoint::NewOrder);
    let notes = orders.entries().iter().map(|entry| entry.note.clone());
    notes
        .filter_map(|note| {
            Some(
                note.split_once("replaces ")?
                    .1
                    .split(' ')
                    .next()?
                    .to_owned(),
            )
        })
        .collect()
}
