//! Never without a certificate: no path leads from a usable certificate to a fallback. What is in the Secret × how it stands
//! with the issuance × what the spec says, with disturbances in between; and the cells of the acceptance story by name.

use evercert_api::Reason;
use evercert_api::certificate::{FailureStatus, FallbackMode, FallbackTrigger, whole_seconds};
use evercert_api::condition::{self, FALLBACK_IN_USE, READY};
use jiff::{SignedDuration, Timestamp};
use proptest::option::of as some;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};

use super::fixtures::{
    DAY, at, certificate, due, expired, fallback, foreign, good, now, observed, order, tls,
};
use super::model::{Decide, World};
use super::properties::any::{facts, instant, secret};
use super::{Plan, Step, later, plan};
use crate::adopt::find_obstacle;
use crate::cases::config;
use crate::circuit::build_refused;
use crate::facts::{CertificateFacts, Damage};
use crate::observe::{Gate, Observed, OwnFallback, SecretObservation, TlsSecret};
use crate::order::OrderState;
use crate::report::build_status;

/// Passes of each.
const PASSES: usize = 6;

/// What happens between two passes.
#[derive(Debug, Clone)]
enum Disturbance {
    Nothing,
    Time(i64),
    AttemptFails,
    IssuerGoes,
    CaGoes,
    Refused,
    Written(SecretObservation),
    Own(OwnFallback),
    CompanionGoes,
}

fn own() -> BoxedStrategy<OwnFallback> {
    prop_oneof![
        1 => Just(OwnFallback::Missing),
        1 => Just(OwnFallback::Damaged(Damage::InvalidKeyPair)),
        4 => facts().prop_map(OwnFallback::There),
        2 => Just(OwnFallback::There(own_good())),
    ]
    .boxed()
}

/// A wildcard of the user's own.
fn own_good() -> CertificateFacts {
    certificate("aa", &["*.example"], -DAY, 300 * DAY)
}

fn disturbance() -> BoxedStrategy<Disturbance> {
    prop_oneof![
        4 => Just(Disturbance::Nothing),
        2 => (0..200 * DAY).prop_map(Disturbance::Time),
        2 => (0_i64..60).prop_map(Disturbance::Time),
        2 => Just(Disturbance::AttemptFails),
        1 => Just(Disturbance::IssuerGoes),
        1 => Just(Disturbance::CaGoes),
        1 => Just(Disturbance::Refused),
        2 => secret().prop_map(Disturbance::Written),
        1 => own().prop_map(Disturbance::Own),
        1 => Just(Disturbance::CompanionGoes),
    ]
    .boxed()
}

/// How it stands with the issuance.
fn issuance(o: Observed) -> BoxedStrategy<Observed> {
    let states = vec![
        o.clone(),
        o.clone().with_pending_key(),
        o.clone().with_order(order(OrderState::Pending)),
        o.clone().with_order(order(OrderState::Valid)),
        o.clone().with_order(order(OrderState::Invalid)),
        o.clone().backing_off_until(3600),
        o.clone().backing_off_until(-1),
        o.clone().without_issuer(),
        o.clone().with_issuer_not_ready(),
        o.clone().gated_until(3600),
        o.clone().limited_until(3600),
        o.clone().refused(),
        o.self_signed(),
    ];
    select(states).boxed()
}

fn start() -> BoxedStrategy<Observed> {
    let modes = select(vec![
        FallbackMode::SelfSigned,
        FallbackMode::Secret,
        FallbackMode::None,
    ]);
    let triggers = select(vec![
        FallbackTrigger::OnFailure,
        FallbackTrigger::Immediately,
    ]);
    let in_place = prop_oneof![
        2 => secret(),
        2 => select(vec![good(), due(), expired(), own_good()])
            .prop_map(|c| SecretObservation::Ours(tls(Ok(c)))),
    ];
    let around = (in_place, some(facts()), own(), modes, triggers, instant());
    (around, issuance(observed()))
        .prop_map(|((secret, kept, own, mode, trigger, created), mut o)| {
            o = o.with_own_fallback(own).with_trigger(trigger);
            o.spec.fallback.get_or_insert_default().mode = mode;
            o.secret = secret;
            o.companion.last_good = kept.map(|facts| (facts, super::fixtures::marks()));
            o.created_at = created;
            o
        })
        .boxed()
}

