//! Everything that is in a namespace, of every kind that the API server lists: what is there and should not be is found
//! whatever its kind.

use std::fmt;

use anyhow::{Context, Result, ensure};
use futures::stream::{StreamExt, TryStreamExt, iter};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client, ResourceExt};
use tokio::sync::OnceCell;

/// Lists under way at a time.
const AT_A_TIME: usize = 8;

/// The kinds, asked for once: a process is in one world.
static KINDS: OnceCell<Vec<ApiResource>> = OnceCell::const_new();

/// An object by kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Everything in `namespace` but events, sorted.
///
/// # Errors
/// The API server does not answer, or lists so few kinds that the look was none.
pub async fn list(client: &Client, namespace: &str) -> Result<Vec<Item>> {
    let kinds = KINDS.get_or_try_init(|| kinds(client)).await?;
    let lists = iter(kinds).map(|kind| async move {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
        let found = api.list_metadata(&ListParams::default()).await;
        let found = found.with_context(|| format!("listing {} in {namespace}", kind.plural))?;
        let items = found.items.into_iter().map(|object| Item {
            kind: kind.kind.clone(),
            name: object.name_any(),
        });
        anyhow::Ok(items.collect::<Vec<_>>())
    });
    let lists: Vec<Vec<Item>> = lists.buffer_unordered(AT_A_TIME).try_collect().await?;
    let mut all: Vec<Item> = lists.into_iter().flatten().collect();
    all.sort();
    // The same object in two groups or versions is one.
    all.dedup();
    Ok(all)
}

async fn kinds(client: &Client) -> Result<Vec<ApiResource>> {
    let discovered = Discovery::new(client.clone())
        .run_aggregated()
        .await
        .context("asking for the kinds")?;
    let groups = discovered.groups();
    let all = groups.flat_map(kube::discovery::ApiGroup::recommended_resources);
    let kinds: Vec<ApiResource> = all
        .filter(|(kind, can)| {
            can.scope == Scope::Namespaced
                && can.supports_operation(verbs::LIST)
                && kind.kind != "Event"
        })
        .map(|(kind, _)| kind)
        .collect();
    for must in ["Secret", "Ingress", "EndpointSlice", "Lease", "Certificate"] {
        ensure!(
            kinds.iter().any(|kind| kind.kind == must),
            "the API server lists no {must}"
        );
    }
    Ok(kinds)
}
