//! The way to the solver is tried before the CA is told: what is wrong with it is named with its remedy, and holds an order back
//! as the issuer says.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use evercert_api::Certificate;
use evercert_api::condition::ISSUING;
use evercert_cluster::address;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::ingress_class;
use evercert_e2e::site::{Answer, Site};
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, dns};
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::requested::ask;
use crate::{Tale, tales};

/// What the issuer of the first story says.
const BUDGET: &str = "4s";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_wrong_way_is_named_with_its_remedy_and_holds_the_order_for_the_issuers_budget,
        what_cannot_be_seen_from_here_holds_an_order_only_where_the_issuer_requires_it,
        an_order_whose_way_has_to_be_seen_is_held_while_it_is_wrong_and_issued_when_it_is_good,
        an_ipv6_address_where_nobody_listens_is_told_beside_an_ipv4_address_that_is_good,
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
            "http01": {"ingressClassName": ingress_class(), "selfCheck": check},
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
    let class = format!("{}-other", story.namespace);
    let other = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": class},
        "spec": {"controller": "other.example/controller"},
    });
    story.apply(&other.to_string()).await?;
    let cases = cases(&story);
    let class_of = |case: &Case| {
        if case.entry.is_some() {
            class.as_str()
        } else {
            ingress_class()
        }
    };
    for case in &cases {
        let host = story.host(case.name);
        if let Some(answer) = &case.answer {
            site.answer(&host, answer.clone());
        }
        dns::point(&host, &[case.entry.unwrap_or(address::SITE)])?;
        ingress(&story, case.name, &host, class_of(case), None).await?;
        if let Some(entry) = case.entry {
            let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": entry}]}}});
            story
                .api::<Ingress>()
                .patch_status(case.name, &PatchParams::default(), &Patch::Merge(&status))
                .await?;
        }
    }
    let page = story.host(LOGIN_PAGE);
    site.answer(&page, answer(200, "nginx", None));
    dns::point(&page, &[address::SITE])?;
    for case in &cases {
        has_address(&story, case.name).await?;
        // Its certificate comes from the Ingress, and with it the class of its route.
        let host = story.host(case.name);
        ingress(&story, case.name, &host, class_of(case), Some("hasty")).await?;
    }
    // All at once: each is said for some seconds only.
    let told = cases.iter().filter(|case| case.answer.is_some());
    let told = told.flat_map(|case| {
        let said = |words: &'static str| story.condition_says(case.name, ISSUING, words, SOON);
        case.words.iter().copied().map(said)
    });
    try_join_all(told).await?;
    for Case { name, words, .. } in &cases {
        let message = refused(&story, name).await?;
        let seen = words.iter().all(|words| message.contains(words));
        ensure!(
            seen && message.contains("The self-check saw before"),
            "{name}: {message}"
        );
    }
    Ok(())
}

/// Where one is led that has not logged in.
const LOGIN_PAGE: &str = "login-page";

