//! Events: what a person sees below `kubectl describe`, one for each thing that happened.

use evercert_api::Reason;
use evercert_api::children::stable_hash;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Api, Client, Resource, ResourceExt};

use crate::apply;
use crate::effect::Effect;

/// The longest note that the API takes (1 kB), with room for the ellipsis.
const LONGEST_NOTE: usize = 1000;

/// Records an event about `object`; one of the cluster's goes into the namespace `default`, as kubectl looks for it there. An
/// event that cannot be written is logged and no reason to fail.
pub(crate) async fn emit<K: Resource<DynamicType = ()>>(
    client: &Client,
    object: &K,
    warning: bool,
    reason: Reason,
    note: &str,
    now: Timestamp,
) {
    let event = build_event(object, warning, reason, note, &format!("{now} {note}"), now);
    write(client, &event).await;
}

/// The same, but while the event is there (the API server keeps it for an hour or so), the same `identity` is not told again, by
/// no process.
pub(crate) async fn emit_once<K: Resource<DynamicType = ()>>(
    client: &Client,
    object: &K,
    warning: bool,
    reason: Reason,
    (identity, note): (&str, &str),
    now: Timestamp,
) {
    let salt = format!(
        "{} {identity}",
        object.meta().uid.as_deref().unwrap_or_default()
    );
    write(
        client,
        &build_event(object, warning, reason, note, &salt, now),
    )
    .await;
}

async fn write(client: &Client, event: &Event) {
    let namespace = event.namespace().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Err(error) = apply::create(&api, Effect::WriteEvent, event).await
        && !error.is_conflict()
    {
        tracing::warn!(%error, reason = event.reason, "an event could not be written");
    }
}

fn build_event<K: Resource<DynamicType = ()>>(
    object: &K,
    warning: bool,
    reason: Reason,
    note: &str,
    salt: &str,
    now: Timestamp,
) -> Event {
    let namespace = object.namespace();
    let place = namespace.clone().unwrap_or_else(|| "default".to_owned());
    let name = object.name_any();
    let hash = stable_hash(&[&place, &name, reason.as_str(), salt]);
    let readable: String = name.chars().take(200).collect();
    let at = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    Event {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}.{hash:016x}",
                readable.trim_end_matches(['.', '-'])
            )),
            namespace: Some(place),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: Some(name),
            namespace,
            uid: object.uid(),
            ..ObjectReference::default()
        },
        type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(reason.as_str().to_owned()),
        message: Some(cut(note)),
        source: Some(EventSource {
            component: Some("evercert".to_owned()),
            host: None,
        }),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        count: Some(1),
        ..Event::default()
    }
}

/// `note`, cut at a character's boundary.
fn cut(note: &str) -> String {
    if note.len() <= LONGEST_NOTE {
        return note.to_owned();
    }
    let end = (0..=LONGEST_NOTE)
        .rev()
        .find(|i| note.is_char_boundary(*i))
        .unwrap_or(0);
    format!("{}…", note.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_at_a_characters_boundary() {
        let note = "ü".repeat(900);
        assert!(cut(&note).len() <= 1024);
        assert!(cut(&note).ends_with("ü…"));
        assert_eq!(cut("short"), "short");
    }

    #[test]
    fn an_event_about_an_object_of_the_cluster_is_where_kubectl_looks() {
        let mut issuer = evercert_api::ClusterIssuer::new(
            "corp",
            evercert_api::ClusterIssuerSpec {
                acme: None,
                self_signed: None,
                policy: Vec::new(),
            },
        );
        issuer.metadata.uid = Some("u".into());
        let event = build_event(
            &issuer,
            true,
            Reason::AccountReplaced,
            "x",
            "",
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        let about = event.involved_object;
        assert_eq!(
            (about.kind.as_deref(), about.namespace, about.uid.as_deref()),
            (Some("ClusterIssuer"), None, Some("u"))
        );
    }
}
