//! Certificates from annotated Ingresses: what follows from an Ingress, and what is said on it.

pub(crate) mod others;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_e2e::operator::ingress_class;
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, curl, manifest};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::app::application;
use crate::issue::{no_route_stays, usable};
use crate::{Tale, tales};

/// Within so long an edit of an Ingress is in its Certificate.
const FOLLOWS: Duration = Duration::from_secs(2);

pub(crate) fn tales() -> Vec<Tale> {
    let mut all = tales![
        an_annotated_ingress_alone_is_served_a_certificate_and_its_secret_outlives_it,
        an_edit_of_an_ingress_is_in_its_certificate_within_two_seconds,
        what_cannot_be_certified_is_said_once_and_the_other_entries_are_issued,
        the_examples_lead_to_certificates,
    ];
    all.extend(others::tales());
    all
}

async fn an_annotated_ingress_alone_is_served_a_certificate_and_its_secret_outlives_it(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let host = story.host("shop");
    let site = application("shop", &host).replace(
        "kind: Ingress\nmetadata: {name: shop}",
        "kind: Ingress\nmetadata: {name: shop, annotations: {evercert.dev/issuer: ca}}",
    );
    ensure!(site.contains("evercert.dev/issuer"), "{site}");
    story.apply(&site).await?;
    let certificate = story.ready("shop", SOON).await?;
    let ingress = story.api::<Ingress>().get("shop").await?;
    let owner = certificate.owner_references().first().context("no owner")?;
    ensure!(
        owner.kind == "Ingress" && Some(&owner.uid) == ingress.uid().as_ref(),
        "{owner:?}"
    );
    let url = format!("https://{host}/");
    let served = story
        .wait_for("the site answers, and curl trusts it", SOON, async || {
            let served = curl::get(&url, Some(ca.root()))?;
            // Envoy may know the site's route before its pod.
            ensure!(served.status != 503, "{served:?}");
            Ok(Some(served))
        })
        .await?;
    ensure!(served.status == 200, "{served:?}");
    told(&story, "shop", "CertificateMade", &host).await?;
    no_route_stays(&story).await?;

    let before = usable(&story.secret("shop").await?).context("no certificate")?;
    story
        .api::<Ingress>()
        .delete("shop", &DeleteParams::default())
        .await?;
    gone(&story, "shop").await?;
    let after = usable(&story.secret("shop").await?);
    ensure!(after == Some(before), "the Secret was changed");

    // It asks again: what is in the Secret is still good.
    story.apply(&site).await?;
    story.ready("shop", SOON).await?;
    ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);
    Ok(())
}

async fn an_edit_of_an_ingress_is_in_its_certificate_within_two_seconds(
    story: Story<'_>,
) -> Result<()> {
    self_signed(&story).await?;
    let entries = |names: &[&str]| -> Value {
        let entry = |name: &&str| json!({"hosts": [story.host(name)], "secretName": name});
        names.iter().map(entry).collect()
    };
    apply(
        &story,
        "site",
        &json!({"evercert.dev/issuer": "ca"}),
        &entries(&["a", "b"]),
    )
    .await?;
    story.ready("a", SOON).await?;
    story.ready("b", SOON).await?;

    // Added.
    annotate(&story, "site", &json!({"evercert.dev/renew-before": "1h", "evercert.dev/private-key-rotation-policy": "Never"})).await?;
    let has = |c: &Certificate| {
        c.spec.renew_before.as_deref() == Some("1h") && c.spec.private_key.is_some()
    };
    for name in ["a", "b"] {
        story
            .until(name, "an annotation that is added", FOLLOWS, has)
            .await?;
    }
    // Changed.
    annotate(&story, "site", &json!({"evercert.dev/renew-before": "2h"})).await?;
    let has = |c: &Certificate| c.spec.renew_before.as_deref() == Some("2h");
    story
        .until("a", "an annotation that is changed", FOLLOWS, has)
        .await?;
    // One that cannot be read leaves things as they are, and is said.
    annotate(
        &story,
        "site",
        &json!({"evercert.dev/renew-before": "soon"}),
    )
    .await?;
    told(&story, "site", "AnnotationInvalid", "\"soon\"").await?;
    let now = story.api::<Certificate>().get("a").await?;
    ensure!(has(&now), "{:?}", now.spec);
    // Removed.
    annotate(&story, "site", &json!({"evercert.dev/renew-before": null, "evercert.dev/private-key-rotation-policy": null})).await?;
    let has = |c: &Certificate| c.spec.renew_before.is_none() && c.spec.private_key.is_none();
    for name in ["a", "b"] {
        story
            .until(name, "an annotation that is taken out", FOLLOWS, has)
            .await?;
    }
    // A host.
    let more = json!([{"hosts": [story.host("a"), story.host("c")], "secretName": "a"}]);
    apply(&story, "site", &json!({"evercert.dev/issuer": "ca"}), &more).await?;
    let has = |c: &Certificate| c.spec.dns_names.len() == 2;
    story
        .until("a", "a host that is added", FOLLOWS, has)
        .await?;
    // And the entry that went took its Certificate with it, not its Secret.
    gone(&story, "b").await?;
    ensure!(
        usable(&story.secret("b").await?).is_some(),
        "the Secret was touched"
    );
    told(&story, "site", "CertificateRemoved", "Secret b stays").await?;
    // Nobody asks any more.
    annotate(&story, "site", &json!({"evercert.dev/issuer": null})).await?;
    gone(&story, "a").await?;
    ensure!(
        usable(&story.secret("a").await?).is_some(),
        "the Secret was touched"
    );
    Ok(())
}

