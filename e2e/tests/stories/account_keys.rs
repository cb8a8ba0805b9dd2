//! Another key for an account, when a person asks for it: the account stays, and no crash and no refusal loses it.

use anyhow::{Context, Result, ensure};
use evercert_api::{Issuer, condition, keys};
use evercert_e2e::Story;
use evercert_e2e::account::Account;
use evercert_e2e::ca::TestCa;
use evercert_e2e::scripted::{Answer, Endpoint, Problem, Settings};
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::issue::data;
use crate::midway::{event, events, never_failed};
use crate::{Tale, tales};

const KEY: &str = "ca-account";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        an_account_gets_another_key_once_for_each_value_and_stays_the_same,
        a_ca_that_refuses_another_key_leaves_the_account_with_its_own,
    ]
}

async fn an_account_gets_another_key_once_for_each_value_and_stays_the_same(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    story.certificate("first", &[story.host("first")]).await?;
    story.ready("first", SOON).await?;
    let mut before = story.secret(KEY).await?;
    let uri = uri(&story).await?;
    for value in ["2026-11-23T00:00:00Z", "again"] {
        ask(&story, value).await?;
        let after = settled(&story, value).await?;
        ensure!(
            data(&after, keys::TLS_KEY) != data(&before, keys::TLS_KEY),
            "it is the same key"
        );
        one_key_that_the_account_has(&story, &ca).await?;
        before = after;
    }
    event(&story, "ca", "AccountKeyChanged").await?;

    // The same value once more asks for nothing.
    ask(&story, "again").await?;
    story.certificate("second", &[story.host("second")]).await?;
    story.ready("second", SOON).await?;
    for name in ["first", "second"] {
        never_failed(&story, name).await?;
    }
    ensure!(story.secret(KEY).await? == before, "the key has changed");
    ensure!(self::uri(&story).await? == uri, "it is another account");
    let count = ca.count()?;
    ensure!(
        count.registered == 1 && count.orders == 2 && count.certificates == 2,
        "{count:?}"
    );
    Ok(())
}

async fn a_ca_that_refuses_another_key_leaves_the_account_with_its_own(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let before = story.secret(KEY).await?;
    let problem = Problem::new(403, "unauthorized", "keys are not changed on Mondays");
    ca.script()
        .on(Endpoint::KeyChange)
        .once(Answer::problem(&problem));
    ask(&story, "monday").await?;
    let after = settled(&story, "monday").await?;
    let note = event(&story, "ca", "AccountKeyNotChanged").await?;
    ensure!(
        note.contains("not changed on Mondays") && note.contains(keys::ROTATE_ACCOUNT_KEY),
        "{note}"
    );
    ensure!(
        data(&after, keys::TLS_KEY) == data(&before, keys::TLS_KEY),
        "it is another key"
    );
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON).await?;
    ensure!(
        ca.journal().of(Endpoint::KeyChange).len() == 1,
        "{}",
        ca.journal()
    );

    // The answer is lost on its way: the CA knows which key it is.
    ca.script().on(Endpoint::KeyChange).once(Answer::lost());
    ask(&story, "tuesday").await?;
    let after = settled(&story, "tuesday").await?;
    ensure!(
        data(&after, keys::TLS_KEY) != data(&before, keys::TLS_KEY),
        "it is the old key"
    );
    story.certificate("more", &[story.host("more")]).await?;
    story.ready("more", SOON).await?;
    ensure!(events(&story, "ca", "AccountReplaced").await?.is_empty());
    let count = ca.count();
    ensure!(
        count.registered == 1
            && count.certificates == 2
            && ca.journal().of(Endpoint::KeyChange).len() == 2,
        "{count:?}\n{}",
        ca.journal()
    );
    Ok(())
}

/// The Secret holds one key, and the CA takes it for the account's.
pub(crate) async fn one_key_that_the_account_has(story: &Story<'_>, ca: &TestCa) -> Result<()> {
    let value = story.api::<Issuer>().get("ca").await?;
    let value = value.annotations().get(keys::ROTATE_ACCOUNT_KEY).cloned();
    let secret = settled(story, &value.context("nobody has asked")?).await?;
    let issuer = story.issuer_ready("ca").await?;
    let account = Account::of(ca, &issuer, &secret)?;
    account.read(&uri(story).await?).map(drop)
}

async fn ask(story: &Story<'_>, value: &str) -> Result<()> {
    let asked = json!({"metadata": {"annotations": {keys::ROTATE_ACCOUNT_KEY: value}}});
    story
        .api::<Issuer>()
        .patch("ca", &PatchParams::default(), &Patch::Merge(&asked))
        .await?;
    Ok(())
}

/// Waits until the value was heeded, one key is in the Secret, and the Issuer is Ready.
async fn settled(story: &Story<'_>, value: &str) -> Result<Secret> {
    let heeded = |secret: &Secret| {
        let next = secret
            .data
            .iter()
            .flatten()
            .any(|(key, _)| key == keys::NEXT_KEY);
        !next
            && secret
                .annotations()
                .get(keys::KEY_ROTATION)
                .map(String::as_str)
                == Some(value)
    };
    let what = format!("the key was settled for {value:?}");
    // A CA that did not answer is asked again after a minute.
    let secret = story.until(KEY, &what, SOON * 4, heeded).await?;
    story.issuer_ready("ca").await?;
    Ok(secret)
}

async fn uri(story: &Story<'_>) -> Result<String> {
    let issuer = story.api::<Issuer>().get("ca").await?;
    let status = issuer.status.context("the Issuer has no status")?;
    ensure!(condition::is_true(&status.conditions, condition::READY));
    status.account_uri.context("the Issuer has no account")
}
