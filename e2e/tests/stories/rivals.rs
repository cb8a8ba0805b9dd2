//! Two Certificates for one Secret: the annotated one owns it, the other says so and orders nothing.

use anyhow::{Result, ensure};
use evercert_api::condition::STALLED;
use evercert_api::{Certificate, children};
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use crate::issue::data;
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        of_two_certificates_for_one_secret_the_first_owns_it_whatever_their_names,
        of_two_certificates_restored_from_a_copy_the_annotated_one_owns_the_secret,
    ]
}

/// These end the operator.
pub(crate) fn without_operator() -> Vec<Tale> {
    tales![of_two_certificates_the_owner_stays_the_owner_after_a_restart]
}

/// The Certificate `name` for the Secret `site`.
async fn want(story: &Story<'_>, name: &str) -> Result<()> {
    story
        .certificate_with(name, &[story.host(name)], |spec| {
            "site".clone_into(&mut spec.secret_name);
        })
        .await
        .map(drop)
}

async fn loses(story: &Story<'_>, loser: &str, owner: &str) -> Result<()> {
    let words = format!("Secret site belongs to Certificate {owner}");
    story
        .condition_says(loser, STALLED, &words, SOON * 2)
        .await?;
    let (reason, message) = story.condition(loser, STALLED, "True", SOON).await?;
    ensure!(reason == "SecretNameConflict", "{reason}: {message}");
    Ok(())
}

/// Something that comes later and is issued, so that a fight would have been seen by now.
async fn is_at_peace(story: &Story<'_>, ca: &TestCa, later: &str, orders: usize) -> Result<()> {
    let before = story.secret("site").await?;
    story.certificate(later, &[story.host(later)]).await?;
    story.ready(later, SOON).await?;
    let after = story.secret("site").await?;
    ensure!(
        before.resource_version() == after.resource_version(),
        "the Secret was written"
    );
    let count = ca.count()?;
    ensure!(count.orders == orders, "{orders} orders wanted: {count:?}");
    Ok(())
}

async fn of_two_certificates_for_one_secret_the_first_owns_it_whatever_their_names(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    for (round, (owner, loser)) in [("b", "a"), ("c", "d")].into_iter().enumerate() {
        want(&story, owner).await?;
        story.ready(owner, SOON).await?;
        want(&story, loser).await?;
        loses(&story, loser, owner).await?;
        is_at_peace(&story, &ca, &format!("later{round}"), 2 * (round + 1)).await?;
        let gone = DeleteParams::default();
        for name in [loser, owner] {
            story.api::<Certificate>().delete(name, &gone).await?;
        }
        // A pass under way may still put the Secret back, as long as there is something to put back.
        let companion = children::companion_name(story.namespace, owner);
        // Unless the garbage collector was faster.
        if let Err(kube::Error::Api(refused)) =
            story.api::<Secret>().delete(&companion, &gone).await
        {
            ensure!(refused.code == 404, "{refused}");
        }
        story.api::<Secret>().delete("site", &gone).await?;
    }
    Ok(())
}

async fn of_two_certificates_the_owner_stays_the_owner_after_a_restart(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    want(&story, "b").await?;
    story.ready("b", SOON).await?;
    want(&story, "a").await?;
    loses(&story, "a", "b").await?;
    let before = story.secret("site").await?;
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    operator.restart()?;
    operator.ready().await?;
    drop(operator);
    is_at_peace(&story, &ca, "later", 2).await?;
    loses(&story, "a", "b").await?;
    story.ready("b", SOON).await?;
    let after = story.secret("site").await?;
    ensure!(before.data == after.data, "the certificate is another one");
    Ok(())
}

/// The Secret comes first, then the younger Certificate, which is the older one now; its names are others.
async fn of_two_certificates_restored_from_a_copy_the_annotated_one_owns_the_secret(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    want(&story, "owner").await?;
    let owner = story.ready("owner", SOON).await?;
    want(&story, "younger").await?;
    loses(&story, "younger", "owner").await?;
    let younger = story.api::<Certificate>().get("younger").await?;
    let secret = story.secret("site").await?;
    let gone = DeleteParams::default();
    for name in ["younger", "owner"] {
        story.api::<Certificate>().delete(name, &gone).await?;
    }
    let companion = children::companion_name(story.namespace, "owner");
    // Unless the garbage collector was faster.
    if let Err(kube::Error::Api(refused)) = story.api::<Secret>().delete(&companion, &gone).await {
        ensure!(refused.code == 404, "{refused}");
    }
    story.api::<Secret>().delete("site", &gone).await?;

    let post = PostParams::default();
    story
        .api::<Secret>()
        .create(&post, &stripped(secret.clone()))
        .await?;
    let restored = |mut certificate: Certificate| {
        certificate.status = None;
        stripped(certificate)
    };
    story
        .api::<Certificate>()
        .create(&post, &restored(younger))
        .await?;
    let words = "was not made for this Certificate";
    story
        .condition_says("younger", STALLED, words, SOON)
        .await?;
    story
        .api::<Certificate>()
        .create(&post, &restored(owner))
        .await?;
    story.ready("owner", SOON).await?;
    loses(&story, "younger", "owner").await?;
    is_at_peace(&story, &ca, "later", 2).await?;
    let after = story.secret("site").await?;
    ensure!(
        data(&after, "tls.crt") == data(&secret, "tls.crt") && after.data == secret.data,
        "the certificate is another one"
    );
    Ok(())
}

/// Without what the API server gave it.
fn stripped<K: kube::Resource>(mut object: K) -> K {
    let meta = object.meta_mut();
    meta.uid = None;
    meta.resource_version = None;
    meta.creation_timestamp = None;
    meta.generation = None;
    meta.managed_fields = None;
    object
}
