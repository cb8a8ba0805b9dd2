//! The places among the orders under way: who waits, who has one. Who is next is decided in `core::lanes`. All of it can be
//! lost: after a restart each order takes its place again when it has been read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use evercert_core::key::ObjectKey;
use evercert_core::lanes::{Candidate, Placed, Ramp, next_grant, plan_grants};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

/// The places.
#[derive(Debug)]
pub(crate) struct Slots {
    most: usize,
    state: Mutex<State>,
    changed: Notify,
}

/// The places in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queue {
    /// How many wait for one.
    pub(crate) waiting: usize,
    /// How long the one of them has waited that waits longest.
    pub(crate) oldest: SignedDuration,
    /// How many have one.
    pub(crate) under_way: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<ObjectKey, Placed>,
    under_way: BTreeMap<ObjectKey, Placed>,
    /// Those whose turn came while they waited.
    called: Vec<ObjectKey>,
    /// Directories that have just come back, by URL.
    ramps: BTreeMap<String, Ramp>,
}

impl Slots {
    /// For at most `most` orders.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Whether `key` has a place.
    pub(crate) fn has(&self, key: &ObjectKey) -> bool {
        self.lock().has(key)
    }

    /// Who waits for a place, and who has one, in numbers.
    pub(crate) fn count(&self, now: Timestamp) -> Queue {
        let state = self.lock();
        let since = state.waiting.values().map(|placed| placed.since).min();
        Queue {
            waiting: state.waiting.len(),
            oldest: since.map_or(SignedDuration::ZERO, |since| now.duration_since(since)),
            under_way: state.under_way.len(),
        }
    }

    /// Asks for a place; true if there is one at once. Else the candidate waits, and is woken when its turn comes.
    pub(crate) fn ask(&self, candidate: Candidate, now: Timestamp) -> bool {
        let key = candidate.key.clone();
        let mut state = self.lock();
        if state.has(&key) {
            return true;
        }
        state.under_way.remove(&key);
        let since = state.waiting.get(&key).map_or(now, |placed| placed.since);
        let placed = Placed {
            candidate,
            since,
            handed_over: false,
        };
        state.waiting.insert(key.clone(), placed);
        state.grant(self.most, now);
        state.called.retain(|called| *called != key);
        let granted = state.has(&key);
        drop(state);
        self.changed.notify_one();
        granted
    }

    /// Counts an order under way that a restart found, once the CA has shown it: a status alone takes no place from others.
    pub(crate) fn note(&self, candidate: Candidate, now: Timestamp) {
        let mut state = self.lock();
        let key = candidate.key.clone();
        state.waiting.remove(&key);
        let placed = Placed {
            candidate,
            since: now,
            handed_over: false,
        };
        state.under_way.entry(key).or_insert(placed);
    }

    /// The CA with this directory answers again, after an outage of this length.
    pub(crate) fn recover(&self, directory: &str, outage: SignedDuration, now: Timestamp) {
        if let Some(ramp) = Ramp::after(outage, now) {
            self.lock().ramps.insert(directory.to_owned(), ramp);
            self.changed.notify_one();
        }
    }

    /// The order of `key` is in the CA's hands: here nothing is to be done for it until the CA has looked.
    pub(crate) fn hand_over(&self, key: &ObjectKey) {
        let mut state = self.lock();
        if let Some(placed) = state.under_way.get_mut(key) {
            placed.handed_over = true;
        }
        drop(state);
        self.changed.notify_one();
    }

    /// `key` neither waits nor has an order under way any more.
    pub(crate) fn free(&self, key: &ObjectKey) {
        let mut state = self.lock();
        let waited = state.waiting.remove(key).is_some();
        let had = state.under_way.remove(key).is_some();
        let others_wait = !state.waiting.is_empty();
        drop(state);
        if (waited || had) && others_wait {
            self.changed.notify_one();
        }
    }

