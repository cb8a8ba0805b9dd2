use evercert_api::Reason;
use evercert_api::certificate::{
    AttemptOutcome, CertificateStatus, IssuerKind, IssuerRef, RefusalStatus,
};
use evercert_api::condition::{
    self, FALLBACK_IN_USE, ISSUING, PAUSED, READY, RENEW_BEFORE_CLAMPED, STALLED,
};
use jiff::Timestamp;

use super::*;
use crate::facts::Damage;
use crate::fault::{Fault, FaultClass};
use crate::observe::{Marks, Observed};
use crate::order::OrderState;
use crate::plan::fixtures::{
    DAY, at, certificate, due, expired, fallback, fault, good, now, observed, order, order_status,
    other,
};
use crate::plan::{Failure, fixtures, plan};
use crate::served::Served;

mod merge;

fn report(o: &Observed, now: Timestamp) -> CertificateStatus {
    build_status(o, &plan(o, now), now)
}

/// Status, reason and message of a condition.
fn told(o: &Observed, kind: &str) -> (bool, String, String) {
    let status = report(o, now());
    let c = condition::find(&status.conditions, kind).unwrap();
    (c.status == "True", c.reason.clone(), c.message.clone())
}

fn failure(class: FaultClass) -> Failure {
    Failure {
        reason: Reason::ValidationFailed,
        message: "the CA refused the order".into(),
        fault: fault(class),
    }
}

#[test]
fn why_a_good_certificate_is_to_be_renewed_is_said_once() {
    let o = observed().with_certificate(due()).made_immutable();
    let (is_ready, reason, message) = told(&o, READY);
    assert_eq!((is_ready, reason.as_str()), (true, "Renewing"));
    assert!(
        message.contains("Secret site-tls is immutable"),
        "{message}"
    );
    assert_eq!(
        message.matches("the certificate expires at").count(),
        1,
        "{message}"
    );
}

#[test]
fn ready_is_told_from_the_secret_and_dates_with_it() {
    let mut o = observed().with_certificate(good());
    o.spec.renew_before = Some("720h".into());
    let status = report(&o, now());
    assert_eq!(
        told(&o, READY),
        (
            true,
            "Issued".into(),
            format!("the certificate is valid until {}", at(50 * DAY))
        )
    );
    assert_eq!(status.not_before.map(|t| t.0), Some(at(-40 * DAY)));
    assert_eq!(status.not_after.map(|t| t.0), Some(at(50 * DAY)));
    assert_eq!(status.renewal_time.map(|t| t.0), Some(at(20 * DAY)));
    assert_eq!(status.serial_number.as_deref(), Some("01"));
    assert!(
        status
            .conditions
            .iter()
            .all(|c| c.observed_generation == Some(3))
    );
}

#[test]
fn ready_stays_true_through_gates_outages_and_while_renewing() {
    let all = vec![
        observed().with_certificate(good()).without_issuer(),
        observed().with_certificate(due()),
        observed().with_certificate(due()).without_issuer(),
        observed().with_certificate(due()).gated_until(600),
        observed().with_certificate(due()).backing_off_until(600),
        observed().with_certificate(due()).refused(),
        observed()
            .with_certificate(due())
            .with_order(order(OrderState::Pending)),
    ];
    for o in all {
        assert!(told(&o, READY).0, "{:?}", told(&o, READY));
    }
    let (_, reason, message) = told(&observed().with_certificate(due()).gated_until(600), READY);
    assert_eq!(reason, "Renewing");
    assert!(
        message.ends_with(&format!(
            "the CA does not answer. Next attempt at {}",
            at(600)
        )),
        "{message}"
    );
}

