//! When a certificate is renewed (design §3, §6).

use evercert_api::CertificateSpec;
use evercert_api::duration::parse_duration;
use jiff::{SignedDuration, Timestamp};

use crate::facts::CertificateFacts;

/// The instant of renewal, and whether the wish was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// When the certificate is renewed.
    pub at: Timestamp,
    /// How long before expiry that is.
    pub before: SignedDuration,
    /// Whether the spec asks for more than two thirds of the lifetime, and two thirds were taken.
    pub clamped: bool,
}

/// When `facts` is renewed: `renewBefore` or `renewBeforePercentage` of the spec, at most two thirds of the lifetime; else a
/// third of the lifetime before expiry, or half of it where the lifetime is under ten days.
#[must_use]
pub fn plan_renewal(spec: &CertificateSpec, facts: &CertificateFacts) -> Renewal {
    let lifetime = facts
        .not_after
        .duration_since(facts.not_before)
        .as_secs()
        .max(0);
    let wish = spec
        .renew_before
        .as_deref()
        .and_then(parse_duration)
        .map(|d| d.as_secs())
        .or_else(|| {
            spec.renew_before_percentage
                .map(|p| lifetime / 100 * i64::from(p) + lifetime % 100 * i64::from(p) / 100)
        });
    let share = if lifetime < 10 * 86_400 {
        lifetime / 2
    } else {
        lifetime / 3
    };
    let most = lifetime * 2 / 3;
    let before = SignedDuration::from_secs(wish.unwrap_or(share).min(most));
    Renewal {
        at: facts
            .not_after
            .checked_sub(before)
            .unwrap_or(facts.not_before),
        before,
        clamped: wish.is_some_and(|w| w > most),
    }
}

/// The same for a certificate that came at `issued_at`: a quarter of the time it had left then passes first, so that a CA that
/// back-dates by most of the lifetime, or a clock that is fast, does not make one order follow the other. Never later than
/// a twentieth of the lifetime before expiry.
#[must_use]
pub fn plan_renewal_after(
    spec: &CertificateSpec,
    facts: &CertificateFacts,
    issued_at: Option<Timestamp>,
) -> Renewal {
    let renewal = plan_renewal(spec, facts);
    let Some(issued_at) = issued_at.filter(|at| *at < facts.not_after) else {
        return renewal;
    };
    let lifetime = facts.not_after.duration_since(facts.not_before);
    let latest = facts
        .not_after
        .checked_sub(lifetime / 20)
        .unwrap_or(facts.not_after);
    let earliest = issued_at
        .checked_add(facts.not_after.duration_since(issued_at) / 4)
        .unwrap_or(issued_at)
        .min(latest);
    let at = renewal.at.max(earliest);
    Renewal {
        at,
        before: facts.not_after.duration_since(at),
        clamped: renewal.clamped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixtures::{DAY, at, certificate, observed};

    /// Seconds before expiry, for a certificate that lives so many seconds.
    fn before(lifetime: i64, change: impl FnOnce(&mut CertificateSpec)) -> (i64, bool) {
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
    fn third_of_the_lifetime_is_left_or_half_of_a_short_one() {
        assert_eq!(before(90 * DAY, |_| {}), (30 * DAY, false));
        assert_eq!(before(10 * DAY, |_| {}), (10 * DAY / 3, false));
        assert_eq!(before(10 * DAY - 1, |_| {}), ((10 * DAY - 1) / 2, false));
        assert_eq!(before(60, |_| {}), (30, false));
    }

    #[test]
    fn renew_before_counts_from_expiry() {
        let ask =
            |text: &'static str| before(90 * DAY, move |s| s.renew_before = Some(text.to_owned()));
        assert_eq!(ask("240h"), (10 * DAY, false));
        assert_eq!(ask("1440h"), (60 * DAY, false));
        assert_eq!(
            ask("1441h"),
            (60 * DAY, true),
            "two thirds at most, and said"
        );
        assert_eq!(
            ask("soon"),
            (30 * DAY, false),
            "unreadable counts as absent"
        );
    }

    #[test]
    fn percentage_is_of_the_real_lifetime() {
        let ask = |lifetime, p| before(lifetime, move |s| s.renew_before_percentage = Some(p));
        assert_eq!(ask(90 * DAY, 10), (9 * DAY, false));
        assert_eq!(ask(100, 66), (66, false));
        assert_eq!(ask(5, 66), (3, false));
        assert_eq!(ask(100, 90), (66, true));
    }

    #[test]
    fn lifetime_of_nothing_is_no_trouble() {
        assert_eq!(before(0, |_| {}), (0, false));
        assert_eq!(
            before(0, |s| s.renew_before_percentage = Some(66)),
            (0, false)
        );
        let never = certificate("01", &[], 100, 0);
        assert_eq!(plan_renewal(&observed().spec, &never).at, at(0));
    }

    #[test]
    fn renewal_follows_the_issue_by_a_quarter_of_what_was_left() {
        let facts = certificate("01", &[], -4000, 400);
        let spec = observed().spec;
        assert_eq!(plan_renewal_after(&spec, &facts, None).at, at(-1800));
        let renewal = plan_renewal_after(&spec, &facts, Some(at(0)));
        assert_eq!((renewal.at, renewal.before.as_secs()), (at(100), 300));
        let usual = certificate("01", &[], -3600, 90 * DAY);
        let renewal = plan_renewal(&spec, &usual);
        assert_eq!(plan_renewal_after(&spec, &usual, Some(at(0))), renewal);
    }
}
