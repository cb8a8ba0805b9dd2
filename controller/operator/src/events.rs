//! Events: what a person sees below `kubectl describe`, one for each thing that happened.

use evercert_api::children::stable_hash;
use evercert_api::{Certificate, Reason};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Api, Client, ResourceExt};

use crate::apply;

/// The longest note that the API takes (1 kB), with room for the ellipsis.
const LONGEST_NOTE: usize = 1000;

/// Records an event about `certificate`. An event that cannot be written is logged and no reason to fail.
pub(crate) async fn emit(
    client: &Client,
    certificate: &Certificate,
    warning: bool,
    reason: Reason,
    note: &str,
    now: Timestamp,
) {
    let namespace = certificate.namespace().unwrap_or_default();
    let event = build_event(certificate, warning, reason, note, now);
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Err(error) = apply::create(&api, &event).await
        && !error.is_conflict()
    {
        tracing::warn!(%error, %reason, "an event could not be written");
    }
}

fn build_event(
    certificate: &Certificate,
    warning: bool,
    reason: Reason,
    note: &str,
    now: Timestamp,
) -> Event {
    let namespace = certificate.namespace().unwrap_or_default();
    let name = certificate.name_any();
    let hash = stable_hash(&[&namespace, &name, reason.as_str(), note, &now.to_string()]);
    let readable: String = name.chars().take(200).collect();
    let at = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    Event {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}.{hash:016x}",
                readable.trim_end_matches(['.', '-'])
            )),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("evercert.dev/v1".to_owned()),
            kind: Some("Certificate".to_owned()),
            name: Some(name),
            namespace: Some(namespace),
            uid: certificate.uid(),
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
}
