mod dns;

use evercert_api::Reason;
use evercert_api::certificate::{KeyAlgorithm, whole_seconds};
use evercert_api::condition;

use crate::facts::KeyKind;
use crate::lanes::Candidate;
use crate::observe::{ForwarderState, Gate, Marks, Observed, SolverState};
use crate::plan::fixtures::{
    DAY, at, certificate, due, expired, fallback, good, marks, now, observed,
};
use crate::plan::{Plan, State, Step, is_order_near, plan};
use crate::preflight::{Preflight, Trouble, Wrong};
use crate::report::build_status;

fn decide(o: &Observed) -> Plan {
    plan(o, now())
}

/// Nothing is missing any more but the order.
fn ready() -> Observed {
    observed().with_pending_key()
}

#[test]
fn certificate_in_place_waits_for_its_renewal() {
    let plan = decide(&observed().with_certificate(good()).with_last_good(good()));
    assert_eq!(
        (plan.row, plan.step, plan.say.state),
        ("settle", Step::Wait, State::Idle)
    );
    assert_eq!(plan.wake, at(DAY), "looked at once a day");
    let soon = certificate("09", &["a.example", "b.example"], -100, 200);
    let mut soon = observed()
        .with_certificate(soon.clone())
        .with_last_good(soon);
    soon.spec.renew_before = Some("150s".into());
    assert_eq!(decide(&soon).wake, at(50));
}

#[test]
fn certificate_from_ahead_of_a_slow_clock_is_looked_at_when_it_becomes_valid() {
    let ahead = certificate("09", &["a.example", "b.example"], 600, 90 * DAY);
    assert_eq!(decide(&observed().with_certificate(ahead)).wake, at(600));
}

#[test]
fn without_an_ingress_class_no_order_is_placed_and_a_person_is_told() {
    let mut o = ready();
    o.unroutable = Some("no ingress class: IngressClass typo does not exist".to_owned());
    let plan = decide(&o);
    assert_eq!(
        (
            plan.step.clone(),
            plan.say.reason,
            plan.say.state,
            plan.wake
        ),
        (Step::Wait, Reason::NoIngressClass, State::Blocked, at(20))
    );
    assert_eq!(plan.wake, at(20), "a fallback is due before the next look");
    assert!(plan.say.message.contains("typo does not exist"));
    let status = build_status(&o, &plan, now());
    assert!(condition::is_true(&status.conditions, condition::STALLED));
    assert_eq!(decide(&o.clone().created(-31)).row, "fallback due");
    assert_eq!(decide(&o.self_signed()).step, Step::SelfSign);
}

#[test]
fn what_an_issuance_left_behind_is_put_away() {
    let o = observed().with_certificate(good());
    assert_eq!(decide(&o).step, Step::KeepCopy);
    let o = o.with_last_good(good());
    assert_eq!(
        decide(&o.clone().with_pending_key()).step,
        Step::DropPendingKey
    );
    assert_eq!(
        decide(&o.clone().with_marks_out_of_step()).step,
        Step::MendMarks
    );
    assert_eq!(
        decide(&o.with_marks_out_of_step().unwritable_since(-1)).step,
        Step::Wait
    );
}

#[test]
fn healthy_certificate_settles_whatever_stands_in_the_way_of_a_new_one() {
    let o = observed()
        .with_certificate(good())
        .without_slot()
        .refused()
        .gated_until(60)
        .backing_off_until(60);
    assert_eq!(decide(&o.clone().without_issuer()).row, "settle");
    assert_eq!(decide(&o.with_issuer_not_ready()).row, "settle");
}

#[test]
fn missing_issuer_is_named_with_the_remedy() {
    let plan = decide(&ready().without_issuer());
    assert_eq!(
        (plan.step, plan.say.reason, plan.say.state),
        (Step::Wait, Reason::IssuerNotFound, State::Blocked)
    );
    assert!(
        plan.say
            .message
            .contains("Issuer ca does not exist: create it"),
        "{}",
        plan.say.message
    );
    let plan = decide(&ready().with_issuer_not_ready());
    assert_eq!(plan.say.reason, Reason::IssuerNotReady);
    assert!(
        plan.say
            .message
            .contains("set spec.acme.termsOfServiceAgreed"),
        "{}",
        plan.say.message
    );
}

