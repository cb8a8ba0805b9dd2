//! When a certificate is renewed (design §3, §6).

use evercert_api::CertificateSpec;
use evercert_api::children::stable_hash;
use evercert_api::duration::parse_duration;
use jiff::{SignedDuration, Timestamp};

use crate::facts::CertificateFacts;
use crate::key::ObjectKey;
use crate::observe::Observed;
use crate::renewal_info::find_window;

/// The instant of renewal, and whether the wish was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// When the certificate is renewed.
    pub at: Timestamp,
    /// How long before expiry that is.
    pub before: SignedDuration,
    /// Whether the spec asks for another instant than may be.
    pub clamped: Option<Clamp>,
}

/// How the spec's wish was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clamp {
    /// It asks for more than two thirds of the lifetime before expiry, and two thirds were taken.
    TooEarly,
    /// It asks for less than a twentieth of the lifetime before expiry, and a twentieth was taken.
    TooLate,
}

/// The part of the lifetime that is left at the latest when a certificate is renewed.
const LATEST_PART: i64 = 20;
/// The part of the lifetime over which renewals that nobody wished for otherwise are spread.
const SPREAD_PART: i64 = 20;

/// The part of the time between renewal and expiry after which a renewal is overdue.
const LATE_PART: i32 = 4;

/// Whether a certificate that was to be renewed at `renewal` and expires at `expiry` should have been renewed long ago: a quarter of
/// the time between them has passed. A backoff or a CA's outage of a day is no reason to call a person, where weeks are left.
#[must_use]
pub fn is_overdue(renewal: Timestamp, expiry: Timestamp, now: Timestamp) -> bool {
    let patience = expiry.duration_since(renewal) / LATE_PART;
    now.duration_since(renewal) > patience.max(SignedDuration::ZERO)
}

/// When `facts` is renewed: `renewBefore` or `renewBeforePercentage` of the spec, at most two thirds of the lifetime and at least
/// a twentieth; else a third of the lifetime before expiry, or half of it where the lifetime is under ten days.
#[must_use]
pub fn plan_renewal(spec: &CertificateSpec, facts: &CertificateFacts) -> Renewal {
    let lifetime = lifetime(facts);
    let wish = wish(spec, lifetime);
    let share = if lifetime < 10 * 86_400 {
        lifetime / 2
    } else {
        lifetime / 3
    };
    let (least, most) = (lifetime / LATEST_PART, lifetime * 2 / 3);
    let before = SignedDuration::from_secs(wish.unwrap_or(share).clamp(least, most));
    Renewal {
        at: facts
            .not_after
            .checked_sub(before)
            .unwrap_or(facts.not_before),
        before,
        clamped: match wish {
            Some(wish) if wish > most => Some(Clamp::TooEarly),
            Some(wish) if wish < least => Some(Clamp::TooLate),
            Some(_) | None => None,
        },
    }
}

/// The same for the certificate of `o` that came at `issued_at`: the instant in the window that its CA suggests, where one is
/// known (RFC 9773); after it, over the operator's own setting or a twentieth of the lifetime, where the window was over when it
/// was first known.
///
/// Where the spec has no wish, it is earlier by up to a twentieth of the lifetime, by a hash of the Certificate's name: what was
/// issued at once is not renewed at once, after a restart neither. A quarter of the time that the certificate had left when it
/// came passes first, so that a CA that back-dates by most of the lifetime, or a clock that is fast, does not make one order
/// follow the other. Never later than a twentieth of the lifetime before expiry.
#[must_use]
pub fn plan_renewal_after(
    o: &Observed,
    facts: &CertificateFacts,
    issued_at: Option<Timestamp>,
) -> Renewal {
    let renewal = plan_renewal(&o.spec, facts);
    if let Some(window) = find_window(o, facts) {
        let most = SignedDuration::from_secs(lifetime(facts) / SPREAD_PART);
        let spread = o.renewal_spread.clamp(SignedDuration::ZERO, most);
        let at = window
            .instant(&o.key, facts, issued_at, spread)
            .min(latest(facts));
        return Renewal {
            at,
            before: facts.not_after.duration_since(at),
            clamped: renewal.clamped,
        };
    }
    let mut at = renewal.at;
    if wish(&o.spec, lifetime(facts)).is_none() {
        at = at.checked_sub(spread(&o.key, facts)).unwrap_or(at);
    }
    if let Some(issued_at) = issued_at.filter(|at| *at < facts.not_after) {
        let left = facts.not_after.duration_since(issued_at);
        at = at.max(issued_at.checked_add(left / 4).unwrap_or(issued_at));
    }
    let at = at.min(latest(facts));
    Renewal {
        at,
        before: facts.not_after.duration_since(at),
        clamped: renewal.clamped,
    }
}