async fn what_cannot_be_certified_is_said_once_and_the_other_entries_are_issued(
    story: Story<'_>,
) -> Result<()> {
    self_signed(&story).await?;
    let wild = format!("*.{}.test", story.namespace);
    let entries = json!([
        {"hosts": [story.host("good")], "secretName": "good"},
        {"hosts": [wild, story.host("beside")], "secretName": "partly"},
        {"hosts": [wild], "secretName": "wild"},
        {"secretName": "empty"},
        {"hosts": [story.host("homeless")]},
        {"hosts": [story.host("one")], "secretName": "twice"},
        {"hosts": [story.host("two")], "secretName": "twice"},
        {"hosts": ["localhost"], "secretName": "short"},
    ]);
    let annotations = json!({
        "evercert.dev/issuer": "ca",
        "evercert.dev/renew-befor": "1h",
        "evercert.dev/private-key-size": "1234",
        "evercert.dev/suspend": "maybe",
    });
    apply(&story, "site", &annotations, &entries).await?;
    for (name, count) in [("good", 1), ("partly", 1), ("twice", 2)] {
        let certificate = story.ready(name, SOON).await?;
        ensure!(
            certificate.spec.dns_names.len() == count,
            "{:?}",
            certificate.spec
        );
    }
    let sentences = [
        ("HostLeftOut", wild.as_str()),
        ("HostLeftOut", "localhost"),
        ("EntryIncomplete", "Secret empty lists no hosts"),
        ("EntryIncomplete", "names no Secret"),
        ("SecretShared", "Secret twice"),
        (
            "AnnotationUnknown",
            "did you mean evercert.dev/renew-before?",
        ),
        ("AnnotationInvalid", "private-key-size: 1234"),
        ("AnnotationInvalid", "\"maybe\""),
    ];
    for (reason, words) in sentences {
        told(&story, "site", reason, words).await?;
    }
    let names = |all: Vec<Certificate>| {
        all.iter()
            .map(ResourceExt::name_any)
            .collect::<BTreeSet<_>>()
    };
    let certificates = story
        .api::<Certificate>()
        .list(&ListParams::default())
        .await?;
    let expected = ["good", "partly", "twice"].map(ToOwned::to_owned);
    ensure!(
        names(certificates.items) == expected.into(),
        "others were made"
    );

    // Looked at again and again, it is not said again.
    let before = events(&story, "site").await?.len();
    for number in 0..3 {
        let touched = json!({"example.com/touched": number.to_string(), "evercert.dev/renew-before": format!("{}h", number + 1)});
        annotate(&story, "site", &touched).await?;
        let wanted = format!("{}h", number + 1);
        let has = |c: &Certificate| c.spec.renew_before.as_ref() == Some(&wanted);
        story.until("good", "the edit", FOLLOWS, has).await?;
    }
    let after = events(&story, "site").await?;
    ensure!(after.len() == before, "told again: {after:#?}");
    Ok(())
}

