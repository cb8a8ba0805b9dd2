//! The namespaces in which something has changed, each once, however much it was.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Namespaces to be looked at. Nobody may be reading: what is noted then waits.
#[derive(Debug, Default)]
pub(crate) struct News {
    noted: Mutex<Noted>,
    wake: Notify,
}

/// What was noted since the last look.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Whether every namespace is to be looked at.
    pub(crate) all: bool,
    /// These are.
    pub(crate) namespaces: BTreeSet<String>,
}

impl News {
    /// Something in `namespace` has changed.
    pub(crate) fn note(&self, namespace: &str) {
        let mut noted = self.lock();
        if !noted.all && !noted.namespaces.contains(namespace) {
            noted.namespaces.insert(namespace.to_owned());
        }
        drop(noted);
        self.wake.notify_one();
    }

    /// Anything may have changed.
    pub(crate) fn note_all(&self) {
        let mut noted = self.lock();
        noted.all = true;
        noted.namespaces.clear();
        drop(noted);
        self.wake.notify_one();
    }

    /// Waits until something is noted, and takes all of it. Dropping it before its end loses nothing.
    pub(crate) async fn next(&self) -> Noted {
        loop {
            let noted = std::mem::take(&mut *self.lock());
            if noted != Noted::default() {
                return noted;
            }
            self.wake.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        // Whole after each statement.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_was_noted_before_anybody_looked_is_taken_once() {
        let news = News::default();
        for namespace in ["b", "a", "b"] {
            news.note(namespace);
        }
        let noted = news.next().await;
        assert_eq!(noted.namespaces, BTreeSet::from(["a".into(), "b".into()]));
        assert!(news.next().now_or_never().is_none());
        news.note("c");
        news.note_all();
        news.note("d");
        let all = Noted {
            all: true,
            namespaces: BTreeSet::new(),
        };
        assert_eq!(news.next().await, all);
        assert!(news.next().now_or_never().is_none());
    }
}