fn disturb(world: &mut World, what: &Disturbance) {
    let now = world.now;
    let o = &mut world.observed;
    match what {
        Disturbance::Nothing => {}
        Disturbance::Time(seconds) => world.now = later(now, SignedDuration::from_secs(*seconds)),
        Disturbance::AttemptFails => {
            o.status.failed_attempts = Some(o.status.failed_attempts.unwrap_or(0) + 1);
            o.status.last_failure = Some(FailureStatus {
                time: whole_seconds(now),
                reason: Reason::OrderFailed.as_str().into(),
                message: "it failed".into(),
                fingerprint: None,
                ingresses: None,
                permanent: false,
            });
        }
        Disturbance::IssuerGoes => o.issuer = crate::observe::IssuerObservation::Missing,
        Disturbance::CaGoes => {
            o.gate = Some(Gate {
                until: later(now, SignedDuration::from_hours(1)),
                reason: Reason::CAUnavailable,
                message: "the CA does not answer".into(),
            });
        }
        Disturbance::Refused => o.unwritable = Some(build_refused("site-tls", now, "denied")),
        Disturbance::Written(secret) => o.secret = secret.clone(),
        Disturbance::Own(own) => o.own_fallback = own.clone(),
        Disturbance::CompanionGoes => o.companion = crate::observe::Companion::default(),
    }
}

/// The leaf that clients are served well by: usable, and no stop-gap of ours. A Secret of somebody else counts, too.
fn usable(o: &Observed, now: Timestamp) -> Option<CertificateFacts> {
    let (content, fallback) = match &o.secret {
        SecretObservation::Ours(secret) => (secret.content.as_ref(), secret.fallback),
        SecretObservation::Foreign(secret) => (secret.content.as_ref(), secret.fallback),
        SecretObservation::Missing | SecretObservation::WrongType(_) => return None,
    };
    content
        .ok()
        .filter(|c| !fallback && c.is_valid_at(now))
        .cloned()
}

fn holds_fallback(o: &Observed) -> bool {
    matches!(
        &o.secret,
        SecretObservation::Ours(TlsSecret { fallback: true, .. })
    )
}

/// No path leads from a usable certificate to a fallback, where `decide` decides; and a restore comes first, and a good
/// certificate of the user's own is not given up for a self-signed one.
fn holds(decide: Decide, o: Observed, disturbances: &[Disturbance]) -> Result<(), TestCaseError> {
    let mut world = World::deciding(decide, o, now());
    for what in disturbances {
        disturb(&mut world, what);
        let before = world.observed.clone();
        let at = world.now;
        let decided = decide(&before, at);
        let is_fallback = matches!(decided.step, Step::WriteFallback { .. });
        let writes = is_fallback || decided.step == Step::Restore;
        let theirs = matches!(
            before.secret,
            SecretObservation::Foreign(_) | SecretObservation::WrongType(_)
        );
        prop_assert!(!(writes && theirs), "somebody else's Secret was written");
        prop_assert!(
            !is_fallback || usable(&before, at).is_none(),
            "a usable certificate was given up after {what:?}: {:#?}",
            before.secret
        );
        let kept = before.companion.last_good.as_ref();
        let at_hand = kept.is_some_and(|(facts, _)| at < facts.not_after);
        prop_assert!(
            !is_fallback || !at_hand,
            "what the companion holds was passed over"
        );
        if is_fallback && let SecretObservation::Ours(secret) = &before.secret {
            let served = secret
                .content
                .as_ref()
                .ok()
                .filter(|c| !c.stands_in && c.is_valid_at(at));
            let names = before.wanted_names();
            let all = served.is_some_and(|c| c.covers(names.iter().map(String::as_str)));
            let own = crate::fallback::choose(&before, at);
            prop_assert!(
                !all || matches!(own, crate::fallback::Fallback::Own(_)),
                "an own one was given up"
            );
        }
        // Orders that nobody can go on with are for other properties.
        if decided.step == Step::Store && before.companion.pending_key.is_none() {
            break;
        }
        world.pass();
        if let Some(served) = usable(&before, at).filter(|c| c.is_valid_at(world.now)) {
            prop_assert!(
                !holds_fallback(&world.observed),
                "{} was given up",
                served.serial
            );
        }
    }
    Ok(())
}

