//! A TLS Secret that is deleted or damaged is whole again within 5 s, without an order.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_e2e::Story;
use evercert_e2e::story::SOON;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams};

use crate::issue::{data, usable};
use crate::{Tale, tales};

/// The promise of the design.
pub(crate) const WHOLE: Duration = Duration::from_secs(5);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_deleted_secret_comes_back_without_an_order,
        a_wrong_key_is_replaced_without_an_order,
        a_truncated_certificate_is_replaced_without_an_order,
        a_certificate_for_other_names_is_replaced_without_an_order,
    ]
}

async fn a_deleted_secret_comes_back_without_an_order(story: Story<'_>) -> Result<()> {
    whole_again(&story, async |secrets, _| {
        secrets.delete("site", &DeleteParams::default()).await?;
        Ok(())
    })
    .await
}

async fn a_wrong_key_is_replaced_without_an_order(story: Story<'_>) -> Result<()> {
    whole_again(&story, async |secrets, secret| {
        let key = rcgen::KeyPair::generate()?.serialize_pem();
        write(&secrets, secret, &[("tls.key", key.into_bytes())]).await
    })
    .await
}

async fn a_truncated_certificate_is_replaced_without_an_order(story: Story<'_>) -> Result<()> {
    whole_again(&story, async |secrets, secret| {
        let half = data(&secret, "tls.crt").iter().copied().take(300).collect();
        write(&secrets, secret, &[("tls.crt", half)]).await
    })
    .await
}

async fn a_certificate_for_other_names_is_replaced_without_an_order(
    story: Story<'_>,
) -> Result<()> {
    whole_again(&story, async |secrets, secret| {
        let other = rcgen::generate_simple_self_signed(vec!["other.test".to_owned()])?;
        let pair = [
            ("tls.crt", other.cert.pem().into_bytes()),
            ("tls.key", other.signing_key.serialize_pem().into_bytes()),
        ];
        write(&secrets, secret, &pair).await
    })
    .await
}

async fn whole_again(
    story: &Story<'_>,
    damage: impl AsyncFnOnce(kube::Api<Secret>, Secret) -> Result<()>,
) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON).await?;
    let before: Secret = story.secret("site").await?;
    let good = usable(&before).context("the issued certificate is not usable")?;
    damage(story.api::<Secret>(), before.clone()).await?;
    let now = story.api::<Secret>().get_opt("site").await?;
    let hit = now
        .is_none_or(|secret| secret.metadata.resource_version != before.metadata.resource_version);
    ensure!(hit, "nothing was damaged");
    let after: Secret = story
        .until("site", "the Secret is whole", WHOLE, |secret| {
            usable(secret).as_ref() == Some(&good)
        })
        .await?;
    ensure!(
        data(&after, "tls.crt") == data(&before, "tls.crt"),
        "the chain changed"
    );
    story.ready("site", SOON).await?;
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    Ok(())
}

/// Writes these into the Secret `site`.
pub(crate) async fn write(
    secrets: &kube::Api<Secret>,
    mut secret: Secret,
    changes: &[(&str, Vec<u8>)],
) -> Result<()> {
    let data = secret.data.get_or_insert_default();
    for (key, value) in changes {
        data.insert((*key).to_owned(), ByteString(value.clone()));
    }
    secret.metadata.managed_fields = None;
    secrets
        .replace("site", &PostParams::default(), &secret)
        .await?;
    Ok(())
}
