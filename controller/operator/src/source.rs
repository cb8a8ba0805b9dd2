//! Certificates from annotated Ingresses: namespaces in which something has changed are looked at as a whole, and what core finds is
//! written and said.
//!
//! Passes for different namespaces run side by side, those of one namespace one after the other.

mod news;
mod pass;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use evercert_api::Certificate;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;
use tokio::time::{Instant, sleep_until};

use crate::context::Context;
pub(crate) use news::{News, Noted};
use pass::{Known, Scene, pass};

/// The longest time between two looks at the clock.
const IDLE: Duration = Duration::from_hours(1);

/// What a pass leaves behind.
struct Done {
    namespace: String,
    known: Known,
    /// When to pass again without being asked.
    again: Option<Instant>,
}

/// Keeps the Certificates of Ingresses in step for as long as the operator acts.
pub(crate) async fn run(context: Arc<Context>) {
    let mut state = State::default();
    let mut passes: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
    context.news.note_all();
    loop {
        for pass in state.begin(&context) {
            passes.push(pass);
        }
        let next = state.later.values().min().copied();
        let next = next.unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            noted = context.news.next() => state.note(noted, &context),
            Some(done) = passes.next(), if !passes.is_empty() => state.end(done),
            () = sleep_until(next) => state.wake(Instant::now()),
        }
    }
}

#[derive(Default)]
struct State {
    /// Namespaces to be looked at.
    waiting: BTreeSet<String>,
    /// Those that are.
    busy: BTreeSet<String>,
    /// Those that are looked at again, and when.
    later: BTreeMap<String, Instant>,
    /// What earlier passes left behind.
    known: BTreeMap<String, Known>,
}

impl State {
    fn note(&mut self, noted: Noted, context: &Context) {
        if noted.all {
            let ingresses = context.ingresses.state();
            let certificates = context.certificates.state();
            let places = ingresses.iter().filter_map(|i| i.namespace());
            let places = places.chain(certificates.iter().filter_map(|c| c.namespace()));
            self.waiting.extend(places);
            self.waiting.extend(self.known.keys().cloned());
        }
        self.waiting.extend(noted.namespaces);
    }

    fn wake(&mut self, now: Instant) {
        let due = self.later.extract_if(.., |_, at| *at <= now);
        self.waiting.extend(due.map(|(namespace, _)| namespace));
    }

    /// The passes that may begin, on what is in the caches now.
    fn begin(&mut self, context: &Arc<Context>) -> Vec<BoxFuture<'static, Done>> {
        let ready: BTreeSet<String> = self.waiting.difference(&self.busy).cloned().collect();
        if ready.is_empty() {
            return Vec::new();
        }
        self.waiting.retain(|namespace| !ready.contains(namespace));
        let scenes = gather(ready, context);
        let mut passes = Vec::new();
        for (namespace, scene) in scenes {
            let mut known = self.known.remove(&namespace).unwrap_or_default();
            self.later.remove(&namespace);
            self.busy.insert(namespace.clone());
            let context = Arc::clone(context);
            passes.push(
                async move {
                    let again = pass(&namespace, &scene, &mut known, &context).await;
                    Done {
                        namespace,
                        known,
                        again: again.map(|wait| Instant::now() + wait),
                    }
                }
                .boxed(),
            );
        }
        passes
    }

    fn end(&mut self, done: Done) {
        self.busy.remove(&done.namespace);
        if let Some(again) = done.again {
            self.later.insert(done.namespace.clone(), again);
        }
        if done.known != Known::default() {
            self.known.insert(done.namespace, done.known);
        }
    }
}

/// What the caches hold of each of these namespaces, in one go over all.
fn gather(namespaces: BTreeSet<String>, context: &Context) -> BTreeMap<String, Scene> {
    let mut scenes: BTreeMap<String, Scene> = namespaces
        .into_iter()
        .map(|n| (n, Scene::default()))
        .collect();
    for ingress in context.ingresses.state() {
        let namespace = Ingress::namespace(&ingress).unwrap_or_default();
        if let Some(scene) = scenes.get_mut(&namespace) {
            scene.ingresses.push(ingress);
        }
    }
    for certificate in context.certificates.state() {
        let namespace = Certificate::namespace(&certificate).unwrap_or_default();
        if let Some(scene) = scenes.get_mut(&namespace) {
            scene.certificates.push(certificate);
        }
    }
    scenes
}
