use evercert_api::certificate::{PrivateKey, RotationPolicy};
use evercert_api::condition;

use super::*;
use crate::facts::KeyKind;
use crate::observe::{Companion, Marks};
use crate::plan::fixtures::{
    DAY, DIRECTORY, ISSUER, at, certificate, expired, fallback, good, marks, now, observed, other,
};
use crate::plan::plan;
use crate::report::build_status;

/// The certificate that came after [`good`].
fn next() -> CertificateFacts {
    certificate("02", &["a.example", "b.example"], -60, 80 * DAY)
}

fn noted(reason: RevocationReason) -> Box<Revocation> {
    Box::new(Revocation {
        value: reason.as_str().into(),
        reason,
        leaf: good(),
        issuer: Some(ISSUER.into()),
        directory: DIRECTORY.into(),
        key_is_pending: false,
        key_is_last_good: false,
    })
}

/// `leaf` is in place, in answer to `heeded`, and somebody asks for `value`.
fn asked(leaf: &CertificateFacts, value: &str, heeded: Option<&str>) -> Observed {
    let marks = Marks {
        revoke: heeded.map(str::to_owned),
        ..marks()
    };
    let mut o = observed()
        .with_certificate(leaf.clone())
        .with_marks(marks.clone());
    o.companion.last_good = Some((leaf.clone(), marks));
    o.revoke = Some(value.to_owned());
    o
}

/// The same when [`good`] has been noted for it.
fn under_way(leaf: &CertificateFacts, reason: RevocationReason) -> Observed {
    let heeded = (*leaf != good()).then_some(reason.as_str());
    let mut o = asked(leaf, reason.as_str(), heeded);
    o.companion.revocation = Some(noted(reason));
    o
}

fn gate(seconds: i64) -> Gate {
    Gate {
        until: at(seconds),
        reason: Reason::CAUnavailable,
        message: "the CA does not answer".into(),
    }
}

fn step(o: &Observed) -> Step {
    plan(o, now()).step
}

fn ready(o: &Observed) -> (String, String) {
    let status = build_status(o, &plan(o, now()), now());
    let ready = condition::find(&status.conditions, condition::READY).unwrap();
    (ready.status.clone(), ready.message.clone())
}

#[test]
fn reason_is_the_first_word_and_has_the_number_of_rfc_5280() {
    let codes = RevocationReason::ALL.map(|r| (r.as_str(), r.code()));
    let wanted = [
        ("unspecified", 0),
        ("keyCompromise", 1),
        ("affiliationChanged", 3),
        ("superseded", 4),
        ("cessationOfOperation", 5),
    ];
    assert_eq!(codes, wanted);
    let parse = RevocationReason::parse;
    assert_eq!(
        parse("keyCompromise"),
        Some(RevocationReason::KeyCompromise)
    );
    assert_eq!(
        parse(" superseded  ticket 7"),
        Some(RevocationReason::Superseded)
    );
    for text in [
        "",
        " ",
        "keycompromise",
        "1",
        "removeFromCRL",
        "cACompromise",
    ] {
        assert_eq!(parse(text), None, "{text:?}");
    }
}

#[test]
fn what_is_in_place_is_noted_before_anything_else_and_once_for_each_value() {
    let note = |value: &str| Step::NoteRevocation {
        value: value.into(),
    };
    assert_eq!(
        step(&asked(&good(), "superseded", None)),
        note("superseded")
    );
    assert_eq!(
        step(&asked(&good(), "superseded 2", Some("superseded"))),
        note("superseded 2")
    );
    assert_eq!(
        step(&asked(&next(), "superseded", Some("superseded"))),
        Step::Wait
    );
    let mut suspended = asked(&good(), "superseded", None);
    suspended.spec.suspend = true;
    assert_eq!(
        step(&suspended),
        note("superseded"),
        "the renewal waits, not the note"
    );
}

