//! Routes that win: over an admission that refuses, beside pages that must not notice, and after a change of class.

use std::pin::pin;

use anyhow::{Context, Result, bail, ensure};
use evercert_api::keys::{COMPONENT_LABEL, COMPONENT_ROUTE};
use evercert_api::{Certificate, condition};
use evercert_cluster::Pebble;
use evercert_e2e::audit::{Audit, Call};
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::ingress_class;
use evercert_e2e::story::{SOON, certificate_ready, conditions_of, issuer_yaml};
use evercert_e2e::{Story, curl, operator};
use futures::TryStreamExt;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Map, Value, json};

use crate::app::application;
use crate::issue::no_route_stays;
use crate::midway::{begin_in_the_middle, open_the_route};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        what_admission_refuses_is_tried_otherwise_and_a_refused_host_holds_back_its_own_certificate,
        an_order_follows_its_site_into_another_class,
        a_path_goes_into_the_sites_own_ingress_and_out_again,
        a_tool_that_takes_the_path_out_again_is_noticed_and_named,
    ]
}

/// A rule without host would be the other stories' too.
pub(crate) fn without_host() -> Vec<Tale> {
    tales![pages_behind_a_wildcard_and_without_host_answer_while_challenges_come_and_go]
}

const NO_EXACT: &str = "an Exact path is refused here";
const NOT_THIS_HOST: &str = "this host is refused here";

async fn what_admission_refuses_is_tried_otherwise_and_a_refused_host_holds_back_its_own_certificate(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    // Else the rules have no host while another story's Ingress has none.
    let hosts = ["a", "b", "bad", "c", "next"].map(|name| story.host(name));
    story
        .apply(&site(ingress_class(), &hosts).to_string())
        .await?;
    refuse(&story, &story.host("bad")).await?;
    let audit = story.stage.audit()?;
    for name in ["a", "bad", "b", "c"] {
        story.certificate(name, &[story.host(name)]).await?;
    }
    for name in ["a", "b", "c"] {
        story.ready(name, SOON).await?;
    }
    story
        .condition_says("bad", condition::READY, NOT_THIS_HOST, SOON)
        .await?;
    let writes = writes(&audit, story.namespace)?;
    let refused = writes.iter().filter(|call| call.code() == 422).count();
    let names: Vec<(&str, u16)> = writes.iter().map(|c| (c.name(), c.code())).collect();
    ensure!((2..=24).contains(&refused), "{refused}: {names:?}");

    // What was refused is not tried again: the next one's route is taken at its first write.
    let audit = story.stage.audit()?;
    story.certificate("next", &[story.host("next")]).await?;
    story.ready("next", SOON).await?;
    let stuck: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    for call in self::writes(&audit, story.namespace)? {
        ensure!(
            call.code() < 300 || stuck.contains(&call.name()),
            "{} was refused again: {}",
            call.name(),
            call.code()
        );
    }

    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(story.stage.client.clone());
    bindings
        .delete(story.namespace, &DeleteParams::default())
        .await?;
    story.ready("bad", SOON * 2).await?;
    ensure!(ca.count()?.orders == 5, "{:?}", ca.count()?);
    no_route_stays(&story).await
}

