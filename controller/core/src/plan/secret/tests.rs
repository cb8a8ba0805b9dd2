use evercert_api::Reason;
use evercert_api::certificate::KeyAlgorithm;
use evercert_api::condition;
use jiff::Timestamp;

use crate::facts::Damage;
use crate::observe::{Observed, Presented, SolverState};
use crate::order::OrderState;
use crate::plan::fixtures::{
    DAY, at, certificate, due, expired, fallback, foreign, good, now, observed, order,
};
use crate::plan::{State, Step, plan};
use crate::report::build_status;

fn row(o: &Observed) -> &'static str {
    plan(o, now()).row
}

#[test]
fn missing_or_damaged_secret_is_restored_from_the_companion() {
    let states: &[fn() -> Observed] = &[
        || observed(),
        || observed().with_damage(Damage::MissingData),
        || observed().with_damage(Damage::InvalidCertificate),
        || observed().with_damage(Damage::InvalidKeyPair),
        || observed().with_certificate(expired()),
        || observed().with_fallback(fallback()),
    ];
    for o in states {
        let o = o();
        let plan = plan(&o.with_last_good(good()), now());
        assert_eq!(
            (plan.step, plan.say.reason),
            (Step::Restore, Reason::SecretRestored)
        );
    }
}

#[test]
fn restore_comes_before_everything_that_asks_a_ca() {
    let o = observed()
        .with_last_good(good())
        .without_issuer()
        .gated_until(60)
        .backing_off_until(60);
    assert_eq!(plan(&o, now()).step, Step::Restore);
    assert_eq!(
        plan(
            &observed()
                .with_last_good(good())
                .with_order(order(OrderState::Ready)),
            now()
        )
        .step,
        Step::Restore
    );
}

#[test]
fn companion_of_an_earlier_certificate_is_taken_over_after_a_restore_and_before_anything_else() {
    let strayed = |mut o: Observed| {
        o.companion.strayed = true;
        o
    };
    for o in [
        observed(),
        observed().with_certificate(good()).with_last_good(good()),
        observed().with_order(order(OrderState::Ready)),
        observed().without_issuer(),
    ] {
        assert_eq!(plan(&strayed(o), now()).step, Step::MendCompanion);
    }
    let lost = strayed(observed().with_last_good(good()));
    assert_eq!(plan(&lost, now()).step, Step::Restore);
}

#[test]
fn expired_companion_is_never_restored() {
    assert_ne!(row(&observed().with_last_good(expired())), "restore");
}

#[test]
fn secret_that_lacks_a_name_that_the_companion_has_is_restored() {
    let one = certificate("09", &["a.example"], -DAY, 80 * DAY);
    assert_eq!(
        row(&observed()
            .with_certificate(one.clone())
            .with_last_good(good())),
        "restore"
    );
    assert_ne!(
        row(&observed().with_certificate(good()).with_last_good(one)),
        "restore"
    );
}

#[test]
fn certificate_in_place_that_lacks_nothing_is_never_restored_over() {
    let other = certificate("09", &["a.example", "b.example"], -DAY, 89 * DAY);
    assert_eq!(
        row(&observed().with_certificate(good()).with_last_good(other)),
        "settle"
    );
}

/// The controller stopped between the companion and the TLS Secret, or the TLS Secret could not be written.
#[test]
fn renewed_certificate_that_got_no_further_than_the_companion_is_put_in_place_without_an_order() {
    let newer = certificate("09", &["a.example", "b.example"], -60, 90 * DAY);
    assert_eq!(
        row(&observed()
            .with_certificate(due())
            .with_last_good(newer.clone())),
        "restore"
    );
    let longer = observed()
        .with_names(&["a.example"])
        .with_certificate(due())
        .with_last_good(newer);
    assert_ne!(
        row(&longer),
        "restore",
        "the one at hand is not what the spec asks for either"
    );
}

#[test]
fn fallback_is_written_when_an_attempt_failed_and_nothing_usable_is_there() {
    for o in [
        observed(),
        observed().with_certificate(expired()),
        observed().with_damage(Damage::InvalidKeyPair),
    ] {
        let plan = plan(&o.backing_off_until(60), now());
        assert_eq!(
            plan.step,
            Step::WriteFallback {
                cause: "the CA refused the order".into()
            }
        );
        assert_eq!(plan.say.reason, Reason::FallbackWritten);
    }
}

#[test]
fn fallback_never_replaces_a_usable_certificate() {
    let unwanted = certificate("09", &["other.example"], -80 * DAY, 1);
    for facts in [good(), due(), unwanted] {
        let o = observed()
            .created(-3600)
            .with_certificate(facts)
            .backing_off_until(60)
            .without_issuer();
        assert_ne!(row(&o), "fallback due");
    }
}

