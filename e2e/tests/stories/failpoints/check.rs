//! What must hold in the end, wherever the operator was killed.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use evercert_api::keys::{CHALLENGES_NAME, TLS_CRT};
use evercert_api::{Certificate, children};
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::history::Version;
use evercert_e2e::inventory;
use evercert_e2e::leaf::Leaf;
use evercert_e2e::ledger::{self, Ledger};
use evercert_e2e::operator::NAMESPACE;
use evercert_e2e::story::certificate_ready;
use evercert_operator::effect::failpoint::Point;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::Api;

use super::play::{OLD, Play, SITE};
use super::step::is_labelled;
use super::{PATIENCE, orders};
use crate::account_keys;
use crate::issue::{data, no_route_stays};
use crate::revoked;

/// What the CA may have been asked for.
#[derive(Debug)]
pub(super) struct May {
    /// Orders.
    pub(super) orders: RangeInclusive<usize>,
    /// Certificates that it signed; one is stored.
    pub(super) certificates: RangeInclusive<usize>,
}

impl May {
    /// So many orders, and one certificate.
    pub(super) fn be(orders: usize) -> Self {
        Self {
            orders: orders..=orders,
            certificates: 1..=1,
        }
    }
}

/// One certificate, in the Secret and in its companion; one order, or as many as may be; nothing that nobody needs.
pub(super) async fn whole(
    story: &Story<'_>,
    play: Play,
    ca: Option<&TestCa>,
    within: Duration,
    may: &May,
) -> Result<()> {
    story.ready(SITE, within).await?;
    story
        .wait_for("the Secret is whole", PATIENCE, async || {
            secret(story, ca).await.map(Some)
        })
        .await?;
    // Cheap to look at, and it takes longest.
    no_route_stays(story).await?;
    story
        .wait_for("there is what there should be", PATIENCE, async || {
            inventory(story, play).await.map(Some)
        })
        .await?;
    let Some(ca) = ca else { return Ok(()) };
    if play == Play::Rotate {
        account_keys::one_key_that_the_account_has(story, ca).await?;
    }
    // Last, so that whatever is wrong had its time.
    let count = ca.count()?;
    let renewed = usize::from(play == Play::Revoke);
    if play == Play::Revoke {
        revoked::only_the_one_in_place_is_good(story, ca, SITE).await?;
    }
    let signed = count.certificates.saturating_sub(renewed);
    // One whose nonce was refused was no order, and was asked for again.
    let mut asked = count.orders.saturating_sub(count.turned_away)..=count.orders;
    ensure!(
        asked.any(|orders| may.orders.contains(&orders))
            && count.placed <= *may.orders.end()
            && may.certificates.contains(&signed),
        "{may:?} there may be, and {renewed} that is revoked: {count:?}"
    );
    // Of those signed for one order, one; whatever the other leader makes of the same order.
    let issued = story.stage.history.issued();
    let stored = issued.get(story.namespace).copied().unwrap_or_default();
    ensure!(
        *may.orders.end() > 1 || stored <= 1 + renewed,
        "{stored} certificates were stored one after the other, of which {renewed} is revoked"
    );
    let log = std::fs::read_to_string(ca.log()).context("reading the CA's log")?;
    ensure!(
        log.contains("There are now 1 accounts") && !log.contains("There are now 2 accounts"),
        "not one account"
    );
    let ledger = ledger_of(story, ca).await?;
    // An order of which it cannot be known whether there is one counts, too.
    let counted = ledger.orders(Timestamp::now());
    ensure!(
        counted >= count.placed.max(1),
        "{count:?}, and the ledger counts {counted}: {ledger:?}"
    );
    Ok(())
}

/// What was known when the order counted as lost.
pub(super) struct Spent {
    /// Orders at the CA, and on the way to it.
    known: usize,
    /// When the next attempt may begin.
    next: Timestamp,
}

impl Spent {
    /// Where another leads, too, whose order may have been on its way.
    pub(super) fn with_one_on_its_way(mut self) -> Self {
        self.known = self.known.max(1);
        self
    }

    /// Whether there is time for another row before.
    pub(super) fn is_far_off(&self) -> bool {
        self.next.duration_since(Timestamp::now()) > SignedDuration::from_secs(30)
    }
}

