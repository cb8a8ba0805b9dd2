//! Observations as tests tell them: `observed().with_order(order(Pending)).backing_off_until(60)`. Instants are seconds from
//! [`now`].

mod orders;

use evercert_api::Reason;
use evercert_api::certificate::{
    CertificateSpec, CertificateStatus, DeletionPolicy, FailureStatus, Fallback, FallbackMode,
    FallbackTrigger, IssuerKind, IssuerRef, KeyAlgorithm, OrderStatus, PrivateKey, whole_seconds,
};
use evercert_api::condition::{self, Claim};
use evercert_api::issuer::SecretRef;
use jiff::{SignedDuration, Timestamp};

pub(crate) use self::orders::{authorization, challenge_url, fault, order, order_status, problem};
use crate::circuit::build_refused;
use crate::facts::{CertificateFacts, Damage, KeyKind};
use crate::fault::{Fault, FaultClass, Problem};
use crate::key::ObjectKey;
use crate::observe::{
    Companion, ForeignSecret, ForwarderState, Gate, IssuerFacts, IssuerObservation, Marks,
    Observed, OrderObservation, Other, OwnFallback, Presented, Reach, ReadOrder, Refusal,
    SELF_SIGNED, SecretObservation, SolverState, TlsSecret,
};
use crate::order::{AuthorizationView, ChallengeView, OrderState, OrderView, ProofState};
use crate::preflight::Preflight;
use crate::reach::SelfCheck;

pub(crate) const DAY: i64 = 86_400;
pub(crate) const DIRECTORY: &str = "https://ca.example/directory";
pub(crate) const ISSUER: &str = "Issuer/ca";
/// The wanted names of [`observed`].
pub(crate) const NAMES: [&str; 2] = ["a.example", "b.example"];

/// The instant of all tests.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// So many seconds after [`now`].
pub(crate) fn at(seconds: i64) -> Timestamp {
    now()
        .checked_add(SignedDuration::from_secs(seconds))
        .unwrap()
}

pub(crate) fn names() -> Vec<String> {
    NAMES.map(str::to_owned).to_vec()
}

/// `shop/site`, ten seconds old, with a ready ACME issuer, a running solver and a slot: nothing in place, nothing begun.
pub(crate) fn observed() -> Observed {
    Observed {
        key: ObjectKey::new("shop", "site"),
        generation: 3,
        created_at: at(-10),
        deleted: false,
        spec: CertificateSpec {
            secret_name: "site-tls".into(),
            dns_names: names(),
            ip_addresses: Vec::new(),
            issuer_ref: IssuerRef {
                name: "ca".into(),
                kind: IssuerKind::Issuer,
            },
            private_key: None,
            renew_before: None,
            renew_before_percentage: None,
            profile: None,
            fallback: None,
            alternate_issuer_refs: Vec::new(),
            suspend: false,
            secret_template: None,
            output_formats: Vec::new(),
            deletion_policy: DeletionPolicy::Retain,
        },
        renew_at: None,
        ingresses: Some("1".into()),
        revoke: None,
        revocation_refused: None,
        status: CertificateStatus::default(),
        issuer: IssuerObservation::Ready(IssuerFacts {
            id: ISSUER.into(),
            directory: DIRECTORY.into(),
            generation: 1,
            renewal_info: false,
            profiles: Vec::new(),
            profile: None,
        }),
        secret: SecretObservation::Missing,
        own_fallback: OwnFallback::Missing,
        companion: Companion::default(),
        order: OrderObservation::None,
        secret_owner: None,
        refusal: None,
        unroutable: None,
        chain_note: None,
        chosen: None,
        others: Vec::new(),
        dns: Preflight::default(),
        gave_way: None,
        passed_over: None,
        held: None,
        intent: None,
        gate: None,
        limit: None,
        renewal_spread: SignedDuration::from_mins(30),
        poll_turn: None,
        refused_profile: None,
        solver: SolverState::Ready,
        forwarder: ForwarderState::Unneeded,
        presented: Presented::No,
        served: None,
        self_check: SelfCheck::default(),
        reach: Vec::new(),
        slot: true,
        unwritable: None,
        tried: true,
    }
}

