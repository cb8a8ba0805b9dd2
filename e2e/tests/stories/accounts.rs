//! Accounts that a CA binds, forgets, ends: the key is the account's identity, and whatever the CA refuses is said once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::{CertificateSpec, Issuer, condition};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::scripted::{
    Answer, Endpoint, Entry, ExternalAccounts, Limit, Limits, Problem, ScriptedCa, Settings,
};
use evercert_e2e::story::{SOON, issuer_yaml};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::midway::never_failed;
use crate::{Tale, tales};

/// The MAC key of every external account here.
pub(crate) const MAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_ca_that_wants_an_external_account_says_which_field_and_is_bound_once,
        a_key_id_that_is_used_up_is_said_and_not_tried_again_until_there_is_another,
        a_ca_that_forgot_a_bound_account_binds_the_same_key_again,
        a_ca_that_answers_500_to_a_known_account_is_an_outage_and_nothing_is_registered,
        a_changed_contact_is_told_to_the_ca_once,
        changed_terms_are_the_issuers_to_say_with_their_page_and_no_attempt_that_failed,
        an_account_that_the_ca_has_ended_is_said_with_the_way_to_another_one,
        two_issuers_with_one_key_have_one_account_and_one_budget,
    ]
}

/// These end the operator.
pub(crate) fn without_operator() -> Vec<Tale> {
    tales![
        an_account_whose_url_is_lost_is_found_by_its_key_and_told_nothing_twice,
        a_key_id_that_is_good_once_is_used_once_by_an_operator_that_is_killed_around_it,
    ]
}

async fn a_ca_that_wants_an_external_account_says_which_field_and_is_bound_once(
    story: Story<'_>,
) -> Result<()> {
    let settings = Pebble {
        external_account_required: true,
        external_accounts: keys(&["kid-1"]),
        ..Pebble::default()
    };
    let ca = story.stage.ca(story.namespace, settings).await?;
    story.issuer("ca", &ca).await?;
    let message = said(&story, "False", "ExternalAccountRequired").await?;
    ensure!(
        message.contains("spec.acme.externalAccountBinding"),
        "{message}"
    );

    // The Secret comes after the Issuer that names it.
    let acme = json!({"externalAccountBinding": binding("kid-1")});
    change(&story, &acme).await?;
    let message = said(&story, "False", "InvalidExternalAccount").await?;
    ensure!(message.contains("Secret eab does not exist"), "{message}");
    give(&story, "not base64url!").await?;
    let message = said_with(&story, "False", "InvalidExternalAccount", "base64url").await?;
    ensure!(message.contains("under mac"), "{message}");
    give(&story, MAC_KEY).await?;
    said(&story, "True", "AccountReady").await?;

    // Registered once and for ever: what it was bound with may go.
    let secrets = story.api::<Secret>();
    secrets.delete("eab", &DeleteParams::default()).await?;
    change(&story, &json!({"email": "ops@example.test"})).await?;
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON).await?;
    said(&story, "True", "AccountReady").await?;
    let count = ca.count()?;
    ensure!(
        count.registered == 1 && count.certificates == 1,
        "{count:?}"
    );
    Ok(())
}

async fn a_key_id_that_is_used_up_is_said_and_not_tried_again_until_there_is_another(
    story: Story<'_>,
) -> Result<()> {
    let ca = bound(&story, true).await?;
    let key = story.secret("ca-account").await?;
    ca.script().forget_accounts();
    story.certificate("site", &[story.host("www")]).await?;
    let message = said(&story, "False", "EABRejected").await?;
    for word in [
        "is not awaiting external account binding",
        "spec.acme.externalAccountBinding.keyID",
        "Secret eab",
    ] {
        ensure!(message.contains(word), "{word} is not in: {message}");
    }
    let asked = ca.journal().of(Endpoint::NewAccount).len();
    let orders = ca.count().orders;

    // Whatever wakes the Issuer, the CA is not asked the same again.
    for round in ["1", "2", "3"] {
        let touch = json!({"metadata": {"annotations": {"example.test/round": round}}});
        patch(&story, &touch).await?;
    }
    story.certificate("more", &[story.host("more")]).await?;
    story
        .condition_says("more", condition::READY, "EABRejected", SOON)
        .await?;
    ensure!(
        ca.journal().of(Endpoint::NewAccount).len() == asked && ca.count().orders == orders,
        "{}",
        ca.journal()
    );

    change(&story, &json!({"externalAccountBinding": binding("kid-2")})).await?;
    for name in ["site", "more"] {
        story.ready(name, SOON).await?;
        never_failed(&story, name).await?;
    }
    let count = ca.count();
    ensure!(
        count.registered == 2 && count.certificates == 2,
        "{count:?}\n{}",
        ca.journal()
    );
    let now = story.secret("ca-account").await?;
    ensure!(now.data == key.data, "it is another key");
    Ok(())
}

