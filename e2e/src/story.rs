//! One story: a namespace and a DNS domain of its own, so that stories run side by side.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use evercert_api::certificate::{DeletionPolicy, IssuerRef};
use evercert_api::{Certificate, CertificateSpec, Issuer, condition};
use evercert_cluster::Pebble;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::ca::TestCa;
use crate::manifest::{self, FIELD_MANAGER};
use crate::scripted::{ScriptedCa, Settings};
use crate::stage::Stage;
use crate::wait_for;

/// How long a Certificate may take where nothing stands in its way. Far above what it takes: the numbers are measured by the
/// stories that are about them.
pub const SOON: Duration = Duration::from_secs(30);

/// A story on a stage.
#[derive(Debug, Clone, Copy)]
pub struct Story<'a> {
    /// Where it happens.
    pub stage: &'a Stage,
    /// The namespace, which is the story's name.
    pub namespace: &'a str,
}

impl<'a> Story<'a> {
    /// Makes the namespace and waits until pods can be made in it.
    ///
    /// # Errors
    /// The API server refuses the name.
    pub async fn begin(stage: &'a Stage, namespace: &'a str) -> Result<Self> {
        let story = Self { stage, namespace };
        story
            .own_namespace(namespace, &serde_json::json!({}))
            .await?;
        Ok(story)
    }

    /// Makes another namespace for this story, with labels.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn own_namespace(&self, name: &str, labels: &serde_json::Value) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.stage.client.clone());
        let wanted = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        namespaces
            .patch(
                name,
                &PatchParams::apply(FIELD_MANAGER).force(),
                &Patch::Apply(&wanted),
            )
            .await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.stage.client.clone(), name);
        wait_for("the namespace's default ServiceAccount", SOON, async || {
            Ok(accounts.get_opt("default").await?)
        })
        .await?;
        Ok(())
    }

    /// `<label>.<story>.test`, a name of this story's domain.
    #[must_use]
    pub fn host(&self, label: &str) -> String {
        format!("{label}.{}.test", self.namespace)
    }

    /// The API of one kind in the story's namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.stage.client.clone(), self.namespace)
    }

    /// Applies YAML, objects without a namespace in the story's.
    ///
    /// # Errors
    /// What the API server says to the first object that it refuses.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        manifest::apply(&self.stage.client, self.namespace, yaml).await
    }

    /// A CA of the story's own with the usual settings, and an Issuer `ca` for it that is Ready.
    ///
    /// # Errors
    /// The CA does not start, or the Issuer does not get Ready.
    pub async fn ca(&self) -> Result<TestCa> {
        self.ca_with(Pebble::default()).await
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// The CA does not start, or the Issuer does not get Ready.
    pub async fn ca_with(&self, settings: Pebble) -> Result<TestCa> {
        let ca = self.stage.ca(self.namespace, settings).await?;
        self.issuer("ca", &ca).await?;
        self.issuer_ready("ca").await?;
        Ok(ca)
    }

    /// A scripted CA of the story's own, and an Issuer `ca` for it that is Ready.
    ///
    /// # Errors
    /// The CA does not start, or the Issuer does not get Ready.
    pub async fn scripted_ca(&self, settings: Settings) -> Result<ScriptedCa> {
        let ca = self.stage.scripted_ca(settings).await?;
        self.apply(&issuer_yaml("Issuer", "ca", &ca.directory(), ca.bundle()))
            .await?;
        self.issuer_ready("ca").await?;
        Ok(ca)
    }

    /// Waits until an Issuer is Ready and gives it.
    ///
    /// # Errors
    /// Time is up: with the evidence.
    pub async fn issuer_ready(&self, name: &str) -> Result<Issuer> {
        self.until(name, "the Issuer is Ready", SOON, |issuer| {
            ready(status_of(issuer))
        })
        .await
    }

    /// Applies an Issuer for `ca`.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn issuer(&self, name: &str, ca: &TestCa) -> Result<()> {
        self.apply(&issuer_yaml("Issuer", name, &ca.directory(), &ca.bundle()?))
            .await
    }

    /// Applies a Certificate for `names` from Issuer `ca`, its Secret named as itself.
    ///
    /// # Errors
    /// What the API server says if it refuses it.
    pub async fn certificate(&self, name: &str, names: &[String]) -> Result<Certificate> {
        self.certificate_with(name, names, |_| {}).await
    }

    /// The same with a change to its spec.
    ///
    /// # Errors
    /// What the API server says if it refuses it.
    pub async fn certificate_with(
        &self,
        name: &str,
        names: &[String],
        change: impl FnOnce(&mut CertificateSpec),
    ) -> Result<Certificate> {
        let mut certificate = Certificate::new(name, spec(name, names));
        change(&mut certificate.spec);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.api::<Certificate>()
            .patch(name, &params, &Patch::Apply(&certificate))
            .await
            .map_err(|error| match error {
                kube::Error::Api(status) => anyhow!("{}", status.message),
                other => other.into(),
            })
    }

    /// Waits until a Certificate is Ready and gives it.
    ///
    /// # Errors
    /// Time is up: with the evidence.
    pub async fn ready(&self, name: &str, within: Duration) -> Result<Certificate> {
        self.until(name, "the Certificate is Ready", within, certificate_ready)
            .await
    }

    /// Waits until a Certificate's condition `kind` has `status`, and gives its message and reason.
    ///
    /// # Errors
    /// Time is up: with the evidence.
    pub async fn condition(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        within: Duration,
    ) -> Result<(String, String)> {
        let what = format!("its condition {kind} is {status}");
        let found: Certificate = self
            .until(name, &what, within, |certificate: &Certificate| {
                conditions_of(certificate)
                    .iter()
                    .any(|c| c.type_ == kind && c.status == status)
            })
            .await?;
        let condition =
            condition::find(conditions_of(&found), kind).context("the condition is gone")?;
        Ok((condition.reason.clone(), condition.message.clone()))
    }

    /// Waits until the message of a Certificate's condition `kind` has `words` in it, and gives the message.
    ///
    /// # Errors
    /// Time is up: with the evidence.
    pub async fn condition_says(
        &self,
        name: &str,
        kind: &str,
        words: &str,
        within: Duration,
    ) -> Result<String> {
        let what = format!("its condition {kind} says {words:?}");
        let said = |certificate: &Certificate| {
            condition::find(conditions_of(certificate), kind)
                .map(|condition| condition.message.clone())
                .filter(|message| message.contains(words))
        };
        let found: Certificate = self
            .until(name, &what, within, |certificate| {
                said(certificate).is_some()
            })
            .await?;
        said(&found).context("the condition is gone")
    }

    /// Watches one object until `holds`, and gives it.
    ///
    /// # Errors
    /// Time is up: with the evidence.
    pub async fn until<K>(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        holds: impl Fn(&K) -> bool + Send + Sync,
    ) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
        K::DynamicType: Default,
    {
        let watched = await_condition(self.api::<K>(), name, Holds(holds));
        match tokio::time::timeout(within, watched).await {
            Ok(found) => found?.with_context(|| format!("{name} is gone")),
            Err(_) => Err(self
                .with_evidence(anyhow!("waited {within:?} for {name}: {what}"))
                .await),
        }
    }

    /// Looks at `condition` until it gives a value.
    ///
    /// # Errors
    /// Time is up: with the evidence.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        within: Duration,
        condition: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        match wait_for(what, within, condition).await {
            Ok(value) => Ok(value),
            Err(error) => Err(self.with_evidence(error).await),
        }
    }

    /// A TLS Secret.
    ///
    /// # Errors
    /// It is not there.
    pub async fn secret(&self, name: &str) -> Result<Secret> {
        self.api::<Secret>()
            .get(name)
            .await
            .with_context(|| format!("Secret {name}"))
    }

    /// `error` with objects, events and logs behind it.
    pub async fn with_evidence(&self, error: anyhow::Error) -> anyhow::Error {
        anyhow!(
            "{error:#}\n{}",
            self.stage.evidence(&[self.namespace]).await
        )
    }
}