/// A certificate for `names` that is valid from `from` to `to`.
pub(crate) fn certificate(serial: &str, names: &[&str], from: i64, to: i64) -> CertificateFacts {
    CertificateFacts {
        serial: serial.into(),
        renewal_id: Some(format!("id.{serial}")),
        fingerprint: format!("{serial}{serial}"),
        not_before: at(from),
        not_after: at(to),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        key: KeyKind::Ecdsa(256),
        self_signed: false,
        stands_in: false,
    }
}

/// A certificate of 90 days in the middle of its life, not yet due for renewal.
pub(crate) fn good() -> CertificateFacts {
    certificate("01", &NAMES, -40 * DAY, 50 * DAY)
}

/// The same, expired a day ago.
pub(crate) fn expired() -> CertificateFacts {
    certificate("02", &NAMES, -91 * DAY, -DAY)
}

/// The same, due for renewal since yesterday.
pub(crate) fn due() -> CertificateFacts {
    certificate("03", &NAMES, -61 * DAY, 29 * DAY)
}

/// A fallback for the wanted names that is good for a while.
pub(crate) fn fallback() -> CertificateFacts {
    CertificateFacts {
        self_signed: true,
        stands_in: true,
        ..certificate("fa", &NAMES, -300, 90 * DAY)
    }
}

/// What stands on a Secret whose certificate came from [`observed`]'s issuer for [`NAMES`].
pub(crate) fn marks() -> Marks {
    Marks {
        issuer: Some(ISSUER.into()),
        directory: Some(DIRECTORY.into()),
        names: Some(names()),
        profile: None,
        issued_at: Some(at(-40 * DAY)),
        revoke: None,
    }
}

pub(crate) fn tls(content: Result<CertificateFacts, Damage>) -> TlsSecret {
    TlsSecret {
        content,
        marks: marks(),
        fallback: false,
        immutable: false,
        marks_in_step: true,
    }
}

/// A Secret that somebody else made, and that nobody claims.
pub(crate) fn foreign(content: Result<CertificateFacts, Damage>) -> ForeignSecret {
    ForeignSecret {
        content,
        fallback: false,
        claim: None,
    }
}

impl Observed {
    pub(crate) fn with_names(mut self, names: &[&str]) -> Self {
        self.spec.dns_names = names.iter().map(|n| (*n).to_owned()).collect();
        self
    }

    pub(crate) fn with_key(mut self, algorithm: KeyAlgorithm, size: u16) -> Self {
        self.spec.private_key = Some(PrivateKey {
            algorithm,
            size: Some(size),
            ..PrivateKey::default()
        });
        self
    }

    pub(crate) fn without_fallback(mut self) -> Self {
        self.spec.fallback = Some(Fallback {
            mode: FallbackMode::None,
            ..Fallback::default()
        });
        self
    }

    /// The fallback is the user's own certificate.
    pub(crate) fn with_own_fallback(mut self, own: OwnFallback) -> Self {
        self.spec.fallback = Some(Fallback {
            mode: FallbackMode::Secret,
            secret_ref: Some(SecretRef {
                name: "wildcard".into(),
            }),
            ..Fallback::default()
        });
        self.own_fallback = own;
        self
    }

    pub(crate) fn with_trigger(mut self, trigger: FallbackTrigger) -> Self {
        self.spec.fallback.get_or_insert_default().trigger = trigger;
        self
    }

    pub(crate) fn created(mut self, seconds: i64) -> Self {
        self.created_at = at(seconds);
        self
    }

    /// An issued certificate is in place.
    pub(crate) fn with_certificate(mut self, facts: CertificateFacts) -> Self {
        self.secret = SecretObservation::Ours(tls(Ok(facts)));
        self
    }

    pub(crate) fn with_marks(mut self, marks: Marks) -> Self {
        if let SecretObservation::Ours(secret) = &mut self.secret {
            secret.marks = marks;
        }
        self
    }

    pub(crate) fn with_marks_out_of_step(mut self) -> Self {
        if let SecretObservation::Ours(secret) = &mut self.secret {
            secret.marks_in_step = false;
        }
        self
    }

