//! The ConfigMap of open challenges: what the solver reads, and whose each challenge is, so that a restart knows.

use std::collections::BTreeMap;

use evercert_api::challenge::{OpenChallenge, parse_challenges, serialize_challenges};
use evercert_api::issuer::Placement;
use evercert_api::keys::{CHALLENGES_KEY, CHALLENGES_NAME, FIELD_MANAGER};
use evercert_core::key::ObjectKey;
use evercert_core::routes::CertificateChallenges;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The data key with whose challenges they are; the solver does not look at it.
const OWNERS_KEY: &str = "certificates.json";

/// Whose challenges.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    namespace: String,
    name: String,
    uid: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edit_in_place: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placement: Option<Placement>,
    tokens: Vec<String>,
}

/// The ConfigMap for what is open. The same set gives the same bytes.
pub(super) fn build_challenges<'a>(
    namespace: &str,
    open: impl Iterator<Item = &'a CertificateChallenges> + Clone,
) -> ConfigMap {
    let owners: Vec<String> = open
        .clone()
        .map(|certificate| Owner {
            namespace: certificate.key.namespace.clone(),
            name: certificate.key.name.clone(),
            uid: certificate.uid.clone(),
            sources: certificate.sources.clone(),
            class: certificate.class.clone(),
            annotations: certificate.annotations.clone(),
            edit_in_place: certificate.edit_in_place,
            placement: certificate.placement,
            tokens: certificate
                .challenges
                .iter()
                .map(|c| c.token().to_owned())
                .collect(),
        })
        .filter_map(|owner| serde_json::to_string(&owner).ok())
        .collect();
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(CHALLENGES_NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                FIELD_MANAGER.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([
            (
                CHALLENGES_KEY.to_owned(),
                serialize_challenges(open.flat_map(|c| &c.challenges)),
            ),
            (OWNERS_KEY.to_owned(), format!("[{}]", owners.join(",\n"))),
        ])),
        ..ConfigMap::default()
    }
}

/// The challenges in a ConfigMap's JSON; what cannot be read is left out.
pub(super) fn read_challenges(config_map: &Value) -> Vec<OpenChallenge> {
    text(config_map, CHALLENGES_KEY)
        .and_then(|t| parse_challenges(t).ok())
        .unwrap_or_default()
}

/// What an earlier run left open, by Certificate; what cannot be read is left out.
pub(super) fn read_leftovers(config_map: &Value) -> Vec<CertificateChallenges> {
    let challenges = read_challenges(config_map);
    let by_token: BTreeMap<&str, &OpenChallenge> =
        challenges.iter().map(|c| (c.token(), c)).collect();
    let owners: Vec<Owner> = text(config_map, OWNERS_KEY)
        .and_then(|t| serde_json::from_str(t).ok())
        .unwrap_or_default();
    owners
        .into_iter()
        .map(|owner| CertificateChallenges {
            key: ObjectKey::new(owner.namespace, owner.name),
            uid: owner.uid,
            sources: owner.sources,
            class: owner.class,
            annotations: owner.annotations,
            edit_in_place: owner.edit_in_place,
            placement: owner.placement,
            challenges: owner
                .tokens
                .iter()
                .filter_map(|t| by_token.get(t.as_str()).map(|c| (*c).clone()))
                .collect(),
        })
        .filter(|certificate| !certificate.challenges.is_empty())
        .collect()
}

fn text<'a>(config_map: &'a Value, key: &str) -> Option<&'a str> {
    config_map.get("data")?.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use evercert_api::Identifier;

    use super::*;

    fn certificate(
        name: &str,
        class: Option<&str>,
        open: &[(&str, &str)],
    ) -> CertificateChallenges {
        let challenge = |(host, token): &(&str, &str)| {
            let host = Identifier::parse(host).unwrap();
            OpenChallenge::new(host, token, &format!("{token}.thumb")).unwrap()
        };
        CertificateChallenges {
            key: ObjectKey::new("shop", name),
            uid: format!("uid-{name}"),
            sources: BTreeMap::from([("a.example".to_owned(), "inner".to_owned())]),
            class: class.map(ToOwned::to_owned),
            annotations: BTreeMap::from([("example.com/key".to_owned(), name.to_owned())]),
            edit_in_place: class.map(|_| true),
            placement: class.map(|_| Placement::Namespace),
            challenges: open.iter().map(challenge).collect(),
        }
    }

    #[test]
    fn what_was_open_is_known_again_from_the_config_map_alone() {
        let open = [
            certificate(
                "a",
                Some("contour"),
                &[("a.example", "t1"), ("b.example", "t2")],
            ),
            certificate("b", None, &[("a.example", "t1")]),
        ];
        let written = serde_json::to_value(build_challenges("evercert", open.iter())).unwrap();
        assert_eq!(read_leftovers(&written), open);
        assert_eq!(
            read_challenges(&written).len(),
            2,
            "the solver sees a shared challenge once"
        );
    }

    #[test]
    fn a_config_map_that_somebody_spoiled_leaves_nothing_open() {
        for spoiled in [
            serde_json::json!({}),
            serde_json::json!({ "data": { "challenges.json": "[]", "certificates.json": "x" } }),
            serde_json::json!({ "data": { "challenges.json": "{", "certificates.json": "[]" } }),
        ] {
            assert!(read_leftovers(&spoiled).is_empty(), "{spoiled}");
        }
    }
}