struct Holds<F>(F);

impl<K, F: Fn(&K) -> bool> Condition<K> for Holds<F> {
    fn matches_object(&self, object: Option<&K>) -> bool {
        object.is_some_and(|object| (self.0)(object))
    }
}

/// The spec of a Certificate from Issuer `ca` with all defaults.
#[must_use]
pub fn spec(secret: &str, names: &[String]) -> CertificateSpec {
    CertificateSpec {
        secret_name: secret.to_owned(),
        dns_names: names.to_vec(),
        ip_addresses: Vec::new(),
        issuer_ref: IssuerRef {
            name: "ca".into(),
            kind: evercert_api::certificate::IssuerKind::Issuer,
        },
        private_key: None,
        renew_before: None,
        renew_before_percentage: None,
        profile: None,
        fallback: None,
        alternate_issuer_refs: Vec::new(),
        suspend: false,
        secret_template: None,
        output_formats: Vec::new(),
        deletion_policy: DeletionPolicy::Retain,
    }
}

/// An ACME Issuer or ClusterIssuer, as YAML.
#[must_use]
pub fn issuer_yaml(kind: &str, name: &str, directory: &str, bundle: &str) -> String {
    let issuer = serde_json::json!({
        "apiVersion": "evercert.dev/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"acme": {
            "directory": directory, "termsOfServiceAgreed": true, "caBundle": bundle,
            "accountKeySecretRef": {"name": format!("{name}-account")},
            "http01": {"ingressClassName": crate::operator::ingress_class()},
        }},
    });
    // JSON is YAML.
    issuer.to_string()
}

/// The conditions of a Certificate; none before the operator has seen it.
#[must_use]
pub fn conditions_of(
    certificate: &Certificate,
) -> &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition] {
    certificate
        .status
        .as_ref()
        .map_or(&[], |status| &status.conditions)
}

fn status_of(issuer: &Issuer) -> &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition] {
    issuer
        .status
        .as_ref()
        .map_or(&[], |status| &status.conditions)
}

fn ready(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> bool {
    condition::is_true(conditions, condition::READY)
}

/// Ready, and said of this generation.
#[must_use]
pub fn certificate_ready(certificate: &Certificate) -> bool {
    condition::find(conditions_of(certificate), condition::READY).is_some_and(|ready| {
        ready.status == "True" && ready.observed_generation == certificate.meta().generation
    })
}

/// The name and namespace of an object, for messages.
#[must_use]
pub fn name_of<K: Resource>(object: &K) -> String {
    format!(
        "{}/{}",
        object.namespace().unwrap_or_default(),
        object.name_any()
    )
}
