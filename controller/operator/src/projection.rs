//! What follows from the open challenges: their ConfigMap, the solver that answers them, and the routes that lead to it.
//!
//! A projection looks at what should be and at what is there; it has no memory of its own. After a restart it begins with
//! the challenges in the ConfigMap, which stay until each Certificate's order has been read again, and what must vanish
//! with a Certificate vanishes because nothing asks for it any more. One task writes all of it; [`Projections`] is a handle
//! on that task that never waits.

mod challenges;
mod difference;
mod forwarder;
mod object;
mod observed;
mod pace;
mod present;
mod shared;
mod solver;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use evercert_core::key::ObjectKey;
use evercert_core::routes::{CertificateChallenges, IngressIndex};
use futures::Stream;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::Ingress;
use kube::Client;
use kube::runtime::reflector::{Store, store};
use tokio::sync::watch::Receiver;

use crate::config::Config;
use crate::source::News;
use shared::Shared;
pub use task::ProjectionTask;

/// Whether the last applied projection has all of a Certificate's challenges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presentation {
    /// Not yet.
    Pending,
    /// ConfigMap, Service, slices and Ingress have all of them, and the solver has an address.
    Applied {
        /// Up to four addresses of the entry point of each challenged name; none where no status has one.
        entry_points: BTreeMap<String, Vec<IpAddr>>,
    },
    /// Something of it cannot be written, or is not possible; it is tried again without being asked.
    Failed {
        /// What, and in whose words, a sentence.
        message: String,
    },
}

/// Whether the solver can answer, or a forwarder can pass challenges on to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SolverReadiness {
    /// Nobody wants it.
    Absent,
    /// It is wanted, and no pod of it is ready.
    Starting {
        /// Since when.
        since: Timestamp,
        /// What holds it back, a sentence.
        what: String,
    },
    /// A pod of it is ready.
    Ready,
}

/// A handle on the projections. Cheap to clone; no call waits or fails.
#[derive(Clone)]
pub struct Projections {
    shared: Arc<Shared>,
    ingresses: Store<Ingress>,
}

impl Projections {
    /// The handle, and the task that does the work once it runs. `calls` is for writes, `watches` for watches: a client whose
    /// answers may take for ever.
    #[must_use]
    pub fn new(calls: Client, watches: &Client, config: &Config) -> (Self, ProjectionTask) {
        let (ingresses, writer) = store();
        let shared = Arc::new(Shared::default());
        let task = ProjectionTask::new(Arc::clone(&shared), calls, watches, config, writer);
        (Self { shared, ingresses }, task)
    }

    /// Replaces what a Certificate has open; no challenges are the same as [`Self::clear`]. Saying the same again is free.
    pub fn set(&self, challenges: CertificateChallenges) {
        self.shared.set(challenges);
    }

    /// A Certificate has nothing open (any more): its order was read, or it has none.
    pub fn clear(&self, key: &ObjectKey) {
        self.shared.clear(key);
    }

    /// Drops what belongs to Certificates that do not exist. To be called with the keys of all Certificates when they were
    /// listed first, before which nothing is written, and when one was deleted.
    pub fn retain_existing(&self, existing: &HashSet<ObjectKey>) {
        self.shared.retain_existing(existing);
    }

    /// Whether everything is in place for what was last [set](Self::set).
    #[must_use]
    pub fn presented(&self, key: &ObjectKey) -> Presentation {
        self.shared.presented(key)
    }

    /// `key` is about to need the solver: it is started, or kept for another idle time. May be called again and again.
    pub fn want_solver(&self, key: &ObjectKey) {
        self.shared.want_solver(key);
    }

    /// The same for a Certificate that has seen that it is not ready: it is told when it is, at once where it has just become so.
    pub fn await_solver(&self, key: &ObjectKey) {
        self.shared.await_solver(key);
    }

    /// `key`, of this UID, is about to need the forwarder in its namespace: it is started with the solver behind it, or kept for
    /// another minute. May be called again and again.
    pub fn want_forwarder(&self, key: &ObjectKey, uid: String) {
        self.shared.want_forwarder(key, uid);
    }

    /// Whether the forwarder in `namespace` can pass challenges on.
    #[must_use]
    pub fn forwarder(&self, namespace: &str) -> SolverReadiness {
        self.shared.forwarder(namespace)
    }

    /// Whether the solver can answer.
    #[must_use]
    pub fn solver(&self) -> SolverReadiness {
        self.shared.solver()
    }

    /// Which hosts are served in which class, as seen last; `None` before everything was listed once. The solver is not ready
    /// before that either.
    #[must_use]
    pub fn index(&self) -> Option<Arc<IngressIndex>> {
        self.shared.index()
    }

    /// The same, as it changes.
    pub(crate) fn indexes(&self) -> Receiver<Option<Arc<IngressIndex>>> {
        self.shared.indexes()
    }

    /// The Certificates for which [`Self::presented`] or [`Self::solver`] has changed. Each call gives a stream of its own,
    /// with all changes from the call on.
    pub fn changes(&self) -> impl Stream<Item = ObjectKey> + Send + Unpin + 'static {
        self.shared.changes()
    }

    /// Where the namespaces whose Ingresses change are noted, when the store has the change.
    #[must_use]
    pub(crate) fn news(&self) -> Arc<News> {
        Arc::clone(&self.shared.news)
    }

    /// The cluster's Ingresses, without managed fields; Evercert's own are among them
    /// ([`evercert_core::routes::is_route`] tells them). Filled by the task.
    #[must_use]
    pub fn ingresses(&self) -> Store<Ingress> {
        self.ingresses.clone()
    }
}
