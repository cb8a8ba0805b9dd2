//! Token buckets, as Let's Encrypt has them: capacity that refills continuously, one instant of state for each key.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::problem::{Problem, RetryAfter};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// New accounts, by the client's address.
    Accounts,
    /// New accounts, by the IPv6 network of 48 bits that the client is in.
    AccountsOfNetwork,
    /// New orders, by account. Renewals are exempt, those with renewal information and those of the same set.
    Orders,
    /// Certificates, by registered domain or address, over all accounts. Exempt as [`Limit::Orders`].
    RegisteredDomain,
    /// Certificates, by the exact set of identifiers, over all accounts. Only renewals with renewal information are exempt.
    ExactSet,
    /// Failed authorizations, by account and name. Only renewals with renewal information are exempt.
    Failures,
    /// Failed authorizations in a row, by account and name; a success gives all back. When none is left the pair is paused.
    FailuresInARow,
}

/// So many in so long a time, of which the next comes after a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens in a full bucket.
    pub capacity: u32,
    /// How long an empty one takes to fill.
    pub window: Duration,
}

/// How a refusal says when to come again; its detail says it in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryStyle {
    /// `Retry-After` in seconds.
    #[default]
    Seconds,
    /// `Retry-After` as a date.
    Date,
    /// No `Retry-After`.
    Missing,
}

/// The limits of a CA.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub(super) rates: BTreeMap<Limit, Rate>,
    pub(super) style: RetryStyle,
}

impl Limits {
    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Those of Let's Encrypt's production, as published on 2026-08-05.
    #[must_use]
    pub fn lets_encrypt() -> Self {
        let (hours, days) = (Duration::from_hours, |n: u64| Duration::from_hours(24 * n));
        Self::none()
            .with(Limit::Accounts, 10, hours(3))
            .with(Limit::AccountsOfNetwork, 500, hours(3))
            .with(Limit::Orders, 300, hours(3))
            .with(Limit::RegisteredDomain, 50, days(7))
            .with(Limit::ExactSet, 5, days(7))
            .with(Limit::Failures, 5, hours(1))
            .with(Limit::FailuresInARow, 1152, days(1152))
    }

    /// With one limit set: `capacity` tokens, all back after `window`.
    #[must_use]
    pub fn with(mut self, limit: Limit, capacity: u32, window: Duration) -> Self {
        self.rates.insert(limit, Rate { capacity, window });
        self
    }

    /// With every bucket refilling so many times as fast, so that a week passes while a test waits.
    #[must_use]
    pub fn faster(mut self, times: u32) -> Self {
        for rate in self.rates.values_mut() {
            rate.window /= times.max(1);
        }
        self
    }

    /// With refusals that say when to come again in this way.
    #[must_use]
    pub fn telling(mut self, style: RetryStyle) -> Self {
        self.style = style;
        self
    }
}

impl Rate {
    /// The time in which one token comes back.
    fn refill(self) -> SignedDuration {
        let refill = self.window / self.capacity.max(1);
        SignedDuration::try_from(refill).unwrap_or(SignedDuration::MAX)
    }

    fn window(self) -> SignedDuration {
        SignedDuration::try_from(self.window).unwrap_or(SignedDuration::MAX)
    }
}

/// What was spent: for each bucket that is not full, when it will be.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    full_at: BTreeMap<(Limit, String), Timestamp>,
}

impl Buckets {
    /// When the next token comes; `None` when there is one now.
    pub(super) fn next_token(
        &self,
        limit: Limit,
        rate: Rate,
        key: &str,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let full_at = self.full_at(limit, key, now);
        let next = full_at + rate.refill() - rate.window();
        (next > now).then_some(next)
    }

    /// Tokens left, whole ones.
    pub(super) fn left(&self, limit: Limit, rate: Rate, key: &str, now: Timestamp) -> u32 {
        let (refill, missing) = (
            rate.refill(),
            self.full_at(limit, key, now).duration_since(now),
        );
        let refill = refill.as_nanos().max(1);
        let spent = (missing.as_nanos() + refill - 1) / refill;
        rate.capacity
            .saturating_sub(u32::try_from(spent).unwrap_or(u32::MAX))
    }

