//! The whole path: from `kubectl apply` to the chain that curl is served.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::keys::{COMPONENT_LABEL, COMPONENT_ROUTE};
use evercert_api::{Certificate, keys};
use evercert_e2e::audit::Audit;
use evercert_e2e::history::Version;
use evercert_e2e::story::{SOON, certificate_ready};
use evercert_e2e::{Story, curl, operator};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::ListParams;

use crate::app::application;
use crate::routes::Pages;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        one_name_is_issued_and_served_to_curl,
        ten_names_need_one_order_one_route_and_one_service,
        two_certificates_are_two_orders_and_the_counter_says_so,
        a_self_signed_issuer_signs_without_a_ca,
        the_site_answers_while_its_name_is_being_proved,
    ]
}

async fn one_name_is_issued_and_served_to_curl(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("www");
    story.apply(&application("www", &host)).await?;
    story
        .certificate("www", std::slice::from_ref(&host))
        .await?;
    let certificate = story.ready("www", SOON).await?;

    let url = format!("https://{host}/");
    let served = story
        .wait_for("the site answers, and curl trusts it", SOON, async || {
            let served = curl::get(&url, Some(ca.root()))?;
            // Envoy may know the site's route before its pod.
            ensure!(served.status != 503, "{served:?}");
            Ok(Some(served))
        })
        .await?;
    ensure!(
        served.status == 200 && served.body.starts_with("Hello from www-"),
        "{served:?}"
    );
    let leaf = served.chain.first().context("no chain")?;
    ensure!(
        leaf.names == [host.as_str()] && served.chain.len() >= 2,
        "{:?}",
        served.chain
    );

    let status = certificate.status.context("no status")?;
    ensure!(
        status.not_after.map(|time| time.0) == Some(leaf.not_after),
        "notAfter is not the leaf's"
    );
    ensure!(
        status.not_before.map(|time| time.0) == Some(leaf.not_before),
        "notBefore is not the leaf's"
    );
    let renewal = status.renewal_time.context("no renewalTime")?.0;
    ensure!(
        renewal > Timestamp::now() && renewal < leaf.not_after,
        "renews at {renewal}"
    );
    let digits = |text: &str| {
        text.replace([':', ' '], "")
            .to_lowercase()
            .trim_start_matches('0')
            .to_owned()
    };
    let serial = status.serial_number.context("no serialNumber")?;
    ensure!(
        digits(&serial) == digits(&leaf.serial),
        "{serial} is not {}",
        leaf.serial
    );
    ensure!(
        status.order.is_none() && status.failed_attempts.is_none(),
        "an order or a failure stayed in the status"
    );

    let count = ca.count()?;
    ensure!(
        count.orders == 1 && count.certificates == 1 && count.challenges == 1,
        "{count:?}"
    );
    no_route_stays(&story).await
}

async fn ten_names_need_one_order_one_route_and_one_service(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    let mut names: Vec<String> = (0..10)
        .map(|number| story.host(&format!("n{number}")))
        .collect();
    story.certificate("ten", &names).await?;
    story.ready("ten", SOON).await?;

    let version = Version::of(&story.secret("ten").await?, Timestamp::now());
    names.sort();
    ensure!(
        version.leaf.is_some_and(|leaf| leaf.names == names),
        "the certificate has other names"
    );
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    ensure!(
        count.challenges == 10,
        "authorizations were not used again, so each name was proved: {count:?}"
    );
    no_route_stays(&story).await?;
    let calls = Audit::from_start(&story.stage.world.audit_log()).mutating(&operator::user())?;
    let created = |resource: &str| {
        calls
            .iter()
            .filter(|call| {
                call.namespace() == story.namespace && call.resource() == resource && call.created()
            })
            .count()
    };
    let made = (created("ingresses"), created("services"));
    ensure!(made == (1, 1), "made (Ingresses, Services): {made:?}");
    Ok(())
}

/// Proves the counter that every "no second order" relies on.
async fn two_certificates_are_two_orders_and_the_counter_says_so(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    ensure!(ca.count()?.orders == 0, "an Issuer alone placed an order");
    for (name, expected) in [("one", 1), ("two", 2)] {
        story.certificate(name, &[story.host(name)]).await?;
        story.ready(name, SOON).await?;
        let count = ca.count()?;
        ensure!(
            count.orders == expected && count.certificates == expected,
            "after {name}: {count:?}"
        );
    }
    Ok(())
}

async fn a_self_signed_issuer_signs_without_a_ca(story: Story<'_>) -> Result<()> {
    let issuer =
        "{apiVersion: evercert.dev/v1, kind: Issuer, metadata: {name: ca}, spec: {selfSigned: {}}}";
    story.apply(issuer).await?;
    let host = story.host("dev");
    story
        .certificate("dev", std::slice::from_ref(&host))
        .await?;
    story.ready("dev", SOON).await?;
    let version = Version::of(&story.secret("dev").await?, Timestamp::now());
    ensure!(
        version.is_usable_at(Timestamp::now()) && !version.fallback,
        "{version:?}"
    );
    let leaf = version.leaf.context("no certificate")?;
    ensure!(
        leaf.names == [host] && leaf.issuer == leaf.subject,
        "{leaf:?}"
    );
    Ok(())
}

/// A solver's route must not shadow the site that it stands beside.
async fn the_site_answers_while_its_name_is_being_proved(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("busy");
    story.apply(&application("busy", &host)).await?;
    let url = format!("http://{host}/");
    story
        .wait_for("the site answers", SOON, async || {
            Ok((curl::get(&url, None)?.status == 200).then_some(()))
        })
        .await?;
    story
        .certificate("busy", std::slice::from_ref(&host))
        .await?;
    let api = story.api::<Certificate>();
    // 426, 301 and the like count too: every answer that the site did not give.
    let mut pages = Pages::new(std::slice::from_ref(&host));
    let ready = story.wait_for("the Certificate is Ready", SOON, async || {
        pages.ask();
        Ok(api.get_opt("busy").await?.filter(certificate_ready))
    });
    ready.await?;
    ensure!(pages.asked > 0 && pages.wrong.is_empty(), "{pages:?}");
    ensure!(ca.count()?.challenges == 1, "the name was not proved");
    Ok(())
}

/// Routes go when the last challenge is answered, and leave nothing behind.
pub(crate) async fn no_route_stays(story: &Story<'_>) -> Result<()> {
    let routes = ListParams::default().labels(&format!("{COMPONENT_LABEL}={COMPONENT_ROUTE}"));
    story
        .wait_for(
            "the routes to the solver are gone",
            Duration::from_secs(15),
            async || {
                let ingresses = story.api::<Ingress>().list(&routes).await?.items.len();
                let services = story.api::<Service>().list(&routes).await?.items.len();
                anyhow::ensure!(
                    ingresses + services == 0,
                    "{ingresses} Ingresses and {services} Services are there"
                );
                Ok(Some(()))
            },
        )
        .await
}

/// The leaf's fingerprint in a TLS Secret, if it is usable now.
pub(crate) fn usable(secret: &Secret) -> Option<String> {
    let version = Version::of(secret, Timestamp::now());
    version
        .is_usable_at(Timestamp::now())
        .then(|| version.leaf.map(|leaf| leaf.sha256))?
}

/// The data of a TLS Secret.
pub(crate) fn data<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    debug_assert!([keys::TLS_CRT, keys::TLS_KEY].contains(&key));
    secret
        .data
        .as_ref()
        .and_then(|data| data.get(key))
        .map_or(&[], |bytes| &bytes.0)
}