#[test]
fn renewal_blocked_by_its_issuer_looks_again_after_30_s() {
    assert_eq!(
        decide(&observed().with_certificate(due()).without_issuer()).wake,
        at(30)
    );
}

#[test]
fn forbidden_name_is_not_ordered() {
    let plan = decide(&ready().refused());
    assert_eq!(
        (plan.step, plan.say.reason),
        (Step::Wait, Reason::NameHeldElsewhere)
    );
}

#[test]
fn intent_without_an_order_counts_as_a_failed_attempt_once() {
    let o = ready().with_intent(-5);
    assert!(matches!(decide(&o).step, Step::Record(f) if f.reason == Reason::OrderLost));
    let mut recorded = o.backing_off_until(55);
    recorded.status.last_failure.as_mut().unwrap().time = whole_seconds(at(-5));
    assert_ne!(decide(&recorded).row, "lost intent");
}

#[test]
fn intent_that_led_to_a_certificate_is_not_lost() {
    let issued = Marks {
        issued_at: Some(at(-5)),
        ..marks()
    };
    let o = observed()
        .with_certificate(expired())
        .with_marks(issued)
        .with_pending_key()
        .with_intent(-10);
    assert_eq!(decide(&o).step, Step::PlaceOrder);
}

#[test]
fn failed_attempt_waits_and_says_until_when() {
    let plan = decide(&ready().with_fallback(fallback()).backing_off_until(600));
    assert_eq!(
        (plan.step, plan.say.reason, plan.wake),
        (Step::Wait, Reason::BackingOff, at(600))
    );
    assert_eq!(
        plan.say.message,
        format!("the CA refused the order. Next attempt at {}", at(600))
    );
}

#[test]
fn expired_secret_with_active_backoff_waits_and_keeps_fallback() {
    let o = ready().with_fallback(fallback()).backing_off_until(600);
    assert_eq!(decide(&o).step, Step::Wait);
    assert_eq!(plan(&o, at(600)).step, Step::PlaceOrder);
}

#[test]
fn change_of_spec_or_issuer_ends_the_backoff() {
    let o = ready().with_fallback(fallback()).backing_off_until(600);
    assert_eq!(decide(&o).step, Step::Wait);
    let mut renamed = o.clone();
    renamed.spec.renew_before = Some("1h".into());
    assert_eq!(decide(&renamed).step, Step::PlaceOrder);
    assert_eq!(
        decide(&o.with_issuer("Issuer/ca", "https://other.example/dir")).step,
        Step::PlaceOrder
    );
}

#[test]
fn another_ingress_ends_the_backoff_a_minute_after_the_failure() {
    let o = ready().with_fallback(fallback()).backing_off_until(600);
    let failed_at = |seconds, ingresses: Option<&str>| {
        let mut o = o.clone();
        o.ingresses = ingresses.map(Into::into);
        if let Some(failure) = &mut o.status.last_failure {
            failure.time = whole_seconds(at(seconds));
        }
        let plan = decide(&o);
        assert!(!o.is_changed_since_failure(), "no limit gives way to it");
        (plan.step, plan.wake)
    };
    assert_eq!(failed_at(-60, Some("2")).0, Step::PlaceOrder);
    assert_eq!(failed_at(-20, Some("2")), (Step::Wait, at(40)));
    for same_or_unknown in [Some("1"), None] {
        assert_eq!(failed_at(-60, same_or_unknown), (Step::Wait, at(600)));
    }
}

#[test]
fn issuer_that_was_looked_up_again_when_the_attempt_failed_is_no_other_one() {
    let failed_then = ready()
        .with_fallback(fallback())
        .with_issuer_not_ready()
        .backing_off_until(600);
    let mut o = failed_then.clone();
    o.issuer = ready().issuer;
    assert_eq!(decide(&o).say.reason, Reason::BackingOff);
    o = o.with_issuer("Issuer/ca", "https://new.example/d");
    assert_ne!(decide(&o).say.reason, Reason::BackingOff);
}

