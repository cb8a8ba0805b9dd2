//! A CA that dies for good: another issuer signs, if CAA records let it; the first keeps its key, and its turn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::{IssuerKind, IssuerRef};
use evercert_api::condition::{self, PAUSED, READY, STALLED};
use evercert_api::{Certificate, CertificateSpec, Issuer, keys};
use evercert_e2e::leaf::Leaf;
use evercert_e2e::scripted::{
    Answer, Endpoint, ExternalAccounts, Problem, Profile, ScriptedCa, Settings,
};
use evercert_e2e::story::{SOON, conditions_of, issuer_yaml};
use evercert_e2e::{Story, dns};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::accounts::MAC_KEY;
use crate::issue::data;
use crate::requested::{another, serial};
use crate::revoked::{ask, done};
use crate::{Tale, tales};

const CLOSED: &str = "this CA has closed and issues nothing any more";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_ca_that_dies_for_good_gives_way_to_the_next_issuer_that_caa_allows,
        an_issuer_that_caa_forbids_is_not_tried_and_the_reason_is_given,
        a_ca_that_refuses_the_account_gives_way_as_well,
        a_ca_that_registers_no_account_gives_way_as_well,
        what_any_ca_would_refuse_and_a_paused_name_stay_with_the_first_issuer,
        an_issuer_whose_external_account_is_not_bound_is_not_tried_before_it_is,
        the_first_issuer_has_its_turn_again_at_the_next_renewal,
        what_an_alternate_signed_is_asked_about_and_revoked_at_its_own_ca,
    ]
}

async fn a_ca_that_dies_for_good_gives_way_to_the_next_issuer_that_caa_allows(
    story: Story<'_>,
) -> Result<()> {
    let (a, b) = both(&story, Settings::default()).await?;
    let key = story.secret("ca-account").await?;
    let host = story.host("www");
    dns::authorize(&host, &["a.example", "b.example"])?;
    close(&a);
    certificate(&story, &host).await?;
    let ready = story.ready("site", SOON).await?;
    signed_by(&story, &b).await?;
    let (asked, issued) = (a.count().orders, b.count());
    ensure!(
        asked == 1 && issued.orders == 1 && issued.certificates == 1,
        "{asked}, {issued:?}\n{}",
        a.journal()
    );
    ensure!(
        story.secret("ca-account").await?.data == key.data,
        "the key of the first issuer was touched"
    );
    let status = ready.status.context("no status")?;
    ensure!(status.failed_attempts.is_none(), "{status:?}");
    let said = story
        .condition_says("site", READY, "It was signed by Issuer/b", SOON)
        .await?;
    for words in [
        "since Issuer/ca refused at ",
        CLOSED,
        "At the next renewal Issuer/ca comes first again",
    ] {
        ensure!(said.contains(words), "{words} is not in: {said}");
    }
    Ok(())
}

async fn an_issuer_that_caa_forbids_is_not_tried_and_the_reason_is_given(
    story: Story<'_>,
) -> Result<()> {
    let (a, b) = both(&story, Settings::default()).await?;
    let host = story.host("www");
    // The record of the closest ancestor that has one counts.
    dns::authorize(&format!("{}.test", story.namespace), &["a.example"])?;
    close(&a);
    certificate(&story, &host).await?;
    let words = [
        CLOSED,
        "Issuer/b is not tried",
        "CAA",
        "a.example",
        "b.example",
    ];
    let says_all = |certificate: &Certificate| {
        condition::find(conditions_of(certificate), READY)
            .is_some_and(|ready| words.iter().all(|word| ready.message.contains(word)))
    };
    let what = format!("Ready says {words:?}");
    story.until("site", &what, SOON, says_all).await?;
    ensure!(
        a.count().orders == 1 && b.count().orders == 0,
        "{}\n{}",
        a.journal(),
        b.journal()
    );
    Ok(())
}

async fn a_ca_that_refuses_the_account_gives_way_as_well(story: Story<'_>) -> Result<()> {
    let (a, b) = both(&story, Settings::default()).await?;
    a.script().deactivate_accounts();
    let host = story.host("www");
    certificate(&story, &host).await?;
    story.ready("site", SOON).await?;
    signed_by(&story, &b).await?;
    ensure!(a.count().certificates == 0, "{}", a.journal());
    story
        .condition_says(
            "site",
            READY,
            "Issuer/b signs, since Issuer/ca is not ready (AccountDeactivated)",
            SOON,
        )
        .await?;
    Ok(())
}

