use evercert_api::Reason;
use evercert_api::certificate::{KeyAlgorithm, whole_seconds};
use evercert_api::issuer::SelfCheckMode;

use jiff::SignedDuration;

use super::find_hold;
use crate::fault::{FaultClass, Subproblem};
use crate::observe::{Observed, OrderObservation, Presented, Reach, ReadOrder, Seen};
use crate::order::{OrderState, OrderView, ProofState};
use crate::plan::fixtures::{
    DAY, at, authorization, challenge_url, due, fault, good, now, observed, order, problem,
};
use crate::plan::{Failure, Plan, State, Step, later, plan};
use crate::reach::SelfCheck;

mod reach;

fn decide(o: &Observed) -> Plan {
    plan(o, now())
}

fn failure(o: &Observed) -> Failure {
    let plan = decide(o);
    let Step::Record(failure) = plan.step else {
        panic!("{plan:?} records no failure");
    };
    failure
}

fn pending() -> Observed {
    observed().with_order(order(OrderState::Pending))
}

fn applied() -> Observed {
    pending().presented(Presented::Applied)
}

#[test]
fn order_that_no_longer_fits_is_given_up() {
    let o = || observed().with_order(order(OrderState::Valid));
    let mut lost_key = o();
    lost_key.companion.pending_key = None;
    for (o, words) in [
        (o().with_names(&["a.example"]), "names changed"),
        (
            o().with_issuer("ClusterIssuer/ca", "https://ca.example/directory"),
            "issuer changed",
        ),
        (
            o().with_key(KeyAlgorithm::Rsa, 2048),
            "key is gone or not of the wanted kind",
        ),
        (lost_key, "key is gone"),
        (o().with_certificate(good()), "certificate is in place"),
    ] {
        let plan = decide(&o);
        assert!(matches!(plan.step, Step::Abandon { .. }), "{plan:?}");
        assert_eq!(plan.say.reason, Reason::OrderAbandoned);
        assert!(plan.say.message.contains(words), "{}", plan.say.message);
    }
}

#[test]
fn order_of_another_issuer_is_given_up_before_the_new_one_is_ready() {
    let o = observed()
        .with_order(order(OrderState::Pending))
        .with_issuer("Issuer/new", "x");
    assert!(matches!(
        decide(&o.without_issuer()).step,
        Step::Abandon { .. }
    ));
}

#[test]
fn order_is_given_up_for_a_forbidden_name_only_when_the_ca_would_sign() {
    assert!(matches!(
        decide(&observed().with_order(order(OrderState::Ready)).refused()).step,
        Step::Abandon { .. }
    ));
    assert_eq!(decide(&pending().refused()).step, Step::Present);
    assert_eq!(
        decide(&observed().with_order(order(OrderState::Valid)).refused()).step,
        Step::Store
    );
}

#[test]
fn order_is_read_before_anything_else_is_done_with_it() {
    assert_eq!(decide(&observed().with_unread_order()).step, Step::Refresh);
    let mut o = observed().with_unread_order();
    o.order = OrderObservation::None;
    assert_eq!(decide(&o).step, Step::Refresh);
}

#[test]
fn order_is_held_by_its_directory_and_by_its_issuer_and_stays() {
    let o = || {
        observed()
            .with_certificate(due())
            .with_order(order(OrderState::Valid))
    };
    let gated = decide(&o().gated_until(600));
    assert_eq!(
        (gated.step, gated.say.state, gated.wake),
        (Step::Wait, State::Issuing, at(600))
    );
    assert_eq!(
        decide(&o().gated_until(0)).step,
        Step::Store,
        "a gate opens by itself"
    );
    let waiting = decide(&o().with_issuer_not_ready());
    assert_eq!(
        (waiting.step, waiting.say.reason),
        (Step::Wait, Reason::IssuerNotReady)
    );
    assert_eq!(waiting.say.state, State::Issuing, "an order is under way");
}

#[test]
fn backoff_and_slots_do_not_hold_an_order_under_way() {
    let o = observed()
        .with_certificate(due())
        .with_order(order(OrderState::Ready))
        .backing_off_until(600)
        .without_slot();
    assert_eq!(decide(&o).step, Step::Finalize);
}

#[test]
fn state_of_the_order_says_what_is_next() {
    assert_eq!(
        decide(&observed().with_order(order(OrderState::Ready))).step,
        Step::Finalize
    );
    assert_eq!(
        decide(&observed().with_order(order(OrderState::Valid))).step,
        Step::Store
    );
    assert_eq!(decide(&pending()).step, Step::Present);
    let mut view = order(OrderState::Processing);
    let waiting = decide(&observed().with_order(view.clone()));
    assert_eq!(
        (waiting.step, waiting.say.reason),
        (Step::Wait, Reason::Finalizing)
    );
    view.read_at = at(-10);
    assert_eq!(decide(&observed().with_order(view)).step, Step::Refresh);
}

