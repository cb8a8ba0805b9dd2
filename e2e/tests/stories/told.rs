//! What is told beside conditions and events: the history of attempts in the status, and metrics.

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_api::certificate::{AttemptOutcome, CertificateStatus};
use evercert_api::condition::FALLBACK_IN_USE;
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::story::SOON;
use kube::api::DeleteParams;

use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![attempts_stand_in_the_history_and_what_a_certificate_is_in_the_metrics]
}

async fn attempts_stand_in_the_history_and_what_a_certificate_is_in_the_metrics(
    story: Story<'_>,
) -> Result<()> {
    let before = Metrics::read(&story).await?;
    let ca = story
        .ca_with(Pebble {
            blocklist: vec![story.host("blocked")],
            ..Pebble::default()
        })
        .await?;
    story.certificate("site", &[story.host("blocked")]).await?;
    story
        .condition("site", FALLBACK_IN_USE, "True", SOON)
        .await?;
    let (ready, fallback) = (
        story.of("certificate_ready"),
        story.of("certificate_fallback"),
    );
    story
        .wait_for("the metrics tell of the fallback", SOON, async || {
            let now = Metrics::read(&story).await?;
            let told = (now.value(&ready), now.value(&fallback));
            ensure!(told == (Some(0), Some(1)), "{told:?}");
            Ok(Some(()))
        })
        .await?;
    story.certificate("site", &[story.host("www")]).await?;
    let certificate = story.ready("site", SOON).await?;
    let status = certificate.status.context("no status")?;
    let history = &status.history;
    let outcomes: Vec<_> = history.iter().map(|attempt| attempt.outcome).collect();
    ensure!(
        outcomes == [AttemptOutcome::Issued, AttemptOutcome::Failed],
        "{history:?}"
    );
    let [issued, failed] = history.as_slice() else {
        anyhow::bail!("{history:?}");
    };
    ensure!(
        failed.reason == "Rejected" && failed.message.contains("blocked"),
        "{failed:?}"
    );
    ensure!(
        issued.reason == "Issued" && issued.message.contains("Secret site"),
        "{issued:?}"
    );
    ensure!(failed.time.0 <= issued.time.0, "{history:?}");

    let expiry = story.of("certificate_expiry_timestamp_seconds");
    let until = |status: &CertificateStatus| status.not_after.as_ref().map(|at| at.0.as_second());
    let now = story
        .wait_for("the metrics tell of the certificate", SOON, async || {
            let now = Metrics::read(&story).await?;
            let told = (now.value(&ready), now.value(&fallback), now.value(&expiry));
            ensure!(told == (Some(1), Some(0), until(&status)), "{told:?}");
            Ok(Some(now))
        })
        .await?;
    ensure!(now.value("evercert_leader") == Some(1), "{}", now.0);
    let more = |series: &str| {
        now.value(series).unwrap_or_default() - before.value(series).unwrap_or_default()
    };
    let orders = ["2xx", "4xx"].map(|status| {
        let labels = format!("endpoint=\"newOrder\",status=\"{status}\"");
        more(&format!("evercert_acme_requests_total{{{labels}}}"))
    });
    ensure!(
        orders == [1, 1] && ca.count()?.orders == 2,
        "{orders:?}, and the CA counts {:?}",
        ca.count()?
    );
    // Of an account that may place four thousand, as with every CA that says nothing of it.
    let left = now.value("evercert_budget_orders{directory=\"other\"}");
    ensure!(
        left.is_some_and(|left| (1..4_000).contains(&left)),
        "{left:?} of two orders and more\n{}",
        now.0
    );
    for (outcome, reason) in [("Failed", "Rejected"), ("Issued", "Issued")] {
        let series =
            format!("evercert_attempts_total{{outcome=\"{outcome}\",reason=\"{reason}\"}}");
        ensure!(more(&series) == 1, "{series}\n{}", now.0);
    }

    let certificates = story.api::<Certificate>();
    certificates
        .delete("site", &DeleteParams::default())
        .await?;
    story
        .wait_for("it is told no longer", SOON, async || {
            let now = Metrics::read(&story).await?;
            Ok((!now.0.contains(story.namespace)).then_some(()))
        })
        .await
}

/// A gauge of the story's Certificate.
trait OfSite {
    fn of(&self, metric: &str) -> String;
}

impl OfSite for Story<'_> {
    fn of(&self, metric: &str) -> String {
        let namespace = self.namespace;
        format!("evercert_{metric}{{namespace=\"{namespace}\",name=\"site\"}}")
    }
}

/// The text that the operator serves.
struct Metrics(String);

impl Metrics {
    async fn read(story: &Story<'_>) -> Result<Self> {
        story.stage.operator.lock().await.metrics().map(Self)
    }

    /// The value of one series.
    fn value(&self, series: &str) -> Option<i64> {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        value.parse().ok()
    }
}
