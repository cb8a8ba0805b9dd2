//! What the operator's ledger holds, read as anybody may who can read the operator's namespace.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use evercert_api::keys;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::operator::NAMESPACE;

/// What was spent, at one directory or at all of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Certificates (`namespace/name`) with an intent to order of which nothing is known yet.
    pub intents: BTreeSet<String>,
    /// Buckets from which tokens are missing, such as `orders/…` of an account or `set/…` of a set of names: when each will be
    /// full again.
    pub full: BTreeMap<String, Timestamp>,
    /// Sets of names for which a certificate came.
    pub issued: BTreeSet<String>,
}

impl Ledger {
    /// How many orders were counted at `now` for sets of names, at a CA that publishes no limits: such an order is forgotten after
    /// an hour.
    #[must_use]
    pub fn orders(&self, now: Timestamp) -> usize {
        let sets = self.full.iter().filter(|(key, _)| key.starts_with("set/"));
        let minutes = sets.map(|(_, full)| full.duration_since(now).as_mins().max(0));
        minutes
            .map(|minutes| usize::try_from((minutes + 30) / 60).unwrap_or(usize::MAX))
            .sum()
    }
}

/// Reads the ledger of `directory`, or of all directories.
///
/// # Errors
/// The API server does not answer, or a page of the ledger cannot be read.
pub async fn read(client: &Client, directory: Option<&str>) -> Result<Ledger> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let selector = format!("{}=ledger", keys::COMPONENT_LABEL);
    let pages = maps.list(&ListParams::default().labels(&selector)).await?;
    let mut ledger = Ledger::default();
    for page in pages {
        let name = page.name_any();
        ensure!(name.starts_with("evercert-ledger-"), "{name}");
        let data = page.data.unwrap_or_default();
        let of = data.get("directory").with_context(|| name.clone())?;
        if directory.is_some_and(|directory| directory != of) {
            continue;
        }
        let part = |key: &str| -> Result<BTreeMap<String, Value>> {
            let text = data.get(key).with_context(|| format!("{name}: {key}"))?;
            serde_json::from_str(text).with_context(|| format!("{name}: {key}"))
        };
        ledger.intents.extend(part("intents.json")?.into_keys());
        let limits = part("limits.json")?;
        let of = |key: &str| limits.get(key).and_then(Value::as_object);
        for (key, full) in of("full").into_iter().flatten() {
            let full = serde_json::from_value(full.clone());
            ledger
                .full
                .insert(key.clone(), full.with_context(|| format!("{name}: {key}"))?);
        }
        let issued = of("issued").into_iter().flatten();
        ledger.issued.extend(issued.map(|(set, _)| set.clone()));
    }
    Ok(ledger)
}
