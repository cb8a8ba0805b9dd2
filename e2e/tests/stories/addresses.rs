//! Certificates for IP addresses (RFC 8738): proved at the address itself.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::{Profile, ProfilePolicy};
use evercert_api::{Certificate, condition, keys};
use evercert_cluster::address::INGRESS;
use evercert_e2e::leaf::Leaf;
use evercert_e2e::scripted::{Limits, Settings, Validation};
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, dns};
use k8s_openapi::api::core::v1::Secret;

use crate::dns_preflight::{ingress, waits};
use crate::issue::{data, no_route_stays};
use crate::midway::never_failed;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        an_address_is_proved_at_itself_alone_and_beside_a_name,
        a_fallback_stands_in_for_addresses_that_nobody_can_prove,
        a_ca_that_signs_addresses_with_one_profile_only_is_said_and_ipv6_is_proved_with_it,
        an_address_that_is_not_the_entry_points_holds_the_order_back_until_it_is_gone,
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

async fn a_ca_that_signs_addresses_with_one_profile_only_is_said_and_ipv6_is_proved_with_it(
    story: Story<'_>,
) -> Result<()> {
    let (host, ipv4, ipv6) = (story.host("www"), dns::NOBODY, "2001:db8::2");
    let entry = SocketAddr::new(INGRESS.parse()?, 80);
    // The CA comes to the ingress controller for all of them, and asks for the IPv6 address, which the world has not, in brackets.
    let places = [host.clone(), ipv4.to_owned(), format!("[{ipv6}]")];
    let ca = story
        .scripted_ca(Settings {
            validation: Validation::At(places.map(|name| (name, entry)).into()),
            limits: Limits::none(),
            ..Settings::lets_encrypt()
        })
        .await?;
    let wanting = async |profile: Option<&str>| -> Result<()> {
        story
            .certificate_with("address", std::slice::from_ref(&host), |spec| {
                spec.ip_addresses = vec![ipv6.to_owned(), ipv4.to_owned()];
                spec.profile = profile.map(|name| Profile {
                    name: name.to_owned(),
                    policy: ProfilePolicy::Required,
                });
            })
            .await
            .map(drop)
    };
    wanting(None).await?;
    let words = "an IP address may need a profile of its own";
    let told = story
        .condition_says("address", condition::READY, words, SOON)
        .await?;
    ensure!(
        told.contains(ipv4) && told.contains("spec.profile") && told.contains("Next attempt"),
        "{told}"
    );
    let count = ca.count();
    ensure!(count.orders == 1 && count.placed == 0, "{}", ca.journal());

    wanting(Some("shortlived")).await?;
    story.ready("address", SOON).await?;
    let names = names_in(&story.secret("address").await?)?;
    ensure!(names == [ipv4, ipv6, host.as_str()], "{names:?}");
    let count = ca.count();
    ensure!(
        count.orders == 2 && count.certificates == 1,
        "{}",
        ca.journal()
    );
    no_route_stays(&story).await
}

async fn an_address_that_is_not_the_entry_points_holds_the_order_back_until_it_is_gone(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    ingress(&story, &story.host("www")).await?;
    let host = story.host("www");
    let wanting = async |addresses: &[&str]| -> Result<()> {
        story
            .certificate_with("site", std::slice::from_ref(&host), |spec| {
                spec.ip_addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
            })
            .await
            .map(drop)
    };
    wanting(&[dns::NOWHERE]).await?;
    let words = [dns::NOWHERE, INGRESS, "remove it from spec.ipAddresses"];
    waits(&story, &words).await?;
    ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);
    wanting(&[]).await?;
    story.ready("site", SOON).await?;
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    never_failed(&story, "site").await
}

/// The names of the leaf in a Secret.
fn names_in(secret: &Secret) -> Result<Vec<String>> {
    let chain = Leaf::parse_chain(data(secret, keys::TLS_CRT))?;
    Ok(chain.into_iter().next().context("no certificate")?.names)
}
