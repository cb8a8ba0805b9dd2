//! Many Certificates at once, and when each of them was Ready.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use evercert_api::Certificate;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};

use crate::manifest::FIELD_MANAGER;
use crate::story::{self, Story, certificate_ready, name_of};

/// Applies that are under way at the same time.
const AT_A_TIME: usize = 16;

/// How long after the first apply each of a crowd was Ready, in order.
#[derive(Debug, Clone)]
pub struct Times(Vec<Duration>);

impl Times {
    /// The one in the middle.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.0.first().copied().unwrap_or_default();
        let (count, last) = (self.0.len(), self.last());
        #[allow(clippy::cast_precision_loss, reason = "some hundreds at most")]
        let rate = count as f64 / last.as_secs_f64().max(0.001);
        write!(
            f,
            "{count} certificates: first Ready after {first:.2?}, median {:.2?}, last {last:.2?}; {rate:.1} a second",
            self.median()
        )
    }
}

/// Certificates for one name each, `<label><number>`, from Issuer `ca`, in the story's namespace.
#[must_use]
pub fn certificates(story: &Story<'_>, label: &str, count: usize) -> Vec<Certificate> {
    (0..count)
        .map(|number| {
            let name = format!("{label}{number}");
            let mut certificate = Certificate::new(&name, story::spec(&name, &[story.host(&name)]));
            certificate.metadata.namespace = Some(story.namespace.to_owned());
            certificate
        })
        .collect()
}

/// Applies all of them, some at a time.
///
/// # Errors
/// What the API server says to the first that it refuses.
pub async fn apply(client: &Client, certificates: &[Certificate]) -> Result<()> {
    let params = PatchParams::apply(FIELD_MANAGER).force();
    stream::iter(certificates)
        .map(|certificate| {
            let namespace = certificate.namespace().unwrap_or_default();
            let api: Api<Certificate> = Api::namespaced(client.clone(), &namespace);
            let params = &params;
            async move {
                api.patch(&certificate.name_any(), params, &Patch::Apply(certificate))
                    .await
                    .with_context(|| format!("applying {}", name_of(certificate)))
            }
        })
        .buffer_unordered(AT_A_TIME)
        .try_for_each(|_| async { Ok(()) })
        .await
}

/// Applies all of them at once, and waits until each is Ready.
///
/// # Errors
/// One is not Ready within `within` of the first apply: with the evidence.
pub async fn issue(
    story: &Story<'_>,
    certificates: &[Certificate],
    within: Duration,
) -> Result<Times> {
    let client = &story.stage.client;
    let began = Instant::now();
    let mut waiting: BTreeMap<String, &Certificate> =
        certificates.iter().map(|c| (name_of(c), c)).collect();
    let mut times = Vec::new();
    let all = async {
        let mut changes = std::pin::pin!(
            watcher(
                Api::<Certificate>::all(client.clone()),
                watcher::Config::default()
            )
            .applied_objects()
        );
        let (applied, ready) = futures::future::join(apply(client, certificates), async {
            while !waiting.is_empty() {
                let certificate = changes.try_next().await?.context("the watch ended")?;
                if certificate_ready(&certificate)
                    && waiting.remove(&name_of(&certificate)).is_some()
                {
                    times.push(began.elapsed());
                }
            }
            anyhow::Ok(())
        })
        .await;
        applied.and(ready)
    };
    let Ok(done) = tokio::time::timeout(within, all).await else {
        let names: Vec<_> = waiting.keys().cloned().collect();
        let what = anyhow!(
            "after {within:?} {} of {} are not Ready: {}",
            names.len(),
            certificates.len(),
            names.join(", ")
        );
        return Err(story.with_evidence(what).await);
    };
    done?;
    Ok(Times(times))
}
