//! True time in seconds from the start of a run, and what a clock shows.

use jiff::{SignedDuration, Timestamp};

use crate::ca::Seconds;

pub(crate) const HOUR: Seconds = 3_600.0;
pub(crate) const DAY: Seconds = 24.0 * HOUR;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // times are positive and far from the end
pub(crate) fn millis(at: Seconds) -> u64 {
    (at.max(0.0) * 1_000.0).ceil() as u64
}

#[allow(clippy::cast_precision_loss)] // years in milliseconds fit
pub(crate) fn seconds(millis: u64) -> Seconds {
    millis as f64 / 1_000.0
}

pub(crate) fn instant(at: Seconds, skew: Seconds) -> Timestamp {
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    start
        .checked_add(SignedDuration::from_secs_f64(at + skew))
        .unwrap()
}