#[test]
fn ready_is_false_with_cause_and_remedy_whatever_the_secret_lacks() {
    for (o, reason) in [
        (observed(), "SecretMissing"),
        (
            observed().with_damage(Damage::InvalidKeyPair),
            "InvalidKeyPair",
        ),
        (observed().with_certificate(expired()), "Expired"),
        (observed().with_fallback(fallback()), "FallbackInPlace"),
        (
            observed()
                .with_certificate(good())
                .with_names(&["c.example"]),
            "NamesChanged",
        ),
    ] {
        let (ready, said, message) = told(&o, READY);
        assert_eq!((ready, said.as_str()), (false, reason));
        assert!(message.contains("; making the key"), "{message}");
        let (ready, said, message) = told(&o.clone().without_issuer(), READY);
        let blocked = if reason == "FallbackInPlace" {
            reason
        } else {
            "IssuerNotFound"
        };
        assert_eq!((ready, said.as_str()), (false, blocked));
        assert!(
            message.contains("; Issuer ca does not exist: create it"),
            "{message}"
        );
    }
}

#[test]
fn ready_gives_the_failure_while_the_next_attempt_waits() {
    let o = observed().without_fallback().backing_off_until(600);
    let (ready, reason, message) = told(&o, READY);
    assert_eq!((ready, reason.as_str()), (false, "ValidationFailed"));
    assert!(
        message.ends_with(&format!("Next attempt at {}", at(600))),
        "{message}"
    );
}

#[test]
fn certificate_from_ahead_of_a_slow_clock_is_kept_and_said() {
    let ahead = certificate("09", &["a.example", "b.example"], 600, 90 * DAY);
    let o = observed().with_certificate(ahead);
    assert_eq!(told(&o, READY).1, "NotYetValid");
    assert!(condition::is_true(&report(&o, at(600)).conditions, READY));
}

#[test]
fn secret_of_somebody_else_is_neither_ready_nor_dated() {
    let mut o = observed();
    o.secret = SecretObservation::Foreign(fixtures::foreign(Ok(expired())));
    assert_eq!(told(&o, READY).1, "SecretNotOurs");
    assert_eq!(report(&o, now()).not_after, None);
}

#[test]
fn fallback_in_use_gives_the_cause() {
    let o = observed().with_fallback(fallback()).backing_off_until(600);
    let (on, reason, message) = told(&o, FALLBACK_IN_USE);
    assert_eq!((on, reason.as_str()), (true, "FallbackInPlace"));
    assert_eq!(
        message,
        "a self-signed certificate stands in, since the CA refused the order"
    );
    let status = report(&o, now());
    assert_eq!(
        (status.not_after, status.serial_number),
        (None, None),
        "it does not count as issued"
    );
    assert_eq!(status.failed_attempts, Some(1), "and the schedule goes on");
    assert!(!told(&observed().with_certificate(good()), FALLBACK_IN_USE).0);
    assert!(!told(&observed(), FALLBACK_IN_USE).0);
}

#[test]
fn issuing_is_true_while_an_order_is_under_way_even_if_it_is_held() {
    let o = || observed().with_order(order(OrderState::Pending));
    for o in [o(), o().with_issuer_not_ready(), o().gated_until(600)] {
        assert!(told(&o, ISSUING).0);
    }
    for o in [
        observed().without_issuer(),
        observed().with_certificate(good()),
        observed().backing_off_until(60),
    ] {
        assert!(!told(&o, ISSUING).0);
    }
}

#[test]
fn stalled_is_true_when_a_person_must_act() {
    let mut permanent = observed().with_fallback(fallback()).backing_off_until(600);
    permanent.status.last_failure.as_mut().unwrap().permanent = true;
    let mut foreign = observed();
    foreign.secret = SecretObservation::Foreign(fixtures::foreign(Ok(expired())));
    for (o, reason) in [
        (observed().with_names(&["*.a.example"]), "InvalidSpec"),
        (foreign, "SecretNotOurs"),
        (permanent, "BackingOff"),
        (observed().refused(), "NameHeldElsewhere"),
    ] {
        let (stalled, said, message) = told(&o, STALLED);
        assert_eq!((stalled, said.as_str()), (true, reason));
        assert!(!message.is_empty());
    }
    // An issuer may be created a moment after its Certificate.
    for o in [
        observed(),
        observed().without_issuer(),
        observed().with_fallback(fallback()).backing_off_until(600),
    ] {
        assert!(!told(&o, STALLED).0);
    }
}

