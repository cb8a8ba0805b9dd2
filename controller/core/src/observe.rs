//! What was observed: everything that [`crate::plan::plan`] may look at, gathered before it is asked.

use evercert_api::certificate::IssuerRef;
use evercert_api::children::stable_hash;
use evercert_api::{CertificateSpec, CertificateStatus, Reason};
use jiff::{SignedDuration, Timestamp};

use crate::facts::{CertificateFacts, Damage, KeyKind};
use crate::fault::Fault;
use crate::key::ObjectKey;
use crate::order::OrderView;
use crate::preflight::Preflight;
use crate::reach::{Finding, SelfCheck, Verdict};
use crate::revocation::Revocation;
use crate::served::Served;

/// Everything that is known of one Certificate at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The Certificate.
    pub key: ObjectKey,
    /// Its generation.
    pub generation: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// Whether it is being deleted.
    pub deleted: bool,
    /// What the person wants.
    pub spec: CertificateSpec,
    /// The annotation `evercert.dev/renew-at`, as it was written.
    pub renew_at: Option<String>,
    /// A fingerprint of the users' Ingresses that cover the names ([`IngressIndex::mark`](crate::routes::IngressIndex::mark)); `None`
    /// while they are not known.
    pub ingresses: Option<String>,
    /// The annotation `evercert.dev/revoke`, without space around it.
    pub revoke: Option<String>,
    /// Why the CA was not asked again to revoke a certificate, and until when it is not.
    pub revocation_refused: Option<Gate>,
    /// What was last reported.
    pub status: CertificateStatus,
    /// The issuer that is to sign: of those that the spec names the first that can.
    pub issuer: IssuerObservation,
    /// Which one that is, where it is not the first.
    pub chosen: Option<IssuerRef>,
    /// The others that the spec names.
    pub others: Vec<Other>,
    /// Why it is not the first.
    pub gave_way: Option<String>,
    /// Why the issuers that stand before or after it in the spec are not tried.
    pub passed_over: Option<String>,
    /// It refused the order, and no other issuer can sign: until when it is not asked again.
    pub held: Option<Gate>,
    /// The TLS Secret.
    pub secret: SecretObservation,
    /// The user's own certificate for times without an issued one.
    pub own_fallback: OwnFallback,
    /// What a person should know of the chain in the TLS Secret.
    pub chain_note: Option<String>,
    /// The companion Secret.
    pub companion: Companion,
    /// The order that the status names, as last read at the CA.
    pub order: OrderObservation,
    /// Another Certificate that owns the Secret.
    pub secret_owner: Option<String>,
    /// Why a wanted name may not be had here.
    pub refusal: Option<Refusal>,
    /// Why no route can be made for a wanted name.
    pub unroutable: Option<String>,
    /// What DNS says of the wanted names, while an order is near.
    pub dns: Preflight,
    /// The last intent to order that the ledger holds for this Certificate and that is not this process's own, under way.
    pub intent: Option<Timestamp>,
    /// Why no request may be sent to the directory now.
    pub gate: Option<Gate>,
    /// Why the ledger has no token for a new order for these names now.
    pub limit: Option<Gate>,
    /// A profile that the CA refused although its directory offers it.
    pub refused_profile: Option<String>,
    /// The time over which renewals are spread that a CA wants at once.
    pub renewal_spread: SignedDuration,
    /// When the directory's shared budget has room for a poll of this Certificate, where it had none.
    pub poll_turn: Option<Timestamp>,
    /// The solver.
    pub solver: SolverState,
    /// The forwarder in its namespace.
    pub forwarder: ForwarderState,
    /// Whether the answers and routes of the open challenges are applied.
    pub presented: Presented,
    /// What the entry point presents; `None` while it is not known.
    pub served: Option<Served>,
    /// How much the self-check counts for the issuer.
    pub self_check: SelfCheck,
    /// What the self-check saw, by name.
    pub reach: Vec<(String, Reach)>,
    /// Whether the scheduler grants an order now.
    pub slot: bool,
    /// Why the TLS Secret is not written now: it was refused, or another writer keeps changing it.
    pub unwritable: Option<Gate>,
    /// Whether a dry run told a while ago that the TLS Secret can be written.
    pub tried: bool,
}

/// The issuer that the spec names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerObservation {
    /// It does not exist.
    Missing,
    /// It exists and cannot sign now.
    NotReady {
        /// Its own reason.
        reason: String,
        /// Its own sentence.
        message: String,
        /// Who it is all the same, as far as that is known.
        facts: Option<IssuerFacts>,
    },
    /// It can sign.
    Ready(IssuerFacts),
}