#[test]
fn wait_is_never_longer_than_a_day_whatever_a_status_says() {
    let plan = decide(
        &ready()
            .with_fallback(fallback())
            .backing_off_until(9000 * DAY),
    );
    assert_eq!((plan.step, plan.wake), (Step::Wait, at(DAY)));
}

#[test]
fn closed_gate_stops_new_orders_until_it_opens() {
    let o = ready().with_fallback(fallback()).gated_until(600);
    let plan = decide(&o);
    assert_eq!(
        (plan.step, plan.say.reason, plan.wake),
        (Step::Wait, Reason::CAUnavailable, at(600))
    );
    assert_eq!(super::super::plan(&o, at(600)).step, Step::PlaceOrder);
}

#[test]
fn no_order_is_placed_without_a_token_and_the_next_one_is_named() {
    let o = ready().with_fallback(fallback()).limited_until(600);
    let plan = decide(&o);
    assert_eq!(
        (plan.row, &plan.step, plan.say.reason, plan.say.state),
        ("limit", &Step::Wait, Reason::RateLimited, State::Blocked)
    );
    assert_eq!(plan.wake, at(600));
    assert_eq!(
        plan.say.message,
        format!(
            "the limit of certificates for a.example is used up. Next attempt at {}",
            at(600)
        )
    );
    assert_eq!(super::super::plan(&o, at(600)).step, Step::PlaceOrder);
}

#[test]
fn order_under_way_needs_no_token() {
    let under_way = ready().with_order(crate::plan::fixtures::order(
        crate::order::OrderState::Ready,
    ));
    assert_eq!(decide(&under_way.limited_until(600)).step, Step::Finalize);
}

#[test]
fn no_order_is_spent_on_a_secret_that_cannot_be_written() {
    let plan = decide(&ready().with_fallback(fallback()).unwritable_since(-10));
    assert_eq!(
        (plan.step, plan.say.reason, plan.wake),
        (Step::Wait, Reason::SecretNotWritable, at(20))
    );
    assert!(plan.say.message.contains("denied by a webhook"));
}

#[test]
fn dry_run_comes_before_the_order_and_not_before_a_self_signed_certificate() {
    let untried = |mut o: Observed| {
        o.tried = false;
        o
    };
    assert_eq!(decide(&untried(ready())).step, Step::TryWrite);
    assert_eq!(
        decide(&untried(ready().without_slot())).step,
        Step::TryWrite
    );
    assert_eq!(decide(&untried(ready().self_signed())).step, Step::SelfSign);
    assert_eq!(decide(&ready()).step, Step::PlaceOrder);
}

#[test]
fn adopted_certificate_is_copied_where_the_companion_has_nothing_that_would_do() {
    let adopted = || {
        observed()
            .with_certificate(good())
            .with_marks(Marks::default())
    };
    for kept in [
        expired(),
        certificate("09", &["other.example"], -DAY, 80 * DAY),
    ] {
        assert_eq!(decide(&adopted().with_last_good(kept)).step, Step::KeepCopy);
    }
    let other = certificate("09", &["a.example", "b.example"], -DAY, 89 * DAY);
    assert_eq!(decide(&adopted().with_last_good(other)).step, Step::Wait);
}

#[test]
fn key_of_the_wanted_kind_comes_before_the_order() {
    assert_eq!(decide(&observed()).step, Step::PrepareKey);
    let mut other = ready();
    other.companion.pending_key = Some(KeyKind::Rsa(2048));
    assert_eq!(decide(&other).step, Step::PrepareKey);
    other = other.with_key(KeyAlgorithm::Rsa, 2048);
    assert_eq!(decide(&other).step, Step::PlaceOrder);
}

#[test]
fn self_signed_issuer_needs_neither_solver_nor_slot() {
    let o = observed()
        .self_signed()
        .with_solver(SolverState::Absent)
        .without_slot();
    assert_eq!(decide(&o).step, Step::PrepareKey);
    assert_eq!(decide(&o.with_pending_key()).step, Step::SelfSign);
}

