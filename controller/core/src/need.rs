//! What makes a new certificate necessary (design §2): the first reason that holds, with its sentence.

use evercert_api::Reason;
use evercert_api::keys::RENEW_AT;
use jiff::Timestamp;

use crate::facts::{CertificateFacts, Damage, KeyKind};
use crate::observe::{IssuerObservation, Observed, SELF_SIGNED, SecretObservation, TlsSecret};
use crate::renewal::plan_renewal_after;
use crate::renewal_info::find_window;
use crate::sentence::list;

/// A reason for a new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The word.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
    /// Whether the certificate in place still is what the spec asks for (only its renewal is due).
    pub still_good: bool,
}

/// The first reason for a new certificate, if there is any. A Secret of somebody else is none: it is never touched.
#[must_use]
pub fn find_need(o: &Observed, now: Timestamp) -> Option<Need> {
    match &o.secret {
        SecretObservation::Missing => Some(Need {
            reason: Reason::SecretMissing,
            message: format!("Secret {} does not exist yet", o.spec.secret_name),
            still_good: false,
        }),
        SecretObservation::WrongType(_) | SecretObservation::Foreign(_) => None,
        SecretObservation::Ours(secret) => find_need_of(o, secret, now),
    }
}

/// The same as if `secret` were in place.
pub(crate) fn find_need_of(o: &Observed, secret: &TlsSecret, now: Timestamp) -> Option<Need> {
    let need = |reason, message: String| {
        Some(Need {
            reason,
            message,
            still_good: false,
        })
    };
    let name = &o.spec.secret_name;
    let facts = match &secret.content {
        Err(Damage::MissingData) => {
            return need(
                Reason::MissingData,
                format!("Secret {name} lacks tls.crt or tls.key"),
            );
        }
        Err(Damage::InvalidCertificate) => {
            return need(
                Reason::InvalidCertificate,
                format!("tls.crt in Secret {name} cannot be read as a certificate"),
            );
        }
        Err(Damage::InvalidKeyPair) => {
            return need(
                Reason::InvalidKeyPair,
                format!("tls.key in Secret {name} does not belong to the certificate in it"),
            );
        }
        Ok(facts) => facts,
    };
    if secret.fallback {
        return need(
            Reason::FallbackInPlace,
            if facts.stands_in {
                format!("Secret {name} holds a self-signed fallback, not an issued certificate")
            } else {
                format!("Secret {name} holds your own fallback, not an issued certificate")
            },
        );
    }
    if o.is_revoked(facts) {
        return need(
            Reason::Revoked,
            format!(
                "the certificate in Secret {name}, with the serial number {}, is revoked",
                facts.serial
            ),
        );
    }
    issuer_changed(o, secret)
        .or_else(|| names_changed(o, secret))
        .or_else(|| {
            let wanted = KeyKind::wanted(&o.spec.key());
            // Nobody asked for another key than the one that an adopted certificate came with.
            let adopted = secret.marks.issuer.is_none() && o.spec.private_key.is_none();
            (facts.key != wanted && !adopted).then(|| Need {
                reason: Reason::KeySpecChanged,
                message: format!(
                    "the key in Secret {name} is {}, the spec asks for {wanted}",
                    facts.key
                ),
                still_good: false,
            })
        })
        .or_else(|| {
            o.is_to_be_revoked(facts).then(|| Need {
                reason: Reason::RevocationRequested,
                message: "the certificate in place is to be revoked and is renewed first"
                    .to_owned(),
                still_good: now < facts.not_after,
            })
        })
        .or_else(|| renew_requested(o, secret, now))
        .or_else(|| {
            (now >= facts.not_after).then(|| Need {
                reason: Reason::Expired,
                message: format!(
                    "the certificate in Secret {name} expired at {}",
                    whole(facts.not_after)
                ),
                still_good: false,
            })
        })
        .or_else(|| {
            let renewal = plan_renewal_after(o, facts, secret.marks.issued_at);
            (now >= renewal.at && now >= facts.not_before).then(|| Need {
                reason: Reason::Renewing,
                message: format!(
                    "the certificate expires at {} and {}",
                    whole(facts.not_after),
                    build_due(o, facts)
                ),
                still_good: true,
            })
        })
}

