//! The way to the solver is tried before the CA is told: what is wrong with it is named with its remedy, and holds an order back
//! as the issuer says.

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_api::condition::ISSUING;
use evercert_cluster::address;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::INGRESS_CLASS;
use evercert_e2e::site::{Answer, Site};
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, dns};
use futures::future::try_join_all;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{Tale, tales};

/// What the issuer of the first story says.
const BUDGET: &str = "4s";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_wrong_way_is_named_with_its_remedy_and_holds_the_order_for_the_issuers_budget,
        what_cannot_be_seen_from_here_holds_an_order_only_where_the_issuer_requires_it,
    ]
}

/// An Issuer for `ca` with a self-check of its own.
async fn issuer(story: &Story<'_>, name: &str, ca: &TestCa, check: &Value) -> Result<()> {
    issuer_of(story, name, (&ca.directory(), &ca.bundle()?), check).await
}

/// The same for a CA by its directory and the bundle that this is verified with.
pub(crate) async fn issuer_of(
    story: &Story<'_>,
    name: &str,
    (directory, bundle): (&str, &str),
    check: &Value,
) -> Result<()> {
    let issuer = json!({
        "apiVersion": "evercert.dev/v1", "kind": "Issuer", "metadata": {"name": name},
        "spec": {"acme": {
            "directory": directory, "termsOfServiceAgreed": true, "caBundle": bundle,
            "accountKeySecretRef": {"name": format!("{name}-account")},
            "http01": {"ingressClassName": INGRESS_CLASS, "selfCheck": check},
        }},
    });
    story.apply(&issuer.to_string()).await?;
    story.issuer_ready(name).await.map(drop)
}

/// A user's Ingress for `host` in `class`, with an entry for TLS where an issuer is named.
async fn ingress(
    story: &Story<'_>,
    name: &str,
    host: &str,
    class: &str,
    issuer: Option<&str>,
) -> Result<()> {
    let mut ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
        "spec": {"ingressClassName": class, "rules": [{"host": host, "http": {"paths": [{
            "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "site", "port": {"number": 80}}},
        }]}}]},
    });
    if let Some(issuer) = issuer {
        ingress["metadata"]["annotations"] = json!({"evercert.dev/issuer": issuer});
        ingress["spec"]["tls"] = json!([{"hosts": [host], "secretName": name}]);
    }
    story.apply(&ingress.to_string()).await
}

async fn has_address(story: &Story<'_>, name: &str) -> Result<()> {
    let has_address = |ingress: &Ingress| {
        let status = ingress.status.as_ref();
        let balancer = status.and_then(|s| s.load_balancer.as_ref());
        balancer.is_some_and(|balancer| balancer.ingress.is_some())
    };
    story
        .until(name, "its Ingress has an address", SOON, has_address)
        .await
        .map(drop)
}