async fn a_ca_that_forgot_a_bound_account_binds_the_same_key_again(story: Story<'_>) -> Result<()> {
    let ca = bound(&story, false).await?;
    let key = story.secret("ca-account").await?;
    story.certificate("first", &[story.host("first")]).await?;
    story.ready("first", SOON).await?;
    ca.script().forget_accounts();
    story.certificate("second", &[story.host("second")]).await?;
    story.ready("second", SOON).await?;
    never_failed(&story, "second").await?;
    let count = ca.count();
    ensure!(
        count.registered == 2 && count.certificates == 2 && count.placed == 2,
        "{count:?}\n{}",
        ca.journal()
    );
    let now = story.secret("ca-account").await?;
    ensure!(now.data == key.data, "it is another key");
    Ok(())
}

async fn a_ca_that_answers_500_to_a_known_account_is_an_outage_and_nothing_is_registered(
    story: Story<'_>,
) -> Result<()> {
    let ca = bound(&story, true).await?;
    ca.script()
        .on(Endpoint::NewOrder)
        .once(Answer::internal_error());
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON * 2).await?;
    let count = ca.count();
    let journal = ca.journal();
    ensure!(
        count.registered == 1 && count.certificates == 1 && count.orders == 2,
        "{count:?}\n{journal}"
    );
    ensure!(
        journal.of(Endpoint::NewAccount).len() == 2,
        "the account was looked up again:\n{journal}"
    );
    Ok(())
}

async fn a_changed_contact_is_told_to_the_ca_once(story: Story<'_>) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let told = || ca.journal().of(Endpoint::Account).len();
    ensure!(told() == 0, "{}", ca.journal());
    for (round, address) in [(1, "ops@example.test"), (2, "certificates@example.test")] {
        change(&story, &json!({ "email": address })).await?;
        contact(&story, Some(address)).await?;
        ensure!(told() == round, "{}", ca.journal());
    }
    // What changes nothing at the CA is not told to it.
    change(&story, &json!({"http01": {"ingressClassName": null}})).await?;
    change(&story, &json!({"email": null})).await?;
    contact(&story, None).await?;
    ensure!(told() == 3, "{}", ca.journal());

    change(&story, &json!({"email": "nobody@localhost.x"})).await?;
    contact(&story, Some("nobody@localhost.x")).await?;
    ca.script()
        .on(Endpoint::Account)
        .once(Answer::problem(&Problem::new(
            400,
            "invalidContact",
            "no such domain",
        )));
    change(&story, &json!({"email": "nobody@nowhere.test"})).await?;
    let message = said(&story, "False", "AccountRefused").await?;
    ensure!(
        message.contains("no such domain") && message.contains("spec.acme.email"),
        "{message}"
    );
    Ok(())
}

async fn changed_terms_are_the_issuers_to_say_with_their_page_and_no_attempt_that_failed(
    story: Story<'_>,
) -> Result<()> {
    const TERMS: &str = "https://scripted.example/terms/2";
    let ca = story.scripted_ca(Settings::default()).await?;
    ca.script().change_terms(TERMS);
    story.certificate("site", &[story.host("www")]).await?;
    let message = said(&story, "False", "UserActionRequired").await?;
    ensure!(message.contains(TERMS), "{message}");
    story
        .condition_says("site", condition::READY, TERMS, SOON)
        .await?;
    let asked = ca.count().orders;
    ensure!(asked == 1, "{}", ca.journal());
    let touch = json!({"metadata": {"annotations": {"example.test/round": "1"}}});
    patch(&story, &touch).await?;
    story.certificate("more", &[story.host("more")]).await?;
    story
        .condition_says("more", condition::READY, TERMS, SOON)
        .await?;
    ensure!(ca.count().orders == asked, "{}", ca.journal());

    ca.script().agree_to_terms();
    // Whoever has agreed does not have to wait: a change of the spec has the CA asked again.
    change(&story, &json!({"email": "ops@example.test"})).await?;
    for name in ["site", "more"] {
        story.ready(name, SOON).await?;
        never_failed(&story, name).await?;
    }
    let count = ca.count();
    ensure!(
        count.registered == 1 && count.placed == 2,
        "{count:?}\n{}",
        ca.journal()
    );
    Ok(())
}

