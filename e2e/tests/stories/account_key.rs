//! The account's key is the account's identity, and is never replaced silently.

use anyhow::{Context, Result, ensure};
use evercert_api::{Issuer, condition, keys};
use evercert_e2e::Story;
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::issue::data;
use crate::midway::{begin_in_the_middle, event, events, open_the_route};
use crate::{Tale, tales};

const KEY: &str = "ca-account";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_deleted_account_key_is_put_back_and_the_account_stays,
        an_account_key_deleted_in_the_middle_of_an_order_is_put_back_and_the_order_goes_on,
    ]
}

/// These end the operator.
pub(crate) fn without_operator() -> Vec<Tale> {
    tales![an_account_key_that_is_lost_makes_another_account_and_people_are_told]
}

async fn a_deleted_account_key_is_put_back_and_the_account_stays(story: Story<'_>) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("first", &[story.host("first")]).await?;
    story.ready("first", SOON).await?;
    let first = story.secret("first").await?;
    let before = uri(&story).await?;
    let asked = ca.count()?.without_polls();
    put_back(&story).await?;
    ensure!(
        ca.count()?.without_polls() == asked,
        "the CA was asked something: {:?}",
        ca.count()?
    );

    story.certificate("second", &[story.host("second")]).await?;
    story.ready("second", SOON).await?;
    let count = ca.count()?;
    ensure!(
        count.registered == 1 && count.orders == 2 && count.certificates == 2,
        "{count:?}"
    );
    ensure!(uri(&story).await? == before, "another account");
    ensure!(
        story.secret("first").await? == first,
        "the certificate that was there was touched"
    );
    Ok(())
}

async fn an_account_key_deleted_in_the_middle_of_an_order_is_put_back_and_the_order_goes_on(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    begin_in_the_middle(&story, &[story.host("www")]).await?;
    put_back(&story).await?;
    open_the_route(&story).await?;
    story.ready("site", SOON * 2).await?;
    let count = ca.count()?;
    ensure!(
        count.registered == 1 && count.orders == 1 && count.certificates == 1,
        "{count:?}"
    );
    Ok(())
}

/// Deletes the Secret, and waits until the same key is in it again and an event says so.
async fn put_back(story: &Story<'_>) -> Result<()> {
    let before = story.secret(KEY).await?;
    let secrets: Api<Secret> = story.api();
    secrets.delete(KEY, &DeleteParams::default()).await?;
    let after: Secret = story
        .until(KEY, "the key is back", SOON, |secret: &Secret| {
            secret.metadata.uid != before.metadata.uid
        })
        .await?;
    ensure!(
        data(&after, keys::TLS_KEY) == data(&before, keys::TLS_KEY),
        "it is another key"
    );
    let note = event(story, "ca", "AccountKeyRestored").await?;
    ensure!(note.contains(KEY), "{note}");
    ensure!(
        events(story, "ca", "AccountReplaced").await?.is_empty(),
        "an event says that the account was replaced"
    );
    ready(story, "AccountReady").await.map(drop)
}

async fn an_account_key_that_is_lost_makes_another_account_and_people_are_told(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON).await?;
    let (good, old_key) = (story.secret("site").await?, story.secret(KEY).await?);
    let old = uri(&story).await?;

    let secrets: Api<Secret> = story.api();
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    secrets.delete(KEY, &DeleteParams::default()).await?;
    operator.restart()?;
    operator.ready().await?;
    drop(operator);

    let message = ready(&story, "AccountReplaced").await?;
    let new = uri(&story).await?;
    ensure!(old != new, "the account is the same");
    for word in [old.as_str(), new.as_str(), KEY] {
        ensure!(message.contains(word), "{word} is not in: {message}");
    }
    let note = event(&story, "ca", "AccountReplaced").await?;
    ensure!(
        note.contains(&old) && note.contains(&new) && note.contains("was gone"),
        "{note}"
    );
    let made = story.secret(KEY).await?;
    ensure!(
        data(&made, keys::TLS_KEY) != data(&old_key, keys::TLS_KEY),
        "it is the old key"
    );
    story.ready("site", SOON).await?;
    ensure!(
        story.secret("site").await?.data == good.data,
        "the certificate was touched"
    );
    let count = ca.count()?;
    ensure!(
        count.registered == 2 && count.orders == 1 && count.certificates == 1,
        "{count:?}"
    );

    // Whoever has the old key puts it back, as the event says.
    let mut mended = old_key.clone();
    mended.metadata.resource_version = made.metadata.resource_version.clone();
    mended.metadata.uid = made.metadata.uid.clone();
    mended.metadata.managed_fields = None;
    secrets
        .replace(KEY, &PostParams::default(), &mended)
        .await?;
    ready(&story, "AccountReady").await?;
    ensure!(uri(&story).await? == old, "it is not the old account");
    let count = ca.count()?;
    ensure!(count.registered == 2, "{count:?}");
    Ok(())
}

/// Waits until the Issuer is Ready for this reason; gives the sentence.
async fn ready(story: &Story<'_>, reason: &str) -> Result<String> {
    let issuer: Issuer = story
        .until(
            "ca",
            &format!("the Issuer is Ready: {reason}"),
            SOON,
            |issuer: &Issuer| {
                let status = issuer.status.as_ref();
                status
                    .and_then(|status| condition::find(&status.conditions, condition::READY))
                    .is_some_and(|ready| ready.status == "True" && ready.reason == reason)
            },
        )
        .await?;
    let conditions = issuer.status.context("no status")?.conditions;
    let ready = condition::find(&conditions, condition::READY).context("no condition")?;
    Ok(ready.message.clone())
}

async fn uri(story: &Story<'_>) -> Result<String> {
    let issuer = story.api::<Issuer>().get("ca").await?;
    let status = issuer.status.context("the Issuer has no status")?;
    status.account_uri.context("the Issuer has no account")
}
