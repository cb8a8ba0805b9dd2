//! Which of the issuers that a spec names is to sign: the first that has not refused for good.

use evercert_api::Reason;
use evercert_api::certificate::RefusalStatus;
use jiff::Timestamp;

use crate::caa::CaaAnswer;
use crate::fault::LONGEST_WAIT;
use crate::observe::IssuerObservation;
use crate::sentence::quote;

/// An issuer that the spec names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatory {
    /// `Kind/name`.
    pub id: String,
    /// What is known of it.
    pub issuer: IssuerObservation,
    /// The fingerprint of spec and issuer.
    pub fingerprint: String,
    /// What CAA records say of its CA, where they were looked up.
    pub caa: Option<CaaAnswer>,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its place in the spec, from 0.
    pub at: usize,
    /// Why no other one is tried, where the first cannot issue.
    pub passed_over: Option<String>,
}

/// Whether the CA has refused this issuer for good: its account, or the Certificate's order.
#[must_use]
pub fn has_refused(signatory: &Signatory, refusals: &[RefusalStatus], now: Timestamp) -> bool {
    let by_account = match &signatory.issuer {
        IssuerObservation::NotReady { reason, .. } => [
            Reason::AccountDeactivated,
            Reason::AccountRefused,
            Reason::EABRejected,
            Reason::ExternalAccountRequired,
        ]
        .iter()
        .any(|refused| refused.as_str() == reason),
        IssuerObservation::Missing | IssuerObservation::Ready(_) => false,
    };
    by_account
        || refusals.iter().any(|refusal| {
            refusal.issuer == signatory.id
                && refusal.fingerprint == signatory.fingerprint
                && now.duration_since(refusal.time.0) < LONGEST_WAIT
        })
}

/// The first that has not refused for good; one after the first only where it is ready and no CAA record forbids it. Where there is
/// none, the first: its own state says what is waited for. An issuer that is down has not refused.
#[must_use]
pub fn choose_issuer(all: &[Signatory], refusals: &[RefusalStatus], now: Timestamp) -> Choice {
    let first = Choice {
        at: 0,
        passed_over: None,
    };
    let Some((head, rest)) = all.split_first() else {
        return first;
    };
    if rest.is_empty() || !has_refused(head, refusals, now) {
        return first;
    }
    let mut reasons = Vec::new();
    for (at, signatory) in (1..).zip(rest) {
        match find_hindrance(signatory, refusals, now) {
            None => {
                let passed_over = (!reasons.is_empty()).then(|| reasons.join(". "));
                return Choice { at, passed_over };
            }
            Some(why) => reasons.push(format!("{} is not tried: {why}", signatory.id)),
        }
    }
    Choice {
        passed_over: Some(reasons.join(". ")),
        ..first
    }
}

