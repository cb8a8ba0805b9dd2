//! What the handle and the task share: the wishes one way, the findings the other.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evercert_core::key::ObjectKey;
use evercert_core::routes::{CertificateChallenges, IngressIndex};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Presentation, SolverReadiness};
use crate::source::News;

/// Wishes and findings. The lock is held for moments only, never over an await.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes the task.
    wake: Notify,
    /// Which hosts are served in which class.
    index: watch::Sender<Option<Arc<IngressIndex>>>,
    /// Namespaces whose Ingresses have changed.
    pub(super) news: Arc<News>,
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<ObjectKey, Wanted>,
    /// Certificates whose orders were read (or found gone) since the start; kept until the leftovers are in.
    read: HashSet<ObjectKey>,
    /// The Certificates that exist, as told last.
    existing: Option<HashSet<ObjectKey>>,
    /// Whether what an earlier run left in the ConfigMap is in.
    loaded: bool,
    /// When somebody last asked for the solver.
    asked: Option<Instant>,
    waiters: BTreeSet<ObjectKey>,
    solver: Option<SolverReadiness>,
    /// The Certificates that are about to need a forwarder: their UIDs, and when they said so last.
    forwarded: BTreeMap<ObjectKey, (String, Instant)>,
    /// The forwarders that somebody wants, by namespace.
    forwarders: BTreeMap<String, SolverReadiness>,
    listeners: Vec<UnboundedSender<ObjectKey>>,
}

struct Wanted {
    challenges: Arc<CertificateChallenges>,
    presentation: Presentation,
}

/// The wishes at one moment.
pub(super) struct Wishes {
    /// What the Certificates have open.
    pub(super) open: Vec<Arc<CertificateChallenges>>,
    /// When somebody last asked for the solver.
    pub(super) asked: Option<Instant>,
    /// The Certificates that are about to need a forwarder: their UIDs, and until when that holds.
    pub(super) forwarded: BTreeMap<ObjectKey, (String, Instant)>,
}

/// How long a forwarder is kept for a Certificate that has said that it is about to need it, and has nothing open.
const FORWARDER_PATIENCE: Duration = Duration::from_mins(1);