    /// A marked fallback is in place.
    pub(crate) fn with_fallback(mut self, facts: CertificateFacts) -> Self {
        let facts = CertificateFacts {
            stands_in: true,
            ..facts
        };
        self.secret = SecretObservation::Ours(TlsSecret {
            fallback: true,
            marks: Marks::default(),
            ..tls(Ok(facts))
        });
        self
    }

    pub(crate) fn with_damage(mut self, damage: Damage) -> Self {
        self.secret = SecretObservation::Ours(tls(Err(damage)));
        self
    }

    /// Somebody else's Secret is in place.
    pub(crate) fn with_foreign(mut self, secret: ForeignSecret) -> Self {
        self.secret = SecretObservation::Foreign(secret);
        self
    }

    pub(crate) fn with_last_good(mut self, facts: CertificateFacts) -> Self {
        self.companion.last_good = Some((facts, marks()));
        self
    }

    pub(crate) fn with_pending_key(mut self) -> Self {
        self.companion.pending_key = Some(KeyKind::Ecdsa(256));
        self
    }

    /// The status names an order, and the key is there.
    pub(crate) fn with_unread_order(mut self) -> Self {
        self.status.order = Some(order_status());
        self.order = OrderObservation::Unread;
        self.with_pending_key()
    }

    /// The same, and it was read.
    pub(crate) fn with_order(self, view: OrderView) -> Self {
        let mut o = self.with_unread_order();
        o.order = OrderObservation::Read(ReadOrder {
            view,
            accepted: Vec::new(),
            changed_at: None,
        });
        o
    }

    /// The same, and reading it failed.
    pub(crate) fn with_failed_read(self, fault: Fault, seconds: i64, times: u32) -> Self {
        let mut o = self.with_unread_order();
        o.order = OrderObservation::Failed {
            fault,
            at: at(seconds),
            times,
        };
        o
    }

    /// The CA was told that these names' challenges are ready.
    pub(crate) fn accepted(mut self, names: &[&str]) -> Self {
        if let OrderObservation::Read(read) = &mut self.order {
            read.accepted = names.iter().map(|n| challenge_url(n)).collect();
        }
        self
    }

    /// The CA was told something.
    pub(crate) fn changed(mut self, at: Timestamp) -> Self {
        if let OrderObservation::Read(read) = &mut self.order {
            read.changed_at = Some(at);
        }
        self
    }

    pub(crate) fn presented(mut self, presented: Presented) -> Self {
        self.presented = presented;
        self
    }

    pub(crate) fn reaching(mut self, name: &str, reach: Reach) -> Self {
        self.reach.push((name.into(), reach));
        self
    }

    pub(crate) fn without_issuer(mut self) -> Self {
        self.issuer = IssuerObservation::Missing;
        self
    }

    pub(crate) fn with_issuer_not_ready(mut self) -> Self {
        let facts = match &self.issuer {
            IssuerObservation::Ready(facts) => Some(facts.clone()),
            IssuerObservation::Missing | IssuerObservation::NotReady { .. } => None,
        };
        self.issuer = IssuerObservation::NotReady {
            reason: "TermsNotAgreed".into(),
            message: "set spec.acme.termsOfServiceAgreed".into(),
            facts,
        };
        self
    }

    pub(crate) fn with_issuer(mut self, id: &str, directory: &str) -> Self {
        let (kind, name) = id.split_once('/').unwrap();
        self.spec.issuer_ref = IssuerRef {
            name: name.into(),
            kind: if kind == "Issuer" {
                IssuerKind::Issuer
            } else {
                IssuerKind::ClusterIssuer
            },
        };
        self.issuer = IssuerObservation::Ready(IssuerFacts {
            id: id.into(),
            directory: directory.into(),
            generation: 1,
            renewal_info: false,
            profiles: Vec::new(),
            profile: None,
        });
        self
    }

    pub(crate) fn self_signed(self) -> Self {
        self.with_issuer("Issuer/self", SELF_SIGNED)
    }