async fn a_wrong_way_is_named_with_its_remedy_and_holds_the_order_for_the_issuers_budget(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let check = json!({"budget": BUDGET});
    issuer(&story, "hasty", &ca, &check).await?;
    let site = Site::start().await?;
    let page = |status, server, location| Answer {
        status,
        server,
        location,
    };
    let of = |name: &str| story.host(name);
    let cases = [
        (
            "redirect",
            page(
                301,
                "elsewhere",
                Some(format!("https://{}/", of("redirect"))),
            ),
            vec![
                "at the public name: 198.18.0.3:443 does not speak TLS after a redirect to https://redirect.",
                "open port 443 there, or let /.well-known/acme-challenge/ through",
            ],
        ),
        (
            "proxied",
            page(409, "cloudflare", None),
            vec![
                "at the public name: 198.18.0.3:80 answers 409 (server \"cloudflare\")",
                "a proxy stands before the entry point",
            ],
        ),
        (
            "elsewhere",
            page(200, "nginx", None),
            vec![
                "at the public name: 198.18.0.3:80 answers 200 (server \"nginx\")",
                "none of the entry point's (198.18.0.2). Remedy: let the A and AAAA records lead to",
            ],
        ),
        // An ingress class whose controller is the site: its default backend takes every path.
        (
            "shadowed",
            page(200, "nginx", None),
            vec![
                "at the entry point: 198.18.0.3:80 answers 200 (server \"nginx\"): another site answers in the solver's place",
                "take away what answers now",
            ],
        ),
    ];
    let class = format!("{}-other", story.namespace);
    let other = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": class},
        "spec": {"controller": "other.example/controller"},
    });
    story.apply(&other.to_string()).await?;
    for (name, answer, _) in &cases {
        let host = of(name);
        site.answer(&host, answer.clone());
        dns::point(&host, &[address::SITE])?;
        let class = if *name == "shadowed" {
            class.as_str()
        } else {
            INGRESS_CLASS
        };
        ingress(&story, name, &host, class, None).await?;
    }
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address::SITE}]}}});
    story
        .api::<Ingress>()
        .patch_status("shadowed", &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    for (name, ..) in &cases {
        has_address(&story, name).await?;
        // Its certificate comes from the Ingress, and with it the class of its route.
        ingress(
            &story,
            name,
            &of(name),
            if *name == "shadowed" {
                &class
            } else {
                INGRESS_CLASS
            },
            Some("hasty"),
        )
        .await?;
    }
    // All at once: each is said for some seconds only.
    let told = cases.iter().flat_map(|(name, _, words)| {
        let said = |words: &'static str| story.condition_says(name, ISSUING, words, SOON);
        words.iter().copied().map(said)
    });
    try_join_all(told).await?;
    for (name, _, words) in &cases {
        let message = refused(&story, name).await?;
        let seen = words.iter().all(|words| message.contains(words));
        ensure!(
            seen && message.contains("The self-check saw before"),
            "{name}: {message}"
        );
    }
    Ok(())
}

/// The sentence of the failure, when the CA was asked and has refused.
async fn refused(story: &Story<'_>, name: &str) -> Result<String> {
    let has_failed = |certificate: &Certificate| {
        let status = certificate.status.as_ref();
        status.is_some_and(|status| status.last_failure.is_some())
    };
    let failed = story
        .until(name, "the CA was asked", SOON, has_failed)
        .await?;
    let failure = failed.status.and_then(|status| status.last_failure);
    Ok(failure.context("no failure")?.message)
}

async fn what_cannot_be_seen_from_here_holds_an_order_only_where_the_issuer_requires_it(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    for mode in ["Advisory", "Required", "Off"] {
        let name = mode.to_lowercase();
        issuer(&story, &name, &ca, &json!({"mode": mode})).await?;
        let host = story.host(&name);
        ingress(&story, &name, &host, INGRESS_CLASS, None).await?;
        has_address(&story, &name).await?;
        // Nobody says that nobody is there: a router that does not lead back inside looks like this.
        dns::point(&host, &[dns::NOBODY])?;
        story
            .certificate_with(&name, &[host], |spec| {
                spec.issuer_ref.name.clone_from(&name);
            })
            .await?;
    }
    let unseen = "the public name cannot be reached from here: 198.18.0.250:80 gives no answer";
    let held = "selfCheck.mode is Required";
    for words in [unseen, held] {
        story
            .condition_says("required", ISSUING, words, SOON)
            .await?;
    }
    for (name, is_told) in [("advisory", true), ("off", false)] {
        let message = refused(&story, name).await?;
        ensure!(message.contains(unseen) == is_told, "{name}: {message}");
    }
    let waiting: Certificate = story.api().get("required").await?;
    let status = waiting.status.context("no status")?;
    ensure!(
        status.last_failure.is_none() && status.order.is_some(),
        "the CA was asked: {status:?}"
    );
    dns::clear(&story.host("required"))?;
    story.ready("required", SOON).await?;
    let count = ca.count()?;
    ensure!(count.orders == 3 && count.certificates == 1, "{count:?}");
    Ok(())
}
