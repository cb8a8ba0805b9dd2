//! The open challenges as last read: many readers, one writer.

use std::collections::HashMap;
use std::sync::Arc;

use evercert_api::challenge::OpenChallenge;
use tokio::sync::watch;

/// What the solver answers, shared by all connections.
#[derive(Debug, Clone)]
pub struct Answers(watch::Sender<Arc<State>>);

#[derive(Debug, Default)]
struct State {
    /// Whether the list has been read at least once.
    synced: bool,
    /// Host, then token, then key authorization.
    open: HashMap<String, HashMap<String, String>>,
}

impl Default for Answers {
    /// Nothing read yet.
    fn default() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }
}

impl Answers {
    /// Replaces the whole list; from then on [`Self::is_synced`].
    pub fn replace(&self, challenges: &[OpenChallenge]) {
        let mut open: HashMap<String, HashMap<String, String>> = HashMap::new();
        for challenge in challenges {
            open.entry(challenge.host().as_str().to_owned())
                .or_default()
                .insert(
                    challenge.token().to_owned(),
                    challenge.key_authorization().to_owned(),
                );
        }
        self.0.send_replace(Arc::new(State { synced: true, open }));
    }

    /// The list has been read, but not understood: what was understood before stays.
    pub fn keep(&self) {
        self.0.send_modify(|state| {
            if !state.synced {
                *state = Arc::new(State {
                    synced: true,
                    open: HashMap::new(),
                });
            }
        });
    }

    /// Whether the list has been read at least once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.0.borrow().synced
    }

    /// The key authorization for `token` at `host` (lower case, no port, no trailing dot), while its challenge is open.
    #[must_use]
    pub fn find(&self, host: &str, token: &str) -> Option<String> {
        self.0.borrow().open.get(host)?.get(token).cloned()
    }

    /// A receiver that tells of every change.
    #[cfg(test)]
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<impl Sized + use<>>> {
        self.0.subscribe()
    }
}
