//! What the demo shows, and what it insists on.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use evercert_api::certificate::{IssuerKind, IssuerRef};
use evercert_api::{Certificate, Issuer, condition};
use evercert_cluster::Level;
use evercert_e2e::ca::TestCa;
use evercert_e2e::curl::{self, Served};
use evercert_e2e::history::Version;
use evercert_e2e::pods::Process;
use evercert_e2e::story::{certificate_ready, conditions_of, spec};
use evercert_e2e::{Stage, Story, chart, deployment, dns, manifest, operator};
use futures::TryStreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};

use crate::screen::Screen;

pub(crate) const NAMESPACE: &str = "demo";
const SHOP: &str = "shop.demo.test";
const LOST: &str = "lost.demo.test";
const SOON: Duration = Duration::from_secs(30);

/// What the Issuer in `examples/demo` refers to: the namespace, and the certificate of Pebble's own endpoint.
pub(crate) async fn prepare(stage: &Stage) -> Result<()> {
    let bundle = std::fs::read_to_string(stage.world.pebble_ca()).context("reading Pebble's CA")?;
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pebble-ca", "namespace": NAMESPACE},
        "stringData": {"ca.crt": bundle},
    });
    let folder = manifest::repository().join("examples/demo");
    let namespace = std::fs::read_to_string(folder.join("00-namespace.yaml"))
        .context("reading the demo's namespace")?;
    manifest::apply(&stage.client, NAMESPACE, &namespace).await?;
    manifest::apply(&stage.client, NAMESPACE, &secret.to_string()).await
}

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Up to the first certificate that curl verifies.
    FirstHalf,
    /// All of it.
    Whole,
}

/// The demo, after the stage is set.
///
/// # Errors
/// Something of what it shows is not so.
pub(crate) async fn take(stage: &Stage, screen: &Screen, length: Length) -> Result<()> {
    start_operator(stage, screen).await?;
    let ca = TestCa::of_world(&stage.world).await?;
    prepare(stage).await?;
    let tour = Tour {
        story: Story {
            stage,
            namespace: NAMESPACE,
        },
        screen,
        ca,
    };
    let news = tour.tell_news();
    tour.first().await?;
    if length == Length::Whole {
        tour.lost().await?;
    }
    news.abort();
    screen.title("All of it is so");
    Ok(())
}

/// As its users would where there is a node; as a process with the same rights where there is none.
pub(crate) async fn start_operator(stage: &Stage, screen: &Screen) -> Result<()> {
    match stage.world.level() {
        Level::Node => {
            screen.title("The operator, as a Deployment with its own rights");
            let file = manifest::repository().join(chart::MANIFESTS);
            screen.run(
                "kubectl",
                &["apply", "--server-side", "-f", relative(&file).as_str()],
            )?;
            deployment::ready(stage).await?;
            let get = ["-n", operator::NAMESPACE, "get", "pods"];
            screen.run("kubectl", &get).map(drop)
        }
        Level::Plane => {
            stage.operator.lock().await.ensure_ready().await?;
            screen.step("the operator runs as a process, with the rights of its ServiceAccount");
            Ok(())
        }
    }
}

struct Tour<'a> {
    story: Story<'a>,
    screen: &'a Screen,
    ca: TestCa,
}

