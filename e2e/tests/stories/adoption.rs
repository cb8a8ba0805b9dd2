//! A Secret of somebody else with a good certificate is taken over as it is; one that a controller claims is not.

use std::time::Duration;

use anyhow::{Result, ensure};
use evercert_api::condition::{FALLBACK_IN_USE, READY};
use evercert_api::{Certificate, children, keys};
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::foreign::Pair;
use evercert_e2e::story::{SOON, certificate_ready};
use evercert_operator::effect::Effect;
use evercert_operator::effect::failpoint::{Point, Side, Stop, VARIABLE};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::issue::{data, usable};
use crate::midway::event;
use crate::{Tale, tales};

const QUARTER: i64 = 90 * 86_400;
/// What is somebody else's is looked at again every 30 s.
const AGAIN: Duration = Duration::from_secs(45);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_good_certificate_of_somebody_else_is_adopted_without_an_order,
        a_secret_of_a_certificate_that_is_gone_is_adopted_by_its_successor,
        a_secret_that_cert_manager_claims_is_adopted_when_its_certificate_is_gone,
        a_users_own_certificate_over_a_fallback_is_kept_and_a_stripped_mark_is_put_back,
    ]
}

/// With the operator ended.
pub(crate) fn without_operator() -> Vec<Tale> {
    tales![what_is_adopted_is_said_when_it_is_kept]
}

async fn a_good_certificate_of_somebody_else_is_adopted_without_an_order(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("www");
    let theirs = Pair::issue(std::slice::from_ref(&host), QUARTER)?;
    let marks =
        json!({"labels": {"team": "shop"}, "annotations": {"example.test/from": "the vault"}});
    story
        .apply(&theirs.secret("site", &marks).to_string())
        .await?;
    story.certificate("site", &[host]).await?;
    story.ready("site", SOON).await?;
    let adopted: Secret = story.secret("site").await?;
    let (labels, annotations) = (adopted.labels(), adopted.annotations());
    ensure!(
        labels.get("team").is_some_and(|team| team == "shop")
            && annotations.contains_key("example.test/from"),
        "other people's metadata is gone: {labels:?} {annotations:?}"
    );
    ensure!(
        labels.contains_key(keys::SECRET_ROLE_LABEL)
            && annotations
                .get(keys::CERTIFICATE_NAME)
                .is_some_and(|name| name == "site"),
        "it does not say whose it is: {labels:?} {annotations:?}"
    );
    holds(&adopted, &theirs)?;
    let note = event(&story, "site", "SecretAdopted").await?;
    ensure!(note.contains("it is kept"), "{note}");

    comes_back(&story, &theirs, &ca).await
}

/// It is kept as if it had been issued here: deleted, it is restored without an order.
async fn comes_back(story: &Story<'_>, theirs: &Pair, ca: &TestCa) -> Result<()> {
    story
        .api::<Secret>()
        .delete("site", &DeleteParams::default())
        .await?;
    let back: Secret = story
        .until("site", "the Secret is whole", SOON, |secret| {
            usable(secret).is_some()
        })
        .await?;
    holds(&back, theirs)?;
    story.ready("site", SOON).await?;
    ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);
    Ok(())
}

/// Once it is said that the Secret is ours and good, it may be deleted: so the copy is there before.
async fn what_is_adopted_is_said_when_it_is_kept(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("www");
    let theirs = Pair::issue(std::slice::from_ref(&host), QUARTER)?;
    story
        .apply(&theirs.secret("site", &json!({})).to_string())
        .await?;
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    let unkept = Point {
        effect: Effect::KeepCopy,
        side: Side::Before,
        nth: 1,
        stop: Stop::Kill,
    };
    operator.restart_with(&[(VARIABLE, &unkept.to_string())])?;
    story.certificate("site", &[host]).await?;
    operator.ended(SOON).await?;
    let adopted = story.secret("site").await?;
    ensure!(
        adopted.labels().contains_key(keys::SECRET_ROLE_LABEL),
        "it does not say whose it is"
    );
    let certificate = story.api::<Certificate>().get("site").await?;
    ensure!(!certificate_ready(&certificate), "{certificate:?}");
    operator.restart()?;
    operator.ready().await?;
    story.ready("site", SOON).await?;
    comes_back(&story, &theirs, &ca).await
}

async fn a_secret_of_a_certificate_that_is_gone_is_adopted_by_its_successor(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let names = [story.host("www")];
    story
        .certificate_with("old", &names, |spec| {
            "site".clone_into(&mut spec.secret_name);
        })
        .await?;
    story.ready("old", SOON).await?;
    let before = story.secret("site").await?;
    let gone = DeleteParams::default();
    story.api::<Certificate>().delete("old", &gone).await?;
    let companion = children::companion_name(story.namespace, "old");
    // Unless the garbage collector was faster.
    if let Err(kube::Error::Api(refused)) = story.api::<Secret>().delete(&companion, &gone).await {
        ensure!(refused.code == 404, "{refused}");
    }
    story
        .certificate_with("new", &names, |spec| {
            "site".clone_into(&mut spec.secret_name);
        })
        .await?;
    story.ready("new", SOON).await?;
    let after = story.secret("site").await?;
    ensure!(before.data == after.data, "the content was changed");
    ensure!(
        after
            .annotations()
            .get(keys::CERTIFICATE_NAME)
            .is_some_and(|name| name == "new"),
        "{:?}",
        after.annotations()
    );
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    Ok(())
}