    pub(crate) fn refused(mut self) -> Self {
        self.refusal = Some(Refusal {
            reason: Reason::NameHeldElsewhere,
            message: "a.example is held elsewhere".into(),
        });
        self
    }

    pub(crate) fn gated_until(mut self, seconds: i64) -> Self {
        self.gate = Some(Gate {
            until: at(seconds),
            reason: Reason::CAUnavailable,
            message: "the CA does not answer".into(),
        });
        self
    }

    pub(crate) fn limited_until(mut self, seconds: i64) -> Self {
        self.limit = Some(Gate {
            until: at(seconds),
            reason: Reason::RateLimited,
            message: "the limit of certificates for a.example is used up".into(),
        });
        self
    }

    /// One attempt failed a minute ago.
    pub(crate) fn backing_off_until(mut self, seconds: i64) -> Self {
        self.status.failed_attempts = Some(1);
        self.status.next_attempt_time = Some(whole_seconds(at(seconds)));
        self.status.last_failure = Some(FailureStatus {
            time: whole_seconds(at(-60)),
            reason: Reason::ValidationFailed.as_str().into(),
            message: "the CA refused the order".into(),
            fingerprint: Some(self.fingerprint()),
            ingresses: self.ingresses.clone(),
            permanent: false,
        });
        self
    }

    /// `Ready` has been this way since then.
    pub(crate) fn with_ready(mut self, status: bool, seconds: i64) -> Self {
        let claim = Claim {
            kind: condition::READY,
            status,
            reason: Reason::SecretMissing,
            message: String::new(),
        };
        condition::set(
            &mut self.status.conditions,
            &claim,
            self.generation,
            at(seconds),
        );
        self
    }

    pub(crate) fn with_solver(mut self, solver: SolverState) -> Self {
        self.solver = solver;
        self
    }

    pub(crate) fn without_slot(mut self) -> Self {
        self.slot = false;
        self
    }

    /// Somebody made the Secret in place immutable.
    pub(crate) fn made_immutable(mut self) -> Self {
        if let SecretObservation::Ours(secret) = &mut self.secret {
            secret.immutable = true;
        }
        self
    }

    /// Another writer keeps changing the Secret; nothing is written for so long.
    pub(crate) fn contested_until(mut self, seconds: i64) -> Self {
        self.unwritable = Some(Gate {
            until: at(seconds),
            reason: Reason::SecretContested,
            message: "field manager tug changes it".into(),
        });
        self
    }

    /// A write of the TLS Secret was refused then.
    pub(crate) fn unwritable_since(mut self, seconds: i64) -> Self {
        self.unwritable = Some(build_refused(
            "site-tls",
            at(seconds),
            "denied by a webhook",
        ));
        self
    }

    pub(crate) fn offering_renewal_info(mut self) -> Self {
        if let IssuerObservation::Ready(issuer) = &mut self.issuer {
            issuer.renewal_info = true;
        }
        self
    }

    /// The CA offers these, and the issuer wants one.
    pub(crate) fn offering_profiles(mut self, profiles: &[&str], wanted: Option<&str>) -> Self {
        if let IssuerObservation::Ready(issuer) = &mut self.issuer {
            issuer.profiles = profiles.iter().map(|p| (*p).to_owned()).collect();
            issuer.profile = wanted.map(str::to_owned);
        }
        self
    }

    pub(crate) fn suspended(mut self) -> Self {
        self.spec.suspend = true;
        self
    }

    /// A person asks for a renewal.
    pub(crate) fn requested_at(mut self, seconds: i64) -> Self {
        self.renew_at = Some(at(seconds).to_string());
        self
    }

    pub(crate) fn with_intent(mut self, seconds: i64) -> Self {
        self.intent = Some(at(seconds));
        self
    }
}

/// Another issuer that the spec names, with its directory where it is ready.
pub(crate) fn other(id: &str, directory: Option<&str>) -> Other {
    Other {
        id: id.to_owned(),
        facts: directory.map(|directory| IssuerFacts {
            id: id.to_owned(),
            directory: directory.to_owned(),
            generation: 1,
            renewal_info: true,
            profiles: Vec::new(),
            profile: None,
        }),
        gate: None,
    }
}
