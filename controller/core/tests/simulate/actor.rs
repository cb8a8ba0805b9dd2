//! One Certificate of a run: what it is, what was observed of it, and what truly is.

use evercert_api::Reason;
use evercert_api::certificate::{
    CertificateSpec, CertificateStatus, DeletionPolicy, IssuerKind, IssuerRef,
};
use evercert_core::facts::{CertificateFacts, KeyKind};
use evercert_core::fault::{Fault, FaultClass, Problem};
use evercert_core::key::ObjectKey;
use evercert_core::observe::{
    Companion, ForwarderState, IssuerFacts, IssuerObservation, Observed, OrderObservation,
    OwnFallback, Presented, SecretObservation, SolverState,
};
use evercert_core::plan::Failure;
use evercert_core::preflight::Preflight;
use evercert_core::reach::SelfCheck;
use jiff::{SignedDuration, Timestamp};

use crate::ca::Seconds;
use crate::clock::{DAY, HOUR, instant};
use crate::dice::Dice;

pub(crate) const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// One Certificate.
pub(crate) struct Actor {
    pub(crate) observed: Observed,
    pub(crate) born: Seconds,
    pub(crate) lifetime: Seconds,
    /// While its name does not lead here.
    pub(crate) dead: Vec<(Seconds, Seconds)>,
    /// Whether it is one of those of which the CA says when to renew, where it does so of some.
    pub(crate) is_told: bool,
    /// True end of the certificate in place.
    pub(crate) good_until: Seconds,
    /// Whether it had a certificate, and has none that is good now.
    pub(crate) is_without: bool,
    /// When it may ask the CA about its renewal.
    pub(crate) turn: Option<Seconds>,
    pub(crate) placed_at: Seconds,
    /// When the renewal was due that its last order was for.
    pub(crate) due: Seconds,
    pub(crate) taken: Vec<String>,
    pub(crate) passes: usize,
    /// The newest of its timers; older ones are void.
    pub(crate) timer: u64,
}

impl Actor {
    /// The one with `index` of `count`.
    pub(crate) fn build(index: usize, count: usize, dice: &mut Dice) -> Self {
        // A crowd that comes at once, one large domain among it, and the rest over two months.
        let crowd = index.is_multiple_of(6);
        let born = if crowd {
            5.0 * DAY
        } else {
            dice.between(0.0, 60.0) * DAY
        };
        let lifetime = match index % 20 {
            0..8 => 90.0 * DAY,
            8..13 => 64.0 * DAY,
            13..18 => 45.0 * DAY,
            _ => 160.0 * HOUR,
        };
        let domain = if crowd && index < 600 {
            0
        } else {
            1 + index % (count / 12).max(1)
        };
        let mut dead = Vec::new();
        if index % 50 == 7 {
            let from = dice.between(60.0, 400.0) * DAY;
            dead.push((from, from + dice.between(1.0, 120.0) * DAY));
        }
        let names = vec![
            format!("n{index}.site{domain}.example"),
            format!("www{index}.site{domain}.example"),
        ];
        let key = ObjectKey::new(format!("space{}", index % 40), format!("c{index}"));
        Self {
            observed: build_observed(key, names, instant(born, 0.0)),
            born,
            lifetime,
            dead,
            is_told: [0, 8, 13, 19].contains(&(index % 40)),
            good_until: born,
            is_without: false,
            turn: None,
            placed_at: 0.0,
            due: 0.0,
            taken: Vec::new(),
            passes: 0,
            timer: 0,
        }
    }

    /// Whether its name leads elsewhere.
    pub(crate) fn is_dead(&self, at: Seconds) -> bool {
        self.dead.iter().any(|(from, to)| *from <= at && at < *to)
    }
}

pub(crate) fn build_facts(
    serial: &str,
    names: Vec<String>,
    now: Timestamp,
    lifetime: Seconds,
) -> CertificateFacts {
    CertificateFacts {
        serial: serial.into(),
        renewal_id: Some(format!("{serial}.{now}.{}", names.join(","))),
        fingerprint: format!("{serial}{now}"),
        not_before: now,
        not_after: now
            .checked_add(SignedDuration::from_secs_f64(lifetime))
            .unwrap(),
        names,
        key: KeyKind::Ecdsa(256),
        self_signed: false,
        stands_in: false,
    }
}

fn build_observed(key: ObjectKey, names: Vec<String>, created_at: Timestamp) -> Observed {
    let spec = CertificateSpec {
        secret_name: "tls".into(),
        dns_names: names,
        ip_addresses: Vec::new(),
        issuer_ref: IssuerRef {
            name: "ca".into(),
            kind: IssuerKind::ClusterIssuer,
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
    };
    Observed {
        key,
        generation: 1,
        created_at,
        deleted: false,
        spec,
        renew_at: None,
        ingresses: None,
        revoke: None,
        revocation_refused: None,
        status: CertificateStatus::default(),
        issuer: IssuerObservation::Ready(IssuerFacts {
            id: "ClusterIssuer/ca".into(),
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
        slot: false,
        unwritable: None,
        tried: true,
    }
}

pub(crate) fn fault(class: FaultClass, words: &str) -> Fault {
    Fault {
        class,
        problem: Some(Problem {
            kind: "rateLimited".into(),
            detail: words.into(),
            subproblems: Vec::new(),
        }),
        http_status: None,
        retry_after: None,
        help_url: None,
        unsent: false,
        detail: words.into(),
    }
}

pub(crate) fn failure(reason: Reason, fault: Fault) -> Failure {
    Failure {
        reason,
        message: fault.detail.clone(),
        fault,
    }
}