/// The operator takes the order for lost, and counts it, though nobody can tell it.
pub(super) async fn spent(story: &Story<'_>, point: Point, ca: &TestCa) -> Result<Spent> {
    let lost = |certificate: &Certificate| {
        let failure = certificate.status.as_ref();
        let failure = failure.and_then(|status| status.last_failure.as_ref());
        failure.is_some_and(|failure| failure.reason == "OrderLost")
    };
    let certificate: Certificate = story
        .until(SITE, "the order counts as lost", PATIENCE, lost)
        .await?;
    let status = certificate.status.context("no status")?;
    ensure!(status.failed_attempts == Some(1), "{status:?}");
    let failed = status.last_failure.context("no failure")?.time.0;
    let next = status.next_attempt_time.context("no nextAttemptTime")?.0;
    let wait = next.duration_since(failed);
    ensure!(
        wait >= SignedDuration::from_secs(55),
        "it backs off for {wait} only"
    );
    story
        .wait_for("the ledger says that it is spent", PATIENCE, async || {
            let ledger = ledger_of(story, ca).await?;
            let counted = ledger.orders(Timestamp::now());
            ensure!(ledger.intents.is_empty() && counted == 1, "{ledger:?}");
            Ok(Some(()))
        })
        .await?;
    let placed = ca.count()?.orders;
    ensure!(placed + 1 == orders(point), "{placed} orders at {point}");
    Ok(Spent {
        known: placed,
        next,
    })
}

/// Until the certificate is there, no other order is placed before its time.
pub(super) async fn waits(
    story: &Story<'_>,
    Spent { known, next }: Spent,
    ca: &TestCa,
    within: Duration,
) -> Result<()> {
    let (early, again) = story
        .wait_for("the certificate", within, async || {
            let early = ca.count()?.orders > known && Timestamp::now() < next;
            let certificate: Certificate = story.api().get(SITE).await?;
            let ready = certificate_ready(&certificate);
            let status = certificate.status.unwrap_or_default();
            // Then the next comes long after the deadline.
            let again = status.failed_attempts > Some(1);
            Ok((early || again || ready).then_some((early, again)))
        })
        .await?;
    ensure!(!early, "ordered before {next}");
    ensure!(!again, "the attempt after the lost one failed, too");
    Ok(())
}

async fn secret(story: &Story<'_>, ca: Option<&TestCa>) -> Result<()> {
    let site: Secret = story.secret(SITE).await?;
    let now = Timestamp::now();
    let version = Version::of(&site, now);
    ensure!(
        version.is_usable_at(now) && !version.fallback && is_labelled(&site),
        "{version:?}"
    );
    let leaf = version.leaf.context("no certificate")?;
    ensure!(leaf.names == [story.host("www")], "{:?}", leaf.names);
    let chain = data(&site, TLS_CRT);
    match ca {
        Some(ca) => Leaf::verify_chain(chain, &std::fs::read(ca.root())?)?,
        None => ensure!(leaf.issuer == leaf.subject, "{leaf:?}"),
    }
    let companion = story
        .secret(&children::companion_name(story.namespace, SITE))
        .await?;
    ensure!(
        data(&companion, TLS_CRT) == chain,
        "companion and Secret hold different certificates"
    );
    Ok(())
}

/// Each thing that is there has a reason to be.
async fn inventory(story: &Story<'_>, play: Play) -> Result<()> {
    let companion = children::companion_name(story.namespace, SITE);
    let mut wanted = vec![
        ("Certificate", SITE),
        ("ConfigMap", "kube-root-ca.crt"),
        ("Issuer", "ca"),
        ("Secret", &companion),
        ("Secret", SITE),
        ("ServiceAccount", "default"),
    ];
    if play != Play::SelfSign {
        wanted.push(("Secret", "ca-account"));
    }
    if matches!(play, Play::Source | Play::Edit) {
        wanted.push(("Ingress", SITE));
    }
    if play == Play::Leftovers {
        wanted.push(("ResourceQuota", OLD));
    }
    wanted.sort_unstable();
    let client = &story.stage.client;
    let found = inventory::list(client, story.namespace).await?;
    let is: Vec<(&str, &str)> = found.iter().map(|i| (&*i.kind, &*i.name)).collect();
    ensure!(is == wanted, "in the namespace: {is:?}, wanted: {wanted:?}");
    let own = inventory::list(client, NAMESPACE).await?;
    let strays: Vec<String> = own
        .iter()
        .filter(|item| !inventory::is_operators(item, play != Play::StopSolver))
        .map(ToString::to_string)
        .collect();
    ensure!(strays.is_empty(), "in {NAMESPACE}: {strays:?}");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let open = maps.get_opt(CHALLENGES_NAME).await?;
    let open = open.and_then(|map| map.data).unwrap_or_default();
    if let Some(text) = open.values().find(|text| text.contains(story.namespace)) {
        bail!("a challenge is still open: {text}");
    }
    Ok(())
}

/// What the ledger holds of the story's CA.
async fn ledger_of(story: &Story<'_>, ca: &TestCa) -> Result<Ledger> {
    ledger::read(&story.stage.client, Some(&ca.directory())).await
}