/// Who an issuer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerFacts {
    /// `Kind/name`.
    pub id: String,
    /// The directory's URL, or [`SELF_SIGNED`].
    pub directory: String,
    /// The generation of its spec.
    pub generation: i64,
    /// Whether the directory offers renewal information (RFC 9773).
    pub renewal_info: bool,
    /// The profiles that the directory offers.
    pub profiles: Vec<String>,
    /// The profile that the issuer's spec wants.
    pub profile: Option<String>,
}

/// Another issuer that the spec names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// `Kind/name`.
    pub id: String,
    /// Who it is, where it is ready.
    pub facts: Option<IssuerFacts>,
    /// Why no request may be sent to its directory now.
    pub gate: Option<Gate>,
}

impl Other {
    /// Its directory, where it is ready.
    #[must_use]
    pub fn directory(&self) -> Option<&str> {
        self.facts.as_ref().map(|facts| facts.directory.as_str())
    }
}

/// The issuer that signed a certificate, as far as the spec still names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer<'a> {
    /// It can be asked, but for the gate of its directory.
    Ready(&'a IssuerFacts, Option<&'a Gate>),
    /// It, `Kind/name`, or one that may be it, is not ready.
    NotReady(String),
    /// The spec names no issuer for its directory.
    Unnamed,
}

/// The reason of an issuer whose account is being looked up at the CA again.
pub const CHECKING_ACCOUNT: &str = "CheckingAccount";

/// The "directory" of a self-signed issuer.
pub const SELF_SIGNED: &str = "self-signed";

/// The TLS Secret that the spec names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // there is one for each pass, and a box could not be matched in depth
pub enum SecretObservation {
    /// It does not exist.
    Missing,
    /// It exists with another type, which cannot be changed.
    WrongType(String),
    /// It is somebody else's.
    Foreign(ForeignSecret),
    /// It is ours.
    Ours(TlsSecret),
}

/// A TLS Secret of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignSecret {
    /// The leaf, if key and certificate are whole and belong together.
    pub content: Result<CertificateFacts, Damage>,
    /// Whether the leaf is a fallback, of a Certificate that was there once.
    pub fallback: bool,
    /// The living controller that it belongs to, in words.
    pub claim: Option<String>,
}

/// A TLS Secret of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSecret {
    /// The leaf, if key and certificate are whole and belong together.
    pub content: Result<CertificateFacts, Damage>,
    /// What its annotations say, completed from the companion where the leaf is the same.
    pub marks: Marks,
    /// Whether the leaf is a fallback, its mark in step or not.
    pub fallback: bool,
    /// Whether its data cannot be changed.
    pub immutable: bool,
    /// Whether label and annotations, and what follows from the spec, stand as we would write them.
    pub marks_in_step: bool,
}

/// The Secret that `spec.fallback.secretRef` names; without one it counts as missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnFallback {
    /// It does not exist.
    Missing,
    /// It holds no certificate with its key.
    Damaged(Damage),
    /// Its leaf.
    There(CertificateFacts),
}

/// What the annotations say about the certificate in place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// `Kind/name` of the issuer that signed.
    pub issuer: Option<String>,
    /// The directory that signed.
    pub directory: Option<String>,
    /// The names wanted at issue, sorted.
    pub names: Option<Vec<String>>,
    /// The profile that was ordered, where one was named.
    pub profile: Option<String>,
    /// The instant of issue.
    pub issued_at: Option<Timestamp>,
    /// The request for a revocation that it was issued after.
    pub revoke: Option<String>,
}

/// The companion Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Companion {
    /// The kind of the pending key; `None` when there is none, or none that can be read.
    pub pending_key: Option<KeyKind>,
    /// The last good certificate, if whole, with its marks.
    pub last_good: Option<(CertificateFacts, Marks)>,
    /// Whether it is not owned by this very Certificate: it was restored from a copy, and the garbage collector would take it
    /// together with an owner that is no longer there.
    pub strayed: bool,
    /// The certificate that is to be revoked.
    pub revocation: Option<Box<Revocation>>,
    /// The leaves that were revoked, by their fingerprints.
    pub revoked: Vec<String>,
}

/// What is known of the order that the status names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderObservation {
    /// The status names no order.
    None,
    /// The status names an order that this process has not read yet.
    Unread,
    /// As last read.
    Read(ReadOrder),
    /// The last read failed.
    Failed {
        /// Why.
        fault: Fault,
        /// When.
        at: Timestamp,
        /// How many reads have failed in a row.
        times: u32,
    },
}