fn build_due(o: &Observed, facts: &CertificateFacts) -> String {
    match find_window(o, facts) {
        Some(window) => format!(
            "the CA asks for its renewal between {} and {}{}",
            window.start,
            window.end,
            window
                .explanation_url
                .map(|url| format!(" (see {url})"))
                .unwrap_or_default()
        ),
        None => "is due for renewal".to_owned(),
    }
}

/// A person asks for it, at an instant after the certificate came: so each new value is one renewal.
fn renew_requested(o: &Observed, secret: &TlsSecret, now: Timestamp) -> Option<Need> {
    let facts = secret.content.as_ref().ok()?;
    let came = secret.marks.issued_at.unwrap_or(facts.not_before);
    let at = o.requested_after(came).filter(|at| *at <= now)?;
    Some(Need {
        reason: Reason::RenewRequested,
        message: format!("a renewal is asked for: the annotation {RENEW_AT} says {at}"),
        still_good: now < facts.not_after,
    })
}

/// An instant in whole seconds, as people read it.
#[must_use]
pub fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// The same, never before the instant itself: what is waited for until then has come.
#[must_use]
pub fn whole_up(at: Timestamp) -> Timestamp {
    let up = i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(at.as_second().saturating_add(up)).unwrap_or(at)
}

/// The spec's own words count, ready or not: an issuer that is down stays the one that signed.
fn issuer_changed(o: &Observed, secret: &TlsSecret) -> Option<Need> {
    let id = o.issuer_id();
    let directory = match &o.issuer {
        IssuerObservation::Ready(issuer) => Some(issuer.directory.as_str()),
        IssuerObservation::Missing | IssuerObservation::NotReady { .. } => None,
    };
    let marks = &secret.marks;
    // A certificate that somebody put there counts as from the right issuer until its renewal, but not one that nobody trusts.
    let signed_by_itself = secret.content.as_ref().is_ok_and(|c| c.self_signed);
    if marks.issuer.is_none() && signed_by_itself && directory.is_some_and(|d| d != SELF_SIGNED) {
        return Some(Need {
            reason: Reason::IssuerChanged,
            message: format!("the certificate in place is self-signed, the spec names {id}"),
            still_good: false,
        });
    }
    // Any of those that the spec names may have signed; the first has its turn at the next renewal.
    let signed_by = o
        .others
        .iter()
        .find(|other| Some(&other.id) == marks.issuer.as_ref() && other.id != id);
    let (id, directory) = match signed_by {
        Some(other) => (other.id.clone(), other.directory()),
        None => (id, directory),
    };
    let other = |was: &Option<String>, is: &str| was.as_deref().is_some_and(|was| was != is);
    let at = |directory: Option<&str>| directory.map(|d| format!(" at {d}")).unwrap_or_default();
    (other(&marks.issuer, &id) || directory.is_some_and(|is| other(&marks.directory, is))).then(
        || Need {
            reason: Reason::IssuerChanged,
            message: format!(
                "the certificate was signed by {}{}, the spec names {id}{}",
                marks.issuer.as_deref().unwrap_or("an unknown issuer"),
                at(marks.directory.as_deref()),
                at(directory)
            ),
            still_good: false,
        },
    )
}

fn names_changed(o: &Observed, secret: &TlsSecret) -> Option<Need> {
    let wanted = o.wanted_names();
    let facts = secret.content.as_ref().ok()?;
    let missing: Vec<&str> = wanted
        .iter()
        .map(String::as_str)
        .filter(|n| !facts.covers([*n]))
        .collect();
    let changed = secret
        .marks
        .names
        .as_ref()
        .is_some_and(|names| *names != wanted);
    if missing.is_empty() && !changed {
        return None;
    }
    let message = if missing.is_empty() {
        "the certificate was issued for more names than the spec lists".to_owned()
    } else {
        format!("the certificate in place lacks {}", list(&missing))
    };
    Some(Need {
        reason: Reason::NamesChanged,
        message,
        still_good: false,
    })
}

#[cfg(test)]
mod tests {
    use evercert_api::certificate::KeyAlgorithm;

