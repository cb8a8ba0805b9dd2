//! When people are told again what is left of a budget: at most once a minute, however often their status is written.

use jiff::{SignedDuration, Timestamp};

use super::Budget;

/// The shortest time between two times that a budget is told.
pub const TELL: SignedDuration = SignedDuration::from_mins(1);

/// When a budget is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// It is what was told.
    Kept,
    /// Not before this instant; until then what was told stays.
    At(Timestamp),
    /// Now.
    Now,
}

impl Budget {
    /// Rounded, as it is told: orders to tenths, none only where there is none; the instant up to the minute.
    #[must_use]
    pub fn rounded(mut self) -> Self {
        if self.orders > 0 {
            let tenth = (self.capacity / 10).max(1);
            self.orders = ((self.orders + tenth / 2) / tenth * tenth).clamp(tenth, self.capacity);
        }
        let minute = |at: Timestamp| Timestamp::from_second((at.as_second() + 59) / 60 * 60).ok();
        self.next = self.next.and_then(minute);
        self.full = None;
        self
    }
}

/// When `left` is told, of which `told` was told last, at that instant.
#[must_use]
pub fn plan_telling(told: Option<(&Budget, Timestamp)>, left: &Budget, now: Timestamp) -> Telling {
    match told {
        Some((told, _)) if told.rounded() == left.rounded() => Telling::Kept,
        // Not of the future: a clock that was set back keeps nobody waiting.
        Some((_, at)) if at <= now && now.duration_since(at) < TELL => {
            Telling::At(super::later(at, TELL))
        }
        Some(_) | None => Telling::Now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn left(orders: u32, next: Option<i64>) -> Budget {
        Budget {
            orders,
            capacity: 270,
            next: next.map(at),
            full: Some(at(1_000)),
        }
    }

    #[test]
    fn what_is_left_is_told_at_most_once_a_minute() {
        let (some, none) = (left(30, None), left(0, Some(36)));
        let plan = |told, left, now| plan_telling(told, left, at(now));
        assert_eq!(plan(None, &some, 0), Telling::Now, "never told");
        let told = Some((&some, at(0)));
        assert_eq!(plan(told, &none, 1), Telling::At(at(60)));
        assert_eq!(plan(told, &none, 59), Telling::At(at(60)));
        assert_eq!(plan(told, &none, 60), Telling::Now);
        assert_eq!(plan(told, &some, 600), Telling::Kept, "nothing new");
        let ahead = Some((&some, at(9_000)));
        assert_eq!(
            plan(ahead, &none, 1),
            Telling::Now,
            "the clock was set back"
        );
    }

    #[test]
    fn a_tenth_and_a_minute_are_news_and_less_is_not() {
        let rounded = |orders, next| {
            let rounded = left(orders, next).rounded();
            (rounded.orders, rounded.next.map(Timestamp::as_second))
        };
        assert_eq!(rounded(0, Some(61)), (0, Some(120)));
        assert_eq!((rounded(1, None).0, rounded(40, None).0), (27, 27));
        assert_eq!((rounded(41, None).0, rounded(270, None).0), (54, 270));
        let told = left(40, None);
        let plan = |left: &Budget| plan_telling(Some((&told, at(0))), left, at(100));
        assert_eq!(plan(&left(28, None)), Telling::Kept);
        assert_eq!(plan(&left(41, None)), Telling::Now);
        let told = left(0, Some(61));
        let plan = |left: &Budget| plan_telling(Some((&told, at(0))), left, at(100));
        assert_eq!(plan(&left(0, Some(119))), Telling::Kept);
        assert_eq!(
            plan(&left(0, Some(121))),
            Telling::Now,
            "the next token is spent, too"
        );
    }
}