    /// Takes a token, whether or not there is one.
    pub(super) fn spend(&mut self, limit: Limit, rate: Rate, key: &str, now: Timestamp) {
        let full_at = self.full_at(limit, key, now) + rate.refill();
        self.full_at.insert((limit, key.to_owned()), full_at);
    }

    /// Fills a bucket.
    pub(super) fn fill(&mut self, limit: Limit, key: &str) {
        self.full_at.remove(&(limit, key.to_owned()));
    }

    fn full_at(&self, limit: Limit, key: &str, now: Timestamp) -> Timestamp {
        let kept = self.full_at.get(&(limit, key.to_owned()));
        kept.copied().unwrap_or(now).max(now)
    }
}

/// A refusal by one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) limit: Limit,
    pub(super) rate: Rate,
    /// What the limit counts by, in words.
    pub(super) of: String,
    pub(super) until: Timestamp,
}

impl Refusal {
    /// The 429, in Let's Encrypt's words.
    pub(super) fn problem(&self, style: RetryStyle, now: Timestamp) -> Problem {
        let problem = Problem::new(429, "rateLimited", self.to_string());
        let retry_after = match style {
            RetryStyle::Seconds => {
                let wait = self.until.duration_since(now);
                let seconds = wait.as_secs() + i64::from(wait.subsec_nanos() > 0);
                RetryAfter::Seconds(seconds.try_into().unwrap_or_default())
            }
            RetryStyle::Date => RetryAfter::At(whole_second_after(self.until)),
            RetryStyle::Missing => return problem,
        };
        problem.header("retry-after", &retry_after.to_string())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.rate.capacity;
        let (what, page) = match self.limit {
            Limit::Accounts => (
                format!("too many new registrations ({n}) from this IP address"),
                "new-registrations-per-ip-address",
            ),
            Limit::AccountsOfNetwork => (
                format!("too many new registrations ({n}) from this /48 block of IPv6 addresses"),
                "new-registrations-per-ipv6-range",
            ),
            Limit::Orders => (
                format!("too many new orders ({n}) from this account"),
                "new-orders-per-account",
            ),
            Limit::RegisteredDomain => (
                format!(
                    "too many certificates ({n}) already issued for {:?}",
                    self.of
                ),
                "new-certificates-per-registered-domain",
            ),
            Limit::ExactSet => (
                format!(
                    "too many certificates ({n}) already issued for this exact set of identifiers"
                ),
                "new-certificates-per-exact-set-of-identifiers",
            ),
            Limit::Failures | Limit::FailuresInARow => (
                format!("too many failed authorizations ({n}) for {:?}", self.of),
                "authorization-failures-per-identifier-per-account",
            ),
        };
        let window = self.rate.window.as_secs();
        let until = whole_second_after(self.until);
        write!(
            f,
            "{what} in the last {}h{}m{}s, retry after {}: see https://letsencrypt.org/docs/rate-limits/#{page}",
            window / 3600,
            window % 3600 / 60,
            window % 60,
            until.strftime("%Y-%m-%d %H:%M:%S UTC"),
        )
    }
}

