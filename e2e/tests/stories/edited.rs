//! A Certificate is edited in the middle of its order: what no longer fits is given back, and one order follows.

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::{CertificateSpec, KeyAlgorithm, PrivateKey};
use evercert_api::{Certificate, children, keys};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::history::Version;
use evercert_e2e::leaf::Leaf;
use evercert_e2e::story::SOON;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::issue::{data, no_route_stays};
use crate::midway::{
    account, begin_in_the_middle, close_the_route, event, events, given_back, in_the_middle,
    open_the_route, order_of,
};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_name_added_in_the_middle_costs_one_more_order_and_the_first_is_given_back,
        another_key_wanted_in_the_middle_costs_one_more_order_and_the_first_is_given_back,
        another_secret_wanted_in_the_middle_keeps_the_order,
        another_issuer_wanted_in_the_middle_costs_one_order_at_each_and_the_first_is_given_back,
    ]
}

async fn a_name_added_in_the_middle_costs_one_more_order_and_the_first_is_given_back(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let names = [story.host("a"), story.host("b"), story.host("c")];
    let leaf = replaced(&story, &ca, &names, |_| {}).await?;
    ensure!(leaf.names == names, "{:?}", leaf.names);
    Ok(())
}

async fn another_key_wanted_in_the_middle_costs_one_more_order_and_the_first_is_given_back(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let names = [story.host("a"), story.host("b")];
    replaced(&story, &ca, &names, |spec| {
        spec.private_key = Some(PrivateKey {
            algorithm: KeyAlgorithm::Rsa,
            size: Some(3072),
            ..PrivateKey::default()
        });
    })
    .await?;
    let key = story.secret("site").await?;
    let key = String::from_utf8_lossy(data(&key, keys::TLS_KEY)).into_owned();
    // An ECDSA key is a tenth of it.
    ensure!(
        key.contains("PRIVATE KEY") && key.len() > 2_000,
        "not an RSA key of 3072 bits: {} characters",
        key.len()
    );
    Ok(())
}

/// The Certificate is ordered for two names, edited in the middle, and gets what it wants last by a second order.
async fn replaced(
    story: &Story<'_>,
    ca: &TestCa,
    names: &[String],
    change: impl FnOnce(&mut CertificateSpec),
) -> Result<Leaf> {
    close_the_route(story).await?;
    let two: Vec<String> = names.iter().take(2).cloned().collect();
    story.certificate("site", &two).await?;
    let first = in_the_middle(story, "site").await?;
    let account = account(story, "ca", ca).await?;
    let (state, authorizations) = account.order(&first.url)?;
    ensure!(
        state == "pending" && authorizations == ["pending", "pending"],
        "it is not the middle: {state}, {authorizations:?}"
    );

    story.certificate_with("site", names, change).await?;
    given_back(story, &account, &first).await?;
    story
        .until(
            "site",
            "another order is under way",
            SOON,
            |certificate: &Certificate| {
                order_of(certificate).is_some_and(|order| order.url != first.url)
            },
        )
        .await?;
    open_the_route(story).await?;
    story.ready("site", SOON * 2).await?;
    let note = event(story, "site", "OrderAbandoned").await?;
    ensure!(note.contains("given up"), "{note}");
    let count = ca.count()?;
    ensure!(
        count.orders == 2 && count.placed == 2 && count.certificates == 1,
        "{count:?}"
    );
    nothing_is_left(story, &["ca-account", "site"]).await
}

async fn another_secret_wanted_in_the_middle_keeps_the_order(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    let names = [story.host("www")];
    let order = begin_in_the_middle(&story, &names).await?;
    story
        .certificate_with("site", &names, |spec| {
            "elsewhere".clone_into(&mut spec.secret_name);
        })
        .await?;
    open_the_route(&story).await?;
    story.ready("site", SOON * 2).await?;
    let version = Version::of(&story.secret("elsewhere").await?, Timestamp::now());
    ensure!(
        version.is_usable_at(Timestamp::now()) && !version.fallback,
        "{version:?}"
    );
    ensure!(
        events(&story, "site", "OrderAbandoned").await?.is_empty(),
        "the order was given up, though it fits"
    );
    let count = ca.count()?;
    ensure!(
        count.orders == 1 && count.certificates == 1,
        "{count:?}, the order was {}",
        order.url
    );
    ensure!(
        story.api::<Secret>().get_opt("site").await?.is_none(),
        "the Secret that is no longer wanted was made"
    );
    no_route_stays(&story).await
}

async fn another_issuer_wanted_in_the_middle_costs_one_order_at_each_and_the_first_is_given_back(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let other = story
        .stage
        .ca(&format!("{}-other", story.namespace), Pebble::default())
        .await?;
    story.issuer("other", &other).await?;
    let names = [story.host("a"), story.host("b")];
    let first = begin_in_the_middle(&story, &names).await?;
    let account = account(&story, "ca", &ca).await?;

    story
        .certificate_with("site", &names, |spec| {
            "other".clone_into(&mut spec.issuer_ref.name);
        })
        .await?;
    given_back(&story, &account, &first).await?;
    open_the_route(&story).await?;
    story.ready("site", SOON * 2).await?;
    let secret = story.secret("site").await?;
    let chain = Leaf::parse_chain(data(&secret, keys::TLS_CRT))?;
    let root = Leaf::parse_chain(&std::fs::read(other.root())?)?;
    let (last, root) = (chain.last().context("no chain")?, root.first());
    ensure!(
        Some(&last.issuer) == root.map(|root| &root.subject),
        "the chain ends at {}, the new CA is {root:?}",
        last.issuer
    );
    let (left, taken) = (ca.count()?, other.count()?);
    ensure!(
        left.orders == 1 && left.certificates == 0 && left.challenges == 0,
        "at the first CA: {left:?}"
    );
    ensure!(
        taken.orders == 1 && taken.certificates == 1,
        "at the other CA: {taken:?}"
    );
    nothing_is_left(&story, &["ca-account", "other-account", "site"])
        .await
        .map(drop)
}

/// No route, no pending key, no Secret but these and the companion; gives the leaf in the Secret `site`.
async fn nothing_is_left(story: &Story<'_>, secrets: &[&str]) -> Result<Leaf> {
    no_route_stays(story).await?;
    let companion = children::companion_name(story.namespace, "site");
    story
        .until(
            &companion,
            "no key waits for a certificate",
            SOON,
            |companion: &Secret| {
                companion
                    .data
                    .as_ref()
                    .is_none_or(|data| !data.contains_key(keys::PENDING_KEY))
            },
        )
        .await?;
    let mut expected: Vec<String> = secrets.iter().map(|name| (*name).to_owned()).collect();
    expected.push(companion);
    expected.sort();
    let found = story.api::<Secret>().list(&ListParams::default()).await?;
    let mut found: Vec<String> = found.iter().map(ResourceExt::name_any).collect();
    found.sort();
    ensure!(found == expected, "Secrets: {found:?}");
    let version = Version::of(&story.secret("site").await?, Timestamp::now());
    ensure!(
        version.is_usable_at(Timestamp::now()) && !version.fallback,
        "{version:?}"
    );
    version.leaf.context("no certificate")
}
