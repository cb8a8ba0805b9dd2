//! A certificate is revoked when a person asks for it: renewed first, revoked then, and never good again.

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::{AttemptOutcome, PrivateKey, RotationPolicy};
use evercert_api::{Certificate, children, condition, keys};
use evercert_e2e::Story;
use evercert_e2e::ca::{Standing, TestCa};
use evercert_e2e::leaf::Leaf;
use evercert_e2e::scripted::{Answer, Endpoint, Problem, Settings};
use evercert_e2e::story::{SOON, conditions_of};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::issue::data;
use crate::midway::{event, events, never_failed};
use crate::requested::{another, serial};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_compromised_certificate_is_renewed_with_another_key_then_revoked_and_never_good_again,
        a_ca_that_does_not_revoke_is_asked_in_its_time_and_the_new_certificate_stays,
    ]
}

async fn a_compromised_certificate_is_renewed_with_another_key_then_revoked_and_never_good_again(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    story
        .certificate_with("site", &[story.host("www")], |spec| {
            spec.private_key = Some(PrivateKey {
                rotation_policy: RotationPolicy::Never,
                ..PrivateKey::default()
            });
        })
        .await?;
    let first = serial(&story.ready("site", SOON).await?)?;
    let copy = story.secret("site").await?;

    ask(&story, "site", Some("stolen")).await?;
    let message = story
        .condition_says("site", condition::READY, "no reason for a revocation", SOON)
        .await?;
    ensure!(
        message.contains("keyCompromise, affiliationChanged"),
        "{message}"
    );
    ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);

    ask(&story, "site", Some("keyCompromise")).await?;
    let second = another(&story, "site", &first).await?;
    let done = done(&story, "site").await?;
    let good = story.secret("site").await?;
    ensure!(
        data(&good, keys::TLS_KEY) != data(&copy, keys::TLS_KEY),
        "the compromised key is in use again"
    );
    let standing = ca.certificates()?;
    ensure!(
        standing.iter().map(|(_, s)| *s).collect::<Vec<_>>()
            == [Standing::Revoked(Some(1)), Standing::Good],
        "{standing:?}"
    );
    let note = event(&story, "site", "Revoked").await?;
    ensure!(note.contains(&first), "{note}");
    let history = done.status.context("no status")?.history;
    ensure!(
        history.first().map(|a| a.outcome) == Some(AttemptOutcome::Revoked),
        "{history:?}"
    );
    ensure!(second != first, "it is the same");

    // A person puts the Secret of a backup back: over it, and in its place without what was on it.
    put_over(&story, &copy).await?;
    is_back(&story, &good).await?;
    story
        .api::<Secret>()
        .delete("site", &DeleteParams::default())
        .await?;
    let mut bare = copy.clone();
    bare.metadata.annotations = None;
    bare.metadata.labels = None;
    // Whoever is faster: it is there, or there again.
    let params = PostParams::default();
    if story.api().create(&params, &fresh(bare)).await.is_err() {
        put_over(&story, &copy).await?;
    }
    is_back(&story, &good).await?;

    // Nor when nobody remembers that it is revoked: the request still stands, and it is older than the request.
    let companion = children::companion_name(story.namespace, "site");
    story
        .api::<Secret>()
        .delete(&companion, &DeleteParams::default())
        .await?;
    let kept = |secret: &Secret| data(secret, keys::TLS_CRT) == data(&good, keys::TLS_CRT);
    story
        .until(&companion, "a copy is kept", SOON, kept)
        .await?;
    put_over(&story, &copy).await?;
    is_back(&story, &good).await?;
    self::done(&story, "site").await?;
    only_the_one_in_place_is_good(&story, &ca, "site").await?;
    let count = ca.count()?;
    ensure!(count.orders == 2 && count.certificates == 2, "{count:?}");
    never_failed(&story, "site").await
}

