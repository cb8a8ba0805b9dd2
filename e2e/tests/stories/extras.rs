//! What the Secret has beside the certificate: template and formats are kept in step both ways, and it goes with its Certificate
//! where the spec says so.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::{DeletionPolicy, OutputFormat, SecretTemplate};
use evercert_api::condition::STALLED;
use evercert_api::{Certificate, CertificateSpec, keys};
use evercert_e2e::Story;
use evercert_e2e::story::SOON;
use evercert_operator::effect::Effect;
use evercert_operator::effect::failpoint::{Point, Side, Stop, VARIABLE};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::issue::{data, usable};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        template_and_formats_come_change_and_go_and_other_peoples_keys_stay,
        a_secret_goes_with_its_certificate_only_where_the_spec_says_so,
        a_namespace_with_a_secret_that_goes_with_its_certificate_is_not_held,
    ]
}

/// These end the operator.
pub(crate) fn without_operator() -> Vec<Tale> {
    tales![
        a_secret_goes_with_a_certificate_that_nobody_saw_go_and_a_copy_of_it_stays,
        a_secret_that_is_not_marked_yet_goes_with_its_certificate,
    ]
}

/// From the Issuer `self`, which signs by itself.
async fn self_signed(
    story: &Story<'_>,
    name: &str,
    change: impl FnOnce(&mut CertificateSpec),
) -> Result<Certificate> {
    let issuer = "{apiVersion: evercert.dev/v1, kind: Issuer, metadata: {name: self}, spec: {selfSigned: {}}}";
    story.apply(issuer).await?;
    story
        .certificate_with(name, &[story.host(name)], |spec| {
            "self".clone_into(&mut spec.issuer_ref.name);
            change(spec);
        })
        .await
}

fn template(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> SecretTemplate {
    let owned = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        pairs.collect()
    };
    SecretTemplate {
        labels: owned(labels),
        annotations: owned(annotations),
    }
}

fn combined(secret: &Secret) -> Option<&[u8]> {
    let data = secret.data.as_ref()?;
    data.get(keys::TLS_COMBINED).map(|bytes| bytes.0.as_slice())
}

async fn template_and_formats_come_change_and_go_and_other_peoples_keys_stay(
    story: Story<'_>,
) -> Result<()> {
    self_signed(&story, "site", |spec| {
        spec.secret_template = Some(template(&[("tier", "web")], &[("example.com/note", "one")]));
        spec.output_formats = vec![OutputFormat::CombinedPem];
    })
    .await?;
    story.ready("site", SOON).await?;
    let first = story.secret("site").await?;
    let wanted = [data(&first, keys::TLS_KEY), data(&first, keys::TLS_CRT)].concat();
    ensure!(
        combined(&first) == Some(&wanted),
        "tls-combined.pem is not the key and the chain"
    );
    ensure!(
        first.labels().get("tier").is_some_and(|v| v == "web")
            && first
                .annotations()
                .get("example.com/note")
                .is_some_and(|v| v == "one"),
        "{:?} {:?}",
        first.labels(),
        first.annotations()
    );

    let theirs = json!({"metadata": {
        "labels": {"team": "shop", "tier": null}, "annotations": {"example.com/theirs": "x", "example.com/note": "bent"},
    }, "data": {keys::TLS_COMBINED: null}});
    let params = PatchParams::default();
    story
        .api::<Secret>()
        .patch("site", &params, &Patch::Merge(&theirs))
        .await?;
    story
        .until("site", "it is in step again", SOON, |secret: &Secret| {
            secret.labels().get("tier").is_some_and(|v| v == "web")
                && secret
                    .annotations()
                    .get("example.com/note")
                    .is_some_and(|v| v == "one")
                && combined(secret) == Some(&wanted)
        })
        .await?;

    self_signed(&story, "site", |spec| {
        spec.secret_template = Some(template(
            &[],
            &[("example.com/note", "two"), ("not a key", "x")],
        ));
    })
    .await?;
    let last: Secret = story
        .until("site", "it follows the spec", SOON, |secret: &Secret| {
            secret
                .annotations()
                .get("example.com/note")
                .is_some_and(|v| v == "two")
                && !secret.labels().contains_key("tier")
                && combined(secret).is_none()
        })
        .await?;
    ensure!(
        last.labels().get("team").is_some_and(|v| v == "shop")
            && last
                .annotations()
                .get("example.com/theirs")
                .is_some_and(|v| v == "x"),
        "other people's keys are gone: {:?} {:?}",
        last.labels(),
        last.annotations()
    );
    ensure!(
        usable(&last) == usable(&first),
        "the certificate is another one"
    );
    let (reason, message) = story.condition("site", STALLED, "True", SOON).await?;
    ensure!(
        reason == "InvalidSpec"
            && message.contains("\"not a key\"")
            && message.contains("left out"),
        "{reason}: {message}"
    );
    story.ready("site", SOON).await?;
    Ok(())
}

