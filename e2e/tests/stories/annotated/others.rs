//! Several Ingresses, other people's objects and spellings, and what the operator was told.

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_api::keys::INGRESS_SOURCE;
use evercert_e2e::Story;
use evercert_e2e::foreign::Pair;
use evercert_e2e::story::SOON;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{FOLLOWS, annotate, apply, events, gone, self_signed, told};
use crate::adoption::CERT_MANAGER;
use crate::{Tale, tales};

pub(super) fn tales() -> Vec<Tale> {
    tales![
        what_somebody_else_made_is_left_alone_and_said,
        ingresses_that_name_one_secret_share_a_certificate_and_the_older_counts,
        spellings_of_others_are_read_and_a_default_issuer_signs,
        an_ingress_that_owns_a_certificate_of_cert_manager_is_left_alone_until_that_is_gone,
        a_namespace_that_refuses_is_left_alone_until_it_no_longer_does,
        each_host_has_a_certificate_of_its_own_where_that_is_asked_for,
        what_the_api_server_refuses_is_said_in_its_words,
    ]
}

/// Where the operator is started with other options.
pub(crate) fn with_options() -> Vec<Tale> {
    tales![only_chosen_classes_and_labelled_namespaces_are_looked_at]
}

async fn what_somebody_else_made_is_left_alone_and_said(story: Story<'_>) -> Result<()> {
    self_signed(&story).await?;
    story.certificate("theirs", &[story.host("theirs")]).await?;
    story
        .certificate_with("named-otherwise", &[story.host("b")], |spec| {
            "taken".clone_into(&mut spec.secret_name);
        })
        .await?;
    let theirs = story.ready("theirs", SOON).await?;
    let pair = Pair::issue(&["elsewhere.test".to_owned()], 90 * 24 * 3600)?;
    story
        .apply(&pair.secret("secret", &json!({})).to_string())
        .await?;
    let secret = story.secret("secret").await?;
    let entries = json!([
        {"hosts": [story.host("a")], "secretName": "theirs"},
        {"hosts": [story.host("b")], "secretName": "taken"},
        {"hosts": [story.host("c")], "secretName": "secret"},
        {"hosts": [story.host("d")], "secretName": "ours"},
    ]);
    apply(
        &story,
        "site",
        &json!({"evercert.dev/issuer": "ca"}),
        &entries,
    )
    .await?;
    story.ready("ours", SOON).await?;
    told(
        &story,
        "site",
        "CertificateNotOurs",
        "Certificate theirs was made by somebody else",
    )
    .await?;
    told(
        &story,
        "site",
        "CertificateNotOurs",
        "Certificate named-otherwise",
    )
    .await?;
    told(&story, "site", "SecretNotOurs", "Certificate secret: ").await?;
    let after = story.secret("secret").await?;
    ensure!(
        after.resource_version() == secret.resource_version(),
        "the Secret was written"
    );
    let after = story.api::<Certificate>().get("theirs").await?;
    ensure!(
        after.metadata.generation == theirs.metadata.generation
            && after.owner_references().is_empty(),
        "the Certificate was written"
    );
    ensure!(
        story.api::<Certificate>().get_opt("taken").await?.is_none(),
        "a rival was made"
    );

    // The way is free.
    for name in ["theirs", "named-otherwise"] {
        let certificates = story.api::<Certificate>();
        certificates.delete(name, &DeleteParams::default()).await?;
    }
    let is_ours = |c: &Certificate| !c.owner_references().is_empty();
    for name in ["theirs", "taken"] {
        story
            .until(name, "the Ingress's own", SOON, is_ours)
            .await?;
        story.ready(name, SOON).await?;
    }
    Ok(())
}

async fn ingresses_that_name_one_secret_share_a_certificate_and_the_older_counts(
    story: Story<'_>,
) -> Result<()> {
    self_signed(&story).await?;
    let entry = |host: &str| json!([{"hosts": [story.host(host)], "secretName": "shared"}]);
    let annotations =
        |renew: &str| json!({"evercert.dev/issuer": "ca", "evercert.dev/renew-before": renew});
    apply(&story, "zebra", &annotations("1h"), &entry("a")).await?;
    let certificate = story.ready("shared", SOON).await?;
    let elder = certificate
        .owner_references()
        .first()
        .context("no owner")?
        .uid
        .clone();
    // Ages are whole seconds, and of one second the first by name is the older.
    let created = story
        .api::<Ingress>()
        .get("zebra")
        .await?
        .creation_timestamp()
        .context("no age")?
        .0;
    story
        .wait_for("another second", SOON, async || {
            Ok((Timestamp::now().as_second() > created.as_second()).then_some(()))
        })
        .await?;
    apply(&story, "ape", &annotations("2h"), &entry("b")).await?;
    let both = |c: &Certificate| c.spec.dns_names.len() == 2 && c.owner_references().len() == 2;
    let shared = story
        .until("shared", "both hosts, both owners", FOLLOWS, both)
        .await?;
    ensure!(
        shared.spec.renew_before.as_deref() == Some("1h"),
        "{:?}",
        shared.spec
    );
    told(&story, "ape", "SecretShared", "the older zebra").await?;
    let first = events(&story, "zebra").await?;
    ensure!(
        first.iter().all(|(reason, _)| reason != "SecretShared"),
        "{first:?}"
    );
    story.ready("shared", SOON).await?;

    let ingresses = story.api::<Ingress>();
    ingresses.delete("zebra", &DeleteParams::default()).await?;
    let one = |c: &Certificate| {
        let owners = c.owner_references();
        c.spec.dns_names == [story.host("b")]
            && owners.iter().all(|o| o.uid != elder)
            && owners.len() == 1
    };
    let left = story
        .until("shared", "what the other one asks for", FOLLOWS, one)
        .await?;
    ensure!(left.uid() == shared.uid(), "it was made anew");
    ensure!(
        left.spec.renew_before.as_deref() == Some("2h"),
        "{:?}",
        left.spec
    );
    Ok(())
}

