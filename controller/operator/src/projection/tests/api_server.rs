//! An API server in memory, as far as the projections and the Lease can tell: list, watch, get, server-side apply, create and
//! replace, delete, and a garbage collector. It counts what it was asked to change.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::Instant;

/// An object, and what is done to it.
type Interference = (String, fn(&mut Value));

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
}

/// A request that was to change something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    pub(crate) method: Method,
    /// `kind/namespace/name`.
    pub(crate) object: String,
}

#[derive(Default)]
struct State {
    version: u64,
    uids: u64,
    /// By `kind/namespace/name`.
    objects: BTreeMap<String, Value>,
    /// Every change so far, for watches that begin at an older version: version, kind, before, after.
    history: Vec<(u64, String, Option<Value>, Option<Value>)>,
    watches: Vec<Watch>,
    requests: Vec<Change>,
    /// What is refused: a part of `METHOD kind/namespace/name`, status and message.
    refusals: Vec<(String, u16, String)>,
    /// What admission makes of an object.
    alter: Option<fn(&mut Value)>,
    /// Why admission refuses an object.
    deny: Option<fn(&Value) -> Option<&'static str>>,
    /// What somebody else does just before a JSON patch of an object, once.
    before_patch: Option<Interference>,
    /// What is answered late, or never, as above.
    slow: Vec<(String, Duration)>,
}

struct Watch {
    kind: String,
    selector: Selector,
    sender: UnboundedSender<Bytes>,
}

#[derive(Clone, Default)]
struct Selector {
    namespace: Option<String>,
    name: Option<String>,
    label: Option<(String, Vec<String>)>,
}

impl ApiServer {
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// What was asked to be changed so far, oldest first.
    pub(crate) fn requests(&self) -> Vec<Change> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The object `kind/namespace/name`.
    pub(crate) fn get(&self, object: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(object).cloned()
    }

    /// The names of all objects.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Somebody else writes an object (the whole of it).
    pub(crate) fn put(&self, object: &str, content: Value) {
        self.state.lock().unwrap().store(object, Some(content));
    }

    /// Somebody else changes an object.
    pub(crate) fn edit(&self, object: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock().unwrap();
        let mut content = state.objects[object].clone();
        change(&mut content);
        state.store(object, Some(content));
    }

    /// Somebody else changes an object just before it is patched next.
    pub(crate) fn edit_before_patch(&self, object: &str, change: fn(&mut Value)) {
        self.state.lock().unwrap().before_patch = Some((object.to_owned(), change));
    }

    /// Somebody else deletes an object.
    pub(crate) fn remove(&self, object: &str) {
        self.state.lock().unwrap().store(object, None);
    }

    /// From now on refuses requests that contain `part` (of `METHOD kind/namespace/name`).
    pub(crate) fn refuse(&self, part: &str, code: u16, message: &str) {
        self.state
            .lock()
            .unwrap()
            .refusals
            .push((part.to_owned(), code, message.to_owned()));
    }

    /// From now on admission alters what is applied.
    pub(crate) fn alter(&self, alter: fn(&mut Value)) {
        self.state.lock().unwrap().alter = Some(alter);
    }

    /// From now on admission refuses what is applied and `deny` has a sentence for.
    pub(crate) fn deny(&self, deny: fn(&Value) -> Option<&'static str>) {
        self.state.lock().unwrap().deny = Some(deny);
    }

    /// Refuses nothing any more.
    pub(crate) fn relent(&self) {
        let mut state = self.state.lock().unwrap();
        state.refusals.clear();
        state.deny = None;
    }