async fn a_ca_that_registers_no_account_gives_way_as_well(story: Story<'_>) -> Result<()> {
    let a = story.stage.scripted_ca(Settings::default()).await?;
    let b = story.stage.scripted_ca(Settings::default()).await?;
    let problem = Problem::new(403, "unauthorized", CLOSED);
    a.script()
        .on(Endpoint::NewAccount)
        .always(Answer::problem(&problem));
    for (name, ca) in [("ca", &a), ("b", &b)] {
        story
            .apply(&issuer_yaml("Issuer", name, &ca.directory(), ca.bundle()))
            .await?;
    }
    certificate(&story, &story.host("www")).await?;
    story.ready("site", SOON).await?;
    signed_by(&story, &b).await?;
    let said = story
        .condition_says(
            "site",
            READY,
            "Issuer/b signs, since Issuer/ca is not ready (Account",
            SOON,
        )
        .await?;
    ensure!(said.contains(CLOSED), "{said}");
    ensure!(
        a.count().registered == 0 && a.count().orders == 0 && b.count().orders == 1,
        "{}\n{}",
        a.journal(),
        b.journal()
    );
    let key = story.secret("ca-account").await?.data.unwrap_or_default();
    ensure!(!key.is_empty(), "the key of the first issuer is gone");
    Ok(())
}

async fn what_any_ca_would_refuse_and_a_paused_name_stay_with_the_first_issuer(
    story: Story<'_>,
) -> Result<()> {
    let (a, b) = both(&story, Settings::default()).await?;
    let [bad, paused, listed] = ["bad", "paused", "listed"].map(|label| story.host(label));
    let refuse = |host: &str, kind: &str| {
        let problem = Problem::new(400, kind, "the CA's own words");
        let answer = Answer::problem(&problem);
        a.script()
            .on(Endpoint::NewOrder)
            .naming(host)
            .always(answer);
    };
    refuse(&bad, "malformed");
    refuse(&listed, "rejectedIdentifier");
    a.script().pause(&paused);
    certificate_of(&story, "bad", &bad).await?;
    certificate_of(&story, "paused", &paused).await?;
    story.condition("bad", STALLED, "True", SOON).await?;
    story.condition("paused", PAUSED, "True", SOON).await?;
    // Passes go on meanwhile; and the same look does see an issuer that gives way.
    certificate_of(&story, "listed", &listed).await?;
    story.ready("listed", SOON).await?;
    ensure!(
        b.count().orders == 1 && b.journal().of(Endpoint::NewOrder).naming(&listed).len() == 1,
        "{}",
        b.journal()
    );
    for name in ["bad", "paused"] {
        let (_, said) = story.condition(name, READY, "False", SOON).await?;
        ensure!(!said.contains("Issuer/b"), "{said}");
    }
    Ok(())
}

async fn an_issuer_whose_external_account_is_not_bound_is_not_tried_before_it_is(
    story: Story<'_>,
) -> Result<()> {
    let (a, b) = both_unready(
        &story,
        Settings {
            external_accounts: ExternalAccounts {
                keys: [("kid-1".to_owned(), MAC_KEY.to_owned())].into(),
                required: true,
                once: true,
            },
            ..Settings::default()
        },
    )
    .await?;
    close(&a);
    certificate(&story, &story.host("www")).await?;
    let not_tried = "Issuer/b is not tried: it is not ready (ExternalAccountRequired)";
    story.condition_says("site", READY, not_tried, SOON).await?;
    ensure!(b.count().orders == 0, "{}", b.journal());
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "eab"}, "stringData": {"mac": MAC_KEY},
    });
    story.apply(&secret.to_string()).await?;
    let binding = json!({"spec": {"acme": {"externalAccountBinding": {
        "keyID": "kid-1", "keySecretRef": {"name": "eab", "key": "mac"},
    }}}});
    story
        .api::<Issuer>()
        .patch("b", &PatchParams::default(), &Patch::Merge(&binding))
        .await?;
    story.ready("site", SOON).await?;
    signed_by(&story, &b).await?;
    ensure!(
        a.count().orders == 1 && b.count().orders == 1,
        "{}\n{}",
        a.journal(),
        b.journal()
    );
    Ok(())
}

