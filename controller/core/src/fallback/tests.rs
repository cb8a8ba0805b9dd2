use evercert_api::certificate::FallbackTrigger;
use evercert_api::condition;
use evercert_api::condition::FALLBACK_IN_USE;

use super::*;
use crate::observe::TlsSecret;
use crate::plan::fixtures::{DAY, at, certificate, expired, fallback, good, now, observed, tls};
use crate::plan::{Step, plan};
use crate::report::build_status;

/// A wildcard of the user's own.
fn own() -> CertificateFacts {
    certificate("aa", &["*.example"], -DAY, 300 * DAY)
}

fn failing(source: OwnFallback) -> Observed {
    observed().with_own_fallback(source).backing_off_until(3600)
}

fn there(facts: CertificateFacts) -> OwnFallback {
    OwnFallback::There(facts)
}

/// The user's own certificate is in the Secret as a fallback.
fn with_own_in_place(mut o: Observed, facts: CertificateFacts) -> Observed {
    o.secret = SecretObservation::Ours(TlsSecret {
        fallback: true,
        ..tls(Ok(facts))
    });
    o
}

fn is_written(o: &Observed) -> bool {
    matches!(plan(o, now()).step, Step::WriteFallback { .. })
}

#[test]
fn own_certificate_stands_in_while_it_is_good_for_all_names() {
    let source = own();
    assert_eq!(
        choose(&failing(there(source.clone())), now()),
        Fallback::Own(&source)
    );
    assert!(is_written(&failing(there(source.clone()))));
    let in_place = with_own_in_place(failing(there(source.clone())), source);
    assert!(!is_written(&in_place));
    assert_eq!(
        plan(&in_place, now()).wake,
        at(30),
        "its source is looked at again"
    );
}

#[test]
fn self_signed_one_takes_over_and_says_why() {
    let cases = [
        (OwnFallback::Missing, "Secret wildcard does not exist"),
        (
            OwnFallback::Damaged(Damage::MissingData),
            "lacks tls.crt or tls.key",
        ),
        (
            OwnFallback::Damaged(Damage::InvalidCertificate),
            "cannot be read",
        ),
        (
            OwnFallback::Damaged(Damage::InvalidKeyPair),
            "does not belong",
        ),
        (there(expired()), "expired at 2027-01-14T08:00:00Z"),
        (
            there(certificate("aa", &["*.example"], 60, DAY)),
            "not valid before",
        ),
        (
            there(certificate("aa", &["a.example"], -DAY, DAY)),
            "lacks b.example",
        ),
    ];
    for (source, words) in cases {
        let o = failing(source);
        let Fallback::SelfSigned(Some(why)) = choose(&o, now()) else {
            panic!("{words}");
        };
        assert!(why.contains(words), "{why}");
        assert!(is_written(&o));
        let o = o.with_fallback(fallback());
        assert!(!is_written(&o), "once");
        let status = build_status(&o, &plan(&o, now()), now());
        let said = condition::find(&status.conditions, FALLBACK_IN_USE).unwrap();
        assert!(said.message.contains(words), "{}", said.message);
    }
}

#[test]
fn own_certificate_that_changes_is_followed() {
    let newer = certificate("ab", &["*.example"], -60, 400 * DAY);
    assert!(is_written(&with_own_in_place(failing(there(newer)), own())));
    assert!(
        is_written(&failing(there(own())).with_fallback(fallback())),
        "back from a self-signed one"
    );
}

#[test]
fn own_certificate_in_place_is_not_given_up_for_a_self_signed_one_while_it_does() {
    for source in [
        OwnFallback::Missing,
        OwnFallback::Damaged(Damage::InvalidKeyPair),
        there(expired()),
    ] {
        assert!(!is_written(&with_own_in_place(failing(source), own())));
    }
    let one = certificate("aa", &["a.example"], -DAY, 300 * DAY);
    assert!(is_written(&with_own_in_place(
        failing(there(one.clone())),
        one
    )));
    assert!(is_written(&with_own_in_place(
        failing(OwnFallback::Missing),
        expired()
    )));
    let mut other_mode = with_own_in_place(observed().backing_off_until(3600), own());
    assert!(!is_written(&other_mode), "another mode");
    other_mode.spec.dns_names.push("c.elsewhere".into());
    assert!(is_written(&other_mode));
}

#[test]
fn immediately_waits_for_nothing_but_a_usable_certificate() {
    let at_once = || observed().with_trigger(FallbackTrigger::Immediately);
    assert!(!is_written(&observed()));
    assert!(is_written(&at_once()));
    assert!(is_written(&at_once().with_certificate(expired())));
    assert!(!is_written(&at_once().with_certificate(good())));
    assert!(!is_written(&at_once().with_fallback(fallback())));
    assert_eq!(
        plan(&at_once().with_last_good(good()), now()).step,
        Step::Restore
    );
}
