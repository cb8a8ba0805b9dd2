//! When the next attempt begins after a failure (design §6).

use evercert_api::children::stable_hash;
use jiff::{SignedDuration, Timestamp};

use crate::fault::{Fault, FaultClass, LONGEST_WAIT};
use crate::key::ObjectKey;

/// The longest pause for a CA that does not answer.
const LONGEST_OUTAGE: SignedDuration = SignedDuration::from_mins(10);

/// When the next attempt begins after the `failures`th failure in a row (1 or more). `Retry-After` wins, with up to a tenth on
/// top; a permanent failure is probed once a day; a CA that does not answer is asked again after 15 s, twice as long each time, to
/// 10 min; all else waits 1 min, 10 min, 100 min, then 6 to 24 h. The spread is by a
/// stable hash of the Certificate, so that it survives restarts.
#[must_use]
pub fn next_attempt(key: &ObjectKey, failures: u32, fault: &Fault, now: Timestamp) -> Timestamp {
    let spread = stable_hash(&[&key.namespace, &key.name, &failures.to_string()]);
    let wait = match (fault.retry_after, fault.class) {
        (Some(at), _) if at > now => {
            let wait = at.duration_since(now).min(LONGEST_WAIT);
            wait + part(wait, spread, 10)
        }
        (_, FaultClass::Permanent) => LONGEST_WAIT,
        (_, FaultClass::Unavailable) => {
            SignedDuration::from_secs(15 << failures.saturating_sub(1).min(6)).min(LONGEST_OUTAGE)
        }
        (_, FaultClass::RateLimited) => {
            SignedDuration::from_hours(1) + part(SignedDuration::from_hours(1), spread, 10)
        }
        (
            _,
            FaultClass::Validation
            | FaultClass::Account
            | FaultClass::Transient
            | FaultClass::Gone
            | FaultClass::NotReady,
        ) => match failures {
            0 | 1 => SignedDuration::from_mins(1),
            2 => SignedDuration::from_mins(10),
            3 => SignedDuration::from_mins(100),
            _ => SignedDuration::from_hours(6) + part(SignedDuration::from_hours(18), spread, 1),
        },
    };
    now.checked_add(wait).unwrap_or(now)
}

/// A stable part of `whole / divisor`.
fn part(whole: SignedDuration, spread: u64, divisor: i64) -> SignedDuration {
    let thousandth = i64::try_from(spread % 1000).unwrap_or(0);
    SignedDuration::from_millis(
        i64::try_from(whole.as_millis()).unwrap_or(0) / divisor / 1000 * thousandth,
    )
}

/// How long a directory that does not answer is left alone: 15 s at first, then a quarter of the outage so far, to 10 min.
#[must_use]
pub fn outage_wait(since: Timestamp, now: Timestamp) -> SignedDuration {
    let quarter = now.duration_since(since) / 4;
    quarter.clamp(SignedDuration::from_secs(15), LONGEST_OUTAGE)
}

/// When something that the CA works on is looked at again: after half the time waited so far, 100 ms to 5 s, or when it says so,
/// if that is later, but not later than after a day.
#[must_use]
pub fn next_poll(
    retry_after: Option<Timestamp>,
    since: Timestamp,
    read_at: Timestamp,
) -> Timestamp {
    let half = (read_at.duration_since(since) / 2).clamp(
        SignedDuration::from_millis(100),
        SignedDuration::from_secs(5),
    );
    let half = read_at.checked_add(half).unwrap_or(read_at);
    let latest = read_at.checked_add(LONGEST_WAIT).unwrap_or(read_at);
    retry_after.map_or(half, |at| at.min(latest).max(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(class: FaultClass, retry_after: Option<i64>) -> Fault {
        Fault {
            class,
            problem: None,
            http_status: None,
            retry_after: retry_after.map(|s| Timestamp::from_second(s).unwrap()),
            help_url: None,
            unsent: false,
            detail: String::new(),
        }
    }

    fn wait(failures: u32, fault: &Fault) -> i64 {
        let now = Timestamp::from_second(1_000_000).unwrap();
        next_attempt(&ObjectKey::new("a", "b"), failures, fault, now)
            .duration_since(now)
            .as_secs()
    }

    #[test]
    fn validation_failures_wait_longer_each_time() {
        let f = fault(FaultClass::Validation, None);
        assert_eq!([wait(1, &f), wait(2, &f), wait(3, &f)], [60, 600, 6000]);
        assert!((6 * 3600..=24 * 3600).contains(&wait(4, &f)));
        assert_eq!(wait(9, &f), wait(9, &f));
    }

    #[test]
    fn ca_that_does_not_answer_is_asked_again_soon() {
        let f = fault(FaultClass::Unavailable, None);
        assert_eq!([1, 2, 3, 99].map(|n| wait(n, &f)), [15, 30, 60, 600]);
    }

    #[test]
    fn what_is_refused_for_good_is_probed_once_a_day() {
        let f = fault(FaultClass::Permanent, None);
        assert_eq!([wait(1, &f), wait(9, &f)], [86_400; 2]);
    }

    #[test]
    fn retry_after_wins_up_to_a_day_with_at_most_a_tenth_on_top() {
        let w = wait(1, &fault(FaultClass::RateLimited, Some(1_000_500)));
        assert!((500..=550).contains(&w), "{w}");
        let w = wait(1, &fault(FaultClass::RateLimited, Some(9_000_000)));
        assert!((86_400..=95_040).contains(&w), "{w}");
    }

    #[test]
    fn retry_after_in_the_past_is_no_reason_to_hurry() {
        assert_eq!(wait(1, &fault(FaultClass::Validation, Some(5))), 60);
    }

    #[test]
    fn an_outage_is_probed_less_often_the_longer_it_lasts() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(outage_wait(at(0), at(0)).as_secs(), 15);
        assert_eq!(outage_wait(at(0), at(400)).as_secs(), 100);
        assert_eq!(outage_wait(at(0), at(999_999)).as_secs(), 600);
    }

    #[test]
    fn the_ca_is_asked_again_when_it_says() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(next_poll(Some(at(30)), at(0), at(10)), at(30));
        assert_eq!(next_poll(None, at(0), at(4)), at(6));
        assert_eq!(next_poll(None, at(0), at(100)), at(105));
        assert_eq!(
            next_poll(Some(at(9)), at(0), at(8)),
            at(12),
            "ever less often"
        );
        assert_eq!(next_poll(Some(at(101)), at(0), at(100)), at(105));
    }
}