/// From now on the API server refuses Exact paths, and a host, in Ingresses of the story's namespace.
async fn refuse(story: &Story<'_>, host: &str) -> Result<()> {
    let name = story.namespace;
    let kind = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec,
        })
    };
    let policy = kind(
        "ValidatingAdmissionPolicy",
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"], "resources": ["ingresses"],
            }]},
            "validations": [
                {
                    "expression": "object.spec.rules.all(r, r.http.paths.all(p, p.pathType != 'Exact'))",
                    "message": NO_EXACT,
                },
                {
                    "expression": format!("!object.spec.rules.exists(r, has(r.host) && r.host == '{host}')"),
                    "message": NOT_THIS_HOST,
                },
            ],
        }),
    );
    let binding = kind(
        "ValidatingAdmissionPolicyBinding",
        json!({
            "policyName": name, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
        }),
    );
    story.apply(&policy.to_string()).await?;
    story.apply(&binding.to_string()).await?;
    let probe: Ingress = serde_json::from_value(json!({
        "metadata": {"name": "probe"},
        "spec": {"rules": [{"host": host, "http": {"paths": [{
            "path": "/", "pathType": "Exact", "backend": {"service": {"name": "nobody", "port": {"number": 80}}},
        }]}}]},
    }))?;
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    story
        .wait_for("an Exact path is refused", SOON, async || {
            match story.api::<Ingress>().create(&dry, &probe).await {
                Err(kube::Error::Api(status)) if status.message.contains(NO_EXACT) => Ok(Some(())),
                Err(error) => Err(error.into()),
                Ok(_) => Ok(None),
            }
        })
        .await
}

/// A user's Ingress.
fn site(class: &str, hosts: &[String]) -> Value {
    let rule = |host: &String| {
        json!({"host": host, "http": {"paths": [{
            "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "site", "port": {"number": 80}}},
        }]}})
    };
    let rules: Vec<Value> = hosts.iter().map(rule).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "site"},
        "spec": {"ingressClassName": class, "rules": rules},
    })
}

/// The operator's writes of Ingresses in a namespace.
fn writes(audit: &Audit, namespace: &str) -> Result<Vec<Call>> {
    let mut calls = audit.mutating(&operator::user())?;
    calls.retain(|call| {
        call.namespace() == namespace && call.resource() == "ingresses" && call.verb() == "patch"
    });
    Ok(calls)
}

async fn an_order_follows_its_site_into_another_class(story: Story<'_>) -> Result<()> {
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    let mut issuer = issuer(&ca)?;
    // The class is that of the Ingress that serves the name.
    issuer.remove("http01");
    apply_issuer(&story, issuer).await?;
    let hosts = [story.host("www")];
    story.apply(&site("elsewhere", &hosts).to_string()).await?;
    begin_in_the_middle(&story, &hosts).await?;
    routed(&story, "elsewhere").await?;
    let changed = Patch::Merge(json!({"spec": {"ingressClassName": ingress_class()}}));
    story
        .api::<Ingress>()
        .patch("site", &PatchParams::default(), &changed)
        .await?;
    routed(&story, ingress_class()).await?;
    let audit = story.stage.audit()?;
    open_the_route(&story).await?;
    story.ready("site", SOON).await?;
    ensure!(ca.count()?.orders == 1, "{:?}", ca.count()?);
    let made = writes(&audit, story.namespace)?;
    let made: Vec<&str> = made
        .iter()
        .filter(|call| call.created())
        .map(Call::name)
        .collect();
    ensure!(
        !made.is_empty()
            && made
                .iter()
                .all(|name| name.starts_with(&format!("{}-", ingress_class()))),
        "{made:?}"
    );
    no_route_stays(&story).await
}

/// Where the issuer wants it so.
async fn a_path_goes_into_the_sites_own_ingress_and_out_again(story: Story<'_>) -> Result<()> {
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    let mut issuer = issuer(&ca)?;
    issuer.insert("http01".to_owned(), json!({"editInPlace": true}));
    apply_issuer(&story, issuer).await?;
    let host = story.host("www");
    story.apply(&application("site", &host)).await?;
    let mut pages = Pages::new(std::slice::from_ref(&host));
    story
        .wait_for("the site answers", SOON, async || {
            let mut pages = Pages::new(std::slice::from_ref(&host));
            pages.ask();
            Ok(pages.wrong.is_empty().then_some(()))
        })
        .await?;
    let api = story.api::<Ingress>();
    let before = api.get("site").await?.spec;
    let audit = story.stage.audit()?;
    story
        .certificate("site", std::slice::from_ref(&host))
        .await?;
    let restored = story.wait_for("Ready, and the Ingress is as it was", SOON, async || {
        pages.ask();
        let ready = story.api::<Certificate>().get("site").await?;
        let now = api.get("site").await?.spec;
        Ok((certificate_ready(&ready) && now == before).then_some(()))
    });
    restored.await?;
    ensure!(pages.wrong.is_empty(), "{pages:?}");
    ensure!(ca.count()?.challenges == 1, "the name was not proved");
    let writes = writes(&audit, story.namespace)?;
    let writes: Vec<(&str, u16)> = writes.iter().map(|c| (c.name(), c.code())).collect();
    ensure!(writes == [("site", 200), ("site", 200)], "{writes:?}");

    no_route_stays(&story).await
}

