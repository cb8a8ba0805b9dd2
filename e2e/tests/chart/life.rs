//! A release from `helm install` to `helm uninstall`, with the image that `make image` made.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_e2e::ca::TestCa;
use evercert_e2e::chart::{self, RELEASE, said};
use evercert_e2e::operator::NAMESPACE;
use evercert_e2e::story::{certificate_ready, issuer_yaml, spec};
use evercert_e2e::{deployment, image, manifest, pods, wait_for};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use tempfile::TempDir;

use crate::Scene;
use crate::server::make_namespace;

/// Where the Certificate is.
const SITE: &str = "site";
const NAME: &str = "www.site.test";
const SOON: Duration = Duration::from_mins(1);
const CERTIFICATES: &str = "certificates.evercert.dev";
/// A field of a Certificate's spec that the release before did not know, for the test's sake.
const NEW_FIELD: &str = "suspend";

struct Life<'a> {
    scene: &'a Scene,
    ca: TestCa,
    certificates: Api<Certificate>,
    secrets: Api<Secret>,
    definitions: Api<CustomResourceDefinition>,
    deployments: Api<Deployment>,
}

pub(crate) async fn a_release_lives_from_its_installation_to_its_end_and_takes_no_certificate_with_it(
    scene: &Scene,
) -> Result<()> {
    let client = || scene.client.clone();
    scene.world.import_image(&image::EVERCERT.archive()?)?;
    make_namespace(&scene.client, SITE).await?;
    make_namespace(&scene.client, NAMESPACE).await?;
    let life = Life {
        scene,
        ca: TestCa::of_world(&scene.world).await?,
        certificates: Api::namespaced(client(), SITE),
        secrets: Api::namespaced(client(), SITE),
        definitions: Api::all(client()),
        deployments: Api::namespaced(client(), NAMESPACE),
    };
    match life.is_lived().await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(life.evidence().await)),
    }
}