/// The CA's clock is right and ours is slow: clients can use what is there.
#[test]
fn certificate_from_ahead_of_a_slow_clock_is_kept() {
    let ahead = certificate("09", &["a.example", "b.example"], 600, 90 * DAY);
    let o = observed()
        .created(-3600)
        .with_certificate(ahead.clone())
        .backing_off_until(60);
    assert_eq!(row(&o), "settle");
    assert_eq!(row(&o.without_issuer()), "settle");
    let o = observed()
        .with_certificate(ahead.clone())
        .with_last_good(good());
    assert_eq!(row(&o), "settle", "the older one is not put back over it");
    assert_eq!(
        row(&observed().with_last_good(ahead)),
        "restore",
        "nor is it ordered again"
    );
}

#[test]
fn fallback_waits_30_s_while_no_attempt_can_begin() {
    let blocked = observed().without_issuer();
    let soon = plan(&blocked.clone().created(-10), now());
    assert_eq!((soon.row, soon.wake), ("issuer", at(20)));
    assert_eq!(row(&blocked.created(-30)), "fallback due");
}

#[test]
fn patience_counts_from_when_ready_turned_false() {
    let blocked = || observed().created(-DAY).without_issuer();
    assert_eq!(plan(&blocked().with_ready(false, -29), now()).wake, at(1));
    assert_eq!(row(&blocked().with_ready(false, -30)), "fallback due");
    let just_lost = plan(&blocked().with_ready(true, -3600), now());
    assert_eq!((just_lost.row, just_lost.wake), ("issuer", at(30)));
}

#[test]
fn fallback_follows_every_block_but_a_place_in_a_lane() {
    let old = || observed().created(-60);
    let starting = SolverState::Starting {
        since: at(-20),
        what: "no endpoints".into(),
    };
    for o in [
        old().without_issuer(),
        old().with_issuer_not_ready(),
        old().refused(),
        old().gated_until(600),
        old().with_pending_key().with_solver(starting.clone()),
    ] {
        assert_eq!(row(&o), "fallback due");
    }
    assert_ne!(
        row(&old().without_slot().with_pending_key()),
        "fallback due"
    );
    assert_ne!(
        row(&old().self_signed().with_solver(starting)),
        "fallback due",
        "a self-signed issuer needs no solver"
    );
}

#[test]
fn order_held_by_something_other_than_the_cas_own_work_gets_a_fallback_too() {
    let old = || {
        observed()
            .created(-60)
            .with_order(order(OrderState::Pending))
    };
    for o in [
        old().without_issuer(),
        old().with_issuer_not_ready(),
        old().gated_until(600),
        old().presented(Presented::Failed("denied by a webhook".into())),
    ] {
        assert_eq!(row(&o), "fallback due");
    }
    assert_ne!(row(&old()), "fallback due");
    let young = plan(
        &observed()
            .with_order(order(OrderState::Pending))
            .gated_until(600),
        now(),
    );
    assert_eq!(
        (young.row, young.wake),
        ("order held by its directory", at(20))
    );
}

#[test]
fn mode_none_writes_no_fallback() {
    assert_eq!(
        row(&observed().without_fallback().backing_off_until(60)),
        "backing off"
    );
}

#[test]
fn fallback_in_place_is_kept_while_it_is_in_step() {
    let o = || observed().backing_off_until(3600);
    assert_eq!(row(&o().with_fallback(fallback())), "backing off");
    let old = certificate("fb", &["a.example", "b.example"], -61 * DAY, 29 * DAY);
    assert_eq!(
        row(&o().with_fallback(old)),
        "fallback due",
        "renewed in time"
    );
    let fewer = certificate("fb", &["a.example"], -300, 90 * DAY);
    assert_eq!(
        row(&o().with_fallback(fewer)),
        "fallback due",
        "for the wanted names"
    );
    let o = o()
        .with_key(KeyAlgorithm::Ecdsa, 384)
        .backing_off_until(3600);
    assert_eq!(
        row(&o.with_fallback(fallback())),
        "fallback due",
        "with the wanted key"
    );
}

#[test]
fn issued_certificate_replaces_a_fallback_at_once() {
    let o = observed()
        .with_fallback(fallback())
        .with_order(order(OrderState::Valid));
    assert_eq!(plan(&o, now()).step, Step::Store);
}