#[test]
fn order_under_way_is_for_the_renewal_that_a_request_meanwhile_asks_for() {
    let mut o = asked(&good(), "superseded", None);
    o.status.order = Some(crate::plan::fixtures::order_status());
    assert!(matches!(step(&o), Step::NoteRevocation { .. }));
}

#[test]
fn noted_certificate_is_renewed_and_stays_ready_until_then() {
    let o = under_way(&good(), RevocationReason::Superseded);
    assert_eq!(step(&o), Step::PrepareKey);
    let (status, message) = ready(&o);
    assert_eq!(status, "True");
    assert!(
        message.contains("is to be revoked and is renewed first"),
        "{message}"
    );
    let (reason, message) = build_pending(&o, now()).unwrap();
    assert_eq!(reason, Reason::RevocationRequested);
    assert!(
        message.contains("serial number 01 is to be revoked (superseded): first another"),
        "{message}"
    );
}

#[test]
fn only_when_another_certificate_is_in_place_the_noted_one_is_revoked() {
    assert_eq!(
        step(&under_way(&next(), RevocationReason::Superseded)),
        Step::Revoke
    );
    assert!(plan(&under_way(&next(), RevocationReason::Superseded), now()).is_irreversible());
    let mut missing = under_way(&next(), RevocationReason::Superseded);
    missing.secret = SecretObservation::Missing;
    assert_eq!(step(&missing), Step::Restore);
    let back = Companion {
        revocation: Some(noted(RevocationReason::Superseded)),
        last_good: Some((next(), marks())),
        ..Companion::default()
    };
    let put_back = Observed {
        companion: back,
        ..under_way(&good(), RevocationReason::Superseded)
    };
    assert_eq!(step(&put_back), Step::Restore, "the noted one was put back");
    let ahead = certificate("02", &["a.example", "b.example"], 60, DAY);
    assert_ne!(
        step(&under_way(&ahead, RevocationReason::Superseded)),
        Step::Revoke
    );
}

#[test]
fn revocation_waits_for_the_directory_and_for_its_own_time() {
    let o = under_way(&next(), RevocationReason::Superseded);
    let held = Observed {
        gate: Some(gate(90)),
        ..o.clone()
    };
    assert_eq!((step(&held), plan(&held, now()).wake), (Step::Wait, at(90)));
    let refused = Observed {
        revocation_refused: Some(gate(120)),
        ..o.clone()
    };
    assert_eq!(
        (step(&refused), plan(&refused, now()).wake),
        (Step::Wait, at(120))
    );
    assert_eq!(plan(&refused, at(120)).step, Step::Revoke);
    let (_, message) = build_pending(&refused, now()).unwrap();
    assert!(message.contains("Next attempt at"), "{message}");
    assert_eq!(ready(&refused).0, "True");
}

#[test]
fn another_directory_than_the_one_that_issued_is_never_asked() {
    let mut o = under_way(&next(), RevocationReason::Superseded);
    o.companion.revocation.as_mut().unwrap().directory = "https://other.example/dir".into();
    assert_eq!(step(&o), Step::Wait);
    let (_, message) = build_pending(&o, now()).unwrap();
    assert!(
        message.contains("https://other.example/dir, and the spec does not name an issuer for it"),
        "{message}"
    );
}

/// [`good`] was signed by `Issuer/b`, an alternate at a directory of its own; the first is chosen now.
fn by_alternate(mut o: Observed, is_ready: bool) -> Observed {
    const ELSEWHERE: &str = "https://b.example/dir";
    let marks = Marks {
        issuer: Some("Issuer/b".into()),
        directory: Some(ELSEWHERE.into()),
        ..marks()
    };
    if o.certificate() == Some(&good()) {
        let heeded = match &o.secret {
            SecretObservation::Ours(secret) => secret.marks.revoke.clone(),
            SecretObservation::Missing
            | SecretObservation::WrongType(_)
            | SecretObservation::Foreign(_) => None,
        };
        o = o.with_marks(Marks {
            revoke: heeded,
            ..marks
        });
    }
    o.others = vec![other("Issuer/b", is_ready.then_some(ELSEWHERE))];
    if let Some(open) = o.companion.revocation.as_mut() {
        open.issuer = Some("Issuer/b".into());
        open.directory = ELSEWHERE.into();
    }
    o
}

