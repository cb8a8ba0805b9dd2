//! Certificates for IP addresses (RFC 8738): proved at the address itself.

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, condition, keys};
use evercert_cluster::address::INGRESS;
use evercert_e2e::Story;
use evercert_e2e::leaf::Leaf;
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::Secret;

use crate::issue::{data, no_route_stays};
use crate::midway::never_failed;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        an_address_is_proved_at_itself_alone_and_beside_a_name,
        a_fallback_stands_in_for_addresses_that_nobody_can_prove,
    ]
}

async fn an_address_is_proved_at_itself_alone_and_beside_a_name(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("www");
    story
        .certificate_with("address", &[], |spec| {
            spec.ip_addresses = vec![INGRESS.to_owned()];
        })
        .await?;
    let certificate = story.ready("address", SOON).await?;
    let names = names_in(&story.secret("address").await?)?;
    ensure!(names == [INGRESS], "{names:?}");
    let status = certificate.status.context("no status")?;
    ensure!(status.serial_number.is_some(), "{status:?}");

    story
        .certificate_with("both", std::slice::from_ref(&host), |spec| {
            spec.ip_addresses = vec![INGRESS.to_owned()];
        })
        .await?;
    story.ready("both", SOON).await?;
    let secret = story.secret("both").await?;
    let names = names_in(&secret)?;
    ensure!(names == [INGRESS, host.as_str()], "{names:?}");
    Leaf::verify_chain(data(&secret, keys::TLS_CRT), &std::fs::read(ca.root())?)?;
    no_route_stays(&story).await?;

    // Another set of names is another certificate; the same one is none.
    story
        .certificate_with("both", std::slice::from_ref(&host), |_| ())
        .await?;
    let only = [host.clone()];
    story
        .until("both", "the address is gone", SOON, |secret: &Secret| {
            names_in(secret).is_ok_and(|names| names == only)
        })
        .await?;
    let count = ca.count()?;
    ensure!(count.orders == 3 && count.certificates == 3, "{count:?}");
    for name in ["address", "both"] {
        never_failed(&story, name).await?;
    }
    Ok(())
}

async fn a_fallback_stands_in_for_addresses_that_nobody_can_prove(story: Story<'_>) -> Result<()> {
    let wanted = ["198.19.255.254", "2001:db8::1"];
    // Nobody signs: there is no such issuer.
    story
        .certificate_with("nowhere", &[], |spec| {
            spec.ip_addresses = wanted.map(str::to_owned).to_vec();
            spec.fallback = Some(evercert_api::certificate::Fallback {
                trigger: evercert_api::certificate::FallbackTrigger::Immediately,
                ..Default::default()
            });
        })
        .await?;
    story
        .condition("nowhere", condition::FALLBACK_IN_USE, "True", SOON)
        .await?;
    let first = story.secret("nowhere").await?;
    let names = names_in(&first)?;
    ensure!(names == wanted, "{names:?}");

    // It is in step with the addresses, and follows them.
    let _: Certificate = story
        .certificate_with("nowhere", &[], |spec| {
            spec.ip_addresses = vec![wanted[0].to_owned()];
            spec.fallback = Some(evercert_api::certificate::Fallback {
                trigger: evercert_api::certificate::FallbackTrigger::Immediately,
                ..Default::default()
            });
        })
        .await?;
    story
        .until(
            "nowhere",
            "the fallback is for one address",
            SOON,
            |secret: &Secret| names_in(secret).is_ok_and(|names| names == wanted[..1]),
        )
        .await?;
    Ok(())
}

/// The names of the leaf in a Secret.
fn names_in(secret: &Secret) -> Result<Vec<String>> {
    let chain = Leaf::parse_chain(data(secret, keys::TLS_CRT))?;
    Ok(chain.into_iter().next().context("no certificate")?.names)
}