#[test]
fn secret_that_refuses_writes_is_tried_again_after_30_s_and_the_condition_says_so() {
    let lost = plan(
        &observed().with_last_good(good()).unwritable_since(-10),
        now(),
    );
    assert_eq!(
        (lost.step, lost.say.reason, lost.wake),
        (Step::Wait, Reason::SecretNotWritable, at(20))
    );
    assert_eq!(
        row(&observed().with_last_good(good()).unwritable_since(-30)),
        "restore"
    );
    let failed = plan(
        &observed().backing_off_until(3600).unwritable_since(-10),
        now(),
    );
    assert_eq!((failed.step, failed.wake), (Step::Wait, at(20)));
    assert_eq!(
        row(&observed().backing_off_until(3600).unwritable_since(-30)),
        "fallback due"
    );
}

#[test]
fn good_secret_of_somebody_else_is_adopted_before_anything_is_asked_of_a_ca() {
    let o = || observed().with_foreign(foreign(Ok(good())));
    for (o, keep_copy) in [
        (o(), true),
        (o().without_issuer(), true),
        (o().refused(), true),
        (o().with_last_good(due()), true),
        (o().with_last_good(good()), false),
    ] {
        let plan = plan(&o, now());
        assert_eq!(
            (plan.step, plan.say.reason),
            (Step::Adopt { keep_copy }, Reason::SecretAdopted)
        );
    }
    let refused = plan(&o().unwritable_since(-10), now());
    assert_eq!(
        (refused.step, refused.say.reason, refused.wake),
        (Step::Wait, Reason::SecretNotWritable, at(20))
    );
}

#[test]
fn marks_that_somebody_stripped_are_put_back_whatever_is_in_the_secret() {
    for o in [
        observed().with_certificate(good()).with_last_good(good()),
        observed().with_fallback(fallback()).backing_off_until(3600),
        observed()
            .with_fallback(fallback())
            .with_order(order(OrderState::Pending)),
    ] {
        assert_eq!(
            plan(&o.with_marks_out_of_step(), now()).step,
            Step::MendMarks
        );
    }
}

#[test]
fn immutable_secret_stalls_with_the_remedy_when_another_content_is_needed() {
    let needy = [
        observed()
            .with_damage(Damage::InvalidKeyPair)
            .with_last_good(good()),
        observed().with_certificate(due()),
        observed().with_fallback(fallback()),
    ];
    for o in needy {
        let plan = plan(&o.made_immutable(), now());
        assert_eq!(
            (plan.step, plan.say.state, plan.say.reason, plan.wake),
            (Step::Wait, State::Stalled, Reason::SecretImmutable, at(30))
        );
        assert!(
            plan.say.message.contains("delete it"),
            "{}",
            plan.say.message
        );
    }
    let good = observed().with_certificate(good()).with_last_good(good());
    assert_eq!(row(&good.made_immutable()), "settle");
    let valid = observed()
        .with_fallback(fallback())
        .with_order(order(OrderState::Valid));
    assert_eq!(
        plan(&valid.made_immutable(), now()).step,
        Step::Store,
        "it is kept in the companion"
    );
}

#[test]
fn contested_secret_is_left_alone_and_a_person_is_told() {
    for o in [
        observed().with_last_good(good()),
        observed()
            .with_certificate(good())
            .with_last_good(good())
            .with_marks_out_of_step(),
        observed().with_certificate(expired()).backing_off_until(-1),
        observed()
            .with_fallback(fallback())
            .with_marks_out_of_step(),
    ] {
        let o = o.contested_until(600);
        let plan = plan(&o, now());
        assert_eq!(
            (&plan.step, plan.say.reason),
            (&Step::Wait, Reason::SecretContested)
        );
        let status = build_status(&o, &plan, now());
        let stalled = condition::find(&status.conditions, condition::STALLED).unwrap();
        assert_eq!(
            (stalled.status.as_str(), stalled.reason.as_str()),
            ("True", "SecretContested")
        );
    }
}

#[test]
fn steps_without_an_order_do_not_claim_that_one_is_under_way() {
    for o in [
        observed().with_last_good(good()),
        observed().backing_off_until(60),
    ] {
        assert_ne!(plan(&o, now()).say.state, State::Issuing);
    }
}

#[test]
fn forged_instants_do_not_stop_the_controller() {
    let mut o = observed().without_issuer().with_ready(false, 0);
    o.status.conditions[0].last_transition_time.0 = Timestamp::MAX;
    assert_eq!(row(&o), "issuer");
    o.status.conditions.clear();
    o.created_at = Timestamp::MIN;
    assert_eq!(row(&o), "fallback due");
    let _ = (plan(&o, Timestamp::MAX), plan(&o, Timestamp::MIN));
}