async fn spellings_of_others_are_read_and_a_default_issuer_signs(story: Story<'_>) -> Result<()> {
    self_signed(&story).await?;
    let entry = |name: &str| json!([{"hosts": [story.host(name)], "secretName": name}]);
    apply(
        &story,
        "lego",
        &json!({"kubernetes.io/tls-acme": "true"}),
        &entry("lego"),
    )
    .await?;
    let theirs = json!({
        "cert-manager.io/issuer": "ca", "cert-manager.io/duration": "2160h",
        "cert-manager.io/private-key-algorithm": "RSA", "cert-manager.io/private-key-size": "2048",
    });
    apply(&story, "manager", &theirs, &entry("manager")).await?;
    story.ready("lego", SOON).await?;
    let certificate = story.ready("manager", SOON).await?;
    let key = certificate.spec.private_key.context("no privateKey")?;
    ensure!(key.size == Some(2048), "{key:?}");
    told(
        &story,
        "manager",
        "AnnotationIgnored",
        "cert-manager.io/duration",
    )
    .await
}

async fn an_ingress_that_owns_a_certificate_of_cert_manager_is_left_alone_until_that_is_gone(
    story: Story<'_>,
) -> Result<()> {
    self_signed(&story).await?;
    story.apply(CERT_MANAGER).await?;
    // It has to be there when Evercert first hears that it is asked.
    let entry = json!([{"hosts": [story.host("a")], "secretName": "site"}]);
    apply(&story, "site", &json!({}), &entry).await?;
    let uid = story
        .api::<Ingress>()
        .get("site")
        .await?
        .uid()
        .context("no uid")?;
    let owner = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "site", "uid": uid});
    let theirs = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
        "metadata": {"name": "site", "ownerReferences": [owner]},
    });
    story
        .wait_for("the kind is served", SOON, async || {
            Ok(story.apply(&theirs.to_string()).await.ok())
        })
        .await?;
    annotate(&story, "site", &json!({"evercert.dev/issuer": "ca"})).await?;
    told(
        &story,
        "site",
        "LeftToCertManager",
        "Certificate site of cert-manager",
    )
    .await?;
    ensure!(
        story.api::<Certificate>().get_opt("site").await?.is_none(),
        "it was made"
    );
    theirs_of(&story)
        .delete("site", &DeleteParams::default())
        .await?;
    // Nobody tells of it: it is looked at every 30 s.
    story
        .until("site", "it is made", SOON * 2, |_: &Certificate| true)
        .await?;
    Ok(())
}

async fn a_namespace_that_refuses_is_left_alone_until_it_no_longer_does(
    story: Story<'_>,
) -> Result<()> {
    self_signed(&story).await?;
    let entries = |names: &[&str]| -> Value {
        let entry = |name: &&str| json!({"hosts": [story.host(name)], "secretName": name});
        names.iter().map(entry).collect()
    };
    let annotations = json!({"evercert.dev/issuer": "ca"});
    apply(&story, "site", &annotations, &entries(&["a"])).await?;
    story.ready("a", SOON).await?;
    label(&story, Some("disabled")).await?;
    apply(&story, "site", &annotations, &entries(&["b"])).await?;
    // One that is heard of later, elsewhere, and looked at.
    let other = format!("{}-o", story.namespace);
    story.own_namespace(&other, &json!({})).await?;
    let elsewhere = Story {
        namespace: &other,
        ..story
    };
    self_signed(&elsewhere).await?;
    apply(&elsewhere, "site", &annotations, &entries(&["c"])).await?;
    elsewhere.ready("c", SOON).await?;
    let certificates = story.api::<Certificate>();
    ensure!(certificates.get_opt("b").await?.is_none(), "it was made");
    certificates.get("a").await.context("it was removed")?;

    label(&story, None).await?;
    story.ready("b", SOON).await?;
    gone(&story, "a").await
}

