//! The operator is confined to some namespaces: with Roles in these and in its own, and nothing in the cluster, it works there.

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::IssuerKind;
use evercert_api::condition::READY;
use evercert_api::{Certificate, Issuer};
use evercert_e2e::audit::Call;
use evercert_e2e::chart::{self, Helm};
use evercert_e2e::operator::{self, NAMESPACE, ingress_class};
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, manifest, wait_for};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::networking::v1::IngressClass;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::issue::usable;
use crate::{Tale, tales};

/// Its role in the cluster.
const CLUSTER_ROLE: &str = "evercert";
/// Its roles in the namespaces that it looks after.
const ROLE: &str = "evercert-namespace";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        rights_in_two_namespaces_are_enough_to_issue_there_and_nothing_else_is_asked_for,
        a_namespace_that_is_not_there_is_named_and_holds_no_other_back,
    ]
}

async fn rights_in_two_namespaces_are_enough_to_issue_there_and_nothing_else_is_asked_for(
    story: Story<'_>,
) -> Result<()> {
    let (second, third) = (beside(&story, "b"), beside(&story, "c"));
    let second = Story::begin(story.stage, &second).await?;
    let third = Story::begin(story.stage, &third).await?;
    let both = [story.namespace, second.namespace];
    confined(&story, &both, async || {
        let audit = story.stage.audit()?;
        let mut operator = story.stage.operator.lock().await;
        let namespaces = both.join(",");
        let class: Api<IngressClass> = Api::all(story.stage.client.clone());
        let class = class.get(ingress_class()).await?;
        let controller = class.spec.and_then(|spec| spec.controller);
        let controller = controller.context("the class has no controller")?;
        let classes = format!("{}={controller}", ingress_class());
        operator.restart_with(&[
            ("EVERCERT_NAMESPACES", &namespaces),
            ("EVERCERT_CLASS_CONTROLLERS", &classes),
        ])?;
        operator.ready().await?;

        third.apply(SELF_SIGNED).await?;
        third.certificate("other", &[third.host("other")]).await?;
        annotated(&third).await?;
        let ca = story.ca().await?;
        second.issuer("ca", &ca).await?;
        for one in [&story, &second] {
            annotated(one).await?;
            one.ready("site", SOON).await?;
            usable(&one.secret("site").await?).context("no certificate")?;
        }
        let count = ca.count()?;
        ensure!(count.orders == 2 && count.certificates == 2, "{count:?}");
        second
            .certificate_with("cluster", &[second.host("cluster")], |spec| {
                spec.issuer_ref.kind = IssuerKind::ClusterIssuer;
            })
            .await?;
        let said = second
            .condition_says("cluster", READY, "may not read ClusterIssuers", SOON)
            .await?;
        ensure!(said.contains("name an Issuer"), "{said}");

        let other = third.api::<Certificate>().get("other").await?;
        ensure!(other.status.is_none(), "{:?}", other.status);
        let issuer = third.api::<Issuer>().get("ca").await?;
        ensure!(issuer.status.is_none(), "{:?}", issuer.status);
        let made = third.api::<Certificate>().get_opt("site").await?;
        ensure!(made.is_none(), "an Ingress of another namespace was heeded");
        let calls = audit.calls(&operator::user())?;
        let calls = calls
            .iter()
            .filter(|call| !call.is_review() && !call.resource().is_empty());
        let (granted, refused): (Vec<&Call>, Vec<&Call>) =
            calls.partition(|call| call.was_authorized());
        ensure!(refused.is_empty(), "{refused:?}");
        let places = [both[0], both[1], NAMESPACE];
        let astray = granted
            .iter()
            .find(|call| !places.contains(&call.namespace()));
        ensure!(astray.is_none(), "{astray:?}");
        for place in places {
            let is_there = granted.iter().any(|call| call.namespace() == place);
            ensure!(is_there, "nothing is counted in {place}");
        }
        Ok(())
    })
    .await
}