#[test]
fn solver_is_started_before_the_order_is_placed() {
    assert_eq!(
        decide(&ready().with_solver(SolverState::Absent)).step,
        Step::StartSolver
    );
    let starting = |since| {
        ready().with_solver(SolverState::Starting {
            since: at(since),
            what: "image is pulled".into(),
        })
    };
    let early = decide(&starting(-1));
    assert_eq!(
        (early.step, early.say.state, early.wake),
        (Step::StartSolver, State::Issuing, at(9))
    );
    let late = decide(&starting(-10));
    assert_eq!(
        (late.say.state, late.say.reason),
        (State::Blocked, Reason::SolverNotReady)
    );
    assert!(late.say.message.contains("image is pulled"));
}

#[test]
fn order_waits_for_its_slot() {
    let plan = decide(&ready().without_slot());
    assert_eq!(
        (plan.step, plan.say.reason, plan.wake),
        (
            Step::Queue(Candidate::of(&ready(), now())),
            Reason::WaitingForSlot,
            at(600)
        )
    );
    assert_eq!(decide(&ready()).step, Step::PlaceOrder);
}

#[test]
fn suspended_starts_nothing_new_and_keeps_what_is_in_place_whole() {
    let due = ready().with_certificate(due()).suspended();
    let plan = decide(&due);
    assert_eq!(
        (plan.row, plan.step.clone(), plan.say.reason),
        ("suspended", Step::Wait, Reason::Suspended)
    );
    assert_eq!(plan.wake, at(DAY));
    assert_eq!(decide(&due.self_signed()).row, "suspended");
    let missing = ready().suspended();
    assert_eq!(decide(&missing).row, "suspended");
    assert_eq!(decide(&missing).wake, at(20), "then a fallback is due");
    assert_eq!(decide(&missing.clone().created(-31)).row, "fallback due");
    let restored = missing.with_last_good(good());
    assert_eq!(decide(&restored).step, Step::Restore);
    let settled = observed().with_certificate(good()).suspended();
    assert_eq!(decide(&settled).step, Step::KeepCopy);
}

#[test]
fn suspended_finishes_an_order_that_is_open() {
    use crate::order::OrderState;
    use crate::plan::fixtures::order;
    let open = observed().with_order(order(OrderState::Ready).proved());
    assert_eq!(decide(&open.clone().suspended()).step, Step::Finalize);
    assert_eq!(
        decide(&open.suspended()),
        decide(&observed().with_order(order(OrderState::Ready).proved()))
    );
}

#[test]
fn a_renewal_that_is_asked_for_is_looked_at_when_its_instant_comes_and_keeps_to_the_cas_limits() {
    let good = || {
        observed()
            .with_certificate(good())
            .with_last_good(good())
            .with_marks(marks())
    };
    assert_eq!(decide(&good().requested_at(600)).wake, at(600));
    let asked = good().with_pending_key().requested_at(-1);
    assert_eq!(decide(&asked).step, Step::PlaceOrder);
    let limited = asked.limited_until(60);
    let plan = decide(&limited);
    assert_eq!((plan.row, plan.say.reason), ("limit", Reason::RateLimited));
    let status = build_status(&limited, &plan, now());
    let ready = condition::find(&status.conditions, condition::READY).unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("True", "RenewRequested")
    );
    let why = "says 2027-01-15T07:59:59Z; the limit of certificates for a.example is used up. Next attempt at";
    assert!(ready.message.contains(why), "{}", ready.message);
}

#[test]
fn a_renewal_that_is_asked_for_does_not_wait_for_a_backoff_that_began_before() {
    let failed = || ready().with_certificate(due()).backing_off_until(600);
    assert_eq!(decide(&failed()).row, "backing off");
    let with_same_fingerprint = |seconds| {
        let o = observed().requested_at(seconds).with_pending_key();
        o.with_certificate(due()).backing_off_until(600)
    };
    assert_eq!(decide(&with_same_fingerprint(-30)).step, Step::PlaceOrder);
    assert_eq!(
        decide(&with_same_fingerprint(-90)).row,
        "backing off",
        "that was tried"
    );
    let later = decide(&with_same_fingerprint(30));
    assert_eq!((later.row, later.wake), ("backing off", at(30)));
    assert_eq!(
        decide(&failed().requested_at(-90)).step,
        Step::PlaceOrder,
        "a new value"
    );
}