impl Tour<'_> {
    async fn first(&self) -> Result<()> {
        let screen = self.screen;
        screen.title("An Issuer, an application, its Certificate and Ingress");
        let applied = Instant::now();
        let folder = manifest::repository().join("examples/demo");
        screen.run(
            "kubectl",
            &["apply", "--server-side", "-f", relative(&folder).as_str()],
        )?;
        self.story
            .until("pebble", "the Issuer is Ready", SOON, |issuer: &Issuer| {
                issuer
                    .status
                    .as_ref()
                    .is_some_and(|status| condition::is_true(&status.conditions, condition::READY))
            })
            .await?;
        self.story.ready("shop", SOON).await?;
        screen.step(&format!(
            "the Certificate is Ready, {:.1} s after kubectl was started",
            applied.elapsed().as_secs_f64()
        ));
        self.show("shop")?;
        let served = self.trusted(SHOP).await?;
        self.show_chain(SHOP, &served)
    }

    /// `kubectl get certificates`, and the conditions of one.
    fn show(&self, name: &str) -> Result<()> {
        self.screen
            .run("kubectl", &["-n", NAMESPACE, "get", "certificates"])?;
        let conditions = "jsonpath={range .status.conditions[*]}{.type}={.status}  {.reason}: {.message}{\"\\n\"}{end}";
        self.screen
            .run(
                "kubectl",
                &[
                    "-n",
                    NAMESPACE,
                    "get",
                    "certificate",
                    name,
                    "-o",
                    conditions,
                ],
            )
            .map(drop)
    }

    async fn trusted(&self, host: &str) -> Result<Served> {
        let url = format!("https://{host}/");
        let what = format!("curl is served a chain for {host} that leads to Pebble's root");
        self.story
            .wait_for(&what, SOON, async || {
                let served = curl::get(&url, Some(self.ca.root()))?;
                Ok((served.status == 200).then_some(served))
            })
            .await
    }

    /// The same curl each time, as a person would write it.
    fn asked(&self, host: &str) -> String {
        let root = self.ca.root().display();
        format!(
            "$ curl --cacert {root} {} https://{host}/",
            curl::AT_INGRESS.join(" ")
        )
    }

    fn show_chain(&self, host: &str, served: &Served) -> Result<()> {
        self.screen.step(&self.asked(host));
        for (number, certificate) in served.chain.iter().enumerate() {
            self.screen.detail(&format!(
                "{number}: {}\n   signed by {}\n   valid from {} until {}",
                if certificate.names.is_empty() {
                    certificate.subject.clone()
                } else {
                    certificate.names.join(", ")
                },
                certificate.issuer,
                certificate.not_before,
                certificate.not_after,
            ));
        }
        self.screen.detail(&format!(
            "verified against Pebble's root by curl; HTTP {}: {}",
            served.status,
            served.body.trim()
        ));
        let leaf = served.chain.first();
        // An older curl verifies as well, but cannot show what it was served.
        ensure!(
            leaf.is_none_or(|leaf| leaf.names == [host]),
            "the served certificate is for {:?}",
            served.chain
        );
        Ok(())
    }

    async fn five_more(&self) -> Result<()> {
        self.screen
            .title("Meanwhile five more names, one after another");
        let certificates: Api<Certificate> = self.story.api();
        let mut times = Vec::new();
        for number in 1..=5 {
            let name = format!("name{number}");
            let host = format!("{name}.demo.test");
            let mut certificate = Certificate::new(
                &name,
                spec(&format!("{name}-tls"), std::slice::from_ref(&host)),
            );
            certificate.spec.issuer_ref = IssuerRef {
                name: "pebble".to_owned(),
                kind: IssuerKind::Issuer,
            };
            let applied = Instant::now();
            certificates
                .patch(
                    &name,
                    &PatchParams::apply(manifest::FIELD_MANAGER),
                    &Patch::Apply(&certificate),
                )
                .await
                .with_context(|| format!("applying {name}"))?;
            self.story.ready(&name, SOON).await?;
            let took = applied.elapsed();
            self.screen.step(&format!(
                "{host}: {:.2} s from apply to Ready",
                took.as_secs_f64()
            ));
            times.push(took);
        }
        times.sort();
        if let [first, _, median, _, last] = times.as_slice() {
            let [first, median, last] = [first, median, last].map(Duration::as_secs_f64);
            self.screen.step(&format!(
                "minimum {first:.2} s, median {median:.2} s, maximum {last:.2} s"
            ));
        }
        let memory = |role: &str| {
            let process = Process::of_role(role).with_context(|| format!("no {role} runs"))?;
            process.resident_memory()
        };
        let (controller, solver) = (memory("controller")?, memory("solver")?);
        let mega = |bytes: u64| bytes.div_ceil(1 << 20);
        self.screen.step(&format!(
            "resident memory: controller {} MB, solver {} MB",
            mega(controller),
            mega(solver)
        ));
        Ok(())
    }

    async fn lost(&self) -> Result<()> {
        let screen = self.screen;
        screen.title("A name that leads nowhere");
        dns::point(LOST, &[dns::NOBODY])?;
        screen.step(&format!(
            "in the CA's DNS {LOST} leads to {}, where nobody answers",
            dns::NOBODY
        ));
        let folder = manifest::repository().join("examples/demo/lost");
        screen.run(
            "kubectl",
            &["apply", "--server-side", "-f", relative(&folder).as_str()],
        )?;
        let failed: Certificate = self
            .story
            .until(
                "lost",
                "the attempt failed",
                SOON,
                |certificate: &Certificate| {
                    certificate
                        .status
                        .as_ref()
                        .is_some_and(|status| status.last_failure.is_some())
                },
            )
            .await?;
        let status = failed.status.context("no status")?;
        let failure = status.last_failure.context("no failure")?;
        screen.step("the CA's own words:");
        screen.detail(&failure.message);
        ensure!(
            failure.message.contains("connection"),
            "these are not the CA's words for a refused connection"
        );
        self.fallback(failure.time.0).await?;
        let next = status.next_attempt_time.context("no nextAttemptTime")?.0;
        self.refused(LOST).await?;
        let served = self.trusted(SHOP).await?;
        screen.step(&self.asked(SHOP));
        screen.detail(&format!("HTTP {}: that one is not touched", served.status));
        screen.title("The record is mended");
        dns::clear(LOST)?;
        let mended = Timestamp::now();
        screen.step(&format!(
            "{LOST} leads to the ingress controller; the next attempt was announced for {next}"
        ));
        // The wait for the announced attempt is not lost time.
        self.five_more().await?;
        screen.title("The announced attempt");
        self.count_down(next).await?;
        self.story.ready("lost", SOON).await?;
        let issued = Timestamp::now();
        ensure!(
            issued >= next,
            "issued at {issued}, before the announced {next} (mended at {mended})"
        );
        screen.step("issued by itself");
        self.show("lost")?;
        let served = self.trusted(LOST).await?;
        self.show_chain(LOST, &served)
    }

    async fn fallback(&self, failed: Timestamp) -> Result<()> {
        let secret: Secret = self
            .story
            .until(
                "lost-tls",
                "a fallback is in the Secret",
                SOON,
                |secret: &Secret| Version::of(secret, Timestamp::now()).fallback,
            )
            .await?;
        let seen = self
            .story
            .stage
            .history
            .of(&format!("{NAMESPACE}/lost-tls"));
        let at = seen
            .iter()
            .find(|version| version.fallback)
            .map_or_else(Timestamp::now, |version| version.at);
        // The failure's instant is cut to whole seconds, so the true time is up to a second less.
        let took = at.duration_since(failed);
        let leaf = Version::of(&secret, at).leaf.context("no certificate")?;
        self.screen.step(&format!(
            "a fallback stands in, less than {:.1} s after the attempt ended: {}, signed by {}",
            took.as_secs_f64().max(0.1),
            leaf.names.join(", "),
            leaf.issuer,
        ));
        self.story
            .condition("lost", condition::FALLBACK_IN_USE, "True", SOON)
            .await?;
        self.show("lost")
    }

    async fn refused(&self, host: &str) -> Result<()> {
        let url = format!("https://{host}/");
        let words = self
            .story
            .wait_for("curl refuses the fallback", SOON, async || match curl::get(
                &url,
                Some(self.ca.root()),
            ) {
                Ok(_) => bail!("curl trusts it"),
                Err(error) if error.to_string().contains("exit status: 60") => {
                    Ok(Some(error.to_string()))
                }
                Err(error) => Err(error),
            })
            .await?;
        self.screen.step(&self.asked(host));
        self.screen.detail(words.lines().next().unwrap_or_default());
        Ok(())
    }

    /// Says every ten seconds how long it is until the attempt.
    async fn count_down(&self, until: Timestamp) -> Result<()> {
        let certificates: Api<Certificate> = self.story.api();
        let mut said = i64::MAX;
        let patience = Duration::from_secs(150);
        self.story
            .wait_for("the announced attempt", patience, async || {
                let left = until.duration_since(Timestamp::now()).as_secs();
                if left >= 0 && left <= said - 10 {
                    said = left;
                    self.screen.step(&format!("next attempt in {left} s"));
                }
                let certificate = certificates.get("lost").await?;
                if left > 0 && certificate_ready(&certificate) {
                    return Err(anyhow!("issued before the announced instant"));
                }
                Ok((left < 0).then_some(()))
            })
            .await
    }

    /// Shows each condition of the demo's Certificates when it changes.
    fn tell_news(&self) -> tokio::task::JoinHandle<()> {
        let certificates: Api<Certificate> = self.story.api();
        let screen = *self.screen;
        let mut told = std::collections::BTreeMap::new();
        tokio::spawn(async move {
            let mut changes = Box::pin(
                watcher(certificates, watcher::Config::default())
                    .default_backoff()
                    .applied_objects(),
            );
            while let Ok(Some(certificate)) = changes.try_next().await {
                let name = certificate.metadata.name.clone().unwrap_or_default();
                // The five are about numbers.
                if !["shop", "lost"].contains(&name.as_str()) {
                    continue;
                }
                for condition in conditions_of(&certificate)
                    .iter()
                    .filter(|condition| condition.type_ != condition::STALLED)
                {
                    let news = (condition.status.clone(), condition.reason.clone());
                    let place = (name.clone(), condition.type_.clone());
                    let first_and_false = condition.status == "False" && !told.contains_key(&place);
                    if told.insert(place, news.clone()) != Some(news) && !first_and_false {
                        let (kind, status, reason) =
                            (&condition.type_, &condition.status, &condition.reason);
                        screen.step(&format!(
                            "  {name}: {kind}={status} {reason}: {}",
                            condition.message
                        ));
                    }
                }
            }
        })
    }
}

fn relative(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here)
        .unwrap_or(path)
        .display()
        .to_string()
}