/// But for the CA, which is on the internet.
async fn the_examples_lead_to_certificates(story: Story<'_>) -> Result<()> {
    let issuer = "{apiVersion: evercert.dev/v1, kind: Issuer, metadata: {name: letsencrypt}, spec: {selfSigned: {}}}";
    story.apply(issuer).await?;
    let read = |name: &str| -> Result<String> {
        let file = manifest::repository().join("examples").join(name);
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let text = text.replace("shop.example.com", &story.host("shop"));
        Ok(text.replace(
            "namespace: shop",
            &format!("namespace: {}", story.namespace),
        ))
    };
    let objects = manifest::parse(&read("ingress.yaml")?)?;
    let is_ingress = |o: &&DynamicObject| o.types.as_ref().is_some_and(|t| t.kind == "Ingress");
    let ingress = objects.iter().find(is_ingress).context("no Ingress")?;
    manifest::apply_object(&story.stage.client, story.namespace, ingress).await?;
    let certificate = story.ready("shop-tls", SOON).await?;
    ensure!(
        certificate.spec.dns_names.len() == 2 && certificate.spec.fallback.is_some(),
        "{:?}",
        certificate.spec
    );
    story
        .apply(&read("certificate.yaml")?.replace("shop-tls", "own-tls"))
        .await?;
    story.ready("shop", SOON).await?;
    // This issuer has no profiles.
    let address = read("address.yaml")?.replace("policy: Required", "policy: Preferred");
    story.apply(&address).await?;
    story.ready("address", SOON).await?;
    Ok(())
}

/// An Issuer `ca` that needs no CA.
async fn self_signed(story: &Story<'_>) -> Result<()> {
    let issuer =
        "{apiVersion: evercert.dev/v1, kind: Issuer, metadata: {name: ca}, spec: {selfSigned: {}}}";
    story.apply(issuer).await?;
    story.issuer_ready("ca").await?;
    Ok(())
}

/// Applies an Ingress with these annotations and `tls` entries.
async fn apply(story: &Story<'_>, name: &str, annotations: &Value, tls: &Value) -> Result<()> {
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "ingressClassName": ingress_class(), "tls": tls,
            "defaultBackend": {"service": {"name": "nothing", "port": {"number": 80}}},
        },
    });
    story.apply(&ingress.to_string()).await
}

/// Sets annotations, or takes those away that are null.
async fn annotate(story: &Story<'_>, name: &str, annotations: &Value) -> Result<()> {
    let patch = json!({"metadata": {"annotations": annotations}});
    story
        .api::<Ingress>()
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(())
}

/// Waits until a Certificate is gone.
async fn gone(story: &Story<'_>, name: &str) -> Result<()> {
    story
        .wait_for(&format!("Certificate {name} is gone"), SOON, async || {
            let there = story.api::<Certificate>().get_opt(name).await?;
            Ok(there.is_none().then_some(()))
        })
        .await
}

/// The events about an Ingress: reason and sentence.
async fn events(story: &Story<'_>, ingress: &str) -> Result<Vec<(String, String)>> {
    let about =
        format!("involvedObject.kind=Ingress,involvedObject.name={ingress},source=evercert");
    let found = story
        .api::<Event>()
        .list(&ListParams::default().fields(&about))
        .await?;
    let said = found.items.into_iter();
    Ok(said
        .map(|e| (e.reason.unwrap_or_default(), e.message.unwrap_or_default()))
        .collect())
}

/// Waits until something is said on an Ingress.
async fn told(story: &Story<'_>, ingress: &str, reason: &str, words: &str) -> Result<()> {
    let what = format!("Ingress {ingress} is told {reason}: {words}");
    story
        .wait_for(&what, SOON, async || {
            let all = events(story, ingress).await?;
            Ok(all
                .iter()
                .any(|(r, m)| r == reason && m.contains(words))
                .then_some(()))
        })
        .await
}