    use super::*;
    use crate::facts::CertificateFacts;
    use crate::observe::Marks;
    use crate::plan::fixtures::{
        DAY, at, certificate, due, expired, fallback, foreign, good, marks, now, observed, other,
    };

    fn reason(o: &Observed) -> Option<Reason> {
        find_need(o, now()).map(|n| n.reason)
    }

    #[test]
    fn each_reason_for_a_new_certificate_has_its_word_and_its_sentence() {
        let placed = || observed().with_certificate(good());
        let cases = vec![
            (observed(), Reason::SecretMissing, "does not exist yet"),
            (
                observed().with_damage(Damage::MissingData),
                Reason::MissingData,
                "lacks tls.crt or tls.key",
            ),
            (
                observed().with_damage(Damage::InvalidKeyPair),
                Reason::InvalidKeyPair,
                "does not belong",
            ),
            (
                observed().with_damage(Damage::InvalidCertificate),
                Reason::InvalidCertificate,
                "cannot be read",
            ),
            (
                observed().with_fallback(fallback()),
                Reason::FallbackInPlace,
                "self-signed fallback",
            ),
            (
                placed().with_issuer("Issuer/ca", "https://new.example/d"),
                Reason::IssuerChanged,
                "at https://new.example/d",
            ),
            (
                placed().with_names(&["a.example", "c.example"]),
                Reason::NamesChanged,
                "lacks c.example",
            ),
            (
                placed().with_names(&["a.example"]),
                Reason::NamesChanged,
                "more names than",
            ),
            (
                placed().with_key(KeyAlgorithm::Rsa, 4096),
                Reason::KeySpecChanged,
                "is ECDSA 256, the spec asks for RSA 4096",
            ),
            (
                observed().with_certificate(expired()),
                Reason::Expired,
                "expired at 2027-01-14T08:00:00Z",
            ),
            (
                observed().with_certificate(due()),
                Reason::Renewing,
                "is due for renewal",
            ),
        ];
        for (o, reason, words) in cases {
            let need = find_need(&o, now()).unwrap();
            assert_eq!(need.reason, reason);
            assert!(need.message.contains(words), "{}", need.message);
            assert_eq!(
                need.still_good,
                reason == Reason::Renewing,
                "only a renewal leaves it good"
            );
        }
    }

    #[test]
    fn a_renewal_that_is_asked_for_is_due_once_when_its_instant_has_come() {
        let asked = |text: &str| {
            let mut o = observed().with_certificate(good());
            o.renew_at = Some(text.to_owned());
            o
        };
        let at_text = |seconds| at(seconds).to_string();
        let o = asked(&at_text(-1));
        let need = find_need(&o, now()).unwrap();
        assert_eq!(
            (need.reason, need.still_good),
            (Reason::RenewRequested, true)
        );
        assert!(
            need.message.contains("evercert.dev/renew-at says 2027"),
            "{}",
            need.message
        );
        let local = "2027-01-15T09:30:00+01:30";
        assert_eq!(
            reason(&asked(local)),
            Some(Reason::RenewRequested),
            "any offset"
        );
        assert_eq!(reason(&asked(&at_text(1))), None, "not yet");
        assert_eq!(reason(&asked(&at_text(-41 * DAY))), None, "before it came");
        assert_eq!(reason(&asked("tomorrow")), None, "unreadable");
        let came = Marks {
            issued_at: Some(now()),
            ..marks()
        };
        assert_eq!(
            reason(&o.clone().with_marks(came)),
            None,
            "it has been renewed"
        );
        let unmarked = Marks {
            issued_at: None,
            ..marks()
        };
        assert_eq!(
            reason(&o.with_marks(unmarked)),
            Some(Reason::RenewRequested)
        );
        let mut over = observed().with_certificate(expired());
        over.renew_at = Some(at_text(-60));
        assert!(!find_need(&over, now()).unwrap().still_good);
    }

    #[test]
    fn certificate_that_is_as_it_should_be_needs_nothing() {
        assert_eq!(reason(&observed().with_certificate(good())), None);
        let unmarked = observed()
            .with_certificate(good())
            .with_marks(Marks::default());
        assert_eq!(reason(&unmarked), None);
        let order = &["b.example", "a.example", "a.example"];
        assert_eq!(
            reason(&observed().with_certificate(good()).with_names(order)),
            None
        );
    }

