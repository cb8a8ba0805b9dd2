//! DNS that is not ready holds an order back before it is placed, says which way it is not ready, and costs no attempt; what is
//! mended is seen within a minute.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::condition::{self, READY};
use evercert_api::{Certificate, Reason};
use evercert_cluster::address;
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::dns::{self, Relay};
use evercert_e2e::operator::ingress_class;
use evercert_e2e::scripted::Settings;
use evercert_e2e::story::{SOON, conditions_of};
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::json;

use crate::{Tale, tales};

/// What was mended is seen, and the certificate issued, within this.
const SEEN: Duration = Duration::from_mins(1);
/// A record that was right once.
const OLD_IPV6: &str = "2001:db8::1";
/// A DNS server that is not there.
const NO_SERVER: &str = "127.0.0.1:9";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_name_whose_servers_fail_holds_its_order_back_until_they_answer,
        a_name_that_leads_elsewhere_holds_its_order_back_until_it_leads_to_its_ingress,
        a_stale_ipv6_address_holds_the_order_back_until_it_is_gone,
        a_ca_that_caa_records_forbid_is_not_asked_until_they_allow_it,
    ]
}

/// These end the operator.
pub(crate) fn without_operator() -> Vec<Tale> {
    tales![
        a_name_that_dns_does_not_know_holds_its_order_back_and_dns_out_of_reach_holds_nothing_back
    ]
}

async fn a_name_whose_servers_fail_holds_its_order_back_until_they_answer(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("www");
    dns::fail(&host, true)?;
    let words = [&host, "SERVFAIL", "delegation"];
    held(&story, &ca, &host, &words, || dns::fail(&host, false)).await
}

async fn a_name_that_leads_elsewhere_holds_its_order_back_until_it_leads_to_its_ingress(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("www");
    dns::point(&host, &[dns::NOWHERE])?;
    ingress(&story, &host).await?;
    let words = [&host, dns::NOWHERE, address::INGRESS, "mend the A"];
    held(&story, &ca, &host, &words, || dns::clear(&host)).await
}

async fn a_stale_ipv6_address_holds_the_order_back_until_it_is_gone(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("www");
    dns::add_ipv6(&host, OLD_IPV6)?;
    ingress(&story, &host).await?;
    let words = [&host, "AAAA", OLD_IPV6, address::INGRESS, "remove"];
    held(&story, &ca, &host, &words, || dns::clear_ipv6(&host)).await
}

async fn a_ca_that_caa_records_forbid_is_not_asked_until_they_allow_it(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let host = story.host("www");
    dns::authorize(&host, &["other.example"])?;
    certificate(&story, &host).await?;
    let words = [&host, "CAA", "other.example", "scripted.example"];
    waits(&story, &words).await?;
    ensure!(ca.count().orders == 0, "{}", ca.journal());
    dns::authorize(&host, &["scripted.example"])?;
    story.ready("site", SEEN).await?;
    ensure!(ca.count().orders == 1, "{}", ca.journal());
    Ok(())
}

async fn a_name_that_dns_does_not_know_holds_its_order_back_and_dns_out_of_reach_holds_nothing_back(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let relay = Relay::start().await?;
    asking(&story, &relay.address().to_string()).await?;
    let host = story.host("www");
    relay.hide(&host, true);
    let words = [&host, "NXDOMAIN", "create an A or AAAA record"];
    let told = held(&story, &ca, &host, &words, || {
        relay.hide(&host, false);
        Ok(())
    })
    .await;
    asking(&story, NO_SERVER).await?;
    let beside = story.certificate("beside", &[story.host("beside")]).await;
    let ready = story.ready("beside", SOON).await;
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    operator.restart()?;
    operator.ready().await?;
    told?;
    beside?;
    ready.map(drop)
}

/// The operator, begun anew, asks this DNS server.
async fn asking(story: &Story<'_>, server: &str) -> Result<()> {
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    operator.restart_with(&[("EVERCERT_DNS_SERVERS", server)])?;
    operator.ready().await
}

async fn certificate(story: &Story<'_>, host: &str) -> Result<Certificate> {
    story.certificate("site", &[host.to_owned()]).await
}

/// Waits until the Certificate says all of these words, and that DNS is what it waits for.
pub(crate) async fn waits(story: &Story<'_>, words: &[&str]) -> Result<Certificate> {
    let says_all = |certificate: &Certificate| {
        condition::find(conditions_of(certificate), READY).is_some_and(|ready| {
            ready.reason == Reason::DNSNotReady.as_str()
                && ready.message.contains("looked at again every 30 s")
                && words.iter().all(|word| ready.message.contains(word))
        })
    };
    let what = format!("Ready waits for DNS and says {words:?}");
    story.until("site", &what, SOON, says_all).await
}

/// The order is held back and no attempt charged, until `mend`.
async fn held(
    story: &Story<'_>,
    ca: &TestCa,
    host: &str,
    words: &[&str],
    mend: impl FnOnce() -> Result<()>,
) -> Result<()> {
    certificate(story, host).await?;
    let waiting = waits(story, words).await?;
    let status = waiting.status.context("no status")?;
    ensure!(
        status.held_since.is_some()
            && status.failed_attempts.is_none()
            && status.last_failure.is_none()
            && status.history.is_empty(),
        "{status:?}"
    );
    ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);
    mend()?;
    let ready = story.ready("site", SEEN).await?;
    let status = ready.status.context("no status")?;
    ensure!(
        status.held_since.is_none() && status.failed_attempts.is_none(),
        "{status:?}"
    );
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    Ok(())
}

/// A user's Ingress for `host`, whose status has the address of the world's ingress controller.
pub(crate) async fn ingress(story: &Story<'_>, host: &str) -> Result<()> {
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "site"},
        "spec": {"ingressClassName": ingress_class(), "rules": [{"host": host, "http": {"paths": [{
            "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "site", "port": {"number": 80}}},
        }]}}]},
    });
    story.apply(&ingress.to_string()).await?;
    let has_address = |ingress: &Ingress| {
        let status = ingress
            .status
            .as_ref()
            .and_then(|s| s.load_balancer.as_ref());
        status.is_some_and(|balancer| balancer.ingress.is_some())
    };
    story
        .until("site", "its Ingress has an address", SOON, has_address)
        .await
        .map(drop)
}
