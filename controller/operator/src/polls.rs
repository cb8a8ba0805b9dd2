//! Whose turn it is to ask a CA about renewals: all Certificates of one directory share one pace, so that thousands of them do not
//! ask at once. All of it can be lost: after a restart each takes its turn again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use evercert_core::key::ObjectKey;
use jiff::{SignedDuration, Timestamp};

/// The time between two polls of one directory: a hundredth of what Let's Encrypt allows, and five minutes for 3,000.
const PACE: SignedDuration = SignedDuration::from_millis(100);

/// How long a turn is good that was not used.
const KEPT: SignedDuration = SignedDuration::from_secs(10);

/// The turns, by directory.
#[derive(Debug, Default)]
pub(crate) struct Polls(Mutex<HashMap<String, Line>>);

#[derive(Debug, Default)]
struct Line {
    /// When there is room for one more.
    next: Option<Timestamp>,
    turns: HashMap<ObjectKey, Timestamp>,
}

impl Polls {
    /// Whether `key` may ask `directory` now.
    ///
    /// # Errors
    /// When its turn comes, which is kept for it.
    pub(crate) fn ask(
        &self,
        directory: &str,
        key: &ObjectKey,
        now: Timestamp,
    ) -> Result<(), Timestamp> {
        let mut lines = self.lock();
        let line = lines.entry(directory.to_owned()).or_default();
        let longest = PACE
            * (i32::try_from(line.turns.len())
                .unwrap_or(i32::MAX)
                .saturating_add(1));
        if line
            .next
            .is_some_and(|next| next.duration_since(now) > longest)
        {
            // The clock was set back.
            *line = Line::default();
        }
        if let Some(turn) = line.turns.get(key).copied() {
            if turn > now {
                return Err(turn);
            }
            line.turns.remove(key);
            if now.duration_since(turn) <= KEPT {
                return Ok(());
            }
            // While everybody slept all turns passed, and would be used at once.
        }
        let turn = line.next.map_or(now, |next| next.max(now));
        line.next = Some(turn.checked_add(PACE).unwrap_or(turn));
        if turn > now {
            line.turns.insert(key.clone(), turn);
            return Err(turn);
        }
        Ok(())
    }

    /// `key` does not ask any more.
    pub(crate) fn leave(&self, key: &ObjectKey) {
        for line in self.lock().values_mut() {
            line.turns.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        // What is kept here is whole after each statement, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn key(i: usize) -> ObjectKey {
        ObjectKey::new("shop", format!("site{i}"))
    }

    #[test]
    fn three_thousand_that_ask_at_once_take_turns_over_five_minutes() {
        let polls = Polls::default();
        let first: Vec<_> = (0..3_000)
            .map(|i| polls.ask("ca", &key(i), at(0)))
            .collect();
        assert_eq!(first[0], Ok(()));
        assert_eq!(first[1], Err(at(100)));
        assert_eq!(first[2_999], Err(at(299_900)));
        assert_eq!(
            polls.ask("other", &key(1), at(0)),
            Ok(()),
            "a CA of its own"
        );
        assert_eq!(
            polls.ask("ca", &key(1), at(99)),
            Err(at(100)),
            "the turn is kept"
        );
        assert_eq!(polls.ask("ca", &key(7), at(700)), Ok(()));
        assert_eq!(
            polls.ask("ca", &key(7), at(700)),
            Err(at(300_000)),
            "and used once"
        );
        assert_eq!(
            polls.ask("ca", &key(4_000), at(400_000)),
            Ok(()),
            "an idle line"
        );
    }

    #[test]
    fn turns_that_passed_while_everybody_slept_are_taken_anew() {
        let polls = Polls::default();
        let keys: Vec<ObjectKey> = (0..100).map(key).collect();
        let ask = |now: i64| {
            keys.iter()
                .filter(|k| polls.ask("ca", k, at(now)).is_ok())
                .count()
        };
        assert_eq!(ask(0), 1);
        assert_eq!(ask(3_600_000), 1);
        assert_eq!(ask(3_600_100), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nobody_wait_for_long() {
        let polls = Polls::default();
        let day = 86_400_000;
        assert_eq!(polls.ask("ca", &key(0), at(day)), Ok(()));
        assert_eq!(polls.ask("ca", &key(1), at(day)), Err(at(day + 100)));
        assert_eq!(polls.ask("ca", &key(1), at(0)), Ok(()));
        polls.leave(&key(1));
    }
}