fn paths() -> impl Strategy<Value = (Observed, Vec<Disturbance>)> {
    (start(), proptest::collection::vec(disturbance(), PASSES))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_path_leads_from_a_usable_certificate_to_a_fallback((o, disturbances) in paths()) {
        holds(plan, o, &disturbances)?;
    }
}

/// The table as somebody might break it: what is wrong, and the words of the property that finds it.
const BROKEN: [(&str, Decide, &str); 8] = [
    (
        "what is in place is not looked at",
        ignoring_what_is_in_place,
        "usable certificate was given up",
    ),
    (
        "the last day does not count",
        a_day_early,
        "usable certificate was given up",
    ),
    (
        "a mark alone makes a fallback, whatever leaf is beside it",
        believing_every_mark,
        "usable certificate was given up",
    ),
    (
        "the fallback comes before the restore",
        fallback_before_restore,
        "passed over",
    ),
    (
        "the companion is forgotten",
        forgetting_the_companion,
        "passed over",
    ),
    (
        "somebody else's Secret is taken for a missing one",
        writing_over_others,
        "somebody else's",
    ),
    (
        "a fallback is made after every failure",
        at_every_failure,
        "given up",
    ),
    (
        "the user's own certificate is forgotten",
        forgetting_the_own_one,
        "an own one was given up",
    ),
];

fn ignoring_what_is_in_place(o: &Observed, now: Timestamp) -> Plan {
    let mut o = o.clone();
    if let SecretObservation::Ours(_) = o.secret {
        o.secret = SecretObservation::Missing;
    }
    plan(&o, now)
}

fn a_day_early(o: &Observed, now: Timestamp) -> Plan {
    plan(o, later(now, SignedDuration::from_hours(24)))
}

fn believing_every_mark(o: &Observed, now: Timestamp) -> Plan {
    let mut o = o.clone();
    if let SecretObservation::Ours(secret) = &mut o.secret {
        secret.fallback = true;
    }
    plan(&o, now)
}

fn fallback_before_restore(o: &Observed, now: Timestamp) -> Plan {
    let regular = plan(o, now);
    let other = super::secret::plan_fallback(o, now);
    other
        .filter(|_| regular.step == Step::Restore)
        .unwrap_or(regular)
}

fn forgetting_the_companion(o: &Observed, now: Timestamp) -> Plan {
    let mut o = o.clone();
    o.companion.last_good = None;
    plan(&o, now)
}

fn writing_over_others(o: &Observed, now: Timestamp) -> Plan {
    let mut o = o.clone();
    if let SecretObservation::Foreign(_) = o.secret {
        o.secret = SecretObservation::Missing;
    }
    plan(&o, now)
}

fn at_every_failure(o: &Observed, now: Timestamp) -> Plan {
    let mut plan = plan(o, now);
    let ours = matches!(o.secret, SecretObservation::Ours(_));
    if ours && o.status.failed_attempts.unwrap_or(0) > 0 && plan.step == Step::Wait {
        plan.step = Step::WriteFallback {
            cause: "it failed".into(),
        };
    }
    plan
}

fn forgetting_the_own_one(o: &Observed, now: Timestamp) -> Plan {
    let mut o = o.clone();
    o.own_fallback = OwnFallback::Missing;
    if let SecretObservation::Ours(secret) = &mut o.secret
        && let (true, Ok(facts)) = (secret.fallback, &mut secret.content)
    {
        facts.stands_in = true;
        facts.names.clear();
    }
    plan(&o, now)
}

/// A property that cannot fail proves nothing.
#[test]
fn the_property_finds_every_broken_table() {
    for (what, decide, words) in BROKEN {
        let dice = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let found = TestRunner::new_with_rng(config(), dice).run(&paths(), |(o, disturbances)| {
            holds(decide, o, &disturbances)
        });
        let Err(TestError::Fail(why, _)) = found else {
            panic!("not found: {what}");
        };
        assert!(why.message().contains(words), "{what}: {why}");
    }
}

