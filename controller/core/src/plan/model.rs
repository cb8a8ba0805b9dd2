//! A small world for the properties: it does what a plan says, with a CA that is willing, and lets time pass.

use evercert_api::Reason;
use evercert_api::certificate::whole_seconds;
use evercert_api::condition::{self, READY};
use jiff::{SignedDuration, Timestamp};

use super::fixtures::{self, authorization, challenge_url};
use super::{Plan, Step, later, plan};
use crate::facts::{CertificateFacts, KeyKind};
use crate::fallback::{Fallback, choose};
use crate::observe::{
    Companion, ForwarderState, IssuerFacts, IssuerObservation, Marks, Observed, OrderObservation,
    Presented, Reach, ReadOrder, SecretObservation, SolverState, TlsSecret,
};
use crate::order::{OrderState, OrderView, ProofState};
use crate::renewal_info::{RenewalInfo, note_poll};
use crate::report::{Change, Ending, apply_change, build_status};
use crate::revocation::{Revocation, RevocationReason};

/// One Certificate, its cluster and its CA.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) observed: Observed,
    pub(super) now: Timestamp,
    /// The order as it stands at the CA; what is observed of it may be older.
    at_ca: Option<OrderView>,
    pub(super) orders: u32,
    /// The rows so far, for people who read a failed case.
    pub(super) rows: Vec<String>,
    decide: Decide,
}

/// The table, or what a test puts in its place.
pub(super) type Decide = fn(&Observed, Timestamp) -> Plan;

impl World {
    pub(super) fn new(observed: Observed, now: Timestamp) -> Self {
        Self::deciding(plan, observed, now)
    }

