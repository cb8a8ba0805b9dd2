//! What holds for every history of orders, whatever the clock does.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{Bucket, Decision, Limit, Model, NewOrder, Spent, later, registered_domain};
use crate::cases::config;
use crate::fault::{Fault, FaultClass, Problem};

const ACCOUNTS: [&str; 2] = ["https://ca.example/acct/1", "https://ca.example/acct/2"];
const SETS: [&[&str]; 4] = [
    &["a.example.com"],
    &["a.example.com", "b.example.com"],
    &["b.example.com", "c.other.org"],
    &["d.third.net"],
];

/// Limits so small that a short history meets all of them.
fn small(exempt: bool) -> Model {
    let bucket = |capacity, refill, reserve| {
        Some(Bucket {
            capacity,
            refill: SignedDuration::from_secs(refill),
            reserve,
        })
    };
    Model {
        orders: bucket(5, 60, 1),
        domain: bucket(4, 600, 1),
        name_set: bucket(3, 1_800, 1),
        failures: bucket(2, 300, 0),
        streak: bucket(4, 3_600, 0),
        same_set_exempt: exempt,
        due_renewal_exempt: false,
        replacement_exempt: exempt,
    }
}

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

#[derive(Debug, Clone)]
enum Event {
    /// Somebody wants an order, which is so many seconds on its way; then it is left alone, fails or leads to a certificate.
    Order(NewOrder, i64, Outcome),
    /// Time passes.
    Wait(i64),
    /// The process starts again from what was written.
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Open,
    Invalid,
    Issued,
    Refused(i64),
}

fn new_order() -> impl Strategy<Value = NewOrder> {
    (
        0..2_usize,
        0..4_usize,
        any::<bool>(),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(account, set, urgent, replaces)| NewOrder {
            account: ACCOUNTS[account].into(),
            names: SETS[set].iter().map(|n| (*n).to_owned()).collect(),
            urgent,
            replaces,
            asked_anew: false,
        })
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Open),
        2 => Just(Outcome::Invalid),
        2 => Just(Outcome::Issued),
        1 => (1..2_000_i64).prop_map(Outcome::Refused),
    ];
    prop_oneof![
        6 => (new_order(), 0..=30_i64, outcome).prop_map(|(o, way, outcome)| Event::Order(o, way, outcome)),
        3 => (0..900_i64).prop_map(Event::Wait),
        1 => (0..20_000_i64).prop_map(Event::Wait),
        1 => Just(Event::Restart),
    ]
}

/// For the property that matters most.
fn long_history() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..40)
}

/// Long enough to meet every one of the small limits.
fn history() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..16)
}

/// A CA that counts for itself, in tokens and not in instants.
#[derive(Default)]
struct Ca {
    tokens: BTreeMap<String, (f64, Timestamp)>,
    issued: Vec<Vec<String>>,
}

impl Ca {
    /// Takes a token from the bucket; false when there is none.
    fn take(&mut self, key: String, bucket: Option<&Bucket>, now: Timestamp) -> bool {
        let Some(bucket) = bucket else { return true };
        let capacity = f64::from(bucket.capacity);
        let (tokens, seen) = self.tokens.entry(key).or_insert((capacity, now));
        let now = now.max(*seen);
        let came = now.duration_since(*seen).as_secs_f64() / bucket.refill.as_secs_f64();
        *tokens = (*tokens + came).min(capacity);
        *seen = now;
        // What is lost in fractions is no token.
        let there = *tokens >= 1.0 - 1e-6;
        *tokens -= f64::from(u8::from(there));
        there
    }

    fn fail(&mut self, model: &Model, account: &str, name: &str, now: Timestamp) -> bool {
        self.take(format!("f{account}{name}"), model.failures.as_ref(), now)
            && self.take(format!("p{account}{name}"), model.streak.as_ref(), now)
    }

    /// Whether the order that arrives at `now` is within every limit.
    fn allows(&mut self, model: &Model, order: &NewOrder, now: Timestamp) -> bool {
        let replaces = order.replaces && model.replacement_exempt;
        let renews = model.same_set_exempt && self.issued.contains(&order.names);
        let mut allowed = true;
        if !replaces && !renews {
            allowed &= self.take(format!("o{}", order.account), model.orders.as_ref(), now);
            let mut domains: Vec<_> = order.names.iter().map(|n| registered_domain(n)).collect();
            domains.dedup();
            for domain in domains {
                allowed &= self.take(format!("d{domain}"), model.domain.as_ref(), now);
            }
        }
        if !replaces {
            allowed &= self.take(format!("s{:?}", order.names), model.name_set.as_ref(), now);
        }
        allowed
    }
}