/// A name, and how the issuance stands.
type Issuance<'a> = (&'a str, &'a dyn Fn() -> Observed);

/// The story's cells: what is in the Secret, and what the pass does about it while the issuance stands so.
#[test]
fn story_27_every_state_of_the_secret_under_every_state_of_the_issuance() {
    let secrets: [(&str, SecretObservation); 6] = [
        ("absent", SecretObservation::Missing),
        ("valid", SecretObservation::Ours(tls(Ok(due())))),
        ("expired", SecretObservation::Ours(tls(Ok(expired())))),
        (
            "mismatched",
            SecretObservation::Ours(tls(Err(Damage::InvalidKeyPair))),
        ),
        (
            "foreign",
            SecretObservation::Foreign(foreign(Ok(expired()))),
        ),
        (
            "fallback",
            SecretObservation::Ours(TlsSecret {
                fallback: true,
                ..tls(Ok(fallback()))
            }),
        ),
    ];
    let ok = || observed().with_order(order(OrderState::Valid));
    let failing = || observed().backing_off_until(600);
    let limited = || observed().created(-60).limited_until(3600);
    let paused = || {
        let mut o = observed().backing_off_until(DAY);
        let failure = o.status.last_failure.as_mut().unwrap();
        failure.reason = Reason::RateLimited.as_str().into();
        failure.message = "unpause at https://ca.example/unpause".into();
        o
    };
    let issuances: [Issuance<'_>; 4] = [
        ("ok", &ok),
        ("failing", &failing),
        ("limited", &limited),
        ("paused", &paused),
    ];
    let written = |step: &Step| {
        let cells = [
            ("certificate", *step == Step::Store),
            ("fallback", matches!(step, Step::WriteFallback { .. })),
            ("order given up", matches!(step, Step::Abandon { .. })),
            ("nothing", *step == Step::Wait),
        ];
        let cell = cells.iter().find(|(_, holds)| *holds);
        cell.map_or("something else", |(cell, _)| cell)
    };
    let expected = [
        (
            "absent",
            ["certificate", "fallback", "fallback", "fallback"],
        ),
        ("valid", ["certificate", "nothing", "nothing", "nothing"]),
        (
            "expired",
            ["certificate", "fallback", "fallback", "fallback"],
        ),
        (
            "mismatched",
            ["certificate", "fallback", "fallback", "fallback"],
        ),
        (
            "foreign",
            ["order given up", "nothing", "nothing", "nothing"],
        ),
        ("fallback", ["certificate", "nothing", "nothing", "nothing"]),
    ];
    for ((name, secret), (row, cells)) in secrets.iter().zip(expected) {
        assert_eq!(*name, row);
        for ((issuance, o), cell) in issuances.iter().zip(cells) {
            let mut o = o();
            o.secret = secret.clone();
            let decided = plan(&o, now());
            assert_eq!(written(&decided.step), cell, "{name}, {issuance}");
            let status = build_status(&o, &decided, now());
            let is = |kind| condition::is_true(&status.conditions, kind);
            assert_eq!(is(READY), *name == "valid", "{name}, {issuance}");
            assert_eq!(
                is(FALLBACK_IN_USE),
                *name == "fallback",
                "{name}, {issuance}"
            );
        }
    }
    // Only by policy.
    for o in [failing(), limited(), paused()] {
        let mut o = o.with_certificate(expired()).without_fallback();
        let same = o.fingerprint();
        if let Some(failure) = &mut o.status.last_failure {
            failure.fingerprint = Some(same);
        }
        let status = plan(&o, now());
        assert_eq!(written(&status.step), "nothing");
    }
    let adoptable = foreign(Ok(good()));
    assert_eq!(find_obstacle(&observed(), &adoptable, now()), None);
    assert_eq!(
        plan(&failing().with_foreign(adoptable), at(0)).step,
        Step::Adopt { keep_copy: true }
    );
}
