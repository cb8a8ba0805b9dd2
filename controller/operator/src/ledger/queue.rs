//! Who waits for a token of an account, in what order: so that each is told its own instant, and not all come back for one token.

use std::collections::BTreeMap;

use evercert_core::key::ObjectKey;
use evercert_core::lanes::{Candidate, Lane};
use jiff::{SignedDuration, Timestamp};

/// How long after the instant that it was told one is waited for that has not come back.
const GRACE: SignedDuration = SignedDuration::from_mins(1);

/// A place in the order of those who wait: what is about to expire first, soonest expiry first; then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    is_routine: bool,
    expires: Option<Timestamp>,
    key: ObjectKey,
}

impl Place {
    pub(super) fn of(candidate: &Candidate) -> Self {
        Self {
            is_routine: candidate.lane != Lane::Expiring,
            expires: candidate.expires,
            key: candidate.key.clone(),
        }
    }
}

/// Those who wait at one directory.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// With the account and the instant that each was told.
    places: BTreeMap<Place, (String, Timestamp)>,
    by_key: BTreeMap<ObjectKey, Place>,
}

impl Queue {
    /// How many wait for a token of `account` before `place`.
    pub(super) fn ahead(&self, account: &str, place: &Place, now: Timestamp) -> u32 {
        let still = |until: &Timestamp| now < until.checked_add(GRACE).unwrap_or(*until);
        let before = self
            .places
            .range(..place)
            .filter(|(other, (of, until))| other.key != place.key && of == account && still(until));
        u32::try_from(before.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn join(&mut self, account: &str, place: Place, until: Timestamp) {
        self.leave(&place.key);
        self.by_key.insert(place.key.clone(), place.clone());
        self.places.insert(place, (account.to_owned(), until));
    }

    pub(super) fn leave(&mut self, key: &ObjectKey) {
        if let Some(place) = self.by_key.remove(key) {
            self.places.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, lane: Lane, expires: Option<i64>) -> Place {
        Place::of(&Candidate {
            key: ObjectKey::new("n", name),
            lane,
            expires: expires.map(at),
            failed: false,
            directory: "d".to_owned(),
        })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn soonest_expiry_is_first_and_whoever_does_not_come_back_is_not_waited_for() {
        let mut queue = Queue::default();
        queue.join("a", place("new", Lane::New, None), at(100));
        queue.join("a", place("late", Lane::Renewal, Some(900)), at(200));
        queue.join("a", place("soon", Lane::Expiring, Some(500)), at(300));
        queue.join("other", place("else", Lane::Expiring, Some(1)), at(300));
        let ahead = |queue: &Queue, place: &Place, now| queue.ahead("a", place, at(now));
        let last = place("zzz", Lane::Renewal, Some(901));
        assert_eq!(ahead(&queue, &last, 0), 3);
        assert_eq!(
            ahead(&queue, &place("soon", Lane::Expiring, Some(500)), 0),
            0
        );
        assert_eq!(
            ahead(&queue, &last, 160),
            2,
            "one had its time and a minute"
        );
        queue.leave(&ObjectKey::new("n", "soon"));
        assert_eq!(ahead(&queue, &last, 160), 1);
        queue.join("a", place("late", Lane::Expiring, Some(900)), at(200));
        assert_eq!(ahead(&queue, &last, 160), 1, "it is counted once");
    }
}
