//! What holds for every observation, however unlikely or forged.

pub(in crate::plan) mod any;

use evercert_api::condition;
use jiff::Timestamp;
use proptest::prelude::*;

use super::fixtures::now;
use super::model::{World, says_issued};
use super::{RESYNC, Step, later, plan};
use crate::adopt::find_obstacle;
use crate::cases::config;
use crate::facts::KeyKind;
use crate::need::find_need;
use crate::observe::{
    ForwarderState, IssuerObservation, Observed, SELF_SIGNED, SecretObservation, SolverState,
};
use crate::report::{Change, apply_change, build_status, plan_write};

use any::{any_observed, instant, willing_start};

proptest! {
    #![proptest_config(config())]

    /// Total, the same answer for the same question, and never a busy loop.
    #[test]
    fn every_observation_has_one_plan_with_a_wake_up_ahead(o in any_observed(), t in instant()) {
        for now in [now(), t] {
            let first = plan(&o, now);
            prop_assert_eq!(&first, &plan(&o.clone(), now));
            prop_assert!(first.wake >= now);
            prop_assert!(first.wake <= later(now, RESYNC));
            let dawdles = first.step == Step::Wait && now < Timestamp::MAX;
            prop_assert!(!dawdles || first.wake > now, "a busy loop: {:?}", first);
            prop_assert!(!first.say.message.is_empty());
        }
    }

    #[test]
    fn no_order_is_placed_while_anything_forbids_it(o in any_observed()) {
        if plan(&o, now()).step == Step::PlaceOrder {
            prop_assert!(o.gate.as_ref().is_none_or(|g| g.until <= now()));
            prop_assert!(o.unroutable.is_none());
            prop_assert!(o.limit.as_ref().is_none_or(|l| l.until <= now()));
            prop_assert!(o.refusal.is_none() && o.secret_owner.is_none() && !o.deleted);
            let ca = matches!(&o.issuer, IssuerObservation::Ready(i) if i.directory != SELF_SIGNED);
            prop_assert!(o.tried, "nobody knows whether the certificate can be stored");
            prop_assert!(ca && o.slot && o.solver == SolverState::Ready);
            prop_assert!(matches!(
                o.forwarder,
                ForwarderState::Unneeded | ForwarderState::Needed(SolverState::Ready)
            ));
            let ours = matches!(o.secret, SecretObservation::Missing | SecretObservation::Ours(_));
            prop_assert!(ours && find_need(&o, now()).is_some());
            prop_assert!(o.status.order.is_none(), "one order at a time");
            let same = o.status.last_failure.as_ref()
                .is_some_and(|f| f.fingerprint.as_ref().is_none_or(|f| *f == o.fingerprint()));
            let later = o.status.next_attempt_time.as_ref().is_some_and(|t| t.0 > now());
            let asked = o.status.last_failure.as_ref()
                .is_some_and(|f| o.requested_after(f.time.0).is_some_and(|at| at <= now()));
            prop_assert!(asked || !(same && later), "backing off, and nothing changed");
            prop_assert!(!o.spec.suspend);
            prop_assert!(o.companion.pending_key == Some(KeyKind::wanted(&o.spec.key())));
            prop_assert!(o.unwritable.as_ref().is_none_or(|g| g.until <= now()));
            prop_assert!(!matches!(&o.secret, SecretObservation::Ours(s) if s.immutable));
        }
    }

    #[test]
    fn a_usable_certificate_is_never_given_up(o in any_observed()) {
        let step = plan(&o, now()).step;
        if matches!(step, Step::WriteFallback { .. }) {
            prop_assert!(!o.is_served_well(now()));
        }
        if step == Step::Restore {
            let (good, _) = o.companion.last_good.as_ref().unwrap();
            prop_assert!(now() < good.not_after);
            if let Some(in_place) = o.issued().filter(|c| c.is_valid_at(now())) {
                prop_assert!(find_need(&o, now()).is_some(), "what is in place lacks nothing");
                prop_assert!(good.is_valid_at(now()));
                for name in o.wanted_names().iter().filter(|n| in_place.covers([n.as_str()])) {
                    prop_assert!(good.covers([name.as_str()]), "{} was served", name);
                }
            }
        }
        let writes = matches!(step, Step::WriteFallback { .. } | Step::Restore | Step::Store | Step::SelfSign | Step::MendMarks);
        let foreign = matches!(o.secret, SecretObservation::Foreign(_) | SecretObservation::WrongType(_));
        prop_assert!(!(writes && foreign));
        if matches!(step, Step::Adopt { .. }) {
            let SecretObservation::Foreign(secret) = &o.secret else {
                return Err(TestCaseError::fail("it is not somebody else's"));
            };
            prop_assert_eq!(find_obstacle(&o, secret, now()), None);
            prop_assert!(secret.content.as_ref().is_ok_and(|c| c.is_valid_at(now())));
        }
    }

    #[test]
    fn with_a_willing_ca_every_start_reaches_ready_in_20_steps(o in willing_start()) {
        let mut world = World::new(o, now());
        let mut last = Step::Wait;
        while !says_issued(&world.observed) && world.rows.len() < 20 {
            last = world.pass().step;
        }
        prop_assert!(world.is_ready() && says_issued(&world.observed), "{:#?}", world.rows);
        prop_assert!(world.orders <= 1, "{:#?}", world.rows);
        // What was restored may be due for renewal at once, or be revoked; in the end nothing is left to do.
        let rests = |o: &Observed| {
            let clear = o.companion.pending_key.is_none() && o.status.last_failure.is_none();
            clear && o.status.order.is_none() && says_issued(o)
        };
        while last != Step::Wait || !rests(&world.observed) {
            last = world.pass().step;
            prop_assert!(world.rows.len() < 60, "{:#?}", world.rows);
        }
    }

    /// What was reported is reported the same again: one write, then silence.
    #[test]
    fn the_same_observation_has_the_same_report(o in any_observed()) {
        let decided = plan(&o, now());
        let status = build_status(&o, &decided, now());
        prop_assert_eq!(&status, &build_status(&o, &decided, now()));
        let good = o.issued().is_some_and(|c| c.is_valid_at(now()))
            && find_need(&o, now()).is_none_or(|n| n.still_good);
        prop_assert_eq!(condition::is_true(&status.conditions, condition::READY), good);
        let mut written = o.clone();
        written.status = status.clone();
        let again = build_status(&written, &decided, later(now(), jiff::SignedDuration::from_mins(5)));
        prop_assume!(good == o.is_served_well(later(now(), jiff::SignedDuration::from_mins(5))));
        if o.status.last_failure == status.last_failure {
            prop_assert_eq!(plan_write(&status, &build_status(&written, &decided, now()), None, now()), Ok(false));
        }
        prop_assert_eq!(again.failed_attempts, status.failed_attempts);
        if let Step::Record(failure) = decided.step {
            let mut once = status.clone();
            apply_change(&o, &mut once, &Change::Failed(failure.clone()), now());
            let mut twice = once.clone();
            apply_change(&o, &mut twice, &Change::Failed(failure), now());
            prop_assert_eq!(once, twice);
        }
    }
}