#[test]
fn what_an_alternate_signed_is_revoked_by_it_while_the_first_is_chosen() {
    let superseded = RevocationReason::Superseded;
    let wanted = by_alternate(asked(&good(), "superseded", None), true);
    assert!(matches!(step(&wanted), Step::NoteRevocation { .. }));
    assert_eq!(build_note(&wanted, now()), None);
    let renewed = by_alternate(under_way(&next(), superseded), true);
    assert_eq!(step(&renewed), Step::Revoke);
    // Its own directory's trouble counts, and the first's does not.
    let mut first_is_down = renewed.clone();
    first_is_down.gate = Some(gate(90));
    assert_eq!(step(&first_is_down), Step::Revoke);
    let mut it_is_down = renewed.clone();
    it_is_down.others[0].gate = Some(gate(90));
    assert_eq!(
        (step(&it_is_down), plan(&it_is_down, now()).wake),
        (Step::Wait, at(90))
    );
    let not_ready = by_alternate(under_way(&next(), superseded), false);
    assert_eq!(step(&not_ready), Step::Wait);
    let (_, message) = build_pending(&not_ready, now()).unwrap();
    assert!(message.ends_with("Issuer/b is not ready"), "{message}");
    let mut dropped = renewed;
    dropped.others.clear();
    assert_eq!(step(&dropped), Step::Wait);
    let (_, message) = build_pending(&dropped, now()).unwrap();
    assert!(
        message.contains("does not name an issuer for it"),
        "{message}"
    );
}

#[test]
fn a_refused_reason_gives_way_to_another_one_without_another_renewal() {
    let mut o = under_way(&next(), RevocationReason::Superseded);
    o.revoke = Some("cessationOfOperation".into());
    assert_eq!(
        step(&o),
        Step::Revoke,
        "it was not refused: one after the other"
    );
    let refused = Gate {
        reason: Reason::RevocationRefused,
        message: "not for that reason".into(),
        ..gate(3600)
    };
    o.revocation_refused = Some(gate(3600));
    assert_eq!(step(&o), Step::Wait, "the CA was down");
    o.revocation_refused = Some(refused.clone());
    let other = |value: &str, heeded| Step::ChangeReason {
        value: value.into(),
        heeded,
    };
    assert_eq!(step(&o), other("cessationOfOperation", true));
    o.revoke = Some("superseded please".into());
    assert_eq!(step(&o), other("superseded please", true), "asked at once");
    for kept in ["superseded", "no reason"] {
        o.revoke = Some(kept.into());
        assert_eq!(step(&o), Step::Wait, "{kept}");
    }
    // Where the new certificate has the key of the old one, it is renewed once more, whatever the spec says by now of keys.
    o.revoke = Some("keyCompromise".into());
    for rotation_policy in [RotationPolicy::Always, RotationPolicy::Never] {
        o.spec.private_key = Some(PrivateKey {
            rotation_policy,
            ..PrivateKey::default()
        });
        for same in [false, true] {
            o.companion.revocation.as_mut().unwrap().key_is_last_good = same;
            assert_eq!(step(&o), other("keyCompromise", !same));
        }
    }
    // Not while the noted one is in place: then it is noted anew.
    let mut in_place = under_way(&good(), RevocationReason::Superseded);
    in_place.revoke = Some("cessationOfOperation".into());
    in_place.revocation_refused = Some(refused);
    assert!(matches!(step(&in_place), Step::NoteRevocation { .. }));
}