#[test]
fn the_ca_of_these_properties_counts() {
    let (model, mut ca) = (small(false), Ca::default());
    let order = |set: &[&str]| NewOrder {
        account: ACCOUNTS[0].into(),
        names: set.iter().map(|n| (*n).to_owned()).collect(),
        urgent: true,
        replaces: false,
        asked_anew: false,
    };
    let at = |seconds| later(start(), SignedDuration::from_secs(seconds));
    let set = order(SETS[0]);
    assert_eq!(
        [0, 0, 0, 0].map(|s| ca.allows(&model, &set, at(s))),
        [true, true, true, false]
    );
    assert!(ca.allows(&model, &set, at(1_800)));
    assert!(!ca.allows(&model, &set, at(1_801)));
    assert!((0..9).any(|i| !ca.allows(&model, &order(&[&format!("n{i}.x.org")]), at(1_801))));
}

fn rate_limited(seconds: i64, now: Timestamp) -> Fault {
    Fault {
        class: FaultClass::RateLimited,
        problem: Some(Problem {
            kind: "rateLimited".into(),
            detail: "too many certificates already issued for this exact set of identifiers".into(),
            subproblems: Vec::new(),
        }),
        http_status: Some(429),
        retry_after: Some(later(now, SignedDuration::from_secs(seconds))),
        help_url: None,
        unsent: false,
        detail: String::new(),
    }
}

/// What a ledger does with an order that was granted.
fn settle(
    spent: &mut Spent,
    model: &Model,
    order: &NewOrder,
    taken: &[String],
    outcome: Outcome,
    now: Timestamp,
) {
    match outcome {
        Outcome::Open => {}
        Outcome::Invalid => spent.fail(model, &order.account, &order.names, now),
        Outcome::Issued => {
            let until = later(now, SignedDuration::from_hours(24));
            spent.succeed(&order.account, &order.names, until, now);
        }
        Outcome::Refused(wait) => {
            spent.give_back(model, taken);
            spent.learn(model, order, &rate_limited(wait, now), now);
        }
    }
}

/// Plays `history` and shows every decision to `look`.
fn play(
    model: &Model,
    history: &[Event],
    restarts: bool,
    mut look: impl FnMut(&Spent, &NewOrder, Timestamp, i64, Outcome, bool),
) -> (Spent, Timestamp) {
    let mut spent = Spent::default();
    let mut now = start();
    for event in history {
        match event {
            Event::Wait(seconds) => now = later(now, SignedDuration::from_secs(*seconds)),
            Event::Restart if restarts => {
                let text = serde_json::to_string(&spent).unwrap();
                spent = serde_json::from_str(&text).unwrap();
            }
            Event::Restart => {}
            Event::Order(order, way, outcome) => {
                spent.tick(model, now);
                let granted = spent.decide(model, order, 0, now) == Decision::Granted;
                look(&spent, order, now, *way, *outcome, granted);
                if granted {
                    let taken = spent.take(model, order, now);
                    settle(&mut spent, model, order, &taken, *outcome, now);
                }
            }
        }
    }
    spent.tick(model, now);
    (spent, now)
}

