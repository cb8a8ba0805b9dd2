//! Everything that is in a namespace or in the cluster, of every kind that the API server lists: what is there and should not be
//! is found whatever its kind.

use std::fmt;

use anyhow::{Context, Result, ensure};
use evercert_api::keys::{CHALLENGES_NAME, FIELD_MANAGER, SOLVER_NAME};
use futures::stream::{StreamExt, TryStreamExt, iter};
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client, ResourceExt};
use tokio::sync::OnceCell;

use crate::manifest;
use crate::operator::LEASE;

/// The Service of the operator's own figures, with what it leads to.
const METRICS: &str = "evercert-metrics";
/// Lists under way at a time.
const AT_A_TIME: usize = 8;

/// The kinds and their scopes, asked for once: a process is in one world.
static KINDS: OnceCell<Vec<(ApiResource, Scope)>> = OnceCell::const_new();

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
    look(client, Some(namespace), |_| true).await
}

/// Everything outside of namespaces that the operator has ever written, sorted.
///
/// # Errors
/// As [`list`].
pub async fn list_written_in_cluster(client: &Client) -> Result<Vec<Item>> {
    let operators = format!("{FIELD_MANAGER}-");
    look(client, None, |object| {
        let mut managers = object.managed_fields().iter().flat_map(|e| &e.manager);
        managers
            .any(|manager| manager.starts_with(&operators) && manager != manifest::FIELD_MANAGER)
    })
    .await
}

/// What may be in the operator's namespace: what is installed, its records, and with `solver` what serves the challenges.
#[must_use]
pub fn is_operators(item: &Item, solver: bool) -> bool {
    let name = item.name.as_str();
    match item.kind.as_str() {
        "ServiceAccount" => ["default", "evercert", SOLVER_NAME].contains(&name),
        "Role" | "RoleBinding" => ["evercert", SOLVER_NAME].contains(&name),
        "ConfigMap" => {
            ["kube-root-ca.crt", CHALLENGES_NAME].contains(&name)
                || name.starts_with("evercert-ledger-")
        }
        "Lease" => name == LEASE,
        "PodDisruptionBudget" => name == "evercert",
        "Service" | "Endpoints" | "EndpointSlice" if name.starts_with(METRICS) => true,
        "Deployment" | "Service" | "Endpoints" => solver && name == SOLVER_NAME,
        "ReplicaSet" | "Pod" | "PodMetrics" | "EndpointSlice" => {
            solver && name.starts_with(&format!("{SOLVER_NAME}-"))
        }
        _ => false,
    }
}

/// What of it `wanted` picks: in a namespace, or outside of all.
async fn look(
    client: &Client,
    namespace: Option<&str>,
    wanted: impl Fn(&PartialObjectMeta<DynamicObject>) -> bool,
) -> Result<Vec<Item>> {
    let kinds = KINDS.get_or_try_init(|| kinds(client)).await?;
    let scope = match namespace {
        Some(_) => Scope::Namespaced,
        None => Scope::Cluster,
    };
    let concerned = kinds.iter().filter(|(_, of)| *of == scope);
    let lists = iter(concerned).map(|(kind, _)| async move {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
            None => Api::all_with(client.clone(), kind),
        };
        let found = api.list_metadata(&ListParams::default()).await;
        let found = found.with_context(|| format!("listing {}", kind.plural))?;
        anyhow::Ok((kind, found.items))
    });
    let lists: Vec<_> = lists.buffer_unordered(AT_A_TIME).try_collect().await?;
    let mut all = Vec::new();
    for (kind, objects) in lists {
        all.extend(objects.iter().filter(|o| wanted(o)).map(|object| Item {
            kind: kind.kind.clone(),
            name: object.name_any(),
        }));
    }
    all.sort();
    // The same object in two groups or versions is one.
    all.dedup();
    Ok(all)
}

async fn kinds(client: &Client) -> Result<Vec<(ApiResource, Scope)>> {
    let discovered = Discovery::new(client.clone())
        .run_aggregated()
        .await
        .context("asking for the kinds")?;
    let groups = discovered.groups();
    let all = groups.flat_map(kube::discovery::ApiGroup::recommended_resources);
    let kinds: Vec<_> = all
        .filter(|(kind, can)| can.supports_operation(verbs::LIST) && kind.kind != "Event")
        .map(|(kind, can)| (kind, can.scope))
        .collect();
    let musts = ["Secret", "Ingress", "EndpointSlice", "Lease", "Certificate"];
    for must in musts.into_iter().chain(["ClusterIssuer", "Namespace"]) {
        ensure!(
            kinds.iter().any(|(kind, _)| kind.kind == must),
            "the API server lists no {must}"
        );
    }
    Ok(kinds)
}
