//! The ledger: what was asked of each CA, kept in the operator's namespace, so that nothing that is restarted or made anew
//! forgets an order that was spent (design §6). An intent is written, conditionally, before its order is placed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use evercert_api::children::stable_hash;
use evercert_api::keys;
use evercert_core::key::ObjectKey;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::apply::{self, ApplyError};
use crate::effect::Effect;

/// Label value of the ledger's ConfigMaps.
const COMPONENT: &str = "ledger";
/// How long an intent is kept: longer than any limit of a CA looks back.
const KEPT: SignedDuration = SignedDuration::from_hours(8 * 24);
/// How often a write that met another's is tried again.
const TRIES: u32 = 5;

/// One intent to order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intent {
    certificate: String,
    at: Timestamp,
    /// What became of it is known: it counts as spent, and no longer as lost.
    #[serde(default, skip_serializing_if = "is_false")]
    settled: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(value: &bool) -> bool {
    !*value
}

struct Request {
    directory: String,
    certificate: ObjectKey,
    at: Timestamp,
    settled: bool,
    /// Whether it may wait for another write.
    lazy: bool,
    done: oneshot::Sender<Result<(), LedgerError>>,
}

/// Why an intent could not be recorded: no order may be placed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LedgerError {
    /// The API server refused the write, or another writer won every time.
    #[error("the ledger cannot be written: {0}")]
    Write(#[source] ApplyError),
    /// The operator is stopping.
    #[error("the ledger is closed: the operator is stopping")]
    Closed,
}

/// An intent of which nothing is known yet.
#[derive(Debug, Clone, Copy)]
struct Open {
    at: Timestamp,
    /// Recorded by a run before this one: only then can the order have been lost.
    earlier: bool,
}

type Intents = HashMap<(String, ObjectKey), Open>;

/// A handle on the ledger; cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    queue: mpsc::UnboundedSender<Request>,
    intents: Arc<Mutex<Intents>>,
}

/// Name of the ConfigMap with the ledger of `directory`.
fn ledger_name(directory: &str) -> String {
    format!("evercert-ledger-{:016x}", stable_hash(&[directory]))
}

fn entry_key(certificate: &ObjectKey) -> String {
    format!(
        "intent-{:016x}",
        stable_hash(&[&certificate.namespace, &certificate.name])
    )
}

impl Ledger {
    /// Reads what earlier runs recorded, and starts the one writer.
    ///
    /// # Errors
    /// When the ConfigMaps cannot be listed: without them nothing may be ordered.
    pub(crate) async fn open(client: Client, namespace: &str) -> Result<Self, kube::Error> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let selector = format!("{}={COMPONENT}", keys::COMPONENT_LABEL);
        let found = api.list(&ListParams::default().labels(&selector)).await?;
        let mut intents = Intents::new();
        for map in &found.items {
            let directory = map
                .data
                .as_ref()
                .and_then(|d| d.get("directory"))
                .cloned()
                .unwrap_or_default();
            for intent in read_intents(map).filter(|i| !i.settled) {
                if let Some((namespace, name)) = intent.certificate.split_once('/') {
                    intents.insert(
                        (directory.clone(), ObjectKey::new(namespace, name)),
                        Open {
                            at: intent.at,
                            earlier: true,
                        },
                    );
                }
            }
        }
        let (queue, requests) = mpsc::unbounded_channel();
        let ledger = Self {
            queue,
            intents: Arc::new(Mutex::new(intents)),
        };
        tokio::spawn(write_all(
            client,
            namespace.to_owned(),
            requests,
            ledger.intents.clone(),
        ));
        Ok(ledger)
    }

    /// The last intent for `certificate` at `directory` that a run before this one recorded, if nothing is known of it.
    pub(crate) fn intent(&self, directory: &str, certificate: &ObjectKey) -> Option<Timestamp> {
        let intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        intents
            .get(&(directory.to_owned(), certificate.clone()))
            .filter(|open| open.earlier)
            .map(|open| open.at)
    }

    /// Records the intent to order at `now`. When this returns, it is written; intents that wait meanwhile share one write.
    ///
    /// # Errors
    /// [`LedgerError`]: nothing may be ordered.
    pub(crate) async fn record(
        &self,
        directory: &str,
        certificate: &ObjectKey,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let (done, result) = oneshot::channel();
        let request = Request {
            directory: directory.to_owned(),
            certificate: certificate.clone(),
            at: now,
            settled: false,
            lazy: false,
            done,
        };
        self.queue.send(request).map_err(|_| LedgerError::Closed)?;
        result.await.map_err(|_| LedgerError::Closed)?
    }

    /// What became of the intents of `certificate` is known: they count as spent, and are never taken for lost. When this
    /// returns, it is written.
    ///
    /// Whoever settles a failure has its record written *before*, else a crash in between would forget the attempt and order
    /// again at once; whoever gives an order up takes it out of the status *after*, else a crash would take it for lost.
    pub(crate) async fn settle(&self, certificate: &ObjectKey) {
        for written in self.queue_settled(certificate, false) {
            if let Err(error) = written.await.unwrap_or(Err(LedgerError::Closed)) {
                // Then an attempt waits a while for nothing.
                tracing::warn!(%certificate, %error, "a later run will take an order for lost");
            }
        }
    }

    /// The same without a hurry: written with the next intent, since something else tells a later run what became of these.
    pub(crate) fn settle_later(&self, certificate: &ObjectKey) {
        drop(self.queue_settled(certificate, true));
    }

    fn queue_settled(
        &self,
        certificate: &ObjectKey,
        lazy: bool,
    ) -> Vec<oneshot::Receiver<Result<(), LedgerError>>> {
        let mut intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        let open = intents.extract_if(|(_, key), _| key == certificate);
        let mut answers = Vec::new();
        for ((directory, certificate), Open { at, .. }) in open {
            let (done, answer) = oneshot::channel();
            answers.push(answer);
            let request = Request {
                directory,
                certificate,
                at,
                settled: true,
                lazy,
                done,
            };
            // A closed queue means that the operator is stopping; the answer tells.
            let _ = self.queue.send(request);
        }
        answers
    }
}