async fn a_ca_that_does_not_revoke_is_asked_in_its_time_and_the_new_certificate_stays(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    story.certificate("site", &[story.host("www")]).await?;
    let first = serial(&story.ready("site", SOON).await?)?;
    let problem = Problem::new(403, "unauthorized", "that one is not yours");
    ca.script()
        .on(Endpoint::RevokeCert)
        .once(Answer::problem(&problem));
    ask(&story, "site", Some("superseded")).await?;
    let second = another(&story, "site", &first).await?;
    let words = "that one is not yours";
    let told = story
        .condition_says("site", condition::REVOCATION_PENDING, words, SOON)
        .await?;
    ensure!(
        told.contains(&first)
            && told.contains("ordered by another account")
            && told.contains("Next attempt at"),
        "{told}"
    );
    story.ready("site", SOON).await?;
    event(&story, "site", "RevocationRefused").await?;

    // Nobody wants it any more.
    ask(&story, "site", None).await?;
    event(&story, "site", "RevocationDropped").await?;
    done(&story, "site").await?;
    let asked = ca.journal().of(Endpoint::RevokeCert).len();
    ensure!(asked == 1, "{}", ca.journal());

    // The CA heeds it, and its answer is lost: asked again, it says that it has been done.
    ca.script().on(Endpoint::RevokeCert).once(Answer::lost());
    ask(&story, "site", Some("superseded once more")).await?;
    another(&story, "site", &second).await?;
    done(&story, "site").await?;
    let asked = ca.journal().of(Endpoint::RevokeCert).len();
    ensure!(asked == 3, "{}", ca.journal());
    let count = ca.count();
    ensure!(count.placed == 3 && count.certificates == 3, "{count:?}");

    // It does not take the reason, and another one is given: no other renewal, and it is revoked.
    let third = serial(&story.ready("site", SOON).await?)?;
    let problem = Problem::new(400, "badRevocationReason", "not for that reason");
    ca.script()
        .on(Endpoint::RevokeCert)
        .once(Answer::problem(&problem));
    ask(&story, "site", Some("affiliationChanged")).await?;
    let fourth = another(&story, "site", &third).await?;
    let kind = condition::REVOCATION_PENDING;
    let words = "write another one into the annotation";
    story.condition_says("site", kind, words, SOON).await?;
    ask(&story, "site", Some("cessationOfOperation")).await?;
    done(&story, "site").await?;
    let words = format!("{third} is revoked (cessationOfOperation)");
    ensure!(
        events(&story, "site", "Revoked")
            .await?
            .iter()
            .any(|note| note.contains(&words)),
        "no event says: {words}"
    );
    let asked = ca.journal().of(Endpoint::RevokeCert).len();
    ensure!(asked == 5, "{}", ca.journal());
    ensure!(
        serial(&story.ready("site", SOON).await?)? == fourth,
        "renewed once more"
    );
    let count = ca.count();
    ensure!(count.placed == 4 && count.certificates == 4, "{count:?}");
    Ok(())
}

/// Writes the annotation, or takes it away.
pub(crate) async fn ask(story: &Story<'_>, name: &str, value: Option<&str>) -> Result<()> {
    let annotated = json!({"metadata": {"annotations": {keys::REVOKE: value}}});
    let params = PatchParams::default();
    story
        .api::<Certificate>()
        .patch(name, &params, &Patch::Merge(&annotated))
        .await?;
    Ok(())
}

/// Waits until what is asked for is done: nothing is noted any more, and the certificate in place came after the request.
pub(crate) async fn done(story: &Story<'_>, name: &str) -> Result<Certificate> {
    let companion = children::companion_name(story.namespace, name);
    story
        .wait_for("nothing is to be revoked any more", SOON, async || {
            let certificate: Certificate = story.api::<Certificate>().get(name).await?;
            let wanted = certificate.annotations().get(keys::REVOKE);
            let secret = story.secret(name).await?;
            let heeded = secret.annotations().get(keys::REVOKE_HEEDED);
            let kept = story.secret(&companion).await?;
            let pending =
                condition::find(conditions_of(&certificate), condition::REVOCATION_PENDING);
            let is_done = (wanted.is_none() || heeded == wanted)
                && pending.is_none()
                && !kept.annotations().contains_key(keys::REVOKE);
            Ok(is_done.then_some(certificate))
        })
        .await
}

/// The CA says that the certificate in the Secret is good, and that all that came before it are revoked.
pub(crate) async fn only_the_one_in_place_is_good(
    story: &Story<'_>,
    ca: &TestCa,
    name: &str,
) -> Result<()> {
    let secret = story.secret(name).await?;
    let chain = Leaf::parse_chain(data(&secret, keys::TLS_CRT))?;
    let in_place = chain.first().context("no certificate")?;
    let standing = ca.certificates()?;
    for (serial, standing) in &standing {
        let is_good = *standing == Standing::Good;
        ensure!(
            is_good == (*serial == in_place.serial),
            "{serial}: {standing:?}, in place is {}",
            in_place.serial
        );
    }
    ensure!(standing.len() > 1, "{standing:?}");
    Ok(())
}

/// The Secret as it was, in place of what it is.
async fn put_over(story: &Story<'_>, copy: &Secret) -> Result<()> {
    story
        .wait_for("the old Secret is put back", SOON, async || {
            let mut next = fresh(copy.clone());
            next.metadata.resource_version = story.secret("site").await?.resource_version();
            let (api, params) = (story.api::<Secret>(), PostParams::default());
            match api.replace("site", &params, &next).await {
                Ok(_) => Ok(Some(())),
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                    Ok(None)
                }
                Err(error) => Err(error.into()),
            }
        })
        .await
}

fn fresh(mut secret: Secret) -> Secret {
    secret.metadata.uid = None;
    secret.metadata.resource_version = None;
    secret.metadata.creation_timestamp = None;
    secret.metadata.managed_fields = None;
    secret
}

async fn is_back(story: &Story<'_>, good: &Secret) -> Result<()> {
    let is_good = |secret: &Secret| {
        data(secret, keys::TLS_CRT) == data(good, keys::TLS_CRT)
            && data(secret, keys::TLS_KEY) == data(good, keys::TLS_KEY)
            && secret.annotations().get(keys::REVOKE_HEEDED)
                == good.annotations().get(keys::REVOKE_HEEDED)
    };
    story
        .until("site", "the good certificate is back", SOON, is_good)
        .await?;
    story.ready("site", SOON).await.map(drop)
}