#[test]
fn view_older_than_what_the_ca_was_told_is_read_again_not_acted_on() {
    for state in [
        OrderState::Pending,
        OrderState::Ready,
        OrderState::Processing,
    ] {
        let told = observed()
            .with_order(order(state))
            .presented(Presented::Applied);
        let late = decide(&told.clone().changed(now()));
        assert_eq!(
            (late.step, late.row),
            (Step::Wait, "changed since it was read"),
            "{state:?}"
        );
        assert!(late.wake > now() && late.wake <= at(1));
        let stale = told.changed(at(-1).checked_add(SignedDuration::from_millis(1)).unwrap());
        assert_eq!(decide(&stale).step, Step::Refresh, "{state:?}");
    }
}

#[test]
fn invalid_order_is_recorded_with_the_cas_own_words_and_the_remedy() {
    let refused = problem(
        "unauthorized",
        "Invalid response from http://b.example: 404",
    );
    let f =
        failure(&observed().with_order(order(OrderState::Invalid).refusing("b.example", &refused)));
    assert_eq!(
        (f.reason, f.fault.class),
        (Reason::ValidationFailed, FaultClass::Validation)
    );
    assert!(
        f.message
            .contains("b.example: Invalid response from http://b.example: 404 (unauthorized)"),
        "{}",
        f.message
    );
    assert!(f.message.contains("Remedy: "), "{}", f.message);
}

#[test]
fn refused_authorization_ends_the_order_before_the_order_says_so() {
    let f =
        failure(&observed().with_order(
            order(OrderState::Pending).refusing("a.example", &problem("dns", "NXDOMAIN")),
        ));
    assert_eq!(f.reason, Reason::ValidationFailed);
}

#[test]
fn invalid_order_is_classed_by_the_worst_of_its_problems() {
    let view = order(OrderState::Invalid)
        .refusing("a.example", &problem("dns", "NXDOMAIN"))
        .refusing("b.example", &problem("rejectedIdentifier", "no"));
    let f = failure(&observed().with_order(view));
    assert_eq!(
        (f.reason, f.fault.class),
        (Reason::Rejected, FaultClass::Permanent)
    );

    let mut view = order(OrderState::Invalid).proved();
    let mut compound = problem("compound", "several");
    compound.subproblems.push(Subproblem {
        identifier: Some("a.example".into()),
        kind: "caa".into(),
        detail: "forbidden".into(),
    });
    view.error = Some(compound);
    assert_eq!(
        failure(&observed().with_order(view)).fault.class,
        FaultClass::Validation
    );
}

#[test]
fn rate_limit_inside_an_order_keeps_its_instant() {
    let mut view = order(OrderState::Invalid).proved();
    view.error = Some(problem(
        "rateLimited",
        "too many, retry after 2027-02-01 10:00:00 UTC: see docs",
    ));
    let f = failure(&observed().with_order(view));
    assert_eq!(f.fault.class, FaultClass::RateLimited);
    assert_eq!(f.fault.retry_after, "2027-02-01T10:00:00Z".parse().ok());
}

#[test]
fn invalid_order_without_a_reason_is_no_outage_of_the_directory() {
    let f = failure(&observed().with_order(order(OrderState::Invalid)));
    assert_eq!(
        (f.reason, f.fault.class),
        (Reason::OrderFailed, FaultClass::Transient)
    );
    let mut view = order(OrderState::Invalid).proved();
    view.error = Some(problem("somethingNew", "words"));
    assert_eq!(
        failure(&observed().with_order(view)).fault.class,
        FaultClass::Transient
    );
}

#[test]
fn order_for_other_names_is_never_used() {
    for state in [OrderState::Pending, OrderState::Ready, OrderState::Valid] {
        let mut view = order(state);
        view.names = vec!["a.example".into(), "evil.example".into()];
        assert_eq!(
            failure(&observed().with_order(view)).reason,
            Reason::BadAnswer
        );
    }
}

#[test]
fn order_whose_time_ran_out_is_recorded() {
    let mut view = order(OrderState::Pending);
    view.expires = Some(now());
    assert_eq!(
        failure(&observed().with_order(view)).reason,
        Reason::OrderExpired
    );
    let mut o = observed().with_order(order(OrderState::Pending));
    o.status.order.as_mut().unwrap().expires = Some(whole_seconds(at(-1)));
    assert_eq!(decide(&o).step, Step::Present, "what the CA says counts");
}