/// What cert-manager calls a Certificate, without its schema.
pub(crate) const CERT_MANAGER: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: certificates.cert-manager.io}
spec:
  group: cert-manager.io
  scope: Namespaced
  names: {kind: Certificate, plural: certificates, singular: certificate, listKind: CertificateList}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

async fn a_secret_that_cert_manager_claims_is_adopted_when_its_certificate_is_gone(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("www");
    story.apply(CERT_MANAGER).await?;
    let certificate = json!({"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": "theirs"}});
    story
        .wait_for("the kind is served", SOON, async || {
            Ok(story.apply(&certificate.to_string()).await.ok())
        })
        .await?;
    let theirs = Pair::issue(std::slice::from_ref(&host), QUARTER)?;
    let marks = json!({"annotations": {"cert-manager.io/certificate-name": "theirs"}});
    story
        .apply(&theirs.secret("site", &marks).to_string())
        .await?;
    let before = story.secret("site").await?;
    story.certificate("site", &[host]).await?;
    let words = "Certificate theirs of cert-manager";
    let message = story.condition_says("site", READY, words, SOON).await?;
    ensure!(message.contains("Secret site"), "{message}");
    let untouched = story.secret("site").await?;
    ensure!(
        before.resource_version() == untouched.resource_version(),
        "the Secret was written"
    );

    let kind = kube::core::GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
    let resource = kube::api::ApiResource::from_gvk_with_plural(&kind, "certificates");
    let api: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(story.stage.client.clone(), story.namespace, &resource);
    api.delete("theirs", &DeleteParams::default()).await?;
    story.ready("site", AGAIN).await?;
    holds(&story.secret("site").await?, &theirs)?;
    ensure!(ca.count()?.orders == 0, "{:?}", ca.count()?);
    Ok(())
}

/// The Issuer does not exist, so that the fallback stays.
async fn a_users_own_certificate_over_a_fallback_is_kept_and_a_stripped_mark_is_put_back(
    story: Story<'_>,
) -> Result<()> {
    let host = story.host("www");
    story
        .certificate("site", std::slice::from_ref(&host))
        .await?;
    story
        .condition("site", FALLBACK_IN_USE, "True", SOON * 2)
        .await?;
    let fallback = story.secret("site").await?;
    let leaf = fallback.annotations().get(keys::FALLBACK).cloned();
    ensure!(leaf.is_some(), "the fallback is not marked");

    change(
        &story,
        &json!({"metadata": {"annotations": {keys::FALLBACK: null}, "labels": null}}),
    )
    .await?;
    let marked: Secret = story
        .until("site", "the mark is back", SOON, |secret: &Secret| {
            secret.annotations().get(keys::FALLBACK) == leaf.as_ref()
                && secret.labels().contains_key(keys::SECRET_ROLE_LABEL)
        })
        .await?;
    ensure!(marked.data == fallback.data, "the content was changed");
    let (reason, message) = story.condition("site", READY, "False", SOON).await?;
    ensure!(
        reason == "FallbackInPlace" || reason == "IssuerNotFound",
        "{reason}: {message}"
    );

    let own = Pair::issue(&[host], QUARTER)?;
    change(
        &story,
        &json!({"stringData": {"tls.crt": own.chain, "tls.key": own.key}}),
    )
    .await?;
    story.ready("site", SOON).await?;
    let kept: Secret = story
        .until("site", "the mark is gone", SOON, |secret: &Secret| {
            !secret.annotations().contains_key(keys::FALLBACK)
        })
        .await?;
    holds(&kept, &own)?;
    story
        .condition("site", FALLBACK_IN_USE, "False", SOON)
        .await?;
    Ok(())
}

async fn change(story: &Story<'_>, patch: &Value) -> Result<()> {
    let params = PatchParams {
        field_manager: Some("somebody".to_owned()),
        ..PatchParams::default()
    };
    let secrets = story.api::<Secret>();
    secrets.patch("site", &params, &Patch::Merge(patch)).await?;
    Ok(())
}

fn holds(secret: &Secret, pair: &Pair) -> Result<()> {
    ensure!(
        data(secret, keys::TLS_CRT) == pair.chain.as_bytes()
            && data(secret, keys::TLS_KEY) == pair.key.as_bytes(),
        "it holds another certificate"
    );
    Ok(())
}
