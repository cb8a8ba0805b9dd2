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
    let lifetime = facts.not_after.duration_since(facts.not_before).as_secs().max(0);
    let wish = spec
        .renew_before
        .as_deref()
        .and_then(parse_duration)
        .map(|d| d.as_secs())
        .or_else(|| spec.renew_before_percentage.map(|p| lifetime / 100 * i64::from(p) + lifetime % 100 * i64::from(p) / 100));
    let share = if lifetime < 10 * 86_400 { lifetime / 2 } else { lifetime / 3 };
    let most = lifetime / 3 * 2;
    let before = SignedDuration::from_secs(wish.unwrap_or(share).min(most));
    Renewal {
        at: facts.not_after.checked_sub(before).unwrap_or(facts.not_before),
        before,
        clamped: wish.is_some_and(|w| w > most),
    }
}