async fn an_account_that_the_ca_has_ended_is_said_with_the_way_to_another_one(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    story.certificate("good", &[story.host("good")]).await?;
    story.ready("good", SOON).await?;
    let good = story.secret("good").await?;
    ca.script().deactivate_accounts();
    story.certificate("site", &[story.host("www")]).await?;
    let message = said(&story, "False", "AccountDeactivated").await?;
    for word in ["deactivated", "spec.acme.accountKeySecretRef", "ca-account"] {
        ensure!(message.contains(word), "{word} is not in: {message}");
    }
    let asked = ca.journal().of(Endpoint::NewAccount).len();
    for round in ["1", "2"] {
        let touch = json!({"metadata": {"annotations": {"example.test/round": round}}});
        patch(&story, &touch).await?;
    }
    story.certificate("more", &[story.host("more")]).await?;
    story
        .condition_says("more", condition::READY, "AccountDeactivated", SOON)
        .await?;
    ensure!(
        ca.journal().of(Endpoint::NewAccount).len() == asked,
        "{}",
        ca.journal()
    );
    ensure!(
        story.secret("good").await? == good,
        "a good certificate was touched"
    );

    change(
        &story,
        &json!({"accountKeySecretRef": {"name": "another-account"}}),
    )
    .await?;
    story.ready("more", SOON).await?;
    story.ready("site", SOON).await?;
    story.secret("ca-account").await?;
    let count = ca.count();
    ensure!(
        count.registered == 2 && count.certificates == 3,
        "{count:?}\n{}",
        ca.journal()
    );
    Ok(())
}

async fn two_issuers_with_one_key_have_one_account_and_one_budget(story: Story<'_>) -> Result<()> {
    let limits = Limits::none().with(Limit::Orders, 1, Duration::from_hours(10));
    let ca = story
        .scripted_ca(Settings {
            limits,
            ..Settings::default()
        })
        .await?;
    let asked = ca.count().requests;
    let issuer = issuer_yaml("Issuer", "too", &ca.directory(), ca.bundle());
    let mut issuer: Value = serde_json::from_str(&issuer)?;
    let acme = issuer.pointer_mut("/spec/acme").context("no acme")?;
    acme["accountKeySecretRef"] = json!({"name": "ca-account"});
    story.apply(&issuer.to_string()).await?;
    let too = story.issuer_ready("too").await?;
    let first = story.api::<Issuer>().get("ca").await?;
    let uri = |issuer: &Issuer| issuer.status.as_ref()?.account_uri.clone();
    ensure!(uri(&too).is_some() && uri(&too) == uri(&first));
    ensure!(
        ca.count().requests == asked,
        "the CA was asked something for the second:\n{}",
        ca.journal()
    );

    let by_too = |spec: &mut CertificateSpec| "too".clone_into(&mut spec.issuer_ref.name);
    let www = [story.host("www")];
    story.certificate_with("one", &www, by_too).await?;
    story.ready("one", SOON).await?;
    // What the CA says of the account to the first is heeded by the second.
    story.certificate("two", &[story.host("two")]).await?;
    story
        .condition("two", condition::RATE_LIMITED, "True", SOON)
        .await?;
    let three = [story.host("three")];
    story.certificate_with("three", &three, by_too).await?;
    story
        .condition("three", condition::RATE_LIMITED, "True", SOON)
        .await?;
    let count = ca.count();
    ensure!(
        count.registered == 1 && count.orders == 2 && count.placed == 1,
        "{count:?}\n{}",
        ca.journal()
    );
    Ok(())
}

async fn an_account_whose_url_is_lost_is_found_by_its_key_and_told_nothing_twice(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    change(&story, &json!({"email": "ops@example.test"})).await?;
    contact(&story, Some("ops@example.test")).await?;
    let uri = |issuer: Issuer| issuer.status.and_then(|status| status.account_uri);
    let before = uri(story.api::<Issuer>().get("ca").await?);
    let told = ca.journal().of(Endpoint::Account).len();

    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    let gone = json!({"status": null});
    let issuers = story.api::<Issuer>();
    issuers
        .patch_status("ca", &PatchParams::default(), &Patch::Merge(&gone))
        .await?;
    operator.restart()?;
    operator.ready().await?;
    drop(operator);

    let after = story.issuer_ready("ca").await?;
    ensure!(before.is_some() && uri(after) == before);
    ensure!(
        ca.count().registered == 1 && ca.journal().of(Endpoint::Account).len() == told,
        "{}",
        ca.journal()
    );
    story.certificate("site", &[story.host("www")]).await?;
    story.ready("site", SOON).await?;
    Ok(())
}