/// An order as last read, and what this process did with it since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOrder {
    /// The order.
    pub view: OrderView,
    /// URLs of the challenges that the CA was told are ready.
    pub accepted: Vec<String>,
    /// When the CA was last told something (a challenge accepted, finalized): a view read before that is old.
    pub changed_at: Option<Timestamp>,
}

/// Why a wanted name may not be had here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `NameNotAllowed` or `NameHeldElsewhere`.
    pub reason: Reason,
    /// Which name, who holds or forbids it, and what to do.
    pub message: String,
}

/// Why no request may be sent to the directory now, or no order placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Until when.
    pub until: Timestamp,
    /// Why, as one word.
    pub reason: Reason,
    /// Why.
    pub message: String,
}

/// The solver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SolverState {
    /// Not asked for yet.
    Absent,
    /// Asked for, not answering yet.
    Starting {
        /// Since when.
        since: Timestamp,
        /// What holds it up.
        what: String,
    },
    /// Answers.
    Ready,
}

/// The forwarder in a Certificate's namespace, through which the routes of its names lead to the solver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwarderState {
    /// No route leads through one.
    Unneeded,
    /// One is needed, and the operator may make none: why, and what to do.
    NotAllowed(String),
    /// One is needed.
    Needed(SolverState),
}

/// Whether the answers and routes of a Certificate's open challenges are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presented {
    /// The projection has not been told of these challenges.
    No,
    /// Being applied.
    Pending,
    /// Applied.
    Applied,
    /// Refused.
    Failed(String),
}

/// What the self-check saw of the way to the solver for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// The right answer, some times in a row.
    Reachable,
    /// The entry point is good, and the public name cannot be seen from here: no reason to wait.
    Unverified(Seen),
    /// There is no entry point to ask, or it cannot be reached from here: a short wait, for one that begins to listen with its
    /// first route, and no reason to hold the order back for longer.
    Unreachable(Seen),
    /// A wrong answer.
    Wrong(Seen),
}

/// A look that was not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Since when there is no good one.
    pub since: Timestamp,
    /// When it was looked at last.
    pub at: Timestamp,
    /// What was seen, what it is likely to mean, and what to do: without a body.
    pub what: String,
}

impl Reach {
    /// What a look saw that ended at `at`; `before` is what an earlier one saw.
    #[must_use]
    pub fn note(verdict: &Verdict, before: Option<&Self>, at: Timestamp) -> Self {
        let since = before.and_then(Self::seen).map_or(at, |seen| seen.since);
        let seen = |finding: &Finding| Seen {
            since,
            at,
            what: finding.to_string(),
        };
        match verdict {
            Verdict::Reachable => Self::Reachable,
            Verdict::Unverified(finding) => Self::Unverified(seen(finding)),
            Verdict::Unreachable(finding) => Self::Unreachable(seen(finding)),
            Verdict::Wrong(finding) => Self::Wrong(seen(finding)),
        }
    }

    /// What was not good.
    #[must_use]
    pub fn seen(&self) -> Option<&Seen> {
        match self {
            Self::Reachable => None,
            Self::Unverified(seen) | Self::Unreachable(seen) | Self::Wrong(seen) => Some(seen),
        }
    }
}

impl Observed {
    /// The wanted names, sorted, without duplicates.
    #[must_use]
    pub fn wanted_names(&self) -> Vec<String> {
        self.spec.names()
    }

    /// The issuer that is to sign, whether it exists or not.
    #[must_use]
    pub fn issuer_ref(&self) -> &IssuerRef {
        self.chosen.as_ref().unwrap_or(&self.spec.issuer_ref)
    }

    /// The same as `Kind/name`.
    #[must_use]
    pub fn issuer_id(&self) -> String {
        self.issuer_ref().to_string()
    }