/// A twentieth of the lifetime before expiry.
fn latest(facts: &CertificateFacts) -> Timestamp {
    let least = SignedDuration::from_secs(lifetime(facts) / LATEST_PART);
    facts
        .not_after
        .checked_sub(least)
        .unwrap_or(facts.not_after)
}

/// In seconds; nothing where a certificate ends before it begins.
fn lifetime(facts: &CertificateFacts) -> i64 {
    let lifetime = facts.not_after.duration_since(facts.not_before);
    lifetime.as_secs().max(0)
}

/// What the spec asks for, in seconds before expiry.
fn wish(spec: &CertificateSpec, lifetime: i64) -> Option<i64> {
    spec.renew_before
        .as_deref()
        .and_then(parse_duration)
        .map(|d| d.as_secs())
        .or_else(|| {
            spec.renew_before_percentage
                .map(|p| lifetime / 100 * i64::from(p) + lifetime % 100 * i64::from(p) / 100)
        })
}

fn spread(key: &ObjectKey, facts: &CertificateFacts) -> SignedDuration {
    let hash = stable_hash(&["renewal", &key.namespace, &key.name]);
    let thousandths = i64::try_from(hash % 1000).unwrap_or(0);
    SignedDuration::from_secs(lifetime(facts) / SPREAD_PART * thousandths / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixtures::{DAY, at, certificate, observed};

    /// Seconds before expiry, for a certificate that lives so many seconds.
    fn before(lifetime: i64, change: impl FnOnce(&mut CertificateSpec)) -> (i64, Option<Clamp>) {
        let mut spec = observed().spec;
        change(&mut spec);
        let facts = certificate("01", &[], 0, lifetime);
        let renewal = plan_renewal(&spec, &facts);
        assert_eq!(
            renewal.at,
            at(lifetime - renewal.before.as_secs()),
            "both say the same"
        );
        (renewal.before.as_secs(), renewal.clamped)
    }

    #[test]
    fn renewal_is_overdue_when_a_quarter_of_what_was_left_has_passed() {
        let is_overdue_at = |now| is_overdue(at(60 * DAY), at(90 * DAY), at(now));
        assert!(!is_overdue_at(0));
        assert!(!is_overdue_at(60 * DAY + 30 * DAY / 4));
        assert!(is_overdue_at(60 * DAY + 30 * DAY / 4 + 1));
        // Renewal information that came after the expiry.
        assert!(!is_overdue(at(9), at(5), at(9)) && is_overdue(at(9), at(5), at(10)));
    }

    #[test]
    fn third_of_the_lifetime_is_left_or_half_of_a_short_one() {
        assert_eq!(before(90 * DAY, |_| {}), (30 * DAY, None));
        assert_eq!(before(10 * DAY, |_| {}), (10 * DAY / 3, None));
        assert_eq!(before(10 * DAY - 1, |_| {}), ((10 * DAY - 1) / 2, None));
        assert_eq!(before(60, |_| {}), (30, None));
    }

    #[test]
    fn renew_before_counts_from_expiry() {
        let ask =
            |text: &'static str| before(90 * DAY, move |s| s.renew_before = Some(text.to_owned()));
        assert_eq!(ask("240h"), (10 * DAY, None));
        assert_eq!(ask("1440h"), (60 * DAY, None));
        assert_eq!(ask("108h"), (108 * 3_600, None));
        assert_eq!(
            ask("107h"),
            (108 * 3_600, Some(Clamp::TooLate)),
            "a twentieth at least, and said"
        );
        assert_eq!(
            ask("1441h"),
            (60 * DAY, Some(Clamp::TooEarly)),
            "two thirds at most, and said"
        );
        assert_eq!(ask("soon"), (30 * DAY, None), "unreadable counts as absent");
    }

    #[test]
    fn percentage_is_of_the_real_lifetime() {
        let ask = |lifetime, p| before(lifetime, move |s| s.renew_before_percentage = Some(p));
        assert_eq!(ask(90 * DAY, 10), (9 * DAY, None));
        assert_eq!(ask(100, 66), (66, None));
        assert_eq!(ask(5, 66), (3, None));
        assert_eq!(ask(1_000, 4), (50, Some(Clamp::TooLate)));
        assert_eq!(ask(100, 90), (66, Some(Clamp::TooEarly)));
    }

    #[test]
    fn lifetime_of_nothing_is_no_trouble() {
        assert_eq!(before(0, |_| {}), (0, None));
        assert_eq!(
            before(0, |s| s.renew_before_percentage = Some(66)),
            (0, None)
        );
        let never = certificate("01", &[], 100, 0);
        assert_eq!(plan_renewal(&observed().spec, &never).at, at(0));
    }

    /// Seconds from now on, of a certificate that came then.
    fn at_of(o: &Observed, facts: &CertificateFacts, issued_at: Option<i64>) -> i64 {
        let renewal = plan_renewal_after(o, facts, issued_at.map(at));
        assert_eq!(renewal.before, facts.not_after.duration_since(renewal.at));
        renewal.at.duration_since(at(0)).as_secs()
    }

    fn wishing(text: &str) -> Observed {
        let mut o = observed();
        o.spec.renew_before = Some(text.to_owned());
        o
    }

    #[test]
    fn renewal_follows_the_issue_by_a_quarter_of_what_was_left() {
        let facts = certificate("01", &[], -4000, 400);
        let o = wishing("2200s");
        assert_eq!(at_of(&o, &facts, None), -1800);
        assert_eq!(at_of(&o, &facts, Some(0)), 100);
        let usual = certificate("01", &[], -3600, 90 * DAY);
        assert_eq!(at_of(&wishing("720h"), &usual, Some(0)), 60 * DAY);
    }

    #[test]
    fn a_twentieth_of_the_lifetime_is_left_at_the_latest() {
        let facts = certificate("01", &[], 0, 100 * DAY);
        assert_eq!(at_of(&wishing("1s"), &facts, Some(0)), 95 * DAY);
        assert_eq!(at_of(&observed(), &facts, Some(99 * DAY)), 95 * DAY);
    }

    #[test]
    fn renewals_that_nobody_wished_for_otherwise_are_spread_by_name_over_a_twentieth() {
        let facts = certificate("01", &[], 0, 90 * DAY);
        let mut ats: Vec<i64> = (0..1_000)
            .map(|i| {
                let mut o = observed();
                o.key.name = format!("site{i}");
                assert_eq!(
                    at_of(&o, &facts, Some(0)),
                    at_of(&o, &facts, None),
                    "as ever"
                );
                at_of(&o, &facts, Some(0))
            })
            .collect();
        ats.sort_unstable();
        let (earliest, latest) = (60 * DAY - 90 * DAY / 20, 60 * DAY);
        assert!(
            ats.iter().all(|at| (earliest..=latest).contains(at)),
            "{ats:?}"
        );
        let crowd = ats.windows(50).map(|w| w[49] - w[0]).min();
        assert!(
            crowd > Some(90 * DAY / 20 / 50),
            "50 of 1,000 within {crowd:?} s"
        );
        assert_eq!(
            at_of(&wishing("720h"), &facts, Some(0)),
            60 * DAY,
            "as wished"
        );
    }
}
