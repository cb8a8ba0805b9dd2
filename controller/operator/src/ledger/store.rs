//! The ledger of one directory as ConfigMaps: one page, or, when that is large, sixteen, each for a part of the keys by hash.
//! Every write is conditional, and what one process wrote last is the other's conflict.

use std::collections::BTreeMap;

use evercert_api::children::stable_hash;
use evercert_api::keys;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::ListParams;

use super::book::Book;
use crate::apply::{self, ApplyError};
use crate::effect::Effect;

/// Label value of the ledger's ConfigMaps.
const COMPONENT: &str = "ledger";
/// How large one page may grow before there are [`MANY`]; a ConfigMap holds 1 MiB.
const LARGE: usize = 256 * 1024;
/// The number of pages of a large ledger: for some hundred thousand sets of names.
const MANY: u64 = 16;

const DIRECTORY: &str = "directory";
const PAGES: &str = "pages";
const LIMITS: &str = "limits.json";
const INTENTS: &str = "intents.json";

/// The pages of one directory as they were last read or written.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    by_name: BTreeMap<String, ConfigMap>,
}

/// Why a book was not written.
pub(super) enum WriteError {
    /// Another writer was faster, or a page has gone: read again.
    Changed,
    /// The API server refused, or did not answer; whether some of it was written is unknown.
    Api(ApplyError),
}

/// Every directory's pages and what they hold.
///
/// # Errors
/// When the ConfigMaps cannot be listed: without them nothing may be ordered.
pub(super) async fn read_all(
    api: &Api<ConfigMap>,
) -> Result<BTreeMap<String, (Pages, Book)>, ApplyError> {
    let selector = format!("{}={COMPONENT}", keys::COMPONENT_LABEL);
    let found = apply::within(api.list(&ListParams::default().labels(&selector))).await?;
    let mut all: BTreeMap<String, (Pages, Book)> = BTreeMap::new();
    for map in found.items {
        let data = |key| map.data.as_ref().and_then(|d| d.get(key));
        let (Some(directory), Some(name)) = (data(DIRECTORY), map.metadata.name.clone()) else {
            continue;
        };
        let (pages, book) = all.entry(directory.clone()).or_default();
        book.add(parse_page(&map));
        pages.by_name.insert(name, map);
    }
    Ok(all)
}

/// What cannot be read counts as absent, and is told.
fn parse_page(map: &ConfigMap) -> Book {
    let name = map.metadata.name.as_deref().unwrap_or_default();
    Book {
        limits: parse(map, name, LIMITS),
        intents: parse(map, name, INTENTS),
    }
}

fn parse<T: Default + serde::de::DeserializeOwned>(map: &ConfigMap, name: &str, key: &str) -> T {
    let Some(text) = map.data.as_ref().and_then(|d| d.get(key)) else {
        return T::default();
    };
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::error!(config_map = name, key, %error, "a part of the ledger cannot be read: what was spent is not known");
        T::default()
    })
}

/// Name of a page of the ledger of `directory`.
fn page_name(directory: &str, page: u64) -> String {
    let hash = stable_hash(&[directory]);
    match page {
        0 => format!("evercert-ledger-{hash:016x}"),
        page => format!("evercert-ledger-{hash:016x}-{page}"),
    }
}

impl Pages {
    /// Into how many pages the ledger is split: for good, once it was large.
    fn count(&self) -> u64 {
        let counts = self
            .by_name
            .values()
            .filter_map(|map| map.data.as_ref()?.get(PAGES));
        counts
            .filter_map(|text| text.parse().ok())
            .max()
            .unwrap_or(1)
            .clamp(1, MANY)
    }

    /// Whether a write is done as a whole or not at all.
    pub(super) fn is_one(&self) -> bool {
        self.count() == 1
    }

    /// Writes those pages of `book` that differ, the first one last: an overlapping leader that knows of fewer pages meets it.
    /// Nothing is sent where nothing differs.
    pub(super) async fn write(
        &mut self,
        api: &Api<ConfigMap>,
        effect: Effect,
        namespace: &str,
        directory: &str,
        book: &Book,
    ) -> Result<(), WriteError> {
        for next in self.build(namespace, directory, book).into_iter().rev() {
            let name = next.metadata.name.clone().unwrap_or_default();
            let written = match self.by_name.get(&name) {
                Some(known) if known.data == next.data => continue,
                Some(_) => apply::replace(api, effect, &next).await,
                None => apply::create(api, effect, &next).await,
            };
            match written {
                Ok(map) => {
                    self.by_name.insert(name, map);
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {
                    return Err(WriteError::Changed);
                }
                Err(error) => return Err(WriteError::Api(error)),
            }
        }
        Ok(())
    }

    fn build(&self, namespace: &str, directory: &str, book: &Book) -> Vec<ConfigMap> {
        if self.count() == 1 {
            let whole = self.build_page(namespace, directory, book, 0, 1);
            let size: usize = whole.data.iter().flatten().map(|(_, v)| v.len()).sum();
            if size <= LARGE {
                return vec![whole];
            }
        }
        (0..MANY)
            .map(|page| {
                let part = book.part(|key| stable_hash(&[key]) % MANY == page);
                self.build_page(namespace, directory, &part, page, MANY)
            })
            .collect()
    }

    fn build_page(
        &self,
        namespace: &str,
        directory: &str,
        part: &Book,
        page: u64,
        of: u64,
    ) -> ConfigMap {
        let name = page_name(directory, page);
        let known = self.by_name.get(&name).map(|map| map.metadata.clone());
        let metadata = known.unwrap_or_else(|| ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            labels: Some([(keys::COMPONENT_LABEL.to_owned(), COMPONENT.to_owned())].into()),
            ..ObjectMeta::default()
        });
        let text = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
        let data = [
            (DIRECTORY, directory.to_owned()),
            (PAGES, of.to_string()),
            (LIMITS, text(serde_json::to_string(&part.limits))),
            (INTENTS, text(serde_json::to_string(&part.intents))),
        ];
        ConfigMap {
            metadata,
            data: Some(data.map(|(k, v)| (k.to_owned(), v)).into()),
            ..ConfigMap::default()
        }
    }
}
