//! What every pass shares.

use std::sync::Arc;

use evercert_api::Certificate;
use evercert_api::certificate::CertificateSpec;
use evercert_core::fault::Fault;
use evercert_core::key::ObjectKey;
use evercert_probe::{Dns, Prober};
use futures::channel::mpsc::UnboundedSender;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::Ingress;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::Config;
use crate::echo::Echoes;
use crate::issuer::{IssuerId, Session, Sessions, Turns};
use crate::lease::Mandate;
use crate::ledger::{Ledger, Listener};
use crate::memory::Memory;
use crate::orphans::Orphans;
use crate::polls::Polls;
use crate::preflight::Preflights;
use crate::projection::Projections;
use crate::served::ServedLooks;
use crate::slots::Slots;
use crate::source::News;

/// What every pass shares.
pub(crate) struct Context {
    /// The client for calls (watches have one of their own). It writes while the mandate is held, and not after.
    pub(crate) client: Client,
    /// The right to act.
    pub(crate) mandate: Mandate,
    /// What the operator was told at its start.
    pub(crate) config: Config,
    /// What this process remembers.
    pub(crate) memory: Memory,
    /// The statuses as they should be.
    pub(crate) echoes: Arc<Echoes>,
    /// How many objects are worked on at the same time. A pass gives its place back before it waits for a CA or an entry point,
    /// so that none of them, however slow, keeps the others waiting.
    pub(crate) workers: Semaphore,
    /// The places among the orders under way.
    pub(crate) slots: Slots,
    /// The turns to register an account.
    pub(crate) turns: Turns,
    /// The turns to ask a CA about renewals.
    pub(crate) polls: Polls,
    /// What was asked of each CA.
    pub(crate) ledger: Ledger,
    /// The issuers' sessions.
    pub(crate) sessions: Sessions,
    /// Who is asked for DNS records.
    pub(crate) dns: Option<Dns>,
    /// Looks at the ways to the solver.
    pub(crate) prober: Prober,
    /// What DNS says for orders that are near.
    pub(crate) preflights: Preflights,
    /// What entry points present.
    pub(crate) served: ServedLooks,
    /// TLS Secrets that go with their Certificates.
    pub(crate) orphans: Orphans,
    /// Namespaces whose Ingresses or Certificates have changed.
    pub(crate) news: Arc<News>,
    /// Challenges, routes and solver.
    pub(crate) projections: Projections,
    /// All Certificates.
    pub(crate) certificates: Store<Certificate>,
    /// All namespaces.
    pub(crate) namespaces: Store<Namespace>,
    /// All Ingresses.
    pub(crate) ingresses: Store<Ingress>,
    /// Wakes Certificates.
    pub(crate) wake: UnboundedSender<ObjectRef<Certificate>>,
    /// Wakes Issuers and ClusterIssuers.
    pub(crate) wake_issuers: crate::run::IssuerWakers,
}

/// A Certificate's key.
pub(crate) fn key_of(certificate: &Certificate) -> ObjectKey {
    ObjectKey::new(
        certificate.namespace().unwrap_or_default(),
        certificate.name_any(),
    )
}

/// The reference that wakes the Certificate `key`.
pub(crate) fn reference(key: &ObjectKey) -> ObjectRef<Certificate> {
    ObjectRef::new(&key.name).within(&key.namespace)
}

impl Context {
    /// Waits for a place at work; first come, first served.
    pub(crate) async fn begin_work(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it; without a place the work would go on, uncounted.
        self.workers.acquire().await.ok()
    }

    /// Wakes the Certificates whose spec (and namespace) `concerned` picks.
    pub(crate) fn wake_certificates(&self, concerned: impl Fn(&CertificateSpec, &str) -> bool) {
        for certificate in self.certificates.state() {
            let namespace = certificate.namespace().unwrap_or_default();
            if concerned(&certificate.spec, &namespace) {
                self.wake(&key_of(&certificate));
            }
        }
    }

    /// A request to `directory` was answered as it should be: whoever waited for that goes on, slowly at first.
    pub(crate) fn close_breaker(&self, directory: &str) {
        let told = self.memory.lasting_outage(directory).is_some();
        let Some(since) = self.memory.close_breaker(directory) else {
            return;
        };
        if told {
            self.wake_issuers_at(directory);
        }
        let now = Timestamp::now();
        self.slots
            .recover(directory, now.duration_since(since), now);
        self.wake_certificates(|_, _| true);
    }

    /// A request to `directory` met `fault`: one that counts against the directory holds back all requests to it for a while; any
    /// other answer is one.
    pub(crate) fn note_fault(&self, directory: &str, fault: &Fault, now: Timestamp) {
        if fault.is_directorys() {
            if self.memory.note_fault(directory, fault, now) {
                self.wake_issuers_at(directory);
            }
        } else if fault.http_status.is_some() {
            self.close_breaker(directory);
        }
    }

    /// Wakes an issuer where what is left of its budget is news.
    pub(crate) fn tell_budget(&self, issuer: &IssuerId, now: Timestamp) {
        let session = self.sessions.get(issuer);
        let Some((account, directory)) = session.as_ref().and_then(Session::account) else {
            return;
        };
        let listener = Listener {
            issuer: issuer.clone(),
            account: account.to_owned(),
        };
        if self.ledger.has_news(directory, &listener, now) {
            self.wake_issuers.wake(issuer);
        }
    }

    fn wake_issuers_at(&self, directory: &str) {
        for id in self.sessions.at(directory) {
            self.wake_issuers.wake(&id);
        }
    }

    /// Wakes one Certificate.
    pub(crate) fn wake(&self, key: &ObjectKey) {
        // A closed channel means that the operator is stopping.
        let _ = self.wake.unbounded_send(reference(key));
    }
}