    /// One in which `decide` decides.
    pub(super) fn deciding(decide: Decide, observed: Observed, now: Timestamp) -> Self {
        let at_ca = match &observed.order {
            OrderObservation::Read(read) => Some(read.view.clone()),
            OrderObservation::Unread => Some(fixtures::order(OrderState::Pending)),
            OrderObservation::None | OrderObservation::Failed { .. } => None,
        };
        Self {
            observed,
            now,
            at_ca,
            orders: 0,
            rows: Vec::new(),
            decide,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        condition::is_true(&self.observed.status.conditions, READY)
    }

    /// One pass: plan, do, report. A pass without an effect lets time pass until its wake-up.
    pub(super) fn pass(&mut self) -> Plan {
        let plan = (self.decide)(&self.observed, self.now);
        self.rows.push(format!("{}: {:?}", plan.row, plan.step));
        let change = self.execute(&plan.step);
        let mut status = build_status(&self.observed, &plan, self.now);
        apply_change(&self.observed, &mut status, &change, self.now);
        self.observed.status = status;
        if matches!(plan.step, Step::Wait | Step::Queue(_)) || self.is_starting(&plan) {
            self.now = plan.wake;
            self.rest();
        } else {
            self.now = later(self.now, SignedDuration::from_millis(20));
        }
        plan
    }

    fn is_starting(&self, plan: &Plan) -> bool {
        matches!(
            plan.step,
            Step::StartSolver | Step::StartForwarder | Step::Present
        ) && self.observed.presented != Presented::Applied
            && !["solver", "forwarder"].contains(&plan.row)
    }

    /// What others do meanwhile.
    fn rest(&mut self) {
        if !matches!(self.observed.issuer, IssuerObservation::Ready(_)) {
            self.observed.issuer = IssuerObservation::Ready(IssuerFacts {
                id: self.observed.issuer_id(),
                directory: fixtures::DIRECTORY.into(),
                generation: 1,
                renewal_info: false,
                profiles: Vec::new(),
                profile: None,
            });
        }
        self.observed.slot = true;
    }

    fn execute(&mut self, step: &Step) -> Change {
        let o = &mut self.observed;
        match step {
            Step::Wait | Step::Queue(_) | Step::Forget => {}
            Step::Restore => {
                let (facts, marks) = o.companion.last_good.clone().unwrap();
                self.write(facts, marks, false);
            }
            Step::WriteFallback { .. } => {
                let facts = match choose(&self.observed, self.now) {
                    Fallback::Own(own) => own.clone(),
                    Fallback::SelfSigned(_) => CertificateFacts {
                        stands_in: true,
                        ..self.sign("fa", 90 * fixtures::DAY)
                    },
                };
                self.write(facts, Marks::default(), true);
            }
            Step::Abandon { .. } => {
                o.order = OrderObservation::None;
                self.at_ca = None;
                return Change::Cleared(Ending::abandoned("x"));
            }
            Step::Record(failure) => {
                o.order = OrderObservation::None;
                self.at_ca = None;
                return Change::Failed(failure.clone());
            }
            Step::Refresh => self.read(),
            Step::Store => {
                assert!(o.companion.pending_key.is_some());
                self.issue("0c");
                return Change::Cleared(Ending::issued("x"));
            }
            Step::SelfSign => self.issue("0e"),
            Step::Finalize => {
                if let Some(view) = &mut self.at_ca {
                    assert_eq!(view.state, OrderState::Ready);
                    view.state = OrderState::Processing;
                }
                self.read();
            }
            Step::Accept(urls) => {
                if let OrderObservation::Read(read) = &mut o.order {
                    read.accepted.extend(urls.iter().cloned());
                    read.changed_at = Some(self.now);
                }
                if let Some(view) = &mut self.at_ca {
                    for a in &mut view.authorizations {
                        if urls.contains(&challenge_url(&a.name)) {
                            *a = authorization(&a.name, ProofState::Valid);
                        }
                    }
                    if view
                        .authorizations
                        .iter()
                        .all(|a| a.state == ProofState::Valid)
                    {
                        view.state = OrderState::Ready;
                    }
                }
            }
            Step::Probe(names) => {
                o.reach.retain(|(n, _)| !names.contains(n));
                o.reach
                    .extend(names.iter().map(|n| (n.clone(), Reach::Reachable)));
            }
            Step::Present => o.presented = Presented::Applied,
            Step::DropPendingKey => o.companion.pending_key = None,
            Step::PollRenewalInfo => {
                let facts = o.certificate().unwrap();
                let id = facts.renewal_id.clone().unwrap();
                let lifetime = facts.not_after.duration_since(facts.not_before);
                let answer = RenewalInfo {
                    start: later(facts.not_before, lifetime / 2),
                    end: later(facts.not_before, lifetime / 2 + lifetime / 10),
                    explanation_url: None,
                    retry_after: None,
                };
                let known = o.status.renewal_info.as_ref();
                return Change::Polled(note_poll(
                    known,
                    &id,
                    facts.not_after,
                    &Ok(answer),
                    self.now,
                ));
            }
            Step::MendCompanion => o.companion.strayed = false,
            Step::NoteRevocation { value } => {
                let SecretObservation::Ours(secret) = &o.secret else {
                    panic!("nothing to revoke is in place");
                };
                o.companion.revocation = Some(Box::new(Revocation {
                    value: value.clone(),
                    reason: RevocationReason::parse(value).unwrap(),
                    leaf: secret.content.clone().unwrap(),
                    issuer: secret.marks.issuer.clone(),
                    directory: secret.marks.directory.clone().unwrap(),
                    key_is_pending: false,
                    key_is_last_good: false,
                }));
            }
            Step::ChangeReason { value, heeded } => {
                let open = o.companion.revocation.as_mut().unwrap();
                open.value.clone_from(value);
                open.reason = RevocationReason::parse(value).unwrap();
                o.revocation_refused = None;
                if let (SecretObservation::Ours(secret), true) = (&mut o.secret, heeded) {
                    secret.marks.revoke = Some(value.clone());
                }
            }
            Step::DropRevocation { .. } => o.companion.revocation = None,
            Step::Revoke => {
                let noted = o.companion.revocation.take().unwrap();
                let in_place = o.issued().unwrap();
                assert!(in_place.is_valid_at(self.now), "promise 1");
                assert_ne!(in_place.fingerprint, noted.leaf.fingerprint);
                o.companion.revoked.push(noted.leaf.fingerprint);
                return Change::Revoked("x".into());
            }
            Step::KeepCopy => {
                if let SecretObservation::Ours(secret) = &o.secret {
                    let facts = secret.content.clone().ok();
                    o.companion.last_good = facts.map(|f| (f, secret.marks.clone()));
                }
            }
            Step::Adopt { keep_copy } => {
                if let SecretObservation::Foreign(foreign) = o.secret.clone() {
                    if *keep_copy {
                        let facts = foreign.content.clone().ok();
                        o.companion.last_good = facts.map(|facts| (facts, Marks::default()));
                    }
                    o.secret = SecretObservation::Ours(TlsSecret {
                        content: foreign.content,
                        marks: Marks::default(),
                        fallback: false,
                        immutable: false,
                        marks_in_step: true,
                    });
                }
            }
            Step::MendMarks => {
                if let SecretObservation::Ours(secret) = &mut o.secret {
                    secret.marks_in_step = true;
                }
            }
            Step::PrepareKey => o.companion.pending_key = Some(KeyKind::wanted(&o.spec.key())),
            Step::TryWrite => o.tried = true,
            Step::StartSolver => o.solver = SolverState::Ready,
            Step::StartForwarder => o.forwarder = ForwarderState::Needed(SolverState::Ready),
            Step::PlaceOrder => {
                self.orders += 1;
                let names = o.wanted_names();
                let view = OrderView {
                    names: names.clone(),
                    authorizations: names
                        .iter()
                        .map(|n| authorization(n, ProofState::Pending))
                        .collect(),
                    expires: Some(later(self.now, SignedDuration::from_hours(24 * 7))),
                    read_at: self.now,
                    ..fixtures::order(OrderState::Pending)
                };
                self.at_ca = Some(view);
                o.presented = Presented::No;
                o.reach.clear();
                o.intent = None;
                self.read();
                let mut order = fixtures::order_status();
                order.names = self.observed.wanted_names();
                order.issuer = self.observed.issuer_id();
                order.created_at = whole_seconds(self.now);
                order.expires = None;
                return Change::Placed(order);
            }
        }
        Change::None
    }

    /// Reads the order; the CA signs between two reads.
    fn read(&mut self) {
        let (accepted, changed_at) = match &self.observed.order {
            OrderObservation::Read(read) => (read.accepted.clone(), read.changed_at),
            OrderObservation::None | OrderObservation::Unread | OrderObservation::Failed { .. } => {
                (Vec::new(), None)
            }
        };
        let Some(view) = &mut self.at_ca else {
            let fault = fixtures::fault(crate::fault::FaultClass::Gone);
            self.observed.order = OrderObservation::Failed {
                fault,
                at: self.now,
                times: 1,
            };
            return;
        };
        view.read_at = self.now;
        view.retry_after = None;
        let seen = view.clone();
        if view.state == OrderState::Processing {
            view.state = OrderState::Valid;
        }
        self.observed.order = OrderObservation::Read(ReadOrder {
            view: seen,
            accepted,
            changed_at,
        });
    }

    fn sign(&self, serial: &str, lifetime: i64) -> CertificateFacts {
        CertificateFacts {
            serial: serial.into(),
            renewal_id: Some(format!("id.{serial}{}", self.now)),
            fingerprint: format!("{serial}{}", self.now),
            not_before: later(self.now, SignedDuration::from_mins(-5)),
            not_after: later(self.now, SignedDuration::from_secs(lifetime)),
            names: self.observed.wanted_names(),
            key: KeyKind::wanted(&self.observed.spec.key()),
            self_signed: false,
            stands_in: false,
        }
    }

    fn issue(&mut self, serial: &str) {
        let facts = self.sign(serial, 90 * fixtures::DAY);
        let directory = match &self.observed.issuer {
            IssuerObservation::Ready(issuer) => Some(issuer.directory.clone()),
            IssuerObservation::Missing | IssuerObservation::NotReady { .. } => None,
        };
        let marks = Marks {
            issuer: Some(self.observed.issuer_id()),
            directory,
            names: Some(self.observed.wanted_names()),
            profile: None,
            issued_at: Some(self.now),
            revoke: match &self.observed.companion.revocation {
                Some(noted) => Some(noted.value.clone()),
                None => self.observed.revoke.clone(),
            },
        };
        self.observed.companion = Companion {
            last_good: Some((facts.clone(), marks.clone())),
            ..self.observed.companion.clone()
        };
        self.observed.order = OrderObservation::None;
        self.at_ca = None;
        self.write(facts, marks, false);
    }

    /// Writes the TLS Secret; a usable certificate is never given up for a fallback.
    fn write(&mut self, facts: CertificateFacts, marks: Marks, fallback: bool) {
        assert!(!fallback || !self.observed.is_served_well(self.now));
        self.observed.secret = SecretObservation::Ours(TlsSecret {
            content: Ok(facts),
            marks,
            fallback,
            immutable: false,
            marks_in_step: true,
        });
        self.observed.unwritable = None;
    }
}

/// The reason that `Ready` gives.
pub(super) fn ready_reason(o: &Observed) -> Option<String> {
    condition::find(&o.status.conditions, READY).map(|c| c.reason.clone())
}

/// Whether `Ready` says that all is well.
pub(super) fn says_issued(o: &Observed) -> bool {
    ready_reason(o).is_some_and(|r| r == Reason::Issued.as_str())
}
