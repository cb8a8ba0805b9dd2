//! YAML to the API server, as `kubectl apply --server-side` would bring it there, and back as evidence.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;

/// The name under which tests write.
pub const FIELD_MANAGER: &str = "evercert-e2e";

/// The repository's root; `EVERCERT_REPOSITORY` names another place with its CRDs, manifests and examples, for a user who cannot
/// read the first.
#[must_use]
pub fn repository() -> PathBuf {
    if let Some(dir) = std::env::var_os("EVERCERT_REPOSITORY") {
        return dir.into();
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Every object in a YAML text.
///
/// # Errors
/// It is not YAML, or a document is not a Kubernetes object.
pub fn parse(yaml: &str) -> Result<Vec<DynamicObject>> {
    serde_yaml_ng::Deserializer::from_str(yaml)
        .map(|document| serde_yaml_ng::Value::deserialize(document).context("reading YAML"))
        .filter(|document| !matches!(document, Ok(serde_yaml_ng::Value::Null)))
        .map(|document| {
            serde_yaml_ng::from_value(document?).context("a document is no Kubernetes object")
        })
        .collect()
}

/// Applies every object in `yaml`, those without a namespace in `namespace`. Idempotent; takes fields from other managers.
///
/// # Errors
/// The first object that the API server refuses, with the sentence that a user reads.
pub async fn apply(client: &Client, namespace: &str, yaml: &str) -> Result<()> {
    for object in parse(yaml)? {
        apply_object(client, namespace, &object).await?;
    }
    Ok(())
}

/// Applies one object.
///
/// # Errors
/// The API server refuses it: its sentence.
pub async fn apply_object(
    client: &Client,
    namespace: &str,
    object: &DynamicObject,
) -> Result<DynamicObject> {
    patch_object(
        client,
        namespace,
        object,
        &PatchParams::apply(FIELD_MANAGER),
    )
    .await
}

/// Asks the API server what it would say to one object; nothing is kept.
///
/// # Errors
/// It would refuse it: its sentence.
pub async fn try_object(client: &Client, namespace: &str, object: &DynamicObject) -> Result<()> {
    let params = PatchParams::apply(FIELD_MANAGER).dry_run();
    patch_object(client, namespace, object, &params)
        .await
        .map(drop)
}

async fn patch_object(
    client: &Client,
    namespace: &str,
    object: &DynamicObject,
    params: &PatchParams,
) -> Result<DynamicObject> {
    let types = object.types.as_ref().context("an object without kind")?;
    let kind = GroupVersionKind::try_from(types).context("an object's kind")?;
    let api = api_of(client, namespace, object, &kind).await?;
    let params = params.clone().force();
    api.patch(&object.name_any(), &params, &Patch::Apply(object))
        .await
        .map_err(|error| match error {
            kube::Error::Api(status) => {
                anyhow::anyhow!("{} {}: {}", kind.kind, object.name_any(), status.message)
            }
            other => anyhow::Error::from(other).context(format!(
                "applying {} {}",
                kind.kind,
                object.name_any()
            )),
        })
}

async fn api_of(
    client: &Client,
    namespace: &str,
    object: &DynamicObject,
    kind: &GroupVersionKind,
) -> Result<Api<DynamicObject>> {
    let (resource, capabilities) = discovery::pinned_kind(client, kind)
        .await
        .with_context(|| format!("the API server does not know {}", kind.kind))?;
    Ok(match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(
            client.clone(),
            object.metadata.namespace.as_deref().unwrap_or(namespace),
            &resource,
        ),
    })
}

/// Applies every YAML file of a folder, in the order of their names.
///
/// # Errors
/// A file cannot be read, or the API server refuses an object.
pub async fn apply_folder(client: &Client, namespace: &str, folder: &Path) -> Result<()> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    for file in files {
        apply_file(client, namespace, &file, |_| true).await?;
    }
    Ok(())
}

/// Applies the objects of a file whose kind is `wanted`.
///
/// # Errors
/// The file cannot be read, or the API server refuses an object.
pub async fn apply_file(
    client: &Client,
    namespace: &str,
    file: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    let yaml =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    for object in parse(&yaml)? {
        let kind = object
            .types
            .as_ref()
            .map_or("", |types| types.kind.as_str());
        if wanted(kind) {
            apply_object(client, namespace, &object)
                .await
                .with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

/// What is in a namespace, as YAML, for a person who looks for the cause of a failure. Secret data is left out. Never fails:
/// what cannot be read says so.
pub async fn evidence(client: &Client, namespace: &str) -> String {
    let kinds = [
        ("evercert.dev/v1", "Certificate", "certificates"),
        ("evercert.dev/v1", "Issuer", "issuers"),
        ("v1", "Secret", "secrets"),
        ("v1", "ConfigMap", "configmaps"),
        ("v1", "Service", "services"),
        ("v1", "Pod", "pods"),
        ("apps/v1", "Deployment", "deployments"),
        ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
        ("networking.k8s.io/v1", "Ingress", "ingresses"),
        ("v1", "Event", "events"),
    ];
    let mut text = String::new();
    for (version, kind, plural) in kinds {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        match api.list(&ListParams::default()).await {
            Ok(list) => list
                .items
                .into_iter()
                .for_each(|object| text.push_str(&show(kind, object))),
            Err(error) => {
                let _ = writeln!(text, "# {kind}: {error}");
            }
        }
    }
    text
}

fn show(kind: &str, mut object: DynamicObject) -> String {
    object.metadata.managed_fields = None;
    if kind == "Event" {
        let field = |name: &str| {
            object
                .data
                .get(name)
                .and_then(|value| value.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        let about = object
            .data
            .pointer("/involvedObject/name")
            .and_then(|value| value.as_str())
            .unwrap_or_default();
        return format!(
            "# event {} {} {about}: {}\n",
            field("type"),
            field("reason"),
            field("message")
        );
    }
    if kind == "ConfigMap" && object.name_any() == "kube-root-ca.crt" {
        return String::new();
    }
    if let Some(data) = object
        .data
        .get_mut("data")
        .filter(|_| kind == "Secret")
        .and_then(|data| data.as_object_mut())
    {
        data.values_mut().for_each(|value| {
            *value = format!("({} characters)", value.as_str().map_or(0, str::len)).into();
        });
    }
    let yaml = serde_yaml_ng::to_string(&object).unwrap_or_else(|error| error.to_string());
    format!("--- # {kind}\n{yaml}")
}