/// A wrong way, and what is said of it.
struct Case {
    name: &'static str,
    /// What the site answers; without, nobody is asked there, and nothing is held back.
    answer: Option<Answer>,
    /// The entry point of an ingress class of somebody else's, to which DNS leads; without, the class is that of the world, and DNS
    /// leads to the site.
    entry: Option<&'static str>,
    words: [&'static str; 2],
}

fn answer(status: u16, server: &'static str, location: Option<String>) -> Answer {
    Answer {
        status,
        server,
        location,
    }
}

fn cases(story: &Story<'_>) -> [Case; 8] {
    let to = |url: String| Some(url);
    [
        Case {
            name: "redirect",
            answer: Some(answer(
                301,
                "elsewhere",
                to(format!("https://{}/", story.host("redirect"))),
            )),
            entry: None,
            words: [
                "at the public name: 198.18.0.3:443 does not speak TLS after a redirect to https://redirect.",
                "open port 443 there, or let /.well-known/acme-challenge/ through",
            ],
        },
        Case {
            name: "proxied",
            answer: Some(answer(409, "cloudflare", None)),
            entry: None,
            words: [
                "at the public name: 198.18.0.3:80 answers 409 (server \"cloudflare\")",
                "a proxy stands before the entry point",
            ],
        },
        Case {
            name: "elsewhere",
            answer: Some(answer(200, "nginx", None)),
            entry: None,
            words: [
                "at the public name: 198.18.0.3:80 answers 200 (server \"nginx\")",
                "none of the entry point's (198.18.0.2). Remedy: let the A and AAAA records lead to",
            ],
        },
        // The default backend of another controller takes every path.
        Case {
            name: "shadowed",
            answer: Some(answer(200, "nginx", None)),
            entry: Some(address::SITE),
            words: [
                "at the entry point: 198.18.0.3:80 answers 200 (server \"nginx\"): another site answers in the solver's place",
                "take away what answers now",
            ],
        },
        Case {
            name: "login",
            answer: Some(answer(401, "nginx", None)),
            entry: Some(address::SITE),
            words: [
                "at the entry point: 198.18.0.3:80 answers 401 (server \"nginx\"): a login, or a list of who may come",
                "leave /.well-known/acme-challenge/ open to everybody",
            ],
        },
        Case {
            name: "led-away",
            answer: Some(answer(
                302,
                "nginx",
                to(format!("http://{}/", story.host(LOGIN_PAGE))),
            )),
            entry: Some(address::SITE),
            words: [
                "at the entry point: 198.18.0.3:80 answers 200 (server \"nginx\") after a redirect to http://login-page.",
                "without a redirect and without a login",
            ],
        },
        Case {
            name: "closed",
            answer: None,
            entry: Some(dns::NOWHERE),
            words: [
                "the entry point cannot be reached from here: 198.18.0.1:80 refuses the connection: nobody listens there",
                "let the entry point listen on port 80",
            ],
        },
        Case {
            name: "blocked",
            answer: None,
            entry: Some(dns::NOBODY),
            words: [
                "the entry point cannot be reached from here: 198.18.0.250:80 gives no answer: a firewall, a NetworkPolicy",
                "open port 80 to everybody",
            ],
        },
    ]
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
        ingress(&story, &name, &host, ingress_class(), None).await?;
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
    is_issued_when_mended(&story).await?;
    let count = ca.count()?;
    ensure!(count.orders == 3 && count.certificates == 1, "{count:?}");
    Ok(())
}

/// Of `required` the CA was not asked before its name leads to the ingress controller, and is then.
async fn is_issued_when_mended(story: &Story<'_>) -> Result<()> {
    let waiting: Certificate = story.api().get("required").await?;
    let status = waiting.status.context("no status")?;
    ensure!(
        status.last_failure.is_none() && status.order.is_some(),
        "the CA was asked: {status:?}"
    );
    dns::clear(&story.host("required"))?;
    story.ready("required", SOON).await?;
    Ok(())
}

/// Another one, whose way need not be seen, tells that the time is over for which a wrong answer is heeded there.
async fn an_order_whose_way_has_to_be_seen_is_held_while_it_is_wrong_and_issued_when_it_is_good(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let site = Site::start().await?;
    for (name, check) in [
        ("required", json!({"mode": "Required"})),
        ("advisory", json!({"budget": "2s"})),
    ] {
        issuer(&story, name, &ca, &check).await?;
        let host = story.host(name);
        site.answer(&host, answer(200, "nginx", None));
        dns::point(&host, &[address::SITE])?;
        story
            .certificate_with(name, &[host], |spec| {
                name.clone_into(&mut spec.issuer_ref.name);
            })
            .await?;
    }
    refused(&story, "advisory").await?;
    let held = "selfCheck.mode is Required";
    let message = story
        .condition_says("required", ISSUING, held, SOON)
        .await?;
    ensure!(
        message.contains("198.18.0.3:80 answers 200 (server \"nginx\")"),
        "{message}"
    );
    is_issued_when_mended(&story).await?;
    let count = ca.count()?;
    ensure!(
        count.orders == 2 && count.challenges == 2 && count.certificates == 1,
        "{count:?}"
    );
    Ok(())
}

/// An address of this world's own that nobody listens at.
const OLD_IPV6: &str = "2001:db8::3";

/// On real sockets: no Ingress tells which addresses are right, so DNS alone looks well.
async fn an_ipv6_address_where_nobody_listens_is_told_beside_an_ipv4_address_that_is_good(
    story: Story<'_>,
) -> Result<()> {
    let address = format!("{OLD_IPV6}/128");
    let added = Command::new("ip")
        .args(["-6", "address", "add", &address, "dev", "lo", "nodad"])
        .output()
        .context("running ip")?;
    if !added.status.success() {
        println!("left out: no IPv6 here: {added:?}");
        return Ok(());
    }
    let ca = story.ca().await?;
    issuer(&story, "hasty", &ca, &json!({"budget": BUDGET})).await?;
    let host = story.host("www");
    dns::add_ipv6(&host, OLD_IPV6)?;
    story
        .certificate_with("www", std::slice::from_ref(&host), |spec| {
            "hasty".clone_into(&mut spec.issuer_ref.name);
        })
        .await?;
    let message = refused(&story, "www").await?;
    for words in [
        "[2001:db8::3]:80 refuses the connection: the A record leads to the solver and the AAAA record does not",
        "remove the AAAA record, or let it lead to the entry point",
    ] {
        ensure!(message.contains(words), "{message}");
    }
    dns::clear_ipv6(&host)?;
    let soon = Timestamp::now() + SignedDuration::from_secs(1);
    ask(&story, "www", &soon.to_string()).await?;
    story.ready("www", SOON).await?;
    let count = ca.count()?;
    ensure!(count.orders == 2 && count.certificates == 1, "{count:?}");
    Ok(())
}