    /// The issuer of a certificate that `issuer` signed at `directory`, whichever of those that the spec names it is; where that
    /// one is not named any more, another one for the directory.
    #[must_use]
    pub fn signer_of(&self, issuer: Option<&str>, directory: &str) -> Signer<'_> {
        let chosen = match &self.issuer {
            IssuerObservation::Ready(facts) => Some(facts),
            IssuerObservation::Missing | IssuerObservation::NotReady { .. } => None,
        };
        let others = self.others.iter();
        let all: Vec<(String, Option<&IssuerFacts>, Option<&Gate>)> =
            std::iter::once((self.issuer_id(), chosen, self.gate.as_ref()))
                .chain(others.map(|o| (o.id.clone(), o.facts.as_ref(), o.gate.as_ref())))
                .collect();
        let itself = all.iter().find(|(id, ..)| Some(id.as_str()) == issuer);
        if let Some((id, None, _)) = itself {
            return Signer::NotReady(id.clone());
        }
        let ready = itself.into_iter().chain(&all).find_map(|(_, facts, gate)| {
            let facts = facts.filter(|facts| facts.directory == directory)?;
            Some(Signer::Ready(facts, *gate))
        });
        ready.unwrap_or_else(|| {
            let not_ready = all.iter().find(|(_, facts, _)| facts.is_none());
            not_ready.map_or(Signer::Unnamed, |(id, ..)| Signer::NotReady(id.clone()))
        })
    }

    /// The certificate in the Secret, if the Secret is ours and whole.
    #[must_use]
    pub fn certificate(&self) -> Option<&CertificateFacts> {
        match &self.secret {
            SecretObservation::Ours(TlsSecret {
                content: Ok(facts), ..
            }) => Some(facts),
            SecretObservation::Ours(_)
            | SecretObservation::Missing
            | SecretObservation::WrongType(_)
            | SecretObservation::Foreign(_) => None,
        }
    }

    /// The Secret, if it is ours and holds a whole certificate that is no fallback.
    #[must_use]
    pub fn issued_secret(&self) -> Option<&TlsSecret> {
        match &self.secret {
            SecretObservation::Ours(secret) if secret.content.is_ok() && !secret.fallback => {
                Some(secret)
            }
            SecretObservation::Ours(_)
            | SecretObservation::Missing
            | SecretObservation::WrongType(_)
            | SecretObservation::Foreign(_) => None,
        }
    }

    /// Whether the Secret holds a certificate that is no fallback.
    #[must_use]
    pub fn issued(&self) -> Option<&CertificateFacts> {
        match &self.secret {
            SecretObservation::Ours(TlsSecret {
                content: Ok(facts),
                fallback: false,
                ..
            }) => Some(facts),
            SecretObservation::Ours(_)
            | SecretObservation::Missing
            | SecretObservation::WrongType(_)
            | SecretObservation::Foreign(_) => None,
        }
    }

    /// Whether the Secret holds a usable certificate that is no fallback: whole, and within its validity (design §5).
    #[must_use]
    pub fn is_served_well(&self, now: Timestamp) -> bool {
        self.issued().is_some_and(|c| c.is_valid_at(now))
    }

    /// Whether a person has changed something since the last attempt failed.
    #[must_use]
    pub fn is_changed_since_failure(&self) -> bool {
        let failed = self.status.last_failure.as_ref();
        let then = failed.and_then(|failure| failure.fingerprint.as_ref());
        then.is_some_and(|then| *then != self.fingerprint())
    }

    /// Whether an Ingress that covers the names is another one since the last attempt failed, for whatever reason: controllers write
    /// into Ingresses, too.
    #[must_use]
    pub fn has_other_ingresses_since_failure(&self) -> bool {
        let failed = self.status.last_failure.as_ref();
        let then = failed.and_then(|failure| failure.ingresses.as_ref());
        then.zip(self.ingresses.as_ref())
            .is_some_and(|(then, now)| then != now)
    }

    /// When a person asks for a renewal by annotation: an instant, or a text that is none.
    #[must_use]
    pub fn requested(&self) -> Option<Result<Timestamp, &str>> {
        let text = self.renew_at.as_deref()?;
        Some(text.trim().parse().map_err(|_| text))
    }

    /// The same, if it is readable and later than `instant`.
    pub(crate) fn requested_after(&self, instant: Timestamp) -> Option<Timestamp> {
        self.requested()?.ok().filter(|at| *at > instant)
    }

    /// A fingerprint of what a person can change to end a failure: spec, issuer, and a request for a renewal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        build_fingerprint(
            &self.spec,
            &self.issuer_id(),
            &self.issuer,
            self.renew_at.as_deref(),
        )
    }
}

/// A fingerprint of what a person can change to end a failure with the issuer `id`.
#[must_use]
pub fn build_fingerprint(
    spec: &CertificateSpec,
    id: &str,
    issuer: &IssuerObservation,
    renew_at: Option<&str>,
) -> String {
    let spec = serde_json::to_string(spec).unwrap_or_default();
    let (directory, generation) = match issuer {
        // One that is being looked up again is no other one for that.
        IssuerObservation::Ready(facts)
        | IssuerObservation::NotReady {
            facts: Some(facts), ..
        } => (facts.directory.as_str(), facts.generation.to_string()),
        IssuerObservation::Missing | IssuerObservation::NotReady { facts: None, .. } => {
            ("", String::new())
        }
    };
    let parts = [&spec, id, directory, &generation];
    format!(
        "{:016x}",
        match renew_at {
            Some(at) => stable_hash(&[parts[0], parts[1], parts[2], parts[3], at]),
            None => stable_hash(&parts),
        }
    )
}
