//! What the self-check finds, and the order whose challenges are presented.

use super::*;

fn seen(since: i64, looked: i64) -> Seen {
    Seen {
        since: at(since),
        at: at(looked),
        what: "404 from the entry point".into(),
    }
}

fn wrong(since: i64, looked: i64) -> Reach {
    Reach::Wrong(seen(since, looked))
}

fn checking(mode: SelfCheckMode, budget: i64) -> SelfCheck {
    SelfCheck {
        mode,
        budget: SignedDuration::from_secs(budget),
    }
}

#[test]
fn challenges_are_presented_then_probed_then_accepted() {
    assert_eq!(decide(&pending()).step, Step::Present);
    let again = decide(&pending().presented(Presented::Pending));
    assert_eq!((again.step, again.wake), (Step::Present, at(5)));
    assert_eq!(
        decide(&applied()).step,
        Step::Probe(vec!["a.example".into(), "b.example".into()])
    );
    let half = applied().reaching("a.example", Reach::Reachable);
    assert_eq!(
        decide(&half).step,
        Step::Accept(vec![challenge_url("a.example")])
    );
    assert_eq!(
        decide(&half.accepted(&["a.example"])).step,
        Step::Probe(vec!["b.example".into()])
    );
}

#[test]
fn name_that_cannot_be_looked_at_from_here_waits_3_s_for_an_entry_point_that_begins_to_listen() {
    let o = |since| {
        let hairpin = Reach::Unreachable(seen(since, 0));
        applied()
            .reaching("a.example", hairpin)
            .reaching("b.example", Reach::Reachable)
    };
    let both = vec![challenge_url("a.example"), challenge_url("b.example")];
    assert_eq!(decide(&o(-3)).step, Step::Accept(both));
    let first = vec![challenge_url("b.example")];
    assert_eq!(decide(&o(-2)).step, Step::Accept(first));
    let held = decide(&o(-2).accepted(&["b.example"]));
    assert_eq!((held.step, held.wake), (Step::Wait, at(1)));
}

#[test]
fn wrong_answer_holds_the_order_for_30_s_at_most() {
    let o = |since, looked| {
        applied()
            .accepted(&["b.example"])
            .reaching("a.example", wrong(since, looked))
    };
    let held = decide(&o(-4, 0));
    assert_eq!((held.step, held.wake), (Step::Wait, at(2)));
    assert!(
        held.say
            .message
            .contains("a.example: 404 from the entry point"),
        "{}",
        held.say.message
    );
    assert_eq!(
        decide(&o(-4, -2)).step,
        Step::Probe(vec!["a.example".into()])
    );
    assert_eq!(
        decide(&o(-28, 0)).wake,
        at(2),
        "not a look later than the 30 s"
    );
    assert_eq!(
        decide(&o(-30, 0)).step,
        Step::Accept(vec![challenge_url("a.example")])
    );
}

#[test]
fn a_public_name_that_cannot_be_seen_from_here_holds_nothing_back_and_is_told_while_the_ca_looks() {
    let o = applied()
        .reaching("a.example", Reach::Unverified(seen(0, 0)))
        .reaching("b.example", Reach::Reachable);
    let both = vec![challenge_url("a.example"), challenge_url("b.example")];
    assert_eq!(decide(&o).step, Step::Accept(both));
    let mut o = o.accepted(&["a.example", "b.example"]).changed(at(-3));
    if let OrderObservation::Read(read) = &mut o.order {
        read.view.read_at = now();
    }
    let told = decide(&o);
    assert!(
        told.say.message.contains("validating")
            && told
                .say
                .message
                .contains("a.example: 404 from the entry point"),
        "{}",
        told.say.message
    );
}

#[test]
fn the_budget_of_the_issuer_is_how_long_a_wrong_answer_holds() {
    let o = |since| {
        let mut o = applied()
            .accepted(&["b.example"])
            .reaching("a.example", wrong(since, 0));
        o.self_check = checking(SelfCheckMode::Advisory, 7);
        o
    };
    let held = decide(&o(-6));
    assert_eq!((held.step, held.wake), (Step::Wait, at(1)));
    assert!(
        held.say
            .message
            .contains(&format!("the CA is asked at {} in any case", at(1))),
        "{}",
        held.say.message
    );
    assert_eq!(
        decide(&o(-7)).step,
        Step::Accept(vec![challenge_url("a.example")])
    );
}

#[test]
fn where_the_self_check_is_required_anything_but_good_holds_the_order_until_it_expires() {
    for reach in [
        wrong(-3600, 0),
        Reach::Unreachable(seen(-3600, 0)),
        Reach::Unverified(seen(-3600, 0)),
    ] {
        let mut o = applied()
            .accepted(&["b.example"])
            .reaching("a.example", reach);
        o.self_check = checking(SelfCheckMode::Required, 30);
        let held = decide(&o);
        assert_eq!((held.step, held.wake), (Step::Wait, at(30)));
        assert!(
            held.say.message.contains("selfCheck.mode is Required"),
            "{}",
            held.say.message
        );
        assert!(find_hold(&o, now()).is_some(), "no fallback would stand in");
        if let OrderObservation::Read(read) = &mut o.order {
            read.view.expires = Some(at(0));
        }
        assert_eq!(failure(&o).reason, Reason::OrderExpired);
    }
    let mut good = applied()
        .accepted(&["b.example"])
        .reaching("a.example", Reach::Reachable);
    good.self_check = checking(SelfCheckMode::Required, 30);
    assert!(matches!(decide(&good).step, Step::Accept(_)));
}

#[test]
fn without_a_self_check_the_ca_is_told_as_soon_as_the_route_is_applied() {
    let mut o = applied();
    o.self_check = checking(SelfCheckMode::Off, 30);
    let both = vec![challenge_url("a.example"), challenge_url("b.example")];
    assert_eq!(decide(&o).step, Step::Accept(both));
}

#[test]
fn a_refusal_tells_what_the_self_check_saw_before_or_that_the_way_was_good_from_here() {
    let refused = || {
        let view = order(OrderState::Invalid).refusing("a.example", &problem("connection", "no"));
        observed().with_order(view)
    };
    let saw = failure(&refused().reaching("a.example", wrong(-30, 0))).message;
    assert!(
        saw.ends_with("The self-check saw before: a.example: 404 from the entry point"),
        "{saw}"
    );
    let good = failure(&refused().reaching("a.example", Reach::Reachable)).message;
    assert!(good.contains("look at what differs outside"), "{good}");
    let unseen = failure(&refused()).message;
    assert!(!unseen.contains("look at what differs"), "{unseen}");
}