    /// From now on takes `time` for requests that contain `part`.
    pub(crate) fn delay(&self, part: &str, time: Duration) {
        self.state
            .lock()
            .unwrap()
            .slow
            .push((part.to_owned(), time));
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let (kind, namespace, name) = parse_path(head.uri.path());
        let object = name
            .as_ref()
            .map(|n| format!("{kind}/{}/{n}", namespace.clone().unwrap_or_default()));
        let what = format!(
            "{} {}",
            head.method,
            object.clone().unwrap_or_else(|| kind.clone())
        );

        let delay = {
            let mut state = self.state.lock().unwrap();
            if head.method != Method::GET {
                let method = head.method.clone();
                let object = object.clone().unwrap_or_else(|| kind.clone());
                state.requests.push(Change {
                    at: Instant::now(),
                    method,
                    object,
                });
            }
            if let Some((_, code, message)) = state
                .refusals
                .iter()
                .find(|(p, ..)| what.contains(p.as_str()))
            {
                return refused(*code, message);
            }
            let slow = state
                .slow
                .iter()
                .find(|(part, _)| what.contains(part.as_str()));
            slow.map(|(_, time)| *time)
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.state.lock().unwrap();
        match (head.method, object) {
            (Method::GET, None) => {
                let selector = Selector::parse(namespace, &query);
                if query.contains_key("watch") {
                    let since = query
                        .get("resourceVersion")
                        .and_then(|v| v.parse().ok())
                        .unwrap_or(0);
                    state.watch(kind, selector, since)
                } else {
                    state.list(&kind, &selector)
                }
            }
            (Method::GET, Some(object)) => match state.objects.get(&object) {
                Some(there) => json_answer(200, there),
                None => refused(404, &format!("{object} not found")),
            },
            (Method::POST, None) => {
                let made: Value = serde_json::from_slice(&body).unwrap();
                let name = made["metadata"]["name"].as_str().unwrap();
                let object = format!("{kind}/{}/{name}", namespace.unwrap_or_default());
                if state.objects.contains_key(&object) {
                    return refused(409, &format!("{object} already exists"));
                }
                json_answer(201, &state.store(&object, Some(made)).unwrap())
            }
            (Method::PUT, Some(object)) => {
                let next: Value = serde_json::from_slice(&body).unwrap();
                let Some(there) = state.objects.get(&object) else {
                    return refused(404, &format!("{object} not found"));
                };
                if there["metadata"]["resourceVersion"] != next["metadata"]["resourceVersion"] {
                    return refused(409, &format!("{object} has been modified"));
                }
                json_answer(200, &state.store(&object, Some(next)).unwrap())
            }
            (Method::PATCH, Some(object))
                if head.headers["content-type"] == "application/json-patch+json" =>
            {
                let interferes = state.before_patch.take_if(|(o, _)| *o == object);
                if let Some((_, change)) = interferes {
                    let mut content = state.objects[&object].clone();
                    change(&mut content);
                    state.store(&object, Some(content));
                }
                let Some(there) = state.objects.get(&object).cloned() else {
                    return refused(404, &format!("{object} not found"));
                };
                let operations: Vec<Value> = serde_json::from_slice(&body).unwrap();
                let patched = patched(there.clone(), &operations);
                if patched["metadata"]["resourceVersion"] != there["metadata"]["resourceVersion"] {
                    return refused(409, &format!("{object} has been modified"));
                }
                if let Some(message) = state.deny.and_then(|deny| deny(&patched)) {
                    return refused(422, message);
                }
                json_answer(200, &state.store(&object, Some(patched)).unwrap())
            }
            (Method::PATCH, Some(object)) => {
                let mut applied: Value = serde_json::from_slice(&body).unwrap();
                let old = state.objects.get(&object);
                if let Some(status) = old.and_then(|o| o.get("status")) {
                    applied["status"] = status.clone();
                }
                if let Some(message) = state.deny.and_then(|deny| deny(&applied)) {
                    return refused(422, message);
                }
                if let Some(alter) = state.alter {
                    alter(&mut applied);
                }
                if kind == "services" {
                    applied["spec"]["clusterIP"] = json!("198.19.0.7");
                }
                json_answer(200, &state.store(&object, Some(applied)).unwrap())
            }
            (Method::DELETE, Some(object)) => {
                let Some(old) = state.objects.get(&object).cloned() else {
                    return refused(404, &format!("{object} not found"));
                };
                let wanted: Value = serde_json::from_slice(&body).unwrap_or_default();
                if let Some(uid) = wanted.pointer("/preconditions/uid")
                    && *uid != old["metadata"]["uid"]
                {
                    return refused(409, "the UID in the precondition does not match");
                }
                state.store(&object, None);
                json_answer(
                    200,
                    &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }),
                )
            }
            (method, object) => panic!("unexpected request: {method} {object:?}"),
        }
    }
}

impl State {
    /// Stores, replaces or removes an object; gives it as stored. What does not change anything makes no new version.
    fn store(&mut self, object: &str, content: Option<Value>) -> Option<Value> {
        let before = self.objects.get(object).cloned();
        let after = content.map(|mut content| {
            let (_, rest) = object.split_once('/').unwrap();
            let (namespace, name) = rest.split_once('/').unwrap();
            let uid = before.as_ref().map_or_else(
                || {
                    self.uids += 1;
                    json!(format!("uid-{}", self.uids))
                },
                |b| b["metadata"]["uid"].clone(),
            );
            let metadata = &mut content["metadata"];
            metadata["name"] = json!(name);
            metadata["namespace"] = json!(namespace);
            metadata["uid"] = uid;
            metadata["resourceVersion"] = before.as_ref().map_or_else(
                || json!("new"),
                |b| b["metadata"]["resourceVersion"].clone(),
            );
            content
        });
        if before == after {
            return after;
        }
        self.version += 1;
        let stamp = |mut content: Value, version: u64| {
            content["metadata"]["resourceVersion"] = json!(version.to_string());
            content
        };
        let after = after.map(|content| stamp(content, self.version));
        match &after {
            Some(content) => self.objects.insert(object.to_owned(), content.clone()),
            None => self.objects.remove(object),
        };
        let kind = object.split('/').next().unwrap().to_owned();
        let version = self.version;
        let before_stamped = before.clone().map(|b| stamp(b, version));
        self.watches.retain(|watch| {
            watch.kind != kind
                || watch
                    .tell(before_stamped.as_ref(), after.as_ref())
                    .is_none_or(|line| watch.sender.unbounded_send(line).is_ok())
        });
        self.history
            .push((version, kind, before_stamped, after.clone()));
        if after.is_none()
            && let Some(gone) = before
        {
            self.collect_garbage(&gone["metadata"]["uid"]);
        }
        after
    }