#[test]
fn cut_renewal_is_said_only_while_it_is_cut() {
    let mut o = observed().with_certificate(good());
    o.spec.renew_before = Some("2000h".into());
    o.status = report(&o, now());
    assert!(condition::is_true(
        &o.status.conditions,
        RENEW_BEFORE_CLAMPED
    ));
    o.spec.renew_before = None;
    assert!(condition::find(&report(&o, now()).conditions, RENEW_BEFORE_CLAMPED).is_none());
}

#[test]
fn failed_attempts_are_counted_and_forgotten_when_a_certificate_is_in_place() {
    let mut o = observed().with_order(order(OrderState::Pending));
    for attempts in 1..=3 {
        let mut status = o.status.clone();
        apply_change(
            &o,
            &mut status,
            &Change::Failed(failure(FaultClass::Validation)),
            at(i64::from(attempts)),
        );
        assert_eq!(status.failed_attempts, Some(attempts));
        assert_eq!(status.order, None);
        assert!(
            status
                .next_attempt_time
                .as_ref()
                .is_some_and(|t| t.0 >= at(60))
        );
        o.status = status;
    }
    assert_eq!(
        o.status.last_failure.as_ref().map(|f| f.reason.as_str()),
        Some("ValidationFailed")
    );
    let waiting = report(&o, now());
    assert_eq!(waiting.failed_attempts, Some(3));
    let renewing = report(&o.clone().with_certificate(due()), now());
    assert_eq!(
        renewing.failed_attempts,
        Some(3),
        "the old certificate is no success"
    );
    let issued = report(&o.with_certificate(good()), now());
    assert_eq!(
        (
            issued.failed_attempts,
            issued.next_attempt_time,
            issued.last_failure
        ),
        (None, None, None)
    );
}

#[test]
fn fields_of_later_versions_are_kept() {
    let mut o = observed();
    o.status
        .unknown
        .insert("later".into(), serde_json::json!({"a": 1}));
    assert_eq!(report(&o, now()).unknown, o.status.unknown);
}

#[test]
fn same_observation_is_reported_without_a_write() {
    for mut o in [
        observed(),
        observed().with_certificate(good()),
        observed().with_certificate(due()).gated_until(600),
        observed().with_fallback(fallback()).backing_off_until(600),
        observed().with_order(order(OrderState::Pending)),
    ] {
        o.status = report(&o, now());
        let later = at(7);
        assert_eq!(
            plan_write(&o.status, &report(&o, later), None, later),
            Ok(false),
            "{:?}",
            o.status
        );
    }
}

#[test]
fn new_sentence_waits_two_seconds_after_the_last_write_and_all_else_does_not() {
    let old = report(&observed().without_issuer(), now());
    let words = report(&observed().gated_until(600), now());
    assert_eq!(plan_write(&old, &words, Some(at(-1)), now()), Err(at(1)));
    assert_eq!(plan_write(&old, &words, Some(at(-2)), now()), Ok(true));
    assert_eq!(plan_write(&old, &words, None, now()), Ok(true));
    let ready = report(&observed().with_certificate(good()), now());
    assert_eq!(plan_write(&old, &ready, Some(now()), now()), Ok(true));
    let mut placed = old.clone();
    placed.order = Some(order_status());
    assert_eq!(plan_write(&old, &placed, Some(now()), now()), Ok(true));
}

#[test]
fn paused_is_told_while_it_lasts_and_is_no_rate_limit() {
    let mut o = observed().with_fallback(fallback()).backing_off_until(600);
    o.status.last_failure.as_mut().unwrap().reason = "Paused".into();
    let (status, reason, _) = told(&o, PAUSED);
    assert!(status && reason == "Paused");
    let conditions = report(&o, now()).conditions;
    assert!(condition::find(&conditions, RATE_LIMITED).is_none());
    let mut over = observed().with_certificate(good());
    over.status = report(&o, now());
    let conditions = report(&over, now()).conditions;
    assert!(condition::find(&conditions, PAUSED).is_none());
}