/// What keeps objects as they are in a repository puts the rules back at once, until a person has it leave them alone.
async fn a_tool_that_takes_the_path_out_again_is_noticed_and_named(story: Story<'_>) -> Result<()> {
    let ca = story.stage.ca(story.namespace, Pebble::default()).await?;
    let mut issuer = issuer(&ca)?;
    let http01 = json!({"editInPlace": true, "selfCheck": {"mode": "Required"}});
    issuer.insert("http01".to_owned(), http01);
    apply_issuer(&story, issuer).await?;
    // Of a class that nobody serves, so that no challenge gets through between the two.
    let hosts = [story.host("www")];
    story.apply(&site("elsewhere", &hosts).to_string()).await?;
    let api = story.api::<Ingress>();
    let rules = |found: &Ingress| found.spec.as_ref().and_then(|spec| spec.rules.clone());
    let before = rules(&api.get("site").await?);
    let puts_back = async {
        let mut changes = pin!(watcher(api.clone(), watcher::Config::default()).applied_objects());
        let by_tool = PostParams {
            field_manager: Some("gitops".to_owned()),
            ..PostParams::default()
        };
        while let Some(mut found) = changes.try_next().await? {
            if rules(&found) == before {
                continue;
            }
            found.spec.get_or_insert_default().rules.clone_from(&before);
            found.metadata.managed_fields = None;
            match api.replace("site", &by_tool, &found).await {
                // The next version is on its way.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                put => drop(put?),
            }
        }
        bail!("the watch of the tool ended")
    };
    let noticed = async {
        story.certificate("site", &hosts).await?;
        let words = "by the field manager gitops: have it leave spec.rules";
        story
            .condition_says("site", condition::READY, words, SOON)
            .await
    };
    let told = tokio::select! {
        told = noticed => told?,
        ended = puts_back => return ended,
    };
    ensure!(told.contains("Ingress") && told.contains("/site"), "{told}");
    ensure!(ca.count()?.challenges == 0, "{:?}", ca.count()?);

    // The tool leaves the rules alone.
    let served = Patch::Merge(json!({"spec": {"ingressClassName": ingress_class()}}));
    api.patch("site", &PatchParams::default(), &served).await?;
    story.ready("site", SOON * 3).await?;
    story
        .wait_for("the Ingress is as it was", SOON, async || {
            Ok((rules(&api.get("site").await?) == before).then_some(()))
        })
        .await
}

/// The ACME part of an Issuer for `ca`.
fn issuer(ca: &TestCa) -> Result<Map<String, Value>> {
    let issuer = issuer_yaml("Issuer", "ca", &ca.directory(), &ca.bundle()?);
    let issuer: Value = serde_json::from_str(&issuer)?;
    let acme = issuer.pointer("/spec/acme").and_then(Value::as_object);
    acme.cloned().context("no acme")
}

/// Applies Issuer `ca`, and waits until it is Ready.
async fn apply_issuer(story: &Story<'_>, acme: Map<String, Value>) -> Result<()> {
    let issuer = json!({
        "apiVersion": "evercert.dev/v1", "kind": "Issuer", "metadata": {"name": "ca"}, "spec": {"acme": acme},
    });
    story.apply(&issuer.to_string()).await?;
    story.issuer_ready("ca").await.map(drop)
}