async fn a_key_id_that_is_good_once_is_used_once_by_an_operator_that_is_killed_around_it(
    story: Story<'_>,
) -> Result<()> {
    give(&story, MAC_KEY).await?;
    for (side, made) in [("before", 0), ("after", 1)] {
        let settings = Settings {
            external_accounts: ExternalAccounts {
                keys: keys(&["kid-1"]),
                required: true,
                once: true,
            },
            ..Settings::default()
        };
        let ca = story.stage.scripted_ca(settings).await?;
        let mut operator = story.stage.operator.lock().await;
        operator.kill()?;
        let point = format!("new-account:{side}");
        operator.restart_with(&[("EVERCERT_FAILPOINT", &point)])?;
        let issuer = issuer_yaml("Issuer", side, &ca.directory(), ca.bundle());
        let mut issuer: Value = serde_json::from_str(&issuer)?;
        let acme = issuer.pointer_mut("/spec/acme").context("no acme")?;
        acme["externalAccountBinding"] = binding("kid-1");
        story.apply(&issuer.to_string()).await?;
        let ended = operator.ended(SOON).await;
        let registered = |entry: &Entry| entry.status == Some(201);
        let first = ca.journal().of(Endpoint::NewAccount).filter(registered);
        operator.restart()?;
        operator.ready().await?;
        drop(operator);
        ended?;
        story.issuer_ready(side).await?;
        let all = ca.journal().of(Endpoint::NewAccount);
        ensure!(
            first.len() == made && all.filter(registered).len() == 1,
            "killed {side} it:\n{all}"
        );
        let refused = all.filter(|e| {
            e.problem
                .as_deref()
                .is_some_and(|p| p != "accountDoesNotExist")
        });
        ensure!(refused.is_empty(), "killed {side} it:\n{all}");
    }
    Ok(())
}

/// Waits until the Issuer is Ready and its account has this contact.
async fn contact(story: &Story<'_>, address: Option<&str>) -> Result<()> {
    let what = format!("the account's contact is {address:?}");
    let told = |issuer: &Issuer| {
        issuer.status.as_ref().is_some_and(|status| {
            status.contact.as_deref() == address
                && condition::is_true(&status.conditions, condition::READY)
        })
    };
    story.until("ca", &what, SOON, told).await.map(drop)
}

/// A scripted CA that wants external accounts, and the Issuer `ca` that is bound to `kid-1`.
async fn bound(story: &Story<'_>, once: bool) -> Result<ScriptedCa> {
    let settings = Settings {
        external_accounts: ExternalAccounts {
            keys: keys(&["kid-1", "kid-2"]),
            required: true,
            once,
        },
        ..Settings::default()
    };
    let ca = story.stage.scripted_ca(settings).await?;
    give(story, MAC_KEY).await?;
    let issuer = issuer_yaml("Issuer", "ca", &ca.directory(), ca.bundle());
    let mut issuer: Value = serde_json::from_str(&issuer)?;
    let acme = issuer.pointer_mut("/spec/acme").context("no acme")?;
    acme["externalAccountBinding"] = binding("kid-1");
    story.apply(&issuer.to_string()).await?;
    said(story, "True", "AccountReady").await?;
    ensure!(
        ca.journal().of(Endpoint::NewAccount).len() == 2,
        "one look-up and one registration were wanted:\n{}",
        ca.journal()
    );
    Ok(ca)
}

fn keys(ids: &[&str]) -> BTreeMap<String, String> {
    ids.iter()
        .map(|id| ((*id).to_owned(), MAC_KEY.to_owned()))
        .collect()
}

fn binding(key_id: &str) -> Value {
    json!({"keyID": key_id, "keySecretRef": {"name": "eab", "key": "mac"}})
}

/// Puts a MAC key into Secret `eab`.
async fn give(story: &Story<'_>, mac_key: &str) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "eab"}, "stringData": {"mac": mac_key},
    });
    story.apply(&secret.to_string()).await
}

/// Changes fields of the Issuer's `spec.acme`.
async fn change(story: &Story<'_>, acme: &Value) -> Result<()> {
    patch(story, &json!({"spec": {"acme": acme}})).await
}

async fn patch(story: &Story<'_>, change: &Value) -> Result<()> {
    story
        .api::<Issuer>()
        .patch("ca", &PatchParams::default(), &Patch::Merge(change))
        .await?;
    Ok(())
}

/// Waits until the Issuer's Ready has this status and reason; gives the sentence.
async fn said(story: &Story<'_>, status: &str, reason: &str) -> Result<String> {
    said_with(story, status, reason, "").await
}

/// The same, with these words in the sentence.
async fn said_with(story: &Story<'_>, status: &str, reason: &str, words: &str) -> Result<String> {
    let message = |issuer: &Issuer| {
        let conditions = &issuer.status.as_ref()?.conditions;
        condition::find(conditions, condition::READY)
            .filter(|ready| ready.status == status && ready.reason == reason)
            .map(|ready| ready.message.clone())
            .filter(|message| message.contains(words))
    };
    let what = format!("the Issuer's Ready is {status} for {reason}");
    let issuer: Issuer = story
        .until("ca", &what, SOON * 2, |issuer| message(issuer).is_some())
        .await?;
    message(&issuer).context("the condition is gone")
}
