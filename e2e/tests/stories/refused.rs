//! What bad input gets: a condition that names cause and remedy, and a CA that is left in peace.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use evercert_api::{Certificate, Issuer, condition};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::scripted::{Answer, Endpoint, Problem, Settings};
use evercert_e2e::story::{SOON, issuer_yaml};
use futures::future::join_all;
use jiff::SignedDuration;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::dns_preflight::ingress;
use crate::{Tale, tales};

/// The most requests at the CA in the first minute.
const REQUESTS: usize = 6;
const MINUTE: Duration = Duration::from_mins(1);

/// After a failure nothing is tried again before, because of an Ingress.
const A_MINUTE: Duration = Duration::from_mins(1);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        each_bad_input_gets_a_condition_with_cause_and_remedy_and_at_most_six_requests_in_the_first_minute,
        a_name_that_was_refused_is_tried_again_when_its_ingress_is_another_one,
    ]
}

/// Else it would be a day: what is wrong on the way to the solver is often mended in the Ingress.
async fn a_name_that_was_refused_is_tried_again_when_its_ingress_is_another_one(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let host = story.host("www");
    ingress(&story, &host).await?;
    let refusal = Problem::new(400, "rejectedIdentifier", "not this name");
    ca.script().next_order(Answer::problem(&refusal));
    story
        .certificate("www", std::slice::from_ref(&host))
        .await?;
    story
        .condition_says("www", condition::READY, "not this name", SOON)
        .await?;
    let mended = json!({"metadata": {"annotations": {"example.test/redirect": "false"}}});
    story
        .api::<Ingress>()
        .patch("site", &PatchParams::default(), &Patch::Merge(&mended))
        .await?;
    story.ready("www", A_MINUTE + SOON).await?;
    let orders = ca.journal().of(Endpoint::NewOrder);
    let [refused, placed] = orders.entries() else {
        bail!("{orders}");
    };
    // Whoever writes into an Ingress all the time has a CA asked no faster.
    let waited = placed.at.duration_since(refused.at);
    ensure!(
        waited >= SignedDuration::from_secs(58),
        "after {waited} already:\n{orders}"
    );
    Ok(())
}

/// What is wrong, whom to look at, and what has to be said.
struct Case {
    name: &'static str,
    /// Takes the JSON of a good Issuer and spoils it.
    spoil: fn(&mut serde_json::Value, &TestCa),
    settings: fn() -> Pebble,
    /// Whether the Issuer says it; else the Issuer gets Ready, and the Certificate says it.
    by_issuer: bool,
    reason: &'static str,
    /// Each of them stands in the message: the cause, then the remedy.
    words: &'static [&'static str],
}

fn cases() -> Vec<Case> {
    let good = Case {
        name: "",
        spoil: |_, _| {},
        settings: Pebble::default,
        by_issuer: true,
        reason: "",
        words: &[],
    };
    vec![
        Case {
            name: "unreachable-directory",
            spoil: |acme, _| set(acme, "directory", "https://198.18.0.1:14999/dir".into()),
            reason: "CAUnavailable",
            words: &["198.18.0.1:14999", "refused"],
            ..good
        },
        Case {
            name: "not-acme",
            spoil: |acme, ca| set(acme, "directory", ca.management_url().into()),
            reason: "NotAnAcmeDirectory",
            words: &["/roots/0", "directory"],
            ..good
        },
        Case {
            name: "wrong-bundle",
            spoil: |acme, _| {
                let other = rcgen::generate_simple_self_signed(vec!["other.test".to_owned()]);
                set(
                    acme,
                    "caBundle",
                    other
                        .map(|other| other.cert.pem())
                        .unwrap_or_default()
                        .into(),
                );
            },
            reason: "UntrustedDirectory",
            words: &["caBundle"],
            ..good
        },
        Case {
            name: "external-account",
            settings: || Pebble {
                external_account_required: true,
                external_accounts: [(
                    "kid-1".to_owned(),
                    "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W".to_owned(),
                )]
                .into(),
                ..Pebble::default()
            },
            reason: "ExternalAccountRequired",
            words: &["spec.acme.externalAccountBinding"],
            ..good
        },
        Case {
            name: "terms",
            spoil: |acme, _| set(acme, "termsOfServiceAgreed", false.into()),
            reason: "TermsNotAgreed",
            words: &["termsOfServiceAgreed"],
            ..good
        },
        Case {
            name: "blocked-name",
            settings: || Pebble {
                blocklist: vec!["blocked.test".to_owned()],
                ..Pebble::default()
            },
            by_issuer: false,
            reason: "Rejected",
            words: &["www.blocked.test", "dnsNames"],
            ..good
        },
    ]
}