#[test]
fn rate_limited_is_told_while_it_lasts_with_limit_and_instant() {
    let o = observed().with_pending_key();
    let limited = o.clone().limited_until(600);
    let (status, reason, message) = told(&limited, RATE_LIMITED);
    assert!(status && reason == "RateLimited");
    assert!(
        message.contains("certificates for a.example is used up"),
        "{message}"
    );
    assert!(message.contains(&at(600).to_string()), "{message}");
    assert_eq!(told(&limited, READY).1, "RateLimited");
    let mut refused = o.clone().with_fallback(fallback()).backing_off_until(600);
    refused.status.last_failure.as_mut().unwrap().reason = "RateLimited".into();
    assert!(told(&refused, RATE_LIMITED).0);
    let mut over = o.with_certificate(good());
    over.status = report(&limited, now());
    let conditions = report(&over, now()).conditions;
    assert!(condition::find(&conditions, RATE_LIMITED).is_none());
}

#[test]
fn the_history_holds_the_last_ten_attempts_newest_first() {
    let mut o = observed();
    for number in 0..12 {
        let mut status = o.status.clone();
        let change = match number % 3 {
            0 => Change::Failed(failure(FaultClass::Validation)),
            1 => Change::Cleared(Ending::issued(format!("number {number}"))),
            _ => Change::Cleared(Ending::abandoned("x".repeat(2000))),
        };
        apply_change(&o, &mut status, &change, at(number));
        o.status = status;
    }
    let history = &o.status.history;
    assert_eq!(history.len(), 10);
    let times: Vec<_> = history.iter().map(|attempt| attempt.time.0).collect();
    let wanted: Vec<_> = (2..12).rev().map(at).collect();
    assert_eq!(times, wanted);
    let outcomes: Vec<_> = history.iter().take(3).map(|a| a.outcome).collect();
    let last = [
        AttemptOutcome::Abandoned,
        AttemptOutcome::Issued,
        AttemptOutcome::Failed,
    ];
    assert_eq!(outcomes, last);
    assert_eq!(history[0].message.chars().count(), 1001);
    assert_eq!(
        (history[1].reason.as_str(), history[1].message.as_str()),
        ("Issued", "number 10")
    );
    assert_eq!(history[2].message, failure(FaultClass::Validation).message);
}

#[test]
fn suspended_is_told_in_plain_words_and_keeps_what_is_good_ready() {
    let note = "spec.suspend is true: nothing new is started";
    let (ready, reason, message) = told(&observed().with_certificate(good()).suspended(), READY);
    assert!(
        ready && reason == "Issued" && message.contains(note),
        "{message}"
    );
    let o = observed().with_certificate(due()).suspended();
    let (ready, reason, message) = told(&o, READY);
    assert!(
        ready && reason == "Renewing" && message.contains(note),
        "{message}"
    );
    assert_eq!(message.matches("spec.suspend").count(), 1, "{message}");
    let (stalled, reason, message) = told(&o, STALLED);
    assert!(
        stalled && reason == "Suspended" && message.contains("Set it to false"),
        "{message}"
    );
    let (ready, reason, message) = told(&observed().suspended(), READY);
    assert!(
        !ready && reason == "Suspended" && message.contains("does not exist yet"),
        "{message}"
    );
}

#[test]
fn a_renew_at_that_cannot_be_read_names_the_annotation_and_what_to_write() {
    let mut o = observed().with_certificate(good());
    o.renew_at = Some("next\nweek".into());
    let (ready, _, message) = told(&o, READY);
    let words = "The annotation evercert.dev/renew-at says \"next week\", which is no instant: write one such as 20";
    assert!(ready && message.contains(words), "{message}");
    o.renew_at = Some(at(60).to_string());
    assert!(!told(&o, READY).2.contains("annotation"));
}

#[test]
fn a_name_below_a_domain_of_everybody_is_warned_of_where_a_ca_is_to_sign() {
    let mut o = observed().with_certificate(good());
    let is_warned = |o: &Observed| {
        told(o, READY)
            .2
            .contains("is below nip.io, which everybody may use")
    };
    assert!(!is_warned(&o));
    o.spec.dns_names = vec!["shop.198-18-0-2.nip.io".to_owned()];
    assert!(is_warned(&o), "{}", told(&o, READY).2);
    let IssuerObservation::Ready(issuer) = &mut o.issuer else {
        panic!("the fixture's issuer is ready");
    };
    issuer.directory = SELF_SIGNED.to_owned();
    assert!(!is_warned(&o));
}