    /// Calls `wake` for each whose turn has come, for ever.
    pub(crate) async fn call(&self, wake: impl Fn(&ObjectKey)) {
        loop {
            let (called, next) = self.turn(Timestamp::now());
            called.iter().for_each(&wake);
            let changed = self.changed.notified();
            match next {
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Who is called now, and how long until somebody may be though nothing changes.
    fn turn(&self, now: Timestamp) -> (Vec<ObjectKey>, Option<std::time::Duration>) {
        let mut state = self.lock();
        state.grant(self.most, now);
        let called = std::mem::take(&mut state.called);
        if state.waiting.is_empty() {
            return (called, None);
        }
        let ramps = state.ramps.values().map(|ramp| ramp.next(now));
        let next = ramps.chain(next_grant(state.under_way.values(), now)).min();
        (called, next.map(|at| at.duration_since(now).unsigned_abs()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is kept here is whole after each statement, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A place that was given before a directory came back is no place for an order there.
    fn has(&self, key: &ObjectKey) -> bool {
        self.under_way.get(key).is_some_and(|placed| {
            let ramp = self.ramps.get(&placed.candidate.directory);
            ramp.is_none_or(|ramp| !ramp.voids(placed.since))
        })
    }

    fn grant(&mut self, most: usize, now: Timestamp) {
        if self.waiting.is_empty() {
            return;
        }
        self.ramps.retain(|_, ramp| ramp.allows(now).is_some());
        let (waiting, under_way) = (self.waiting.values(), self.under_way.values());
        for key in plan_grants(waiting, under_way, most, &self.ramps, now) {
            if let Some(placed) = self.waiting.remove(&key) {
                let candidate = placed.candidate;
                if let Some(ramp) = self.ramps.get_mut(&candidate.directory) {
                    ramp.take();
                }
                let granted = Placed {
                    candidate,
                    since: now,
                    handed_over: false,
                };
                self.under_way.insert(key.clone(), granted);
                self.called.push(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use evercert_core::lanes::{Lane, MOVES};

    use super::*;

    fn candidate(name: &str) -> Candidate {
        Candidate {
            key: ObjectKey::new("n", name),
            lane: Lane::New,
            expires: None,
            failed: false,
            directory: "d".to_owned(),
        }
    }

    fn key(name: &str) -> ObjectKey {
        candidate(name).key
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn places_are_bounded_and_given_back_to_the_one_that_waits() {
        let slots = Slots::new(1);
        assert!(slots.ask(candidate("a"), at(0)));
        assert!(slots.ask(candidate("a"), at(0)), "it has one");
        assert!(!slots.ask(candidate("b"), at(0)));
        slots.free(&key("a"));
        assert_eq!(slots.turn(at(0)).0, [key("b")]);
        assert!(slots.has(&key("b")) && !slots.has(&key("a")));
        assert_eq!(slots.turn(at(0)).0, [], "called once");
    }

    #[test]
    fn the_queue_is_as_old_as_the_one_that_waits_longest_however_often_it_asks() {
        let slots = Slots::new(1);
        let of = |waiting, oldest, under_way| Queue {
            waiting,
            oldest: SignedDuration::from_secs(oldest),
            under_way,
        };
        assert_eq!(slots.count(at(9)), of(0, 0, 0));
        assert!(slots.ask(candidate("a"), at(0)));
        assert!(!slots.ask(candidate("b"), at(1)));
        assert!(!slots.ask(candidate("c"), at(2)));
        assert!(!slots.ask(candidate("b"), at(3)));
        assert_eq!(slots.count(at(4)), of(2, 3, 1));
        slots.free(&key("b"));
        assert_eq!(slots.count(at(4)), of(1, 2, 1));
    }

    #[test]
    fn one_that_no_longer_wants_a_place_is_not_called() {
        let slots = Slots::new(1);
        assert!(slots.ask(candidate("a"), at(0)));
        assert!(!slots.ask(candidate("b"), at(0)));
        slots.free(&key("b"));
        slots.free(&key("a"));
        assert_eq!(slots.turn(at(0)).0, []);
        assert!(!slots.has(&key("b")));
    }

    #[test]
    fn a_turn_comes_when_an_order_no_longer_moves() {
        let slots = Slots::new(16);
        for name in ["a", "b"] {
            assert!(slots.ask(candidate(name), at(0)));
        }
        assert!(!slots.ask(candidate("c"), at(1)));
        let (called, next) = slots.turn(at(1));
        assert_eq!(
            (called.len(), next),
            (0, Some(std::time::Duration::from_secs(4)))
        );
        let then = at(0).checked_add(MOVES).unwrap();
        assert_eq!(slots.turn(then).0, [key("c")]);
        assert!(slots.ask(candidate("d"), then), "two move");
        assert!(!slots.ask(candidate("e"), then));
        slots.hand_over(&key("d"));
        assert_eq!(slots.turn(then).0, [key("e")]);
        assert!(slots.has(&key("d")));
    }

    #[test]
    fn places_of_before_the_end_of_an_outage_are_given_anew_and_slowly() {
        let slots = Slots::new(400);
        let names: Vec<String> = (0..9).map(|n| format!("c{n}")).collect();
        for name in &names {
            assert!(slots.ask(candidate(name), at(99)));
        }
        slots.recover("d", SignedDuration::from_hours(1), at(100));
        for name in &names {
            assert!(!slots.has(&key(name)), "given before");
            assert!(!slots.ask(candidate(name), at(100)));
        }
        let (called, next) = slots.turn(at(100));
        assert_eq!(
            (called.len(), next.map(|wait| wait.as_secs())),
            (0, Some(1))
        );
        let (called, next) = slots.turn(at(101));
        assert_eq!(
            (called.len(), next.map(|wait| wait.as_secs())),
            (5, Some(5))
        );
        assert_eq!(slots.turn(at(159)).0, []);
        assert_eq!(slots.turn(at(160)).0.len(), 4);
    }

    #[test]
    fn an_order_that_a_restart_found_has_its_place_whatever_the_cap() {
        let slots = Slots::new(1);
        slots.note(candidate("a"), at(0));
        slots.note(candidate("b"), at(0));
        assert!(slots.has(&key("a")) && slots.has(&key("b")));
        assert!(!slots.ask(candidate("c"), at(60)));
    }
}