async fn each_bad_input_gets_a_condition_with_cause_and_remedy_and_at_most_six_requests_in_the_first_minute(
    story: Story<'_>,
) -> Result<()> {
    let missing_issuer = unknown_issuer(&story);
    let cases = cases();
    let told = join_all(cases.iter().map(|case| async {
        tell(&story, case)
            .await
            .map_err(|error| format!("{}: {error:#}", case.name))
    }));
    let (missing_issuer, told) = futures::join!(missing_issuer, told);
    let mut wrong: Vec<String> = told.into_iter().filter_map(Result::err).collect();
    wrong.extend(
        missing_issuer
            .err()
            .map(|error| format!("unknown-issuer: {error:#}")),
    );
    if wrong.is_empty() {
        return Ok(());
    }
    Err(story.with_evidence(anyhow!("{}", wrong.join("\n"))).await)
}

async fn tell(story: &Story<'_>, case: &Case) -> Result<()> {
    let ca = story
        .stage
        .ca(
            &format!("{}-{}", story.namespace, case.name),
            (case.settings)(),
        )
        .await?;
    let before = ca.count()?.requests;
    let mut issuer: serde_json::Value = serde_json::from_str(&issuer_yaml(
        "Issuer",
        case.name,
        &ca.directory(),
        &ca.bundle()?,
    ))?;
    (case.spoil)(issuer.pointer_mut("/spec/acme").context("no acme")?, &ca);
    let started = Instant::now();
    if let Err(refused) = story.apply(&issuer.to_string()).await {
        // What the schema can refuse is refused there, with the same demand for cause and remedy.
        return has_words(&refused.to_string(), case);
    }
    let host = if case.by_issuer {
        story.host(case.name)
    } else {
        "www.blocked.test".to_owned()
    };
    story
        .certificate_with(case.name, &[host], |spec| {
            case.name.clone_into(&mut spec.issuer_ref.name);
        })
        .await?;
    let (reason, message) = if case.by_issuer {
        let not_ready = |issuer: &Issuer| {
            issuer.status.as_ref().is_some_and(|status| {
                status
                    .conditions
                    .iter()
                    .any(|c| c.type_ == "Ready" && c.status == "False")
            })
        };
        let found: Issuer = story
            .until(case.name, "the Issuer is not Ready", SOON, not_ready)
            .await?;
        let conditions = found
            .status
            .map(|status| status.conditions)
            .unwrap_or_default();
        let ready = condition::find(&conditions, condition::READY).context("no condition")?;
        let (waits, why) = story
            .condition(case.name, condition::READY, "False", SOON)
            .await?;
        ensure!(
            why.contains(case.name),
            "the Certificate does not name its Issuer: {waits}: {why}"
        );
        (ready.reason.clone(), ready.message.clone())
    } else {
        let stalled: Certificate = story
            .until(
                case.name,
                "the Certificate has stalled",
                SOON,
                |certificate: &Certificate| {
                    certificate.status.as_ref().is_some_and(|status| {
                        condition::is_true(&status.conditions, condition::STALLED)
                    })
                },
            )
            .await?;
        let failure = stalled
            .status
            .and_then(|status| status.last_failure)
            .context("no failure")?;
        (failure.reason, failure.message)
    };
    ensure!(reason == case.reason, "the reason is {reason}: {message}");
    has_words(&message, case)?;
    // A minute has to pass before what happened in it can be counted.
    let all = story
        .wait_for("the first minute is over", MINUTE * 2, async || {
            Ok((started.elapsed() >= MINUTE).then_some(ca.count()?))
        })
        .await?;
    let requests = all.requests - before;
    ensure!(
        requests <= REQUESTS,
        "{requests} requests in the first minute: {all:?}"
    );
    Ok(())
}

/// And when the issuer comes, all goes on.
async fn unknown_issuer(story: &Story<'_>) -> Result<()> {
    story
        .certificate_with("unknown-issuer", &[story.host("unknown")], |spec| {
            "nobody".clone_into(&mut spec.issuer_ref.name);
        })
        .await?;
    let (reason, message) = story
        .condition("unknown-issuer", condition::READY, "False", SOON)
        .await?;
    ensure!(
        reason == "IssuerNotFound" && message.contains("nobody"),
        "{reason}: {message}"
    );
    let ca = story
        .stage
        .ca(&format!("{}-late", story.namespace), Pebble::default())
        .await?;
    story.issuer("nobody", &ca).await?;
    story.ready("unknown-issuer", SOON * 2).await?;
    Ok(())
}

fn has_words(message: &str, case: &Case) -> Result<()> {
    for words in case.words {
        ensure!(
            message.contains(words),
            "{words:?} is not in the message: {message}"
        );
    }
    Ok(())
}

fn set(acme: &mut serde_json::Value, field: &str, value: serde_json::Value) {
    if let Some(acme) = acme.as_object_mut() {
        acme.insert(field.to_owned(), value);
    }
}
