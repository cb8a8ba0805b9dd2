//! The statuses that this process wrote or found right, so that a watch can tell their echo from what somebody else wrote.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use evercert_api::children;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

/// How many writes of one object a watch may be behind.
const KEPT: usize = 8;

/// The last statuses of each object, by UID.
#[derive(Debug, Default)]
pub(crate) struct Echoes(Mutex<HashMap<String, VecDeque<u64>>>);

impl Echoes {
    /// This is about to be written, or is there and right.
    pub(crate) fn note(&self, meta: &ObjectMeta, status: Option<&impl Serialize>) {
        let Some(uid) = meta.uid.clone() else { return };
        let version = version_of(status);
        let mut all = self.lock();
        let known = all.entry(uid).or_default();
        if known.back() != Some(&version) {
            known.push_back(version);
            if known.len() > KEPT {
                known.pop_front();
            }
        }
    }

    /// Whether it is known what the status should be, and this is something else.
    pub(crate) fn is_foreign(&self, meta: &ObjectMeta, status: Option<&impl Serialize>) -> bool {
        let all = self.lock();
        let known = meta.uid.as_ref().and_then(|uid| all.get(uid));
        known.is_some_and(|known| !known.contains(&version_of(status)))
    }

    /// The object is gone.
    pub(crate) fn forget(&self, meta: &ObjectMeta) {
        if let Some(uid) = &meta.uid {
            self.lock().remove(uid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, VecDeque<u64>>> {
        // What is kept here is whole after each statement, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version_of(status: Option<&impl Serialize>) -> u64 {
    children::stable_hash(&[&serde_json::to_string(&status).unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn an_echo_however_late_is_ours_and_anything_else_is_somebody_elses() {
        let echoes = Echoes::default();
        let a = meta("a");
        assert!(
            !echoes.is_foreign(&a, Some(&"anything")),
            "nothing is known of it yet"
        );
        for status in ["one", "two", "two", "three"] {
            echoes.note(&a, Some(&status));
        }
        for status in ["one", "two", "three"] {
            assert!(!echoes.is_foreign(&a, Some(&status)), "{status}");
        }
        assert!(echoes.is_foreign(&a, Some(&"forged")));
        assert!(echoes.is_foreign(&a, None::<&&str>), "taken away");
        assert!(!echoes.is_foreign(&meta("b"), Some(&"forged")));
        echoes.forget(&a);
        assert!(!echoes.is_foreign(&a, Some(&"forged")));
    }

    #[test]
    fn what_was_written_long_ago_is_not_what_is_right_now() {
        let echoes = Echoes::default();
        let a = meta("a");
        for status in 0..=KEPT {
            echoes.note(&a, Some(&status));
        }
        assert!(echoes.is_foreign(&a, Some(&0)));
        assert!(!echoes.is_foreign(&a, Some(&1)));
    }
}