async fn the_first_issuer_has_its_turn_again_at_the_next_renewal(story: Story<'_>) -> Result<()> {
    let short = Settings {
        default_profile: Profile {
            backdate: Duration::ZERO,
            ..Profile::living(Duration::from_secs(40))
        },
        ..Settings::default()
    };
    let (a, b) = both(&story, short).await?;
    close(&a);
    let host = story.host("www");
    certificate(&story, &host).await?;
    story.ready("site", SOON).await?;
    signed_by(&story, &b).await?;
    a.script().calm();
    let before = story.secret("site").await?;
    let renewed = |secret: &Secret| data(secret, keys::TLS_CRT) != data(&before, keys::TLS_CRT);
    story
        .until("site", "it is renewed", SOON * 2, renewed)
        .await?;
    signed_by(&story, &a).await?;
    ensure!(b.count().certificates == 1, "{}", b.journal());
    Ok(())
}

async fn what_an_alternate_signed_is_asked_about_and_revoked_at_its_own_ca(
    story: Story<'_>,
) -> Result<()> {
    let (a, b) = both(&story, Settings::default()).await?;
    close(&a);
    certificate(&story, &story.host("www")).await?;
    let first = serial(&story.ready("site", SOON).await?)?;
    signed_by(&story, &b).await?;
    // From now on the first is chosen again; the certificate in place is still the other's.
    let known = |certificate: &Certificate| {
        let status = certificate.status.as_ref();
        status.is_some_and(|s| s.renewal_info.is_some())
    };
    story
        .until("site", "its CA was asked when to renew", SOON, known)
        .await?;
    ensure!(
        !b.journal().of(Endpoint::RenewalInfo).is_empty()
            && a.journal().of(Endpoint::RenewalInfo).is_empty(),
        "{}\n{}",
        a.journal(),
        b.journal()
    );
    a.script().calm();
    ask(&story, "site", Some("superseded")).await?;
    another(&story, "site", &first).await?;
    done(&story, "site").await?;
    signed_by(&story, &a).await?;
    let asked = |ca: &ScriptedCa| ca.journal().of(Endpoint::RevokeCert).len();
    ensure!(
        asked(&a) == 0 && asked(&b) == 1,
        "{}\n{}",
        a.journal(),
        b.journal()
    );
    Ok(())
}

/// Two CAs, each with a ready Issuer: `ca`, of `a.example`, and `b`, of `b.example`.
async fn both(story: &Story<'_>, second: Settings) -> Result<(ScriptedCa, ScriptedCa)> {
    let both = both_unready(story, second).await?;
    story.issuer_ready("b").await?;
    Ok(both)
}

/// The same, but the second may not get Ready.
async fn both_unready(story: &Story<'_>, second: Settings) -> Result<(ScriptedCa, ScriptedCa)> {
    let named = |name: &str, settings: Settings| Settings {
        caa_identities: vec![name.to_owned()],
        ..settings
    };
    let a = story
        .scripted_ca(named("a.example", Settings::default()))
        .await?;
    let b = story.stage.scripted_ca(named("b.example", second)).await?;
    story
        .apply(&issuer_yaml("Issuer", "b", &b.directory(), b.bundle()))
        .await?;
    Ok((a, b))
}

/// The CA refuses every order for good.
fn close(ca: &ScriptedCa) {
    let problem = Problem::new(403, "unauthorized", CLOSED);
    ca.script()
        .on(Endpoint::NewOrder)
        .always(Answer::problem(&problem));
}

async fn certificate(story: &Story<'_>, host: &str) -> Result<Certificate> {
    certificate_of(story, "site", host).await
}

async fn certificate_of(story: &Story<'_>, name: &str, host: &str) -> Result<Certificate> {
    let with_b = |spec: &mut CertificateSpec| {
        spec.alternate_issuer_refs = vec![IssuerRef {
            name: "b".into(),
            kind: IssuerKind::Issuer,
        }];
    };
    story
        .certificate_with(name, &[host.to_owned()], with_b)
        .await
}

/// The certificate in the Secret comes from this CA.
async fn signed_by(story: &Story<'_>, ca: &ScriptedCa) -> Result<()> {
    let secret = story.secret("site").await?;
    let root = ca
        .roots()
        .into_iter()
        .next()
        .context("a CA without a root")?;
    Leaf::verify_chain(data(&secret, keys::TLS_CRT), root.as_bytes())
}
