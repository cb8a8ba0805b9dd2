//! What is wrong is said before an order is placed, and what was mended is seen without anybody's help.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::{Issuer, condition};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::ingress_class;
use evercert_e2e::story::{SOON, issuer_yaml};
use k8s_openapi::ByteString;

use crate::{Tale, tales};

/// A Secret of somebody else's that an Issuer names is read again within so long.
const NOTICED: Duration = Duration::from_secs(30);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_changed_bundle_is_noticed_within_30_s_and_the_ca_is_left_in_peace,
        an_ingress_class_that_does_not_exist_is_named_before_any_order,
    ]
}

async fn an_ingress_class_that_does_not_exist_is_named_before_any_order(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    let mut issuer = issuer(&ca)?;
    let class = "/spec/acme/http01/ingressClassName";
    *issuer.pointer_mut(class).context("no class")? = "typo".into();
    story.apply(&issuer.to_string()).await?;
    story.certificate("site", &[story.host("www")]).await?;
    let (reason, message) = story
        .condition("site", condition::STALLED, "True", SOON)
        .await?;
    ensure!(
        reason == "NoIngressClass"
            && message.contains("IngressClass typo does not exist")
            && message.contains(ingress_class())
            && message.contains("ingressClassName"),
        "{reason}: {message}"
    );
    let (reason, message) = story
        .condition("site", condition::READY, "False", SOON)
        .await?;
    ensure!(
        message.contains("IngressClass typo does not exist"),
        "{reason}: {message}"
    );
    ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);

    *issuer.pointer_mut(class).context("no class")? = ingress_class().into();
    story.apply(&issuer.to_string()).await?;
    story.ready("site", SOON * 2).await?;
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    Ok(())
}

async fn a_changed_bundle_is_noticed_within_30_s_and_the_ca_is_left_in_peace(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    let mut issuer = issuer(&ca)?;
    let acme = issuer.pointer_mut("/spec/acme").context("no acme")?;
    let acme = acme.as_object_mut().context("no object")?;
    acme.remove("caBundle");
    acme.insert(
        "caBundleSecretRef".to_owned(),
        serde_json::json!({"name": "roots"}),
    );
    let other = rcgen::generate_simple_self_signed(vec!["other.test".to_owned()])?;
    let other = other.cert.pem();
    roots(&story, &other).await?;
    story.apply(&issuer.to_string()).await?;
    says(&story, "UntrustedDirectory", SOON).await?;
    story.certificate("site", &[story.host("www")]).await?;

    roots(&story, &ca.bundle()?).await?;
    says(&story, "AccountReady", NOTICED).await?;
    story.ready("site", SOON).await?;
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");

    // And the other way: what is trusted no more.
    roots(&story, &other).await?;
    says(&story, "UntrustedDirectory", NOTICED).await?;
    roots(&story, &ca.bundle()?).await?;
    says(&story, "AccountReady", NOTICED).await?;
    let after = ca.count()?;
    ensure!(
        after.orders == 1 && after.registered == 1 && after.requests <= count.requests + 4,
        "before {count:?}, after {after:?}"
    );
    Ok(())
}

fn issuer(ca: &TestCa) -> Result<serde_json::Value> {
    let yaml = issuer_yaml("Issuer", "ca", &ca.directory(), &ca.bundle()?);
    serde_json::from_str(&yaml).context("an Issuer is JSON")
}

/// Writes the Secret that the Issuer takes its roots from.
async fn roots(story: &Story<'_>, pem: &str) -> Result<()> {
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "roots"},
        "data": {"ca.crt": ByteString(pem.as_bytes().to_vec())},
    });
    story.apply(&secret.to_string()).await
}

async fn says(story: &Story<'_>, reason: &str, within: Duration) -> Result<()> {
    story
        .until(
            "ca",
            &format!("the Issuer says {reason}"),
            within,
            |issuer: &Issuer| {
                let status = issuer.status.as_ref();
                status
                    .and_then(|status| condition::find(&status.conditions, condition::READY))
                    .is_some_and(|ready| ready.reason == reason)
            },
        )
        .await
        .map(drop)
}
