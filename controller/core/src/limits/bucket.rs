//! A token bucket kept as one instant: when it will be full again (the generic cell rate algorithm).

use jiff::{SignedDuration, Timestamp};

/// A CA's limit: so many at once, and one more after each `refill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// How many tokens it holds when it is full.
    pub capacity: u32,
    /// After how long one more is there.
    pub refill: SignedDuration,
    /// How many of them are left to orders for what nothing else can replace: a certificate that is lost or about to expire.
    pub reserve: u32,
}

impl Bucket {
    /// `capacity` tokens that come back evenly within `period`.
    pub(super) const fn of(capacity: u32, period_hours: i64) -> Self {
        let refill = period_hours * 3_600_000 / capacity as i64;
        Self {
            capacity,
            refill: SignedDuration::from_millis(refill),
            reserve: 0,
        }
    }

    pub(super) const fn keeping(self, reserve: u32) -> Self {
        Self { reserve, ..self }
    }

    /// The first instant, not before `now`, at which the bucket that is full at `full` has a token for an order behind `ahead`
    /// others. A routine order leaves the reserve alone.
    pub(super) fn next(
        &self,
        full: Option<Timestamp>,
        urgent: bool,
        ahead: u32,
        now: Timestamp,
    ) -> Timestamp {
        let reserve = if urgent { 0 } else { self.reserve };
        let usable = i64::from(self.capacity) - i64::from(reserve) - 1;
        let full = full.unwrap_or(now).max(now);
        let short = i64::from(ahead) - usable;
        self.later(full, short).max(now)
    }

    /// When the bucket will be full after one more token was taken at `now`.
    pub(super) fn take(&self, full: Option<Timestamp>, now: Timestamp) -> Timestamp {
        self.later(full.unwrap_or(now).max(now), 1)
    }

    /// When it will be full after a token came back.
    pub(super) fn give_back(&self, full: Timestamp) -> Timestamp {
        self.later(full, -1)
    }

    /// When it will be full if it is empty at `now`: never is it full later than that.
    pub(super) fn empty(&self, now: Timestamp) -> Timestamp {
        self.later(now, i64::from(self.capacity))
    }

    /// When it will be full if a routine order finds the next token at `next` and none before.
    pub(super) fn drain(&self, now: Timestamp, next: Timestamp) -> Timestamp {
        let rest = i64::from(self.capacity) - i64::from(self.reserve) - 1;
        self.later(next, rest).min(self.empty(now))
    }

    /// How many whole tokens are there at `now`.
    pub(super) fn left(&self, full: Option<Timestamp>, now: Timestamp) -> u32 {
        let missing = full
            .filter(|full| *full > now)
            .map_or(0, |full| full.duration_since(now).as_millis());
        let refill = self.refill.as_millis().max(1);
        let spent = u32::try_from((missing + refill - 1) / refill).unwrap_or(u32::MAX);
        self.capacity.saturating_sub(spent)
    }

    fn later(&self, at: Timestamp, tokens: i64) -> Timestamp {
        let wait = i64::try_from(self.refill.as_millis())
            .unwrap_or(i64::MAX)
            .saturating_mul(tokens);
        let end = if tokens < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        at.checked_add(SignedDuration::from_millis(wait))
            .unwrap_or(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Bucket = Bucket::of(3, 3).keeping(1);

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(minutes * 60).unwrap()
    }

    #[test]
    fn tokens_come_back_one_by_one_and_never_more_than_it_holds() {
        let mut full = None;
        for left in [2, 1, 0] {
            assert_eq!(THREE.next(full, true, 0, at(0)), at(0));
            full = Some(THREE.take(full, at(0)));
            assert_eq!(THREE.left(full, at(0)), left);
        }
        assert_eq!(THREE.next(full, true, 0, at(0)), at(60));
        assert_eq!(
            [59, 60, 179, 180, 9999].map(|m| THREE.left(full, at(m))),
            [0, 1, 2, 3, 3]
        );
    }

    #[test]
    fn a_routine_order_leaves_the_reserve() {
        let full = THREE.take(Some(THREE.take(None, at(0))), at(0));
        assert_eq!(THREE.next(Some(full), true, 0, at(0)), at(0));
        assert_eq!(THREE.next(Some(full), false, 0, at(0)), at(60));
    }

    #[test]
    fn those_ahead_take_their_tokens_first() {
        let next = |ahead| THREE.next(None, true, ahead, at(0));
        assert_eq!([0, 1, 2, 3, 4].map(next), [0, 0, 0, 60, 120].map(at));
    }

    #[test]
    fn a_token_given_back_is_there_at_once() {
        let full = THREE.empty(at(0));
        assert_eq!(THREE.left(Some(full), at(0)), 0);
        assert_eq!(THREE.left(Some(THREE.give_back(full)), at(0)), 1);
    }
}
