//! Every version of every TLS Secret, and what may never happen between two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use evercert_api::keys;
use futures::TryStreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};

use crate::leaf::Leaf;

/// What one version of a TLS Secret held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `namespace/name`.
    pub secret: String,
    /// The Secret's resourceVersion.
    pub resource_version: String,
    /// When it was seen.
    pub at: Timestamp,
    /// The leaf, if it can be read.
    pub leaf: Option<Leaf>,
    /// Whether the key matches the leaf.
    pub key_matches: bool,
    /// Whether it is marked as a fallback, and the mark is that of its leaf.
    pub fallback: bool,
}

impl Version {
    /// What `secret` holds.
    #[must_use]
    pub fn of(secret: &Secret, at: Timestamp) -> Self {
        let field = |key: &str| {
            secret
                .data
                .as_ref()
                .and_then(|data| data.get(key))
                .map_or(&[][..], |bytes| &bytes.0[..])
        };
        let leaf = Leaf::parse_chain(field(keys::TLS_CRT))
            .ok()
            .and_then(|chain| chain.into_iter().next());
        let mark = secret.annotations().get(keys::FALLBACK);
        Self {
            secret: format!(
                "{}/{}",
                secret.namespace().unwrap_or_default(),
                secret.name_any()
            ),
            resource_version: secret.resource_version().unwrap_or_default(),
            at,
            key_matches: leaf
                .as_ref()
                .is_some_and(|leaf| leaf.has_key(field(keys::TLS_KEY))),
            fallback: leaf.as_ref().is_some_and(|leaf| mark == Some(&leaf.sha256)),
            leaf,
        }
    }

    /// Parses, matches its key, is within its validity (design §5).
    #[must_use]
    pub fn is_usable_at(&self, at: Timestamp) -> bool {
        self.key_matches && self.leaf.as_ref().is_some_and(|leaf| leaf.is_valid_at(at))
    }
}

/// A watcher that records.
#[derive(Debug, Clone)]
pub struct History {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    versions: Vec<Version>,
    lists: usize,
    failures: Vec<String>,
}

impl History {
    /// Records from now on, until the runtime ends.
    #[must_use]
    pub fn record(client: Client) -> Self {
        let history = Self {
            seen: Arc::default(),
        };
        let (recorder, config) = (
            history.clone(),
            watcher::Config::default().fields("type=kubernetes.io/tls"),
        );
        tokio::spawn(async move {
            let mut events = Box::pin(watcher(Api::<Secret>::all(client), config));
            loop {
                match events.try_next().await {
                    Ok(Some(event)) => recorder.take(event),
                    Ok(None) => break,
                    Err(error) => recorder.with(|seen| seen.failures.push(error.to_string())),
                }
            }
        });
        history
    }

    fn take(&self, event: Event<Secret>) {
        self.with(|seen| match event {
            Event::Apply(secret) | Event::InitApply(secret) => {
                seen.versions.push(Version::of(&secret, Timestamp::now()));
            }
            Event::Init => seen.lists += 1,
            Event::Delete(_) | Event::InitDone => {}
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut Seen) -> T) -> T {
        f(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The versions of `namespace/name` so far, oldest first.
    #[must_use]
    pub fn of(&self, secret: &str) -> Vec<Version> {
        self.with(|seen| {
            seen.versions
                .iter()
                .filter(|version| version.secret == secret)
                .cloned()
                .collect()
        })
    }

    /// How many certificates of a CA were seen in the Secrets of each namespace that had one.
    #[must_use]
    pub fn issued(&self) -> BTreeMap<String, usize> {
        self.with(|seen| {
            let mut leaves: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
            for version in &seen.versions {
                let namespace = version.secret.split('/').next().unwrap_or_default();
                if let Some(leaf) = version.leaf.as_ref().filter(|leaf| leaf.is_from_pebble()) {
                    let leaves = leaves.entry(namespace.to_owned()).or_default();
                    leaves.insert(&leaf.sha256);
                }
            }
            leaves
                .into_iter()
                .map(|(namespace, leaves)| (namespace, leaves.len()))
                .collect()
        })
    }

    /// No usable certificate was ever replaced by a fallback. Gives the number of versions looked at.
    ///
    /// # Errors
    /// One was (each case named), or the watch had a gap, so that it cannot be known.
    pub fn verify(&self) -> Result<usize> {
        self.with(|seen| {
            if seen.lists != 1 {
                bail!(
                    "the watch of Secrets was started {} times, so versions may be missing: {:?}",
                    seen.lists,
                    seen.failures
                );
            }
            let violations = violations(&seen.versions);
            if !violations.is_empty() {
                bail!(
                    "a usable certificate was replaced by a fallback:\n{}",
                    violations.join("\n")
                );
            }
            Ok(seen.versions.len())
        })
        .context("the history of all TLS Secrets")
    }
}

fn violations(versions: &[Version]) -> Vec<String> {
    let mut last: BTreeMap<&str, &Version> = BTreeMap::new();
    let mut found = Vec::new();
    for version in versions {
        if let Some(before) = last.insert(&version.secret, version) {
            let changed = before.leaf.as_ref().map(|leaf| &leaf.sha256)
                != version.leaf.as_ref().map(|leaf| &leaf.sha256);
            if changed && version.fallback && before.is_usable_at(version.at) && !before.fallback {
                let (old, new) = (&before.resource_version, &version.resource_version);
                found.push(format!(
                    "{}: version {old} was usable, version {new} is a fallback ({})",
                    version.secret, version.at
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(version: &str, marked: bool) -> Secret {
        let own = rcgen::generate_simple_self_signed(vec!["a.test".into()]).unwrap();
        let crt = own.cert.pem();
        let mark = &Leaf::parse_chain(crt.as_bytes()).unwrap()[0].sha256;
        let mut annotations = serde_json::Map::new();
        if marked {
            annotations.insert(keys::FALLBACK.into(), mark.as_str().into());
        }
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "x", "name": "y", "resourceVersion": version, "annotations": annotations},
            "stringData": {},
            "data": {
                "tls.crt": k8s_openapi::ByteString(crt.into_bytes()),
                "tls.key": k8s_openapi::ByteString(own.signing_key.serialize_pem().into_bytes()),
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_fallback_in_place_of_a_usable_certificate_is_found() {
        let now = Timestamp::now();
        let versions = [
            Version::of(&secret("1", false), now),
            Version::of(&secret("2", true), now),
        ];
        assert_eq!(violations(&versions).len(), 1, "{versions:?}");
    }

    #[test]
    fn a_fallback_in_place_of_a_damaged_certificate_or_another_fallback_is_right() {
        let now = Timestamp::now();
        let mut damaged = secret("1", false);
        if let Some(data) = &mut damaged.data {
            data.insert(
                "tls.key".into(),
                k8s_openapi::ByteString(b"nonsense".to_vec()),
            );
        }
        let versions = [
            Version::of(&damaged, now),
            Version::of(&secret("2", true), now),
            Version::of(&secret("3", true), now),
        ];
        assert_eq!(violations(&versions), Vec::<String>::new());
    }

    #[test]
    fn a_mark_of_another_leaf_makes_no_fallback() {
        let mut moved = secret("1", true);
        let other = secret("2", false);
        moved.data = other.data;
        assert!(!Version::of(&moved, Timestamp::now()).fallback);
    }
}