/// Whatever a clock did meanwhile: the next look is never more than a day away, and each plan is made from the instant alone.
#[test]
fn after_a_jump_of_the_clock_the_plan_is_that_of_the_new_instant() {
    let o = observed()
        .with_certificate(good())
        .with_last_good(good())
        .with_pending_key();
    let o = Observed {
        companion: crate::observe::Companion {
            pending_key: None,
            ..o.companion.clone()
        },
        ..o
    };
    let at_day = |day: i64| plan(&o, at(day * DAY));
    assert_eq!((at_day(0).row, at_day(0).wake), ("settle", at(DAY)));
    assert_eq!(
        at_day(25).step,
        Step::PrepareKey,
        "it slept through the day of renewal"
    );
    assert_eq!(at_day(60).row, "no pending key", "it is expired by now");
    assert_eq!(at_day(0), plan(&o, now()), "set back, it is good again");
    let before = plan(&o, at(-41 * DAY));
    assert_eq!(
        (before.row, before.wake),
        ("settle", at(-40 * DAY)),
        "not valid yet by a clock set back"
    );
}

#[test]
fn an_issuer_that_refused_and_is_chosen_again_for_want_of_another_is_not_ordered_from() {
    let mut o = ready().with_fallback(fallback()).backing_off_until(600);
    let failure = o.status.last_failure.as_mut().unwrap();
    failure.fingerprint = Some("of another issuer".into());
    assert_eq!(decide(&o).row, "slot granted");
    o.held = Some(Gate {
        until: at(DAY),
        reason: Reason::BackingOff,
        message: "Issuer/a refused".into(),
    });
    o.passed_over = Some("Issuer/b is not tried: it has refused".into());
    let plan = decide(&o);
    assert_eq!((plan.row, plan.step), ("refused by all", Step::Wait));
    assert!(plan.wake < at(DAY), "another may be ready sooner");
    for words in ["Issuer/a refused. Next attempt at", "Issuer/b is not tried"] {
        assert!(plan.say.message.contains(words), "{}", plan.say.message);
    }
    o.held.as_mut().unwrap().until = now();
    assert_eq!(decide(&o).row, "slot granted");
}

#[test]
fn an_order_is_near_when_only_its_preparations_stand_before_it() {
    let mut unprepared = ready().without_slot();
    unprepared.companion.pending_key = None;
    assert!(is_order_near(&unprepared, now()));
    let all_far: &[fn() -> Observed] = &[
        || ready().with_certificate(good()),
        || ready().gated_until(60),
        || ready().limited_until(60),
        || ready().backing_off_until(60),
        || ready().with_issuer_not_ready(),
        || ready().suspended(),
    ];
    for far in all_far {
        let far = far();
        assert!(!is_order_near(&far, now()));
    }
}

#[test]
fn an_order_waits_for_the_forwarder_and_for_the_rights_to_make_one() {
    let mut o = ready();
    o.forwarder = ForwarderState::NotAllowed("no rights: set it".to_owned());
    let plan = decide(&o);
    assert_eq!(
        (plan.step, plan.say.reason, plan.say.state),
        (Step::Wait, Reason::PlacementNotAllowed, State::Blocked)
    );
    assert!(
        plan.say
            .message
            .starts_with("no rights: set it. No order is placed before.")
    );
    o.forwarder = ForwarderState::Needed(SolverState::Absent);
    assert_eq!(decide(&o).step, Step::StartForwarder);
    o.forwarder = ForwarderState::Needed(SolverState::Starting {
        since: at(-3600),
        what: "exceeded quota".to_owned(),
    });
    let late = decide(&o);
    assert_eq!(
        (late.step, late.say.reason, late.say.state),
        (
            Step::StartForwarder,
            Reason::ForwarderNotReady,
            State::Blocked
        )
    );
    assert!(
        late.say.message.contains("exceeded quota"),
        "{}",
        late.say.message
    );
    o.forwarder = ForwarderState::Needed(SolverState::Ready);
    let step = decide(&o).step;
    assert!(
        !matches!(step, Step::StartForwarder | Step::Wait),
        "{step:?}"
    );
}