#[test]
fn order_whose_end_the_ca_does_not_say_is_over_after_a_week() {
    let mut view = order(OrderState::Pending);
    view.expires = None;
    let states = [
        observed().with_order(view.clone()),
        observed().with_order(view).gated_until(60),
        observed().with_failed_read(fault(FaultClass::Unavailable), -1, 1),
    ];
    for mut o in states {
        let mut is_over = |seconds| {
            let order = o.status.order.as_mut().unwrap();
            (order.expires, order.created_at) = (None, whole_seconds(at(seconds)));
            matches!(decide(&o).step, Step::Record(f) if f.reason == Reason::OrderExpired)
        };
        assert!(!is_over(1 - 7 * DAY));
        assert!(is_over(-7 * DAY));
    }
}

#[test]
fn finished_order_is_fetched_after_its_time() {
    let mut view = order(OrderState::Valid);
    view.expires = Some(at(-DAY));
    let mut o = observed().with_order(view);
    o.status.order.as_mut().unwrap().expires = Some(whole_seconds(at(-DAY)));
    assert_eq!(decide(&o).step, Step::Store);
    o.order = OrderObservation::Unread;
    assert_eq!(decide(&o).step, Step::Refresh);
}

#[test]
fn order_that_is_gone_is_recorded() {
    let f = failure(&observed().with_failed_read(fault(FaultClass::Gone), -1, 1));
    assert_eq!(
        (f.reason, f.fault.class),
        (Reason::OrderLost, FaultClass::Gone)
    );
}

#[test]
fn failed_read_is_repeated_less_often_each_time_then_counts() {
    let read = |times| observed().with_failed_read(fault(FaultClass::Transient), -1, times);
    assert_eq!(
        [1, 2, 4].map(|n| decide(&read(n)).wake),
        [at(4), at(9), at(19)]
    );
    assert_eq!(failure(&read(5)).reason, Reason::OrderFailed);
    let out = decide(&observed().with_failed_read(fault(FaultClass::Unavailable), -1, 99));
    assert_eq!(
        (out.step, out.wake),
        (Step::Wait, at(29)),
        "an outage is the directory's"
    );
}

#[test]
fn failed_read_obeys_retry_after_but_neither_hurries_nor_waits_for_ever() {
    let mut f = fault(FaultClass::Unavailable);
    f.retry_after = Some(at(600));
    assert_eq!(
        decide(&observed().with_failed_read(f.clone(), -1, 1)).wake,
        at(600)
    );
    f.retry_after = Some(at(-1));
    let eager = decide(&observed().with_failed_read(f.clone(), -1, 1));
    assert_eq!((eager.step, eager.wake), (Step::Wait, at(4)));
    f.retry_after = Some(at(9000 * DAY));
    assert!(decide(&observed().with_failed_read(f, -1, 1)).wake <= at(DAY));
}

#[test]
fn rate_limited_read_is_called_by_its_name() {
    let plan = decide(&observed().with_failed_read(fault(FaultClass::RateLimited), -1, 1));
    assert_eq!(plan.say.reason, Reason::RateLimited);
}

#[test]
fn refused_route_is_tried_again_and_said() {
    let plan = decide(&pending().presented(Presented::Failed("denied".into())));
    assert_eq!((plan.step, plan.wake), (Step::Present, at(5)));
    assert!(plan.say.message.contains("denied"));
}

#[test]
fn accepted_challenges_are_waited_for() {
    let o = applied().accepted(&["a.example", "b.example"]);
    let mut o = o.changed(at(-3));
    if let OrderObservation::Read(read) = &mut o.order {
        read.view.read_at = now();
    }
    let waiting = decide(&o);
    assert_eq!(
        (waiting.step, waiting.say.reason),
        (Step::Wait, Reason::Validating)
    );
    assert_eq!(
        waiting.wake,
        at(1).checked_add(SignedDuration::from_millis(500)).unwrap()
    );
}

#[test]
fn order_taken_up_again_after_a_restart_is_not_polled_ten_times_a_second() {
    for state in [OrderState::Pending, OrderState::Processing] {
        let mut view = order(state);
        view.read_at = now();
        let plan = decide(
            &observed()
                .with_order(view)
                .presented(Presented::Applied)
                .accepted(&["a.example", "b.example"]),
        );
        assert_eq!((plan.step, plan.wake), (Step::Wait, at(5)), "{state:?}");
    }
}

