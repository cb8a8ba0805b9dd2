//! A limit in a sentence: which one, how large, and what it means for the one who waits.

use jiff::SignedDuration;

use super::scope::{self, Scope};
use super::{Limit, Model};

/// What holds an order back, without the instant.
pub(super) fn build_denial(model: &Model, scope: &Scope, by_ca: bool, urgent: bool) -> String {
    let what = match &scope.limit {
        Limit::Orders => "new orders of this account".to_owned(),
        Limit::RegisteredDomain(domain) => {
            format!("certificates for {domain} and all names below it")
        }
        Limit::NameSet => "certificates for this exact set of names".to_owned(),
        Limit::Failures(name) => format!("failed validations of {name}"),
        Limit::Streak(name) => format!("failed validations of {name} without a success in between"),
    };
    let bucket = scope::bucket(model, &scope.key);
    let size = bucket.map_or_else(String::new, |bucket| {
        let period = bucket.refill * i32::try_from(bucket.capacity).unwrap_or(i32::MAX);
        format!(" ({} in {})", bucket.capacity, build_period(period))
    });
    if by_ca {
        return format!("the CA has said that its limit of {what} is used up");
    }
    let size = match &scope.limit {
        Limit::Orders | Limit::RegisteredDomain(_) | Limit::NameSet => size,
        // Stricter than the CA's own.
        Limit::Failures(_) | Limit::Streak(_) => String::new(),
    };
    let kept = match (urgent, bucket.map_or(0, |bucket| bucket.reserve)) {
        (true, _) | (_, 0) => "it is used up".to_owned(),
        (false, 1) => {
            "it is used up but for one that is kept for a certificate that is lost or about to expire".to_owned()
        }
        (false, kept) => format!(
            "it is used up but for {kept} that are kept for certificates that are lost or about to expire"
        ),
    };
    format!("no order is placed, to stay within the CA's limit of {what}{size}: {kept}")
}

fn build_period(period: SignedDuration) -> String {
    // A refill is whole milliseconds, so a period may miss some of them.
    let minutes = (period.as_secs() + 30) / 60;
    match (minutes / (24 * 60), minutes / 60) {
        (days, _) if days > 1 => format!("{days} days"),
        (_, hours) if hours > 1 => format!("{hours} hours"),
        _ if minutes > 60 => format!("{minutes} minutes"),
        _ => "an hour".to_owned(),
    }
}