impl Life<'_> {
    async fn is_lived(&self) -> Result<()> {
        let earlier = earlier_chart()?;
        let began = Instant::now();
        let notes = self.helm("install", earlier.path(), &[]).await?;
        println!(
            "helm install --wait of two replicas: {:.1} s",
            began.elapsed().as_secs_f64()
        );
        self.notes_are_for_this_cluster(&notes).await?;
        let bytes = self.issues().await?;
        println!(
            "from helm install to the first issued certificate: {:.1} s",
            began.elapsed().as_secs_f64()
        );
        ensure!(
            !self.knows_the_new_field().await?,
            "the earlier custom resources have it already"
        );

        let chart = chart::folder();
        let first = self.pods().await?;
        self.helm("upgrade", &chart, &["log.level=debug"]).await?;
        let second = self.pods().await?;
        ensure!(
            first.len() == 2 && second.len() == 2,
            "{first:?} {second:?}"
        );
        ensure!(
            !first.iter().any(|name| second.contains(name)),
            "pods with the old arguments stayed: {first:?} {second:?}"
        );
        ensure!(
            self.arguments()
                .await?
                .contains(&"--log-level=debug".to_owned()),
            "the new value is not there"
        );
        ensure!(
            self.knows_the_new_field().await?,
            "the custom resources are not upgraded"
        );
        self.set_new_field(true).await?;

        let arguments = ["rollback", RELEASE, "1", "--wait", "--timeout=60s"];
        said(self.command().args(arguments).output()?)?;
        ensure!(
            !self
                .arguments()
                .await?
                .contains(&"--log-level=debug".to_owned()),
            "nothing is rolled back"
        );
        ensure!(
            self.knows_the_new_field().await?,
            "the custom resources are taken back"
        );
        let kept = self.certificates.get(SITE).await?;
        ensure!(kept.spec.suspend, "what was stored is pruned");
        // From here on it could order.
        self.set_new_field(false).await?;

        self.ends(&bytes).await?;
        // Where they are already, the definitions are no obstacle.
        self.helm("install", &chart, &[]).await?;
        self.stays(&bytes).await?;
        let count = self.ca.count()?;
        ensure!(count.orders == 1, "{count:?}");
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = self.scene.helm.command();
        command.env("KUBECONFIG", self.scene.world.kubeconfig());
        command
    }

    /// Installs or upgrades, and waits.
    async fn helm(&self, verb: &str, chart: &Path, values: &[&str]) -> Result<String> {
        let mut command = self.command();
        command.arg(verb).arg(RELEASE).arg(chart);
        command.args(["--wait", "--timeout=60s"]);
        let (repository, tag) = image::EVERCERT
            .reference
            .rsplit_once(':')
            .context("a tag")?;
        let image = format!("image.repository={repository},image.tag={tag}");
        command.args(["--set", &image]);
        for value in values {
            command.args(["--set", value]);
        }
        said(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    /// A certificate from the CA, and its Secret's bytes.
    async fn issues(&self) -> Result<Secret> {
        let client = &self.scene.client;
        let issuer = issuer_yaml("Issuer", "ca", &self.ca.directory(), &self.ca.bundle()?);
        manifest::apply(client, SITE, &issuer).await?;
        let certificate = Certificate::new(SITE, spec("site-tls", &[NAME.to_owned()]));
        self.certificates
            .create(&PostParams::default(), &certificate)
            .await?;
        self.is_ready().await?;
        Ok(self.secrets.get("site-tls").await?)
    }

    async fn is_ready(&self) -> Result<()> {
        wait_for("the Certificate is Ready", SOON, async || {
            let certificate = self.certificates.get(SITE).await?;
            Ok(certificate_ready(&certificate).then_some(()))
        })
        .await
    }

    /// What the notes tell a user to apply is accepted here, and names the class of this cluster.
    async fn notes_are_for_this_cluster(&self, notes: &str) -> Result<()> {
        ensure!(notes.contains("ingress class \"contour\""), "{notes}");
        let mut parts = notes.split("\n---\n").skip(1);
        for kind in ["Issuer", "Ingress"] {
            let part = parts.next().context("the notes have too few objects")?;
            let [object] = &manifest::parse(part)?[..] else {
                anyhow::bail!("no object: {part}");
            };
            let found = object.types.as_ref().map(|types| types.kind.as_str());
            ensure!(found == Some(kind), "{part}");
            ensure!(part.contains("ingressClassName: contour"), "{part}");
            manifest::try_object(&self.scene.client, SITE, object).await?;
        }
        Ok(())
    }

    async fn knows_the_new_field(&self) -> Result<bool> {
        let definition = self.definitions.get(CERTIFICATES).await?;
        Ok(serde_json::to_value(&definition.spec)?
            .pointer(&field_of_spec())
            .is_some())
    }

    async fn set_new_field(&self, value: bool) -> Result<()> {
        let patch = Patch::Merge(serde_json::json!({"spec": {NEW_FIELD: value}}));
        self.certificates
            .patch(SITE, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    async fn pods(&self) -> Result<Vec<String>> {
        let all = pods::list(&self.scene.client, NAMESPACE, deployment::SELECTOR).await?;
        // One that ends still has to say so.
        let alive = all
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(alive.map(ResourceExt::name_any).collect())
    }

    async fn arguments(&self) -> Result<Vec<String>> {
        let deployment = self.deployments.get(deployment::NAME).await?;
        let template = deployment.spec.and_then(|spec| spec.template.spec);
        let container = template.and_then(|pod| pod.containers.into_iter().next());
        container
            .and_then(|container| container.args)
            .context("no arguments")
    }

    /// `helm uninstall`: what the release made is gone, what its users made is not.
    async fn ends(&self, secret: &Secret) -> Result<()> {
        let arguments = ["uninstall", RELEASE, "--wait", "--timeout=60s"];
        said(self.command().args(arguments).output()?)?;
        let left = self.deployments.get_opt(deployment::NAME).await?;
        ensure!(left.is_none(), "the Deployment is still there");
        wait_for("the operator's pods are gone", SOON, async || {
            Ok(self.pods().await?.is_empty().then_some(()))
        })
        .await?;
        let definitions = self.definitions.list(&ListParams::default()).await?;
        let own = definitions.items.iter();
        let own = own.filter(|definition| definition.spec.group == "evercert.dev");
        ensure!(own.count() == 3, "a custom resource is gone");
        self.stays(secret).await
    }

    /// The Certificate is Ready, and its Secret is the same object with the same bytes.
    async fn stays(&self, secret: &Secret) -> Result<()> {
        self.is_ready().await?;
        let found = self.secrets.get("site-tls").await?;
        ensure!(
            found.metadata.uid == secret.metadata.uid && found.data == secret.data,
            "the Secret is another"
        );
        Ok(())
    }

    async fn evidence(&self) -> String {
        let client: &Client = &self.scene.client;
        format!(
            "{}\n{}\n{}",
            manifest::evidence(client, SITE).await,
            manifest::evidence(client, NAMESPACE).await,
            pods::logs(client, NAMESPACE).await
        )
    }
}

fn field_of_spec() -> String {
    format!("/versions/0/schema/openAPIV3Schema/properties/spec/properties/{NEW_FIELD}")
}

/// The chart as an earlier release might have been: its Certificates lack a field.
fn earlier_chart() -> Result<TempDir> {
    let earlier = TempDir::new()?;
    let status = Command::new("cp")
        .arg("-r")
        .arg(chart::folder().join("."))
        .arg(earlier.path())
        .status()?;
    ensure!(status.success(), "copying the chart: {status}");
    let file = earlier
        .path()
        .join("files/crds")
        .join(format!("{CERTIFICATES}.yaml"));
    let mut definition: serde_json::Value = serde_yaml_ng::from_str(&fs::read_to_string(&file)?)?;
    let pointer = format!("/spec{}", field_of_spec());
    let (members, field) = pointer.rsplit_once('/').context("a pointer")?;
    let members = definition.pointer_mut(members);
    let members = members.and_then(serde_json::Value::as_object_mut);
    ensure!(
        members.is_some_and(|members| members.remove(field).is_some()),
        "the field to remove is not there"
    );
    fs::write(&file, serde_yaml_ng::to_string(&definition)?)?;
    Ok(earlier)
}