#[test]
fn ca_that_says_when_is_obeyed_but_never_hammered() {
    let told = |seconds| {
        let mut view = order(OrderState::Processing);
        view.read_at = now();
        view.retry_after = Some(at(seconds));
        decide(&observed().with_order(view)).wake
    };
    assert_eq!(told(7), at(7));
    assert_eq!(told(1), at(5), "it has worked on it for a minute");
    assert!(told(0) > now());
    assert!(told(9000 * DAY) <= at(DAY));
}

#[test]
fn name_without_an_http_challenge_is_refused_for_good() {
    let mut view = order(OrderState::Pending);
    view.authorizations[1].challenge = None;
    let f = failure(&observed().with_order(view));
    assert_eq!(
        (f.reason, f.fault.class),
        (Reason::Rejected, FaultClass::Permanent)
    );
    assert!(f.message.contains("b.example"));
}

#[test]
fn proved_names_are_not_asked_for_again() {
    let mut view = order(OrderState::Pending);
    view.authorizations[0] = authorization("a.example", ProofState::Valid);
    let o = observed().with_order(view).presented(Presented::Applied);
    assert_eq!(decide(&o).step, Step::Probe(vec!["b.example".into()]));
}

#[test]
fn certificate_that_cannot_be_kept_yet_stays_at_the_ca() {
    let o = observed().with_order(order(OrderState::Valid));
    let plan = decide(&o.clone().unwritable_since(-10));
    assert_eq!(
        (plan.step, plan.say.reason, plan.wake),
        (Step::Wait, Reason::SecretNotWritable, at(20))
    );
    assert_eq!(decide(&o.unwritable_since(-30)).step, Step::Store);
}

/// Reads an order that the CA works on for `work` seconds as the plans say, over restarts, and tells when it was read.
fn read_until_signed(work: i64, retry_after: Option<i64>, restarts: &[i64]) -> Vec<i64> {
    let expires = at(7 * DAY);
    let seen = |now| OrderView {
        read_at: now,
        retry_after: retry_after.map(|s| later(now, SignedDuration::from_secs(s))),
        expires: Some(expires),
        ..order(if now < at(work) {
            OrderState::Processing
        } else {
            OrderState::Valid
        })
    };
    let finalized = observed().with_order(seen(now())).changed(now());
    // The answer to finalize is the first.
    let (mut o, mut now, mut reads) = (finalized, now(), vec![0]);
    let mut restarts = restarts.iter().map(|s| at(*s)).peekable();
    for _ in 0..10_000 {
        let decided = plan(&o, now);
        if decided.step == Step::Store {
            return reads;
        }
        if decided.step == Step::Wait {
            assert!(decided.wake > now, "{decided:?}");
            now = match restarts.next_if(|at| *at < decided.wake) {
                // What was read is forgotten; what was recorded is not.
                Some(restart) => {
                    o.order = OrderObservation::Unread;
                    o.presented = Presented::No;
                    restart
                }
                None => decided.wake,
            };
            continue;
        }
        assert_eq!(decided.step, Step::Refresh, "{now}");
        reads.push(now.duration_since(at(0)).as_secs());
        o.order = OrderObservation::Read(ReadOrder {
            view: seen(now),
            accepted: Vec::new(),
            changed_at: None,
        });
    }
    panic!("the certificate was never downloaded: {reads:?}");
}

#[test]
fn story_5_an_order_of_seventy_minutes_is_read_as_the_ca_says_over_two_restarts_and_downloaded_at_the_end()
 {
    let work = 70 * 60;
    let restarts = [20 * 60 + 7, 45 * 60 + 11];
    for pause in [10, 60, 1_000, 3_600] {
        let reads = read_until_signed(work, Some(pause), &restarts);
        let early = reads.windows(2).filter(|two| two[1] - two[0] < pause);
        let early: Vec<_> = early.map(|two| two[1]).collect();
        assert_eq!(
            early, restarts,
            "one that has started again looks once: {reads:?}"
        );
        let last = *reads.last().unwrap();
        assert!((work..work + pause).contains(&last), "{reads:?}");
    }
    let reads = read_until_signed(work, None, &restarts);
    let restless = reads
        .windows(2)
        .filter(|two| two[0] > 10 && two[1] - two[0] < 5)
        .map(|two| two[1]);
    assert!(
        restless.eq(restarts),
        "every 5 s at most where the CA does not say: {reads:?}"
    );
    assert!(
        (work..work + 5).contains(reads.last().unwrap()),
        "{reads:?}"
    );
}