/// Waits until the order of Certificate `site` waits for a route in `class`.
async fn routed(story: &Story<'_>, class: &str) -> Result<()> {
    let words = format!("Ingress {}/{class}-", story.namespace);
    let is_there = |certificate: &Certificate| {
        let issuing = condition::find(conditions_of(certificate), condition::ISSUING);
        issuing.is_some_and(|c| c.message.contains(&words))
    };
    story
        .until("site", &format!("its route is {class}'s"), SOON, is_there)
        .await
        .map(drop)
}

/// Pages that somebody asks for again and again, and each answer that was not 200.
#[derive(Debug)]
pub(crate) struct Pages {
    hosts: Vec<String>,
    /// How many were asked for.
    pub(crate) asked: usize,
    /// What came instead, each with how many were asked for before.
    pub(crate) wrong: Vec<String>,
}

impl Pages {
    pub(crate) fn new(hosts: &[String]) -> Self {
        Self {
            hosts: hosts.to_vec(),
            asked: 0,
            wrong: Vec::new(),
        }
    }

    /// Asks for each page once.
    pub(crate) fn ask(&mut self) {
        for host in &self.hosts {
            match curl::get(&format!("http://{host}/"), None) {
                Ok(served) if served.status == 200 => {}
                Ok(served) => self
                    .wrong
                    .push(format!("{host}: {} after {}", served.status, self.asked)),
                Err(error) => self
                    .wrong
                    .push(format!("{host}: {error:#} after {}", self.asked)),
            }
            self.asked += 1;
        }
    }
}

async fn pages_behind_a_wildcard_and_without_host_answer_while_challenges_come_and_go(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let domain = format!("wild.{}.test", story.namespace);
    // What counts can count: nobody answers yet.
    let mut nobody = Pages::new(&[format!("n0.{domain}")]);
    nobody.ask();
    ensure!(nobody.wrong.len() == 1, "{nobody:?}");
    story
        .apply(&application("pages", &format!("'*.{domain}'")))
        .await?;
    let every = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "every"},
        "spec": {"ingressClassName": ingress_class(), "rules": [{"http": {"paths": [{
            "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "pages", "port": {"name": "http"}}},
        }]}}]},
    });
    story.apply(&every.to_string()).await?;
    let hosts: Vec<String> = (0..3)
        .flat_map(|n| [format!("n{n}.{domain}"), story.host(&format!("h{n}"))])
        .collect();
    story
        .wait_for("all pages answer", SOON, async || {
            let mut pages = Pages::new(&hosts);
            pages.ask();
            Ok(pages.wrong.is_empty().then_some(()))
        })
        .await?;
    let mut pages = Pages::new(&hosts);
    for (number, host) in hosts.iter().enumerate() {
        let name = format!("c{number}");
        story.certificate(&name, std::slice::from_ref(host)).await?;
        let api = story.api::<Certificate>();
        let ready = story.wait_for("the Certificate is Ready", SOON, async || {
            pages.ask();
            Ok(api.get_opt(&name).await?.filter(certificate_ready))
        });
        ready.await?;
    }
    // The last route is taken away, too.
    let routes = ListParams::default().labels(&format!("{COMPONENT_LABEL}={COMPONENT_ROUTE}"));
    let gone = story.wait_for("the routes are gone", SOON, async || {
        pages.ask();
        let left = story.api::<Ingress>().list(&routes).await?.items.len();
        Ok((left == 0).then_some(()))
    });
    gone.await?;
    let Pages { asked, wrong, .. } = pages;
    println!("{asked} pages were asked for, {} failed", wrong.len());
    ensure!(wrong.is_empty(), "of {asked} pages: {wrong:?}");
    ensure!(asked >= 2 * hosts.len(), "{asked} pages only");
    ensure!(ca.count()?.challenges == hosts.len(), "{:?}", ca.count()?);
    story
        .api::<Ingress>()
        .delete("every", &DeleteParams::default())
        .await
        .map(drop)
        .context("deleting the Ingress without host")
}