async fn a_namespace_that_is_not_there_is_named_and_holds_no_other_back(
    story: Story<'_>,
) -> Result<()> {
    let missing = beside(&story, "gone");
    let told = [story.namespace, &missing];
    confined(&story, &[story.namespace], async || {
        let mut operator = story.stage.operator.lock().await;
        let from = std::fs::read(operator.log())?.len();
        let namespaces = told.join(",");
        operator.restart_with(&[("EVERCERT_NAMESPACES", &namespaces)])?;
        operator.ready().await?;
        story.apply(SELF_SIGNED).await?;
        story.certificate("site", &[story.host("site")]).await?;
        story.ready("site", SOON).await?;
        let log = std::fs::read(operator.log())?;
        let log = String::from_utf8_lossy(log.get(from..).context("the log was cut")?);
        let words =
            format!("may not list and watch certificates of evercert.dev in namespace {missing}, ");
        let line = log.lines().find(|line| line.contains(&words));
        let line = line.with_context(|| format!("not said: {words}"))?;
        ensure!(
            line.contains("ERROR") && line.contains("the chart's Role grants it"),
            "{line}"
        );
        let of_this = format!("in namespace {}, ", story.namespace);
        ensure!(!log.contains(&of_this), "it lacks something here, too");
        Ok(())
    })
    .await
}

const SELF_SIGNED: &str =
    "{apiVersion: evercert.dev/v1, kind: Issuer, metadata: {name: ca}, spec: {selfSigned: {}}}";

/// The name of another namespace of the story.
fn beside(story: &Story<'_>, name: &str) -> String {
    format!("{}-{name}", story.namespace)
}

/// Ends the operator, leaves it the rights that the chart gives it for `namespaces`, and brings everything back when `told` has ended.
async fn confined(
    story: &Story<'_>,
    namespaces: &[&str],
    told: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let client = &story.stage.client;
    story.stage.operator.lock().await.kill()?;
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    bindings
        .delete(CLUSTER_ROLE, &DeleteParams::default())
        .await?;
    let told = async {
        let helm = Helm::at(story.stage.world.tools().program("helm"))?;
        let values = format!(
            "--set=image.repository=localhost/evercert,namespaces={{{}}}",
            namespaces.join(",")
        );
        let arguments = [values, "--show-only=templates/rbac.yaml".to_owned()];
        let roles = helm.template(&arguments)?;
        ensure!(!roles.contains("kind: ClusterRole"), "{roles}");
        manifest::apply(client, NAMESPACE, &roles).await?;
        may(story, None, false).await?;
        for namespace in namespaces {
            may(story, Some(namespace), true).await?;
        }
        told().await
    };
    let told = match told.await {
        Ok(()) => Ok(()),
        Err(error) => Err(story.with_evidence(error).await),
    };
    let manifests = manifest::repository().join(chart::MANIFESTS);
    manifest::apply_file(client, NAMESPACE, &manifests, |kind| kind != "Deployment").await?;
    for namespace in namespaces {
        let params = DeleteParams::default();
        let (roles, bound): (Api<Role>, Api<RoleBinding>) = (
            Api::namespaced(client.clone(), namespace),
            Api::namespaced(client.clone(), namespace),
        );
        roles.delete(ROLE, &params).await?;
        bound.delete(ROLE, &params).await?;
    }
    may(story, None, true).await?;
    let mut operator = story.stage.operator.lock().await;
    if operator.pid().is_some() {
        operator.kill()?;
    }
    operator.ensure_ready().await?;
    told
}

/// Waits until the API server lets the operator read Secrets in a namespace, or in all, or no longer.
async fn may(story: &Story<'_>, namespace: Option<&str>, wanted: bool) -> Result<()> {
    let reviews: Api<SubjectAccessReview> = Api::all(story.stage.client.clone());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(operator::user()),
            resource_attributes: Some(ResourceAttributes {
                resource: Some("secrets".to_owned()),
                verb: Some("list".to_owned()),
                namespace: namespace.map(ToOwned::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    wait_for("the API server knows the roles", SOON, async || {
        let answer = reviews.create(&PostParams::default(), &review).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        Ok((allowed == wanted).then_some(()))
    })
    .await
}

/// An Ingress `site` that asks for a certificate.
async fn annotated(story: &Story<'_>) -> Result<()> {
    let host = story.host("site");
    let path = json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "site", "port": {"number": 80}}}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "site", "annotations": {"evercert.dev/issuer": "ca"}},
        "spec": {
            "ingressClassName": ingress_class(),
            "tls": [{"hosts": [host], "secretName": "site"}],
            "rules": [{"host": host, "http": {"paths": [path]}}],
        },
    });
    story.apply(&ingress.to_string()).await
}