/// `Issuer/b` may sign where the first refuses.
fn with_alternate(mut o: Observed) -> Observed {
    o.spec.alternate_issuer_refs = vec![IssuerRef {
        name: "b".into(),
        kind: IssuerKind::Issuer,
    }];
    o.others = vec![other("Issuer/b", Some("https://b.example/dir"))];
    o
}

fn refusal_of(issuer: &str) -> RefusalStatus {
    RefusalStatus {
        issuer: issuer.to_owned(),
        time: whole_seconds(now()),
        message: "it has closed".into(),
        fingerprint: "x".into(),
    }
}

#[test]
fn a_refusal_for_good_is_recorded_once_and_only_where_another_issuer_is_named() {
    let refused = |o: &Observed, fault: Fault| {
        let mut status = o.status.clone();
        let change = Change::Failed(Failure {
            reason: Reason::Rejected,
            message: "no".into(),
            fault,
        });
        apply_change(o, &mut status, &change, now());
        apply_change(o, &mut status, &change, now());
        let issuers = status.refusals.into_iter().map(|r| r.issuer);
        issuers.collect::<Vec<_>>()
    };
    let lasting = || fault(FaultClass::Permanent);
    let o = with_alternate(observed());
    assert_eq!(refused(&o, lasting()), [o.issuer_id()]);
    assert_eq!(refused(&o, fault(FaultClass::Validation)), [""; 0]);
    assert_eq!(refused(&observed(), lasting()), [""; 0]);
}

#[test]
fn who_signs_in_place_of_the_first_is_told_with_the_reason_until_the_first_signs_again() {
    let first = observed().issuer_id();
    let by = |issuer: &str| {
        with_alternate(observed().with_certificate(good()).with_marks(Marks {
            issuer: Some(issuer.to_owned()),
            directory: None,
            ..fixtures::marks()
        }))
    };
    let mut o = by("Issuer/b");
    o.status.refusals = vec![refusal_of(&first), refusal_of("Issuer/gone")];
    let (ready, _, message) = told(&o, READY);
    let at = whole(now());
    let said = format!(
        ". It was signed by Issuer/b, since {first} refused at {at}: it has closed. At the next renewal {first} comes first again"
    );
    assert!(ready && message.ends_with(&said), "{message}");
    let kept = report(&o, now()).refusals;
    assert_eq!(kept, [refusal_of(&first)]);

    let mut o = by(&first);
    o.status.refusals = vec![refusal_of(&first)];
    assert!(report(&o, now()).refusals.is_empty());
    assert!(!told(&o, READY).2.contains("comes first again"));

    let mut o = with_alternate(observed());
    o.chosen = o.spec.alternate_issuer_refs.first().cloned();
    o.gave_way = Some(format!("{first} is not ready (AccountDeactivated): ended"));
    let (_, _, message) = told(&o, READY);
    assert!(
        message.contains(&format!(
            "Issuer/b signs, since {first} is not ready (AccountDeactivated)"
        )),
        "{message}"
    );
}

#[test]
fn what_is_served_is_told_of_an_issued_certificate_only_and_stays_until_something_else_is_seen() {
    let mut o = observed().with_certificate(good());
    o.served = Some(Served::Fresh);
    let seen = report(&o, now());
    let served = |status: &CertificateStatus| {
        let told = condition::find(&status.conditions, SERVED);
        told.map(|c| (c.status.clone(), c.reason.clone()))
    };
    let fresh = Some(("True".to_owned(), "Fresh".to_owned()));
    assert_eq!(served(&seen), fresh);
    o.status = seen;
    o.served = None;
    assert_eq!(served(&report(&o, now())), fresh);
    o.served = Some(Served::NoEntryPoint);
    let unknown = Some(("Unknown".to_owned(), "NoEntryPoint".to_owned()));
    assert_eq!(served(&report(&o, now())), unknown);
    o.secret = SecretObservation::Missing;
    assert_eq!(served(&report(&o, now())), None);
}
