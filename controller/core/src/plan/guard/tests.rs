use evercert_api::Reason;

use crate::observe::SecretObservation;
use crate::order::OrderState;
use crate::plan::fixtures::{at, expired, foreign, good, now, observed, order};
use crate::plan::{State, Step, plan};

#[test]
fn deleted_certificate_is_forgotten_whatever_else_holds() {
    let mut o = observed().with_order(order(OrderState::Ready)).refused();
    o.deleted = true;
    assert_eq!(plan(&o, now()).step, Step::Forget);
}

#[test]
fn spec_that_no_ca_can_fulfil_stalls_and_names_the_remedy() {
    for (names, words) in [
        (&["*.example.com"][..], "list the host names themselves"),
        (&["a.example", "A.example"], "write it in lower case"),
        (&[], "list at least one host name"),
    ] {
        let plan = plan(&observed().with_names(names), now());
        assert_eq!(
            (plan.row, plan.say.state, plan.say.reason),
            ("spec invalid", State::Stalled, Reason::InvalidSpec)
        );
        assert!(plan.say.message.contains(words), "{}", plan.say.message);
        assert_eq!(
            plan.say.message.matches("spec.dnsNames").count(),
            1,
            "{}",
            plan.say.message
        );
    }
}

#[test]
fn address_that_no_ca_can_fulfil_stalls_and_names_the_field_and_the_remedy() {
    for (names, addresses, words) in [
        (
            &["a.example"][..],
            &["a.example"][..],
            "spec.ipAddresses: \"a.example\" is not an IP address",
        ),
        (
            &[],
            &["198.18.0.1", "2001:DB8::1"],
            "spec.ipAddresses: \"2001:DB8::1\" is not in its canonical form: write 2001:db8::1",
        ),
        (
            &["198.18.0.1"],
            &["198.18.0.1"],
            "spec.dnsNames: \"198.18.0.1\" is an IP address",
        ),
        (&[], &[], "or an address in ipAddresses"),
    ] {
        let mut o = observed().with_names(names);
        o.spec.ip_addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
        let plan = plan(&o, now());
        assert_eq!((plan.row, plan.say.state), ("spec invalid", State::Stalled));
        assert!(plan.say.message.contains(words), "{}", plan.say.message);
    }
    let mut alone = observed().with_names(&[]);
    alone.spec.ip_addresses = vec!["198.18.0.1".into(), "2001:db8::1".into()];
    assert_ne!(plan(&alone, now()).row, "spec invalid");
}

#[test]
fn secret_of_another_certificate_stalls_and_is_looked_at_again() {
    let mut o = observed();
    o.secret_owner = Some("shop".into());
    let plan = plan(&o, now());
    assert_eq!(
        (plan.step, plan.say.state, plan.say.reason),
        (Step::Wait, State::Stalled, Reason::SecretNameConflict)
    );
    assert_eq!(plan.wake, at(30));
    assert!(plan.say.message.contains("Certificate shop"));
}

#[test]
fn secret_of_somebody_else_is_not_touched_even_with_a_good_certificate_at_hand() {
    for (secret, reason) in [
        (
            SecretObservation::Foreign(foreign(Ok(expired()))),
            Reason::SecretNotOurs,
        ),
        (
            SecretObservation::WrongType("Opaque".into()),
            Reason::SecretWrongType,
        ),
    ] {
        let mut o = observed()
            .created(-3600)
            .with_last_good(good())
            .backing_off_until(-1);
        o.secret = secret;
        let plan = plan(&o, now());
        assert_eq!(
            (plan.step, plan.say.state, plan.say.reason),
            (Step::Wait, State::Stalled, reason)
        );
        assert_eq!(plan.wake, at(30));
    }
}

#[test]
fn order_of_a_certificate_that_cannot_have_its_secret_is_given_up() {
    let foreign = observed()
        .with_order(order(OrderState::Pending))
        .with_foreign(foreign(Ok(expired())));
    let mut rival = observed().with_order(order(OrderState::Pending));
    rival.secret_owner = Some("other".into());
    for o in [foreign, rival] {
        let plan = plan(&o, now());
        assert_eq!(plan.row, "give up");
        assert!(matches!(plan.step, Step::Abandon { .. }));
    }
}