fn find_hindrance(
    signatory: &Signatory,
    refusals: &[RefusalStatus],
    now: Timestamp,
) -> Option<String> {
    match &signatory.issuer {
        IssuerObservation::Missing => return Some("it does not exist".to_owned()),
        IssuerObservation::NotReady {
            reason, message, ..
        } => {
            return Some(format!("it is not ready ({reason}): {}", quote(message)));
        }
        IssuerObservation::Ready(_) => {}
    }
    if has_refused(signatory, refusals, now) {
        let refusal = refusals.iter().find(|r| r.issuer == signatory.id);
        let why = refusal.map(|r| quote(&r.message)).unwrap_or_default();
        return Some(format!("it has refused, too: {why}"));
    }
    match &signatory.caa {
        Some(CaaAnswer::Forbidden(why)) => Some(why.clone()),
        Some(CaaAnswer::Allowed | CaaAnswer::Unknown(_)) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use evercert_api::certificate::whole_seconds;
    use jiff::SignedDuration;

    use super::*;
    use crate::observe::IssuerFacts;
    use crate::plan::fixtures::now;

    fn ready(name: &str) -> Signatory {
        Signatory {
            id: format!("Issuer/{name}"),
            issuer: IssuerObservation::Ready(IssuerFacts {
                id: format!("Issuer/{name}"),
                directory: format!("https://{name}.example/dir"),
                generation: 1,
            }),
            fingerprint: format!("{name}-1"),
            caa: None,
        }
    }

    fn not_ready(name: &str, reason: &str) -> Signatory {
        Signatory {
            issuer: IssuerObservation::NotReady {
                facts: None,
                reason: reason.into(),
                message: "why".into(),
            },
            ..ready(name)
        }
    }

    fn refused(name: &str) -> RefusalStatus {
        RefusalStatus {
            issuer: format!("Issuer/{name}"),
            time: whole_seconds(now()),
            message: "no more certificates".into(),
            fingerprint: format!("{name}-1"),
        }
    }

    fn at(all: &[Signatory], refusals: &[RefusalStatus]) -> usize {
        choose_issuer(all, refusals, now()).at
    }

    #[test]
    fn the_first_signs_until_it_has_refused_for_good() {
        let all = [ready("a"), ready("b")];
        assert_eq!(at(&all, &[]), 0);
        assert_eq!(at(&all, &[refused("a")]), 1);
        assert_eq!(at(&[ready("a")], &[refused("a")]), 0, "there is no other");
        for reason in [
            "AccountDeactivated",
            "AccountRefused",
            "EABRejected",
            "ExternalAccountRequired",
        ] {
            assert_eq!(
                at(&[not_ready("a", reason), ready("b")], &[]),
                1,
                "{reason}"
            );
        }
        for reason in ["CAUnavailable", "RateLimited", "TermsNotAgreed", "Starting"] {
            assert_eq!(
                at(&[not_ready("a", reason), ready("b")], &[]),
                0,
                "{reason}"
            );
        }
    }

    #[test]
    fn a_refusal_counts_for_a_day_and_until_spec_or_issuer_change() {
        let all = [ready("a"), ready("b")];
        let mut refusal = refused("a");
        refusal.time = whole_seconds(now() - SignedDuration::from_hours(25));
        assert_eq!(at(&all, &[refusal]), 0);
        let mut changed = ready("a");
        changed.fingerprint = "a-2".into();
        assert_eq!(at(&[changed, ready("b")], &[refused("a")]), 0);
    }

    #[test]
    fn whoever_cannot_sign_or_must_not_is_passed_over_with_the_reason() {
        let forbidden = Signatory {
            caa: Some(CaaAnswer::Forbidden("the CAA records forbid it".into())),
            ..ready("b")
        };
        let all = [ready("a"), forbidden.clone(), ready("c")];
        let choice = choose_issuer(&all, &[refused("a")], now());
        assert_eq!(choice.at, 2);
        let why = choice.passed_over.unwrap();
        assert_eq!(why, "Issuer/b is not tried: the CAA records forbid it");

        let choice = choose_issuer(&[ready("a"), forbidden], &[refused("a")], now());
        assert_eq!(choice.at, 0);
        assert!(choice.passed_over.unwrap().contains("CAA"));

        let unknown = Signatory {
            caa: Some(CaaAnswer::Unknown("no answer".into())),
            ..ready("b")
        };
        assert_eq!(at(&[ready("a"), unknown], &[refused("a")]), 1);
        let both = [refused("a"), refused("b")];
        let choice = choose_issuer(&[ready("a"), ready("b")], &both, now());
        assert_eq!(choice.at, 0);
        assert!(
            choice
                .passed_over
                .unwrap()
                .contains("refused, too: no more certificates")
        );
        let missing = Signatory {
            issuer: IssuerObservation::Missing,
            ..ready("b")
        };
        let rest = [
            ready("a"),
            missing,
            not_ready("c", "EABRejected"),
            ready("d"),
        ];
        assert_eq!(at(&rest, &[refused("a")]), 3);
    }
}