    #[test]
    fn adopted_certificate_counts_as_from_the_right_issuer_with_the_key_that_it_came_with() {
        let rsa = CertificateFacts {
            key: KeyKind::Rsa(2048),
            ..good()
        };
        let adopted = || {
            observed()
                .with_certificate(rsa.clone())
                .with_marks(Marks::default())
        };
        assert_eq!(reason(&adopted()), None);
        assert_eq!(
            reason(&adopted().with_key(KeyAlgorithm::Ecdsa, 256)),
            Some(Reason::KeySpecChanged),
            "asked for"
        );
    }

    #[test]
    fn self_signed_certificate_that_somebody_put_there_is_not_what_a_ca_was_asked_for() {
        let own = CertificateFacts {
            self_signed: true,
            ..good()
        };
        let put = observed()
            .with_certificate(own)
            .with_marks(Marks::default());
        assert_eq!(reason(&put), Some(Reason::IssuerChanged));
        assert_eq!(reason(&put.self_signed()), None);
    }

    #[test]
    fn issuer_that_is_down_stays_the_one_that_signed() {
        let o = observed().with_certificate(good());
        assert_eq!(reason(&o.clone().without_issuer()), None);
        assert_eq!(reason(&o.with_issuer_not_ready()), None);
    }

    #[test]
    fn issuer_that_does_not_exist_is_another_one_all_the_same() {
        let o = observed()
            .with_certificate(good())
            .with_issuer("Issuer/typo", "");
        let need = find_need(&o.without_issuer(), now()).unwrap();
        assert_eq!(need.reason, Reason::IssuerChanged);
        assert_eq!(
            need.message,
            "the certificate was signed by Issuer/ca at https://ca.example/directory, the spec names Issuer/typo"
        );
    }

    #[test]
    fn certificate_of_any_issuer_that_the_spec_names_stays_until_its_renewal() {
        let by_alternate = || {
            let mut o = observed().with_certificate(good()).with_marks(Marks {
                issuer: Some("Issuer/b".into()),
                directory: Some("https://b.example/dir".into()),
                ..marks()
            });
            o.others = vec![other("Issuer/b", Some("https://b.example/dir"))];
            o
        };
        assert_eq!(reason(&by_alternate()), None);
        // It is down: its directory is not known.
        let mut down = by_alternate();
        down.others = vec![other("Issuer/b", None)];
        assert_eq!(reason(&down), None);
        let mut moved = by_alternate();
        moved.others = vec![other("Issuer/b", Some("https://new.example/dir"))];
        assert_eq!(reason(&moved), Some(Reason::IssuerChanged));
        let mut dropped = by_alternate();
        dropped.others.clear();
        assert_eq!(reason(&dropped), Some(Reason::IssuerChanged));
    }

    #[test]
    fn secret_of_somebody_else_is_no_reason() {
        let mut o = observed();
        o.secret = SecretObservation::Foreign(foreign(Ok(good())));
        assert_eq!(reason(&o), None);
    }

    #[test]
    fn certificate_that_is_due_on_arrival_does_not_make_one_order_follow_the_other() {
        let backdated = certificate("09", &["a.example", "b.example"], -4000, 400);
        let fresh = Marks {
            issued_at: Some(now()),
            ..marks()
        };
        let o = observed().with_certificate(backdated).with_marks(fresh);
        assert_eq!(find_need(&o, now()), None);
        assert_eq!(find_need(&o, at(99)), None);
        assert_eq!(
            find_need(&o, at(100)).map(|n| n.reason),
            Some(Reason::Renewing)
        );
    }

    #[test]
    fn forged_instant_of_issue_does_not_put_off_the_renewal_to_the_end() {
        let forged = Marks {
            issued_at: Some(at(29 * DAY - 1)),
            ..marks()
        };
        let o = observed().with_certificate(due()).with_marks(forged);
        assert_eq!(
            find_need(&o, at(25 * DAY)).map(|n| n.reason),
            Some(Reason::Renewing)
        );
    }
}
