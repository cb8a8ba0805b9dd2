//! Follows the one ConfigMap: whatever happens to it or to the API server, the answers are the last good list.

use std::convert::Infallible;
use std::time::Duration;

use evercert_api::challenge::{OpenChallenge, parse_challenges};
use evercert_api::keys::{CHALLENGES_KEY, CHALLENGES_NAME};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher as watch};

use crate::answers::Answers;

/// How long one watch lasts before it is begun anew, in seconds: what bounds the age of the list when a watch went dead.
const WATCH_TIME: u32 = 60;
/// The pause after the first failure to read.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause: a CA asks within seconds after an order was placed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps `answers` in step with the ConfigMap for ever. It asks for this one name by a field selector, so rights on the
/// one name (`resourceNames`) are enough.
pub(crate) async fn follow(client: kube::Client, namespace: &str, answers: &Answers) -> Infallible {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={CHALLENGES_NAME}"))
        .timeout(WATCH_TIME);
    loop {
        let mut events = watch(api.clone(), config.clone())
            .backoff(Pause(FIRST_PAUSE))
            .boxed();
        let mut listed = None;
        let mut failing = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the open challenges can be read again");
                    }
                    take(event, &mut listed, answers);
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "the open challenges cannot be read; the last list stays");
                }
                Err(error) => tracing::debug!(%error, "the open challenges cannot be read"),
            }
        }
    }
}

/// Pauses between attempts: doubled each time, from the first again after a success.
struct Pause(Duration);

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.0 = FIRST_PAUSE;
    }
}

/// Applies one event. `listed` is what a listing under way has found.
fn take(event: Event<ConfigMap>, listed: &mut Option<ConfigMap>, answers: &Answers) {
    match event {
        Event::Init => *listed = None,
        Event::InitApply(found) => *listed = Some(found),
        Event::InitDone => apply(listed.take().as_ref(), answers),
        Event::Apply(found) => apply(Some(&found), answers),
        Event::Delete(_) => apply(None, answers),
    }
}

/// No ConfigMap, or one without the list, means that nothing is open.
fn apply(found: Option<&ConfigMap>, answers: &Answers) {
    match read(found) {
        Ok(challenges) => answers.replace(&challenges),
        Err(error) => {
            tracing::error!(%error, "ConfigMap {CHALLENGES_NAME} is damaged; the last good list stays");
            answers.keep();
        }
    }
}

fn read(
    found: Option<&ConfigMap>,
) -> Result<Vec<OpenChallenge>, evercert_api::challenge::ChallengeListError> {
    let text = found
        .and_then(|object| object.data.as_ref())
        .and_then(|data| data.get(CHALLENGES_KEY));
    text.map_or_else(|| Ok(Vec::new()), |text| parse_challenges(text))
}
