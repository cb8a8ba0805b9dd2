//! An order that DNS holds back.

use super::*;

/// DNS does not know the first name.
fn without_name() -> Observed {
    let mut o = ready();
    o.dns = Preflight::Seen(vec![Trouble {
        name: "a.example".into(),
        what: Wrong::NoName(None),
    }]);
    o
}

#[test]
fn dns_that_is_not_ready_holds_the_order_back_for_ten_minutes_and_charges_nothing() {
    let mut o = without_name();
    let first = decide(&o);
    assert_eq!(
        (
            first.row,
            first.step.clone(),
            first.say.reason,
            first.say.state
        ),
        ("dns", Step::Wait, Reason::DNSNotReady, State::Blocked)
    );
    for words in ["a.example (NXDOMAIN)", "every 30 s", "all the same"] {
        assert!(first.say.message.contains(words), "{}", first.say.message);
    }
    assert!(first.wake <= at(30));
    o.status = build_status(&o, &first, now());
    assert_eq!(o.status.held_since, Some(whole_seconds(now())));
    assert_eq!(o.status.failed_attempts, None);
    o = o.without_fallback();
    let (held, over) = (plan(&o, at(599)), plan(&o, at(600)));
    assert_eq!((held.row, held.wake), ("dns", at(600)));
    assert_eq!(over.step, Step::PlaceOrder);
    // It holds nothing back a second time, until it was ready.
    o.status = build_status(&o, &over, at(600));
    assert_eq!(plan(&o, at(9000)).step, Step::PlaceOrder);
    o.dns = Preflight::Seen(Vec::new());
    o.status = build_status(&o, &plan(&o, at(9000)), at(9000));
    assert_eq!(o.status.held_since, None);
}

#[test]
fn other_names_are_held_back_for_a_time_of_their_own() {
    let mut o = without_name().without_fallback();
    o.status = build_status(&o, &plan(&o, now()), now());
    assert_eq!(plan(&o, at(600)).step, Step::PlaceOrder);
    o.status = build_status(&o, &plan(&o, at(600)), at(600));
    let renamed = {
        let mut o = o.clone();
        o.spec.dns_names = vec!["c.example".into()];
        o.dns = Preflight::Seen(vec![Trouble {
            name: "c.example".into(),
            what: Wrong::NoName(None),
        }]);
        o
    };
    let held = plan(&renamed, at(700));
    assert_eq!(held.row, "dns");
    let status = build_status(&renamed, &held, at(700));
    assert_eq!(status.held_since, Some(whole_seconds(at(700))));
    let later = Observed { status, ..renamed };
    assert_eq!(plan(&later, at(1299)).row, "dns");
    assert_eq!(plan(&later, at(1300)).step, Step::PlaceOrder);
    // Their order is no other set.
    o.spec.dns_names.reverse();
    assert_eq!(plan(&o, at(700)).step, Step::PlaceOrder);
}

#[test]
fn an_order_waits_some_seconds_for_a_look_at_dns_and_no_longer() {
    let mut o = ready();
    o.dns = Preflight::Looking { since: now() };
    let looking = decide(&o);
    assert_eq!(
        (looking.row, looking.say.state, looking.wake),
        ("dns look", State::Issuing, at(4))
    );
    assert_eq!(plan(&o, at(4)).step, Step::PlaceOrder);
    // Meanwhile the rest is made ready.
    o.companion.pending_key = None;
    assert_eq!(decide(&o).step, Step::PrepareKey);
    for dns in [Preflight::Unasked, Preflight::Seen(Vec::new())] {
        assert_eq!(decide(&Observed { dns, ..ready() }).step, Step::PlaceOrder);
    }
}

#[test]
fn a_fallback_does_not_wait_for_dns() {
    let o = without_name().created(-60);
    assert!(matches!(decide(&o).step, Step::WriteFallback { .. }));
}
