//! The outcome of a step, merged onto a status that others have written meanwhile.

use super::*;

#[test]
fn merging_a_change_twice_is_merging_it_once() {
    let o = observed().backing_off_until(-1);
    for change in [
        Change::None,
        Change::Placed(order_status()),
        Change::Cleared(Ending::abandoned("the names changed")),
        Change::Failed(failure(FaultClass::Permanent)),
    ] {
        let mut once = o.status.clone();
        apply_change(&o, &mut once, &change, now());
        let mut twice = once.clone();
        apply_change(&o, &mut twice, &change, now());
        assert_eq!(once, twice);
    }
}

#[test]
fn a_failure_that_is_recorded_after_an_edit_does_not_hold_the_edit_back() {
    let then = observed();
    let mut edited = then.clone().with_names(&["b.example"]);
    let mut status = edited.status.clone();
    let failed = Change::Failed(failure(FaultClass::Permanent));
    apply_earlier_change(&edited, &mut status, &failed, &Basis::of(&then), now());
    edited.status = status.clone();
    assert!(edited.is_changed_since_failure());
    let same = Observed { status, ..then };
    assert!(!same.is_changed_since_failure());
}

#[test]
fn an_order_that_another_leader_has_begun_stays_when_the_end_of_the_one_before_is_recorded() {
    let then = observed().with_order(order(OrderState::Pending));
    let mut now_there = then.clone();
    let begun = now_there.status.order.as_mut().unwrap();
    begun.url = "https://ca.test/order/2".into();
    for change in [
        Change::Cleared(Ending::abandoned("the names changed")),
        Change::Failed(failure(FaultClass::Validation)),
    ] {
        let mut status = now_there.status.clone();
        apply_earlier_change(&now_there, &mut status, &change, &Basis::of(&then), now());
        assert_eq!(status.order, now_there.status.order);
        assert_eq!(status.history.len(), 1, "{change:?} is told");
        let mut status = then.status.clone();
        apply_earlier_change(&then, &mut status, &change, &Basis::of(&then), now());
        assert_eq!(status.order, None);
    }
}

#[test]
fn a_refusal_that_is_recorded_late_is_that_of_the_issuer_that_was_asked() {
    let other = |name: &str| IssuerRef {
        name: name.into(),
        kind: IssuerKind::Issuer,
    };
    let mut first = observed();
    first.spec.alternate_issuer_refs = vec![other("b")];
    let mut second = first.clone();
    second.chosen = Some(other("b"));
    assert_ne!(first.issuer_id(), second.issuer_id());
    let mut failed = failure(FaultClass::Permanent);
    failed.reason = Reason::Rejected;
    failed.fault.problem = None;
    let failed = Change::Failed(failed);
    let mut status = first.status.clone();
    apply_change(&first, &mut status, &failed, at(-60));
    let back = Observed { status, ..first };
    let mut status = back.status.clone();
    apply_earlier_change(&back, &mut status, &failed, &Basis::of(&second), now());
    let by: Vec<&str> = status.refusals.iter().map(|r| r.issuer.as_str()).collect();
    assert_eq!(by, [back.issuer_id(), second.issuer_id()]);
}