impl Shared {
    pub(super) fn set(&self, challenges: CertificateChallenges) {
        if challenges.challenges.is_empty() {
            self.clear(&challenges.key);
            return;
        }
        let mut state = self.lock();
        let key = challenges.key.clone();
        if !state.loaded {
            state.read.insert(key.clone());
        }
        let presentation = match state.wanted.get(&key) {
            Some(wanted) if *wanted.challenges == challenges => return,
            // What is in place for more is in place for less.
            Some(wanted) if is_less(&challenges, &wanted.challenges) => wanted.presentation.clone(),
            Some(_) | None => Presentation::Pending,
        };
        state.wanted.insert(
            key,
            Wanted {
                challenges: Arc::new(challenges),
                presentation,
            },
        );
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn clear(&self, key: &ObjectKey) {
        let mut state = self.lock();
        if !state.loaded {
            state.read.insert(key.clone());
        }
        state.waiters.remove(key);
        let gone = state.wanted.remove(key).is_some();
        if gone {
            // Who asks and has nothing open yet says so in each pass.
            state.forwarded.remove(key);
        }
        drop(state);
        if gone {
            self.wake.notify_one();
        }
    }

    pub(super) fn retain_existing(&self, existing: &HashSet<ObjectKey>) {
        let mut state = self.lock();
        let first = !state.loaded && state.existing.is_none();
        if !state.loaded {
            state.existing = Some(existing.clone());
        }
        let before = state.wanted.len();
        state.wanted.retain(|key, _| existing.contains(key));
        state.waiters.retain(|key| existing.contains(key));
        let asked = state.forwarded.len();
        state.forwarded.retain(|key, _| existing.contains(key));
        let gone = state.wanted.len() != before || state.forwarded.len() != asked;
        let changed = first || gone;
        drop(state);
        if changed {
            self.wake.notify_one();
        }
    }

    pub(super) fn presented(&self, key: &ObjectKey) -> Presentation {
        self.lock()
            .wanted
            .get(key)
            .map_or(Presentation::Pending, |w| w.presentation.clone())
    }

    pub(super) fn want_solver(&self, key: &ObjectKey) {
        let mut state = self.lock();
        state.asked = Some(Instant::now());
        if state.solver != Some(SolverReadiness::Ready) {
            state.waiters.insert(key.clone());
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The same for one that has seen that it is not ready: it is woken at once where that was a moment ago, and else when it is.
    pub(super) fn await_solver(&self, key: &ObjectKey) {
        self.want_solver(key);
        let mut state = self.lock();
        if state.solver == Some(SolverReadiness::Ready) {
            state
                .listeners
                .retain(|listener| listener.unbounded_send(key.clone()).is_ok());
        }
    }

    pub(super) fn want_forwarder(&self, key: &ObjectKey, uid: String) {
        let until = Instant::now() + FORWARDER_PATIENCE;
        self.lock().forwarded.insert(key.clone(), (uid, until));
        // It answers nothing by itself.
        self.want_solver(key);
    }

    pub(super) fn forwarder(&self, namespace: &str) -> SolverReadiness {
        let readiness = self.lock().forwarders.get(namespace).cloned();
        readiness.unwrap_or(SolverReadiness::Absent)
    }

    pub(super) fn solver(&self) -> SolverReadiness {
        self.lock()
            .solver
            .clone()
            .unwrap_or(SolverReadiness::Absent)
    }

    pub(super) fn set_index(&self, index: Arc<IngressIndex>) {
        self.index.send_if_modified(|held| {
            let is_other = held.as_ref().is_none_or(|held| !Arc::ptr_eq(held, &index));
            *held = Some(index);
            is_other
        });
    }

    pub(super) fn index(&self) -> Option<Arc<IngressIndex>> {
        self.index.borrow().clone()
    }

    pub(super) fn indexes(&self) -> watch::Receiver<Option<Arc<IngressIndex>>> {
        self.index.subscribe()
    }

    pub(super) fn changes(&self) -> UnboundedReceiver<ObjectKey> {
        let (sender, receiver) = unbounded();
        self.lock().listeners.push(sender);
        receiver
    }

    /// Waits until a wish has changed since the last call.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Whether the Certificates that exist were told: only then is known which of what an earlier run left is still wanted.
    pub(super) fn knows_existing(&self) -> bool {
        let state = self.lock();
        state.loaded || state.existing.is_some()
    }

    /// Takes what an earlier run left, save what was said since. Only the first call counts.
    pub(super) fn load(&self, leftovers: Vec<CertificateChallenges>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.loaded, true) {
            return;
        }
        let read = std::mem::take(&mut state.read);
        let existing = state.existing.take();
        for challenges in leftovers {
            let key = challenges.key.clone();
            let exists = existing.as_ref().is_none_or(|e| e.contains(&key));
            if exists && !read.contains(&key) {
                let presentation = Presentation::Pending;
                let challenges = Arc::new(challenges);
                state.wanted.insert(
                    key,
                    Wanted {
                        challenges,
                        presentation,
                    },
                );
            }
        }
    }

    pub(super) fn wishes(&self) -> Wishes {
        let mut state = self.lock();
        let now = Instant::now();
        state.forwarded.retain(|_, (_, until)| now < *until);
        Wishes {
            forwarded: state.forwarded.clone(),
            open: state
                .wanted
                .values()
                .map(|w| Arc::clone(&w.challenges))
                .collect(),
            asked: state.asked,
        }
    }

    /// Publishes findings. One that was made for other wishes than the present ones is dropped: the next turn makes it anew.
    pub(super) fn publish(
        &self,
        found: Vec<(Arc<CertificateChallenges>, Presentation)>,
        solver: SolverReadiness,
        forwarders: BTreeMap<String, SolverReadiness>,
    ) {
        let mut state = self.lock();
        let mut concerned = BTreeSet::new();
        for (challenges, presentation) in found {
            if let Some(wanted) = state.wanted.get_mut(&challenges.key)
                && Arc::ptr_eq(&wanted.challenges, &challenges)
                && wanted.presentation != presentation
            {
                wanted.presentation = presentation;
                concerned.insert(challenges.key.clone());
            }
        }
        if state.solver.as_ref() != Some(&solver) {
            concerned.extend(state.waiters.iter().cloned());
            concerned.extend(state.wanted.keys().cloned());
            if solver == SolverReadiness::Ready {
                state.waiters.clear();
            }
            state.solver = Some(solver);
        }
        if state.forwarders != forwarders {
            let is_other = |key: &&ObjectKey| {
                state.forwarders.get(&key.namespace) != forwarders.get(&key.namespace)
            };
            let asking = state.forwarded.keys().chain(state.wanted.keys());
            concerned.extend(asking.filter(is_other).cloned());
            state.forwarders = forwarders;
        }
        if !concerned.is_empty() {
            state.listeners.retain(|listener| {
                concerned
                    .iter()
                    .all(|key| listener.unbounded_send(key.clone()).is_ok())
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the maps whole: every change to them is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_less(less: &CertificateChallenges, more: &CertificateChallenges) -> bool {
    less.uid == more.uid
        && less.class == more.class
        && less.annotations == more.annotations
        && less.edit_in_place == more.edit_in_place
        && less.placement == more.placement
        && less.challenges.iter().all(|c| more.challenges.contains(c))
}