    /// Removes what only the object with this UID owned.
    fn collect_garbage(&mut self, uid: &Value) {
        let owned: Vec<String> = self
            .objects
            .iter()
            .filter(|(_, o)| {
                let owners = o
                    .pointer("/metadata/ownerReferences")
                    .and_then(Value::as_array);
                owners.is_some_and(|owners| {
                    !owners.is_empty() && owners.iter().all(|o| o["uid"] == *uid)
                })
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in owned {
            self.store(&name, None);
        }
    }

    fn list(&self, kind: &str, selector: &Selector) -> Answer {
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(name, object)| {
                name.split('/').next() == Some(kind) && selector.matches(object)
            })
            .map(|(_, object)| object)
            .collect();
        json_answer(
            200,
            &json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": self.version.to_string() }, "items": items }),
        )
    }

    fn watch(&mut self, kind: String, selector: Selector, since: u64) -> Answer {
        let (sender, receiver) = unbounded();
        let watch = Watch {
            kind,
            selector,
            sender,
        };
        for (version, kind, before, after) in &self.history {
            if *version > since
                && *kind == watch.kind
                && let Some(line) = watch.tell(before.as_ref(), after.as_ref())
            {
                watch.sender.unbounded_send(line).unwrap();
            }
        }
        self.watches.push(watch);
        let frames = receiver.map(|line| Ok::<_, Infallible>(http_body::Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

impl Watch {
    fn tell(&self, before: Option<&Value>, after: Option<&Value>) -> Option<Bytes> {
        let before = before.filter(|b| self.selector.matches(b));
        let now = after.filter(|a| self.selector.matches(a));
        let (kind, object) = match (before, now) {
            (None, Some(now)) => ("ADDED", now),
            (Some(_), Some(now)) => ("MODIFIED", now),
            (Some(before), None) => ("DELETED", before),
            (None, None) => return None,
        };
        Some(Bytes::from(format!(
            "{}\n",
            json!({ "type": kind, "object": object })
        )))
    }
}

impl Selector {
    fn parse(namespace: Option<String>, query: &BTreeMap<String, String>) -> Self {
        let name = query
            .get("fieldSelector")
            .map(|f| f.strip_prefix("metadata.name=").unwrap().to_owned());
        let label = query.get("labelSelector").map(|text| {
            if let Some((key, values)) = text.split_once(" in ") {
                let values = values
                    .trim_matches(['(', ')'])
                    .split(',')
                    .map(ToOwned::to_owned);
                (key.to_owned(), values.collect())
            } else {
                let (key, value) = text.split_once('=').unwrap();
                (key.to_owned(), vec![value.to_owned()])
            }
        });
        Self {
            namespace,
            name,
            label,
        }
    }

    fn matches(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.namespace
            .as_ref()
            .is_none_or(|n| metadata["namespace"] == **n)
            && self.name.as_ref().is_none_or(|n| metadata["name"] == **n)
            && self.label.as_ref().is_none_or(|(key, values)| {
                metadata["labels"][key.as_str()]
                    .as_str()
                    .is_some_and(|v| values.iter().any(|w| w == v))
            })
    }
}

/// The part of RFC 6902 that is used.
fn patched(mut content: Value, operations: &[Value]) -> Value {
    for operation in operations {
        let path = operation["path"].as_str().unwrap();
        let value = operation["value"].clone();
        let (parent, step) = path.rsplit_once('/').unwrap();
        let parent = content.pointer_mut(parent).unwrap();
        match (operation["op"].as_str().unwrap(), parent) {
            ("add", Value::Array(list)) if step == "-" => list.push(value),
            ("add", Value::Array(list)) => list.insert(step.parse().unwrap(), value),
            ("remove", Value::Array(list)) => drop(list.remove(step.parse().unwrap())),
            ("add" | "replace", Value::Object(map)) => {
                drop(map.insert(step.to_owned(), value));
            }
            other => panic!("{other:?}"),
        }
    }
    content
}

/// `/api/v1/namespaces/x/services/name`: kind, namespace and name, the latter two where they are.
fn parse_path(path: &str) -> (String, Option<String>, Option<String>) {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = if parts[0] == "api" {
        &parts[2..]
    } else {
        &parts[3..]
    };
    let owned = |s: &&str| (*s).to_owned();
    match rest {
        ["namespaces", namespace, kind, name @ ..] => (
            (*kind).to_owned(),
            Some((*namespace).to_owned()),
            name.first().map(owned),
        ),
        [kind, name @ ..] => ((*kind).to_owned(), None, name.first().map(owned)),
        [] => panic!("unexpected path {path}"),
    }
}

fn refused(code: u16, message: &str) -> Answer {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Forbidden",
    };
    json_answer(
        code,
        &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code }),
    )
}

fn json_answer(code: u16, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}