fn read_intents(map: &ConfigMap) -> impl Iterator<Item = Intent> {
    map.data
        .iter()
        .flatten()
        .filter(|(k, _)| k.starts_with("intent-"))
        .filter_map(|(_, v)| serde_json::from_str(v).ok())
}

async fn write_all(
    client: Client,
    namespace: String,
    mut requests: mpsc::UnboundedReceiver<Request>,
    intents: Arc<Mutex<Intents>>,
) {
    let mut known: HashMap<String, ConfigMap> = HashMap::new();
    let mut batch = Vec::new();
    let mut deferred: HashMap<String, Vec<Request>> = HashMap::new();
    while requests.recv_many(&mut batch, 500).await > 0 {
        let mut by_directory: BTreeMap<String, Vec<Request>> = BTreeMap::new();
        for request in batch.drain(..) {
            by_directory
                .entry(request.directory.clone())
                .or_default()
                .push(request);
        }
        for (directory, new) in by_directory {
            let mut group = deferred.remove(&directory).unwrap_or_default();
            let waits = new.iter().all(|r| r.lazy);
            group.extend(new);
            if waits {
                deferred.insert(directory, group);
                continue;
            }
            let written = write_group(&client, &namespace, &directory, &group, &mut known).await;
            if written.is_ok() {
                let mut intents = intents.lock().unwrap_or_else(PoisonError::into_inner);
                for request in group.iter().filter(|r| !r.settled) {
                    let open = Open {
                        at: request.at,
                        earlier: false,
                    };
                    intents.insert((directory.clone(), request.certificate.clone()), open);
                }
            }
            for request in group {
                // A caller that is gone needs no answer; its intent counts as spent.
                let _ = request.done.send(written.clone());
            }
        }
    }
}

async fn write_group(
    client: &Client,
    namespace: &str,
    directory: &str,
    group: &[Request],
    known: &mut HashMap<String, ConfigMap>,
) -> Result<(), LedgerError> {
    let name = ledger_name(directory);
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    // A write that records no intent only tells what became of earlier ones.
    let effect = if group.iter().all(|r| r.settled) {
        Effect::SettleIntent
    } else {
        Effect::RecordIntent
    };
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let current = match known.remove(&name) {
            Some(map) => Some(map),
            None => apply::within(api.get_opt(&name))
                .await
                .map_err(LedgerError::Write)?,
        };
        let next = build_ledger(namespace, &name, directory, current.as_ref(), group);
        let written = match current {
            Some(_) => apply::replace(&api, effect, &next).await,
            None => apply::create(&api, effect, &next).await,
        };
        match written {
            Ok(map) => {
                known.insert(name, map);
                return Ok(());
            }
            Err(error) if error.is_conflict() && tries > 0 => {}
            Err(error) => return Err(LedgerError::Write(error)),
        }
    }
}

/// The ledger with `group`'s intents, and without those that no limit looks back to.
fn build_ledger(
    namespace: &str,
    name: &str,
    directory: &str,
    current: Option<&ConfigMap>,
    group: &[Request],
) -> ConfigMap {
    let mut map = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some([(keys::COMPONENT_LABEL.to_owned(), COMPONENT.to_owned())].into()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    let data = map.data.get_or_insert_default();
    data.insert("directory".to_owned(), directory.to_owned());
    if let Some(latest) = group.iter().map(|r| r.at).max() {
        let is_old = |v: &str| {
            serde_json::from_str::<Intent>(v).is_ok_and(|i| latest.duration_since(i.at) > KEPT)
        };
        data.retain(|k, v| !k.starts_with("intent-") || !is_old(v));
    }
    for request in group {
        let intent = Intent {
            certificate: request.certificate.to_string(),
            at: request.at,
            settled: request.settled,
        };
        if let Ok(text) = serde_json::to_string(&intent) {
            data.insert(entry_key(&request.certificate), text);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str, at: i64) -> Request {
        Request {
            directory: "d".into(),
            certificate: ObjectKey::new("n", name),
            at: Timestamp::from_second(at).unwrap(),
            settled: false,
            lazy: false,
            done: oneshot::channel().0,
        }
    }

    #[test]
    fn an_intent_outlives_other_writes_and_goes_when_no_limit_looks_back_to_it() {
        let first = build_ledger("ns", "l", "d", None, &[request("a", 0)]);
        let second = build_ledger("ns", "l", "d", Some(&first), &[request("b", 1000)]);
        let names = |map: &ConfigMap| {
            let mut names: Vec<_> = read_intents(map).map(|i| i.certificate).collect();
            names.sort();
            names
        };
        assert_eq!(names(&second), ["n/a", "n/b"]);
        let third = build_ledger("ns", "l", "d", Some(&second), &[request("c", 9 * 86_400)]);
        assert_eq!(names(&third), ["n/c"]);
    }
    #[test]
    fn a_settled_intent_stays_as_spent() {
        let first = build_ledger("ns", "l", "d", None, &[request("a", 5)]);
        let settled = Request {
            settled: true,
            ..request("a", 5)
        };
        let second = build_ledger("ns", "l", "d", Some(&first), &[settled]);
        let intents: Vec<_> = read_intents(&second).map(|i| i.settled).collect();
        assert_eq!(intents, [true]);
    }
}