proptest! {
    #![proptest_config(config())]

    /// The CA counts by the instant at which a request arrives, up to 30 s later, and in another order.
    #[test]
    fn no_order_that_is_granted_is_refused_by_the_ca(history in long_history(), exempt: bool) {
        let model = small(exempt);
        let mut ca = Ca::default();
        let mut sent = Vec::new();
        play(&model, &history, true, |_, order, now, way, outcome, granted| {
            if granted {
                // What was issued has arrived.
                let way = if matches!(outcome, Outcome::Issued) { 0 } else { way };
                sent.push((
                    later(now, SignedDuration::from_secs(way)),
                    order.clone(),
                    outcome,
                    now,
                ));
            }
        });
        sent.sort_by_key(|(arrives, ..)| *arrives);
        for (arrives, order, outcome, at) in sent {
            if matches!(outcome, Outcome::Refused(_)) {
                continue;
            }
            prop_assert!(ca.allows(&model, &order, arrives), "{:?} placed at {}", order, at);
            if matches!(outcome, Outcome::Issued) {
                ca.issued.push(order.names.clone());
            }
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_name_fails_more_often_than_the_ca_bears(history in history()) {
        let model = small(false);
        let mut ca = Ca::default();
        play(&model, &history, true, |_, order, now, _, outcome, granted| {
            if granted && matches!(outcome, Outcome::Invalid) {
                for name in &order.names {
                    assert!(ca.fail(&model, &order.account, name, now), "{name} at {now}");
                }
            }
            if granted && matches!(outcome, Outcome::Issued) {
                for name in &order.names {
                    ca.tokens.remove(&format!("p{}{name}", order.account));
                }
            }
        });
    }

    #[test]
    fn a_restart_changes_nothing(history in history()) {
        let model = small(true);
        let mut with = Vec::new();
        let after = play(&model, &history, true, |s, o, now, _, _, _| with.push(s.decide(&model, o, 0, now)));
        let mut without = Vec::new();
        let same = play(&model, &history, false, |s, o, now, _, _, _| without.push(s.decide(&model, o, 0, now)));
        prop_assert_eq!(with, without);
        prop_assert_eq!(after, same);
    }

    /// What is refused is granted at the instant that was named, not before, and at every later one.
    #[test]
    fn the_instant_that_is_named_is_the_first(history in history(), order in new_order(), ahead in 0..9_u32, more in 0..100_000_i64) {
        let model = small(false);
        let (spent, now) = play(&model, &history, false, |_, _, _, _, _, _| {});
        if let Decision::NotBefore(denial) = spent.decide(&model, &order, ahead, now) {
            prop_assert!(denial.at > now && !denial.message.is_empty());
            if ahead == 0 {
                let before = denial.at.checked_sub(SignedDuration::from_millis(1)).unwrap();
                prop_assert_ne!(spent.decide(&model, &order, 0, before), Decision::Granted);
                prop_assert_eq!(spent.decide(&model, &order, 0, denial.at), Decision::Granted);
                let then = later(denial.at, SignedDuration::from_secs(more));
                prop_assert_eq!(spent.decide(&model, &order, 0, then), Decision::Granted);
            }
        } else {
            let then = later(now, SignedDuration::from_secs(more));
            prop_assert_eq!(spent.decide(&model, &order, ahead, then), Decision::Granted);
        }
    }

    /// A clock that is set back finds no token that was not there, and soon one all the same.
    #[test]
    fn a_clock_that_is_set_back_mints_nothing_and_locks_nothing(history in history(), order in new_order(), back in 1..1_000_000_i64) {
        let model = small(false);
        let (mut spent, ahead) = play(&model, &history, false, |_, _, _, _, _, _| {});
        let now = later(ahead, SignedDuration::from_secs(-back));
        let before = spent.clone();
        spent.tick(&model, now);
        if before.decide(&model, &order, 0, ahead) != Decision::Granted {
            prop_assert_ne!(spent.decide(&model, &order, 0, now), Decision::Granted);
        }
        for account in ACCOUNTS {
            let left = |s: &Spent, at| s.budget(&model, account, at).unwrap().orders;
            prop_assert!(left(&spent, now) <= left(&before, ahead));
        }
        if let Decision::NotBefore(denial) = spent.decide(&model, &order, 0, now) {
            let said_by_ca = matches!(denial.limit, Limit::NameSet) && denial.by_ca;
            let longest = SignedDuration::from_secs(3_600 + 30);
            prop_assert!(said_by_ca || denial.at.duration_since(now) <= longest, "{:?}", denial);
        }
    }

    #[test]
    fn what_two_know_together_grants_no_more_than_what_either_knows(a in history(), b in history(), order in new_order()) {
        let model = small(false);
        let (one, at_one) = play(&model, &a, false, |_, _, _, _, _, _| {});
        let (two, at_two) = play(&model, &b, false, |_, _, _, _, _, _| {});
        let mut both = one.clone();
        both.merge(&two);
        let now = at_one.max(at_two);
        if both.decide(&model, &order, 0, now) == Decision::Granted {
            prop_assert_eq!(one.decide(&model, &order, 0, now), Decision::Granted);
            prop_assert_eq!(two.decide(&model, &order, 0, now), Decision::Granted);
        }
        let mut again = both.part(|key| key.starts_with("set/"));
        again.merge(&both.part(|key| !key.starts_with("set/")));
        prop_assert_eq!(again, both);
    }
}
