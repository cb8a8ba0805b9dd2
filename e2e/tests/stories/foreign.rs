//! A Secret of somebody else is not touched, whatever a Certificate says.

use anyhow::{Result, ensure};
use evercert_api::condition;
use evercert_e2e::Story;
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_secret_of_somebody_else_keeps_its_bytes_and_its_version,
        a_secret_of_another_type_is_left_alone
    ]
}

async fn a_secret_of_somebody_else_keeps_its_bytes_and_its_version(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    let theirs = rcgen::generate_simple_self_signed(vec!["theirs.test".to_owned()])?;
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "site"},
        "stringData": {"tls.crt": theirs.cert.pem(), "tls.key": theirs.signing_key.serialize_pem()},
    });
    untouched(&story, &secret.to_string(), &ca, "SecretNotOurs").await
}

async fn a_secret_of_another_type_is_left_alone(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    let secret = r#"{"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": "site"}, "stringData": {"password": "x"}}"#;
    untouched(&story, secret, &ca, "SecretWrongType").await
}

async fn untouched(
    story: &Story<'_>,
    secret: &str,
    ca: &evercert_e2e::ca::TestCa,
    expected: &str,
) -> Result<()> {
    story.apply(secret).await?;
    let before: Secret = story.secret("site").await?;
    story.certificate("site", &[story.host("www")]).await?;
    let (reason, message) = story
        .condition("site", condition::READY, "False", SOON)
        .await?;
    ensure!(reason == expected, "{reason}: {message}");
    ensure!(
        message.contains("site"),
        "the message does not name the Secret: {message}"
    );
    // Something that comes later and is issued, so that what the operator does at its leisure would be done by now.
    story.certificate("later", &[story.host("later")]).await?;
    story.ready("later", SOON).await?;
    let after: Secret = story.secret("site").await?;
    ensure!(
        before.resource_version() == after.resource_version(),
        "the Secret was written"
    );
    ensure!(
        before.data == after.data && before.type_ == after.type_,
        "the Secret was changed"
    );
    ensure!(
        ca.count()?.orders == 1,
        "an order was placed for it: {:?}",
        ca.count()?
    );
    Ok(())
}