async fn each_host_has_a_certificate_of_its_own_where_that_is_asked_for(
    story: Story<'_>,
) -> Result<()> {
    self_signed(&story).await?;
    let (a, b) = (story.host("a"), story.host("b"));
    let annotations =
        json!({"evercert.dev/issuer": "ca", "evercert.dev/certificate-per-host": "true"});
    apply(
        &story,
        "site",
        &annotations,
        &json!([{"hosts": [a, b], "secretName": "site"}]),
    )
    .await?;
    let (of_a, of_b) = (format!("site-{a}"), format!("site-{b}"));
    for (name, host) in [(&of_a, &a), (&of_b, &b)] {
        let certificate = story.ready(name, SOON).await?;
        ensure!(
            certificate.spec.dns_names == [host.as_str()],
            "{:?}",
            certificate.spec
        );
    }
    let before = story.api::<Certificate>().get(&of_a).await?;
    told(&story, "site", "EntrySplit", &format!("{of_a}, {of_b}")).await?;
    ensure!(
        story.api::<Certificate>().get_opt("site").await?.is_none(),
        "it was made"
    );
    // As the event says: the same Certificates serve.
    let split = json!([{"hosts": [a], "secretName": of_a}, {"hosts": [b], "secretName": of_b}, {"hosts": [story.host("c")], "secretName": "c"}]);
    apply(&story, "site", &annotations, &split).await?;
    story.ready("c", SOON).await?;
    let after = story.api::<Certificate>().get(&of_a).await?;
    ensure!(
        (after.uid(), after.metadata.generation) == (before.uid(), before.metadata.generation),
        "it was written"
    );
    Ok(())
}

/// Whatever the source does not see itself, the schema does.
async fn what_the_api_server_refuses_is_said_in_its_words(story: Story<'_>) -> Result<()> {
    self_signed(&story).await?;
    let template = r#"{"labels": {"evercert.dev/mine": "x"}}"#;
    let annotations =
        json!({"evercert.dev/issuer": "ca", "evercert.dev/secret-template": template});
    let entries = json!([{"hosts": [story.host("a")], "secretName": "a"}]);
    apply(&story, "site", &annotations, &entries).await?;
    told(
        &story,
        "site",
        "CertificateRefused",
        "choose another prefix",
    )
    .await?;
    annotate(
        &story,
        "site",
        &json!({"evercert.dev/secret-template": null}),
    )
    .await?;
    story.ready("a", SOON).await?;
    Ok(())
}

async fn only_chosen_classes_and_labelled_namespaces_are_looked_at(story: Story<'_>) -> Result<()> {
    let variables = [
        ("EVERCERT_INGRESS_CLASSES", "nobodys"),
        ("EVERCERT_INGRESS_NAMESPACES", "labelled"),
        ("EVERCERT_CERTIFICATE_PER_HOST", "true"),
    ];
    let mut operator = story.stage.operator.lock().await;
    operator.kill()?;
    operator.restart_with(&variables)?;
    operator.ready().await?;
    let told = with_other_options(&story).await;
    operator.kill()?;
    operator.ensure_ready().await?;
    told
}

async fn with_other_options(story: &Story<'_>) -> Result<()> {
    self_signed(story).await?;
    let annotations = json!({"evercert.dev/issuer": "ca"});
    let entry = |name: &str, hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|h| story.host(h)).collect();
        json!([{"hosts": hosts, "secretName": name}])
    };
    let of_class = async |name: &str, class: &str| {
        let patch = json!({"spec": {"ingressClassName": class}});
        let ingresses = story.api::<Ingress>();
        let params = PatchParams::default();
        ingresses
            .patch(name, &params, &Patch::Merge(&patch))
            .await
            .map(drop)
    };
    apply(
        story,
        "other-class",
        &annotations,
        &entry("other-class", &["a"]),
    )
    .await?;
    apply(story, "chosen", &annotations, &entry("chosen", &["b", "c"])).await?;
    of_class("chosen", "nobodys").await?;
    label(story, Some("enabled")).await?;
    for host in ["b", "c"] {
        let name = format!("chosen-{}", story.host(host));
        story
            .until(&name, "it is made", SOON, |_: &Certificate| true)
            .await?;
    }
    let other = story.api::<Certificate>().get_opt("other-class").await?;
    ensure!(other.is_none(), "an Ingress of another class was looked at");
    of_class("other-class", "nobodys").await?;
    story
        .until("other-class", "it is made", SOON, |_: &Certificate| true)
        .await?;
    Ok(())
}

/// cert-manager's Certificates in the story's namespace.
fn theirs_of(story: &Story<'_>) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
    let resource = ApiResource::from_gvk_with_plural(&kind, "certificates");
    Api::namespaced_with(story.stage.client.clone(), story.namespace, &resource)
}

/// Labels the story's namespace for or against it.
async fn label(story: &Story<'_>, value: Option<&str>) -> Result<()> {
    let patch = json!({"metadata": {"labels": {INGRESS_SOURCE: value}}});
    let namespaces: Api<Namespace> = Api::all(story.stage.client.clone());
    namespaces
        .patch(
            story.namespace,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await?;
    Ok(())
}