async fn a_secret_goes_with_its_certificate_only_where_the_spec_says_so(
    story: Story<'_>,
) -> Result<()> {
    self_signed(&story, "stays", |_| {}).await?;
    self_signed(&story, "goes", |spec| {
        spec.deletion_policy = DeletionPolicy::Delete;
    })
    .await?;
    for name in ["stays", "goes"] {
        story.ready(name, SOON).await?;
    }
    story
        .until("goes", "it is marked", SOON, |secret: &Secret| {
            secret.annotations().get(keys::DELETE_WITH) == secret.uid().as_ref()
        })
        .await?;
    let gone = DeleteParams::default();
    for name in ["stays", "goes"] {
        story.api::<Certificate>().delete(name, &gone).await?;
    }
    is_gone(&story, "goes", SOON).await?;
    let left = story.secret("stays").await?;
    ensure!(usable(&left).is_some(), "what stays is not usable");
    Ok(())
}

async fn is_gone(story: &Story<'_>, name: &str, within: Duration) -> Result<()> {
    story
        .wait_for("the Secret is gone", within, async || {
            let there = story.api::<Secret>().get_opt(name).await?;
            Ok(there.is_none().then_some(()))
        })
        .await
}

async fn a_namespace_with_a_secret_that_goes_with_its_certificate_is_not_held(
    story: Story<'_>,
) -> Result<()> {
    let name = format!("{}-going", story.namespace);
    story.own_namespace(&name, &json!({})).await?;
    let own = Story {
        namespace: &name,
        ..story
    };
    let made = self_signed(&own, "site", |spec| {
        spec.deletion_policy = DeletionPolicy::Delete;
    });
    made.await?;
    own.ready("site", SOON).await?;
    let certificate = own.api::<Certificate>().get("site").await?;
    ensure!(
        certificate.finalizers().is_empty(),
        "{:?}",
        certificate.finalizers()
    );
    let namespaces: Api<Namespace> = Api::all(story.stage.client.clone());
    namespaces.delete(&name, &DeleteParams::default()).await?;
    story
        .wait_for("the namespace is gone", SOON * 2, async || {
            Ok(namespaces.get_opt(&name).await?.is_none().then_some(()))
        })
        .await
}

async fn a_secret_goes_with_a_certificate_that_nobody_saw_go_and_a_copy_of_it_stays(
    story: Story<'_>,
) -> Result<()> {
    self_signed(&story, "goes", |spec| {
        spec.deletion_policy = DeletionPolicy::Delete;
    })
    .await?;
    story.ready("goes", SOON).await?;
    let marked: Secret = story
        .until("goes", "it is marked", SOON, |secret: &Secret| {
            secret.annotations().get(keys::DELETE_WITH) == secret.uid().as_ref()
        })
        .await?;
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    story
        .api::<Certificate>()
        .delete("goes", &DeleteParams::default())
        .await?;
    // What a backup would bring back before its Certificate.
    let mut copy = marked.clone();
    copy.metadata.name = Some("copy".to_owned());
    copy.metadata.uid = None;
    copy.metadata.resource_version = None;
    copy.metadata.managed_fields = None;
    copy.data
        .get_or_insert_default()
        .insert("copied".to_owned(), ByteString(b"yes".to_vec()));
    story
        .api::<Secret>()
        .create(&PostParams::default(), &copy)
        .await?;
    operator.restart()?;
    operator.ready().await?;
    drop(operator);
    is_gone(&story, "goes", SOON).await?;
    let there = story.api::<Secret>().get_opt("copy").await?;
    there.context("the copy is gone, too").map(drop)
}

/// The mark of such a Secret needs its UID, which the API server gives: it comes with a second write.
async fn a_secret_that_is_not_marked_yet_goes_with_its_certificate(story: Story<'_>) -> Result<()> {
    let made = Point {
        effect: Effect::StoreSelfSigned,
        side: Side::After,
        nth: 1,
        stop: Stop::Kill,
    };
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    operator.restart_with(&[(VARIABLE, &made.to_string())])?;
    self_signed(&story, "goes", |spec| {
        spec.deletion_policy = DeletionPolicy::Delete;
    })
    .await?;
    operator.ended(SOON).await?;
    let there = story.secret("goes").await?;
    ensure!(
        there.annotations().get(keys::DELETE_WITH) != there.uid().as_ref(),
        "it is marked already"
    );
    story
        .api::<Certificate>()
        .delete("goes", &DeleteParams::default())
        .await?;
    // The garbage collector looks for new kinds twice a minute, and in a young world it knows no Certificates.
    is_gone(&story, "goes", SOON * 3).await?;
    operator.restart()?;
    operator.ready().await
}