#[test]
fn who_takes_the_request_back_in_time_has_nothing_revoked() {
    let mut o = under_way(&next(), RevocationReason::Superseded);
    o.revoke = None;
    assert!(matches!(step(&o), Step::DropRevocation { .. }));
    let mut senseless = under_way(&good(), RevocationReason::Superseded);
    senseless.revoke = Some("never mind".into());
    assert!(matches!(step(&senseless), Step::DropRevocation { .. }));
    let mut other = under_way(&good(), RevocationReason::Superseded);
    other.revoke = Some("keyCompromise".into());
    assert_eq!(
        step(&other),
        Step::NoteRevocation {
            value: "keyCompromise".into()
        }
    );
    let mut later = under_way(&next(), RevocationReason::Superseded);
    later.revoke = Some("keyCompromise".into());
    assert_eq!(step(&later), Step::Revoke, "one after the other");
    let expired_by_now = plan(
        &under_way(&next(), RevocationReason::Superseded),
        at(50 * DAY),
    );
    assert!(matches!(expired_by_now.step, Step::DropRevocation { .. }));
}

#[test]
fn compromised_key_is_neither_kept_for_the_next_certificate_nor_signed() {
    let mut o = under_way(&good(), RevocationReason::KeyCompromise).with_pending_key();
    o.companion.revocation.as_mut().unwrap().key_is_pending = true;
    assert_eq!(step(&o), Step::PrepareKey);
    o.status.order = Some(crate::plan::fixtures::order_status());
    assert!(matches!(step(&o), Step::Abandon { .. }));
    o.companion.revocation.as_mut().unwrap().reason = RevocationReason::Superseded;
    assert!(!matches!(step(&o), Step::Abandon { .. }));
}

#[test]
fn revoked_leaf_is_not_good_wherever_it_comes_from() {
    let revoked = |o: Observed| {
        let mut o = o;
        o.companion.revoked = vec![good().fingerprint];
        o
    };
    let alone = revoked(observed().with_certificate(good()));
    assert_eq!(find_need(&alone, now()).unwrap().reason, Reason::Revoked);
    assert_eq!(
        step(&alone),
        Step::PrepareKey,
        "it stays until another one is there"
    );
    assert_eq!(ready(&alone).0, "False");
    let mut put_back = alone.clone();
    put_back.companion.last_good = Some((next(), marks()));
    assert_eq!(step(&put_back), Step::Restore);
    let mut kept = revoked(observed());
    kept.companion.last_good = Some((good(), marks()));
    assert_ne!(step(&kept), Step::Restore);
}

#[test]
fn what_no_ca_of_the_issuers_signed_is_said_and_left_alone() {
    let told = |o: &Observed| {
        assert_eq!(plan_note(o, now()), None);
        build_note(o, now()).unwrap()
    };
    let unknown = told(&asked(&good(), "stolen", None));
    assert!(
        unknown.contains("\"stolen\", which is no reason")
            && unknown.contains("cessationOfOperation"),
        "{unknown}"
    );
    assert_eq!(told(&asked(&next(), "stolen", Some("stolen"))), unknown);
    let mut standing_in = asked(&good(), "superseded", None);
    standing_in.secret = observed().with_fallback(fallback()).secret;
    assert!(told(&standing_in).contains("is a fallback"));
    assert!(told(&asked(&expired(), "superseded", None)).contains("expired at"));
    let adopted = asked(&good(), "superseded", None).with_marks(Marks::default());
    assert!(told(&adopted).contains("revoke it where it was issued"));
    let other = asked(&good(), "superseded", None).with_marks(Marks {
        issuer: Some("Issuer/other".into()),
        ..marks()
    });
    assert!(told(&other).contains("was issued by Issuer/other at"));
    let own = CertificateFacts {
        self_signed: true,
        key: KeyKind::Ecdsa(256),
        ..good()
    };
    assert!(told(&asked(&own, "superseded", None)).contains("is self-signed"));
    assert_eq!(build_note(&asked(&good(), "superseded", None), now()), None);
}
