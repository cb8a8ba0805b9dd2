//! The namespaces that are looked after. Every watch begins here: one for all namespaces, or where the operator is confined to some
//! one for each, gathered into what a single watch would say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use evercert_api::certificate::IssuerKind;
use futures::stream::{self, BoxStream, Stream, StreamExt, select_all};
use kube::api::Api;
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::issuer::IssuerId;

/// So many refusals in a row, some seconds in all, and the others no longer wait for what a namespace holds: it may be gone, and its
/// rights with it.
const REFUSALS: u8 = 3;

/// What a watch says.
pub(crate) type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

/// The namespaces that are looked after.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Territory(BTreeSet<String>);

impl Territory {
    /// Confined to these namespaces; the whole cluster when there are none.
    #[must_use]
    pub fn new(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self(namespaces.into_iter().collect())
    }

    /// The namespaces that it is confined to; none for the whole cluster.
    #[must_use]
    pub fn names(&self) -> &BTreeSet<String> {
        &self.0
    }

    /// Whether it is less than the whole cluster: then nothing is read of what is in no namespace.
    #[must_use]
    pub fn is_confined(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether an issuer is of a kind that is not read.
    pub(crate) fn leaves_out(&self, issuer: &IssuerId) -> bool {
        self.is_confined() && issuer.kind == IssuerKind::ClusterIssuer
    }

    /// The same, and `namespace` as well.
    pub(crate) fn with(&self, namespace: &str) -> Self {
        let mut wider = self.clone();
        if wider.is_confined() {
            wider.0.insert(namespace.to_owned());
        }
        wider
    }

    /// Watches the objects of a kind in these namespaces.
    pub(crate) fn watch<K>(&self, client: &Client, config: &watcher::Config) -> Events<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let watch = |api: Api<K>| watcher(api, config.clone()).default_backoff().boxed();
        if !self.is_confined() {
            return watch(Api::all(client.clone()));
        }
        let each = self.0.iter();
        let each = each.map(|name| watch(Api::namespaced(client.clone(), name)));
        gather(each.collect()).boxed()
    }

    /// Watches the objects of a kind that is in no namespace. Where that may not be read, what is `known` is all there is.
    pub(crate) fn watch_cluster<K>(
        &self,
        client: &Client,
        config: &watcher::Config,
        known: Vec<K>,
    ) -> Events<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        if !self.is_confined() {
            let api: Api<K> = Api::all(client.clone());
            return watcher(api, config.clone()).default_backoff().boxed();
        }
        stream::iter(build_listing(known).into_iter().map(Ok))
            .chain(stream::pending())
            .boxed()
    }
}

/// Several watches as one, in the words of one.
fn gather<K>(watches: Vec<Events<K>>) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Send + 'static,
{
    let mut parts: Vec<Part<K>> = watches.iter().map(|_| Part::default()).collect();
    let numbered = watches.into_iter().enumerate();
    let numbered = numbered.map(|(number, watch)| watch.map(move |event| (number, event)));
    select_all(numbered)
        .flat_map(move |(number, event)| stream::iter(merge(&mut parts, number, event)))
}

/// What is known of one namespace.
#[derive(Debug)]
struct Part<K> {
    objects: BTreeMap<String, K>,
    /// A listing under way, which replaces them.
    listing: BTreeMap<String, K>,
    /// Whether the others wait for it no longer.
    is_known: bool,
    refusals: u8,
}

impl<K> Default for Part<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: BTreeMap::new(),
            is_known: false,
            refusals: 0,
        }
    }
}

/// What one watch over all parts would say when the watch of one says `event`. There is one listing when each part is known, and
/// another one, of all parts, whenever a part is listed again: what it lacks is gone, and whoever listens knows how to tell.
fn merge<K: Resource<DynamicType = ()> + Clone>(
    parts: &mut [Part<K>],
    number: usize,
    event: watcher::Result<Event<K>>,
) -> Vec<watcher::Result<Event<K>>> {
    let Some(part) = parts.get_mut(number) else {
        return Vec::new();
    };
    let was_known = part.is_known;
    let mut said = Vec::new();
    let mut is_listed = false;
    match event {
        Ok(Event::Init) => part.listing.clear(),
        Ok(Event::InitApply(object)) => drop(part.listing.insert(object.name_any(), object)),
        Ok(Event::InitDone) => {
            part.objects = std::mem::take(&mut part.listing);
            part.is_known = true;
            is_listed = true;
        }
        Ok(Event::Apply(object)) => {
            part.objects.insert(object.name_any(), object.clone());
            said.push(Ok(Event::Apply(object)));
        }
        Ok(Event::Delete(object)) => {
            part.objects.remove(&object.name_any());
            said.push(Ok(Event::Delete(object)));
        }
        Err(error) => {
            part.refusals = if is_refusal(&error) {
                part.refusals.saturating_add(1)
            } else {
                0
            };
            part.is_known |= part.refusals >= REFUSALS;
            said.push(Err(error));
        }
    }
    let becomes_known = part.is_known && !was_known;
    let all_known = parts.iter().all(|part| part.is_known);
    if !all_known {
        // Changes are in the listing that comes when the others are known.
        said.retain(Result::is_err);
    } else if is_listed || becomes_known {
        let all = parts.iter().flat_map(|part| part.objects.values().cloned());
        said.extend(build_listing(all.collect()).into_iter().map(Ok));
    }
    said
}

fn build_listing<K>(objects: Vec<K>) -> Vec<Event<K>> {
    let objects = objects.into_iter().map(Event::InitApply);
    std::iter::once(Event::Init)
        .chain(objects)
        .chain(std::iter::once(Event::InitDone))
        .collect()
}

fn is_refusal(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => status.code == 403,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