/// A client that comes at a whole second before the token would come too early.
fn whole_second_after(at: Timestamp) -> Timestamp {
    let second = at.as_second() + i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(second).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "a.test";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn rate(capacity: u32, seconds: u64) -> Rate {
        Rate {
            capacity,
            window: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn tokens_come_back_one_by_one_and_never_more_than_fit() {
        let (limit, rate) = (Limit::ExactSet, rate(5, 500));
        let mut buckets = Buckets::default();
        for left in (0..5).rev() {
            assert_eq!(buckets.next_token(limit, rate, KEY, at(0)), None);
            buckets.spend(limit, rate, KEY, at(0));
            assert_eq!(buckets.left(limit, rate, KEY, at(0)), left);
        }
        assert_eq!(buckets.next_token(limit, rate, KEY, at(0)), Some(at(100)));
        assert_eq!(buckets.next_token(limit, rate, KEY, at(99)), Some(at(100)));
        assert_eq!(buckets.next_token(limit, rate, KEY, at(100)), None);
        for (second, left) in [(99, 0), (100, 1), (199, 1), (250, 2), (500, 5), (9_999, 5)] {
            assert_eq!(buckets.left(limit, rate, KEY, at(second)), left, "{second}");
        }
        buckets.spend(limit, rate, KEY, at(250));
        assert_eq!(buckets.left(limit, rate, KEY, at(250)), 1);
        // Another key has its own.
        assert_eq!(buckets.left(limit, rate, "b.test", at(250)), 5);
        assert_eq!(buckets.left(Limit::Orders, rate, KEY, at(250)), 5);
    }

    #[test]
    fn what_was_spent_above_the_capacity_is_a_debt() {
        let (limit, rate) = (Limit::RegisteredDomain, rate(2, 20));
        let mut buckets = Buckets::default();
        (0..4).for_each(|_| buckets.spend(limit, rate, KEY, at(0)));
        assert_eq!(buckets.next_token(limit, rate, KEY, at(0)), Some(at(30)));
        assert_eq!(buckets.left(limit, rate, KEY, at(20)), 0);
        assert_eq!(buckets.left(limit, rate, KEY, at(30)), 1);
    }

    #[test]
    fn a_clock_that_went_back_keeps_what_was_spent() {
        let (limit, rate) = (Limit::Failures, rate(1, 60));
        let mut buckets = Buckets::default();
        buckets.spend(limit, rate, KEY, at(0));
        assert_eq!(
            buckets.next_token(limit, rate, KEY, at(-3600)),
            Some(at(60))
        );
        buckets.fill(limit, KEY);
        assert_eq!(buckets.next_token(limit, rate, KEY, at(-3600)), None);
    }

    #[test]
    fn lets_encrypts_tokens_come_at_the_published_pace() {
        let rates = Limits::lets_encrypt().rates;
        let refill = |limit| rates[&limit].refill();
        assert_eq!(refill(Limit::Accounts), SignedDuration::from_mins(18));
        assert_eq!(refill(Limit::AccountsOfNetwork).as_secs(), 21);
        assert_eq!(refill(Limit::Orders), SignedDuration::from_secs(36));
        assert_eq!(refill(Limit::RegisteredDomain).as_mins(), 201);
        assert_eq!(refill(Limit::ExactSet).as_mins(), 34 * 60 - 24);
        assert_eq!(refill(Limit::Failures), SignedDuration::from_mins(12));
        assert_eq!(
            refill(Limit::FailuresInARow),
            SignedDuration::from_hours(24)
        );
        let faster = Limits::lets_encrypt().faster(3600).rates;
        assert_eq!(
            faster[&Limit::Accounts].refill(),
            SignedDuration::from_millis(300)
        );
    }

    #[test]
    fn a_date_between_seconds_is_told_as_the_second_after() {
        let until = at(60) + SignedDuration::from_millis(1);
        let refusal = Refusal {
            limit: Limit::Orders,
            rate: rate(300, 3 * 3600),
            of: String::new(),
            until,
        };
        let header = |style| {
            let headers = refusal.problem(style, at(0)).headers;
            headers.first().map(|(_, value)| value.clone())
        };
        assert_eq!(header(RetryStyle::Seconds).as_deref(), Some("61"));
        assert_eq!(
            header(RetryStyle::Date).as_deref(),
            Some("Fri, 15 Jan 2027 08:01:01 GMT")
        );
        assert_eq!(header(RetryStyle::Missing), None);
        assert_eq!(
            refusal.to_string(),
            "too many new orders (300) from this account in the last 3h0m0s, retry after 2027-01-15 08:01:01 UTC: see https://letsencrypt.org/docs/rate-limits/#new-orders-per-account"
        );
    }
}
