//! Another writer keeps changing the TLS Secret: no ping-pong, and the condition says who it is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::condition::{READY, STALLED};
use evercert_api::{Certificate, keys};
use evercert_e2e::Story;
use evercert_e2e::foreign::Pair;
use evercert_e2e::story::SOON;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::issue::{data, usable};
use crate::requested::{another, ask, serial};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_secret_that_another_writer_keeps_changing_is_left_to_a_person_who_is_told_its_name,
        an_immutable_secret_is_named_with_the_remedy_and_deleting_it_helps,
        a_renewal_for_an_immutable_secret_orders_nothing_and_leaves_it_ready,
    ]
}

async fn a_secret_that_another_writer_keeps_changing_is_left_to_a_person_who_is_told_its_name(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let names = [story.host("www")];
    story.certificate("site", &names).await?;
    story.ready("site", SOON).await?;
    let good = usable(&story.secret("site").await?).context("no certificate")?;
    let theirs = Pair::issue(&["elsewhere.test".to_owned()], 86_400)?;
    let change = json!({"stringData": {"tls.crt": theirs.chain, "tls.key": theirs.key}});
    let is_good = |secret: &Secret| usable(secret).as_ref() == Some(&good);

    // As often as it is put back, it is changed again.
    let mut put_back = 0;
    let stalled = |certificate: &Certificate| {
        let status = certificate.status.as_ref();
        let mut conditions = status.iter().flat_map(|status| &status.conditions);
        conditions.any(|c| c.type_ == STALLED && c.reason == "SecretContested")
    };
    tug(&story, &change).await?;
    story
        .wait_for("the circuit is open", SOON, async || {
            if is_good(&story.secret("site").await?) {
                put_back += 1;
                tug(&story, &change).await?;
            }
            Ok(stalled(&story.api::<Certificate>().get("site").await?).then_some(()))
        })
        .await?;
    ensure!(put_back == 5, "it was put back {put_back} times");
    let (reason, message) = story.condition("site", STALLED, "True", SOON).await?;
    ensure!(reason == "SecretContested", "{reason}: {message}");
    for words in [
        "Secret site",
        "\"tug\"",
        "leave it alone",
        "not written before",
    ] {
        ensure!(
            message.contains(words),
            "it does not say {words}: {message}"
        );
    }
    let (reason, message) = story.condition("site", READY, "False", SOON).await?;
    ensure!(message.contains("\"tug\""), "{reason}: {message}");

    // Something that comes later and is issued, so that what the operator does at its leisure would be done by now.
    let before = story.secret("site").await?;
    story.certificate("later", &[story.host("later")]).await?;
    story.ready("later", SOON).await?;
    let after = story.secret("site").await?;
    ensure!(
        before.resource_version() == after.resource_version(),
        "the Secret was written"
    );

    // A person has acted, and says so.
    story
        .certificate_with("site", &names, |spec| {
            spec.renew_before = Some("720h".into());
        })
        .await?;
    story
        .until("site", "the Secret is whole", SOON, is_good)
        .await?;
    story.ready("site", SOON).await?;
    ensure!(ca.count()?.orders == 2, "{:?}", ca.count()?);
    Ok(())
}

async fn an_immutable_secret_is_named_with_the_remedy_and_deleting_it_helps(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let theirs = Pair::issue(&["elsewhere.test".to_owned()], 86_400)?;
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON).await?;
    let good = usable(&story.secret("site").await?).context("no certificate")?;
    let damage = json!({
        "immutable": true, "stringData": {"tls.crt": theirs.chain, "tls.key": theirs.key},
    });
    tug(&story, &damage).await?;
    let (reason, message) = story.condition("site", STALLED, "True", SOON).await?;
    ensure!(
        reason == "SecretImmutable"
            && message.contains("Secret site")
            && message.contains("delete it"),
        "{reason}: {message}"
    );
    let (left, _) = (story.secret("site").await?, SOON);
    ensure!(
        data(&left, keys::TLS_CRT) == theirs.chain.as_bytes(),
        "it was changed"
    );
    story
        .api::<Secret>()
        .delete("site", &DeleteParams::default())
        .await?;
    story
        .until(
            "site",
            "the Secret is whole",
            Duration::from_secs(5),
            |secret: &Secret| usable(secret).as_ref() == Some(&good) && secret.immutable.is_none(),
        )
        .await?;
    story.ready("site", SOON).await?;
    ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);
    Ok(())
}

/// Another writer changes the Secret.
async fn tug(story: &Story<'_>, change: &Value) -> Result<()> {
    let params = PatchParams {
        field_manager: Some("tug".to_owned()),
        ..PatchParams::default()
    };
    let secrets = story.api::<Secret>();
    secrets
        .patch("site", &params, &Patch::Merge(change))
        .await?;
    Ok(())
}

async fn a_renewal_for_an_immutable_secret_orders_nothing_and_leaves_it_ready(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("site", &[story.host("www")]).await?;
    let first = serial(&story.ready("site", SOON).await?)?;
    let good = usable(&story.secret("site").await?).context("no certificate")?;
    tug(&story, &json!({"immutable": true})).await?;
    ask(&story, "site", &Timestamp::now().to_string()).await?;
    let words = "Secret site is immutable";
    let message = story.condition_says("site", READY, words, SOON).await?;
    ensure!(message.contains("delete it"), "{message}");
    story.condition("site", READY, "True", SOON).await?;
    let there = usable(&story.secret("site").await?);
    ensure!(there.as_ref() == Some(&good), "it was changed");
    ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);
    story
        .api::<Secret>()
        .delete("site", &DeleteParams::default())
        .await?;
    another(&story, "site", &first).await?;
    ensure!(ca.count()?.orders == 2, "{:?}", ca.count()?);
    Ok(())
}
