//! The right to act, checked before each single request: at the API server where it changes something, at a CA always.
//!
//! It is one stint's: once it is over it stays over, and whatever still runs of that stint can send nothing, though the process
//! may hold the Lease again by then.

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use evercert_acme::Leave;
use evercert_core::lease::Uptime;
use futures::future::Either;
use http::{Method, Request};
use kube::client::Body;
use rustix::time::{ClockId, clock_gettime};
use tower::{BoxError, Layer, Service};

/// The claim on the Lease is over, or was never had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process does not hold the Lease any more")]
pub(crate) struct NotLeader;

/// The time since the machine was started, its sleep included (CLOCK_BOOTTIME, clock_gettime(2)).
pub(super) fn uptime() -> Uptime {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or_default();
    Uptime::new(Duration::new(seconds, nanoseconds))
}

/// The right to act until an instant. Cheap to clone; all clones are the same right.
#[derive(Clone)]
pub(crate) struct Mandate {
    /// Nanoseconds of [`uptime`]: the end. [`NEVER_HAD`] or [`OVER`] instead.
    until: Arc<AtomicU64>,
    clock: fn() -> Uptime,
}

const NEVER_HAD: u64 = 0;
const OVER: u64 = 1;

impl fmt::Debug for Mandate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mandate")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl Mandate {
    /// Not given yet; by the clock [`uptime`], save in a test.
    pub(super) fn by(clock: fn() -> Uptime) -> Self {
        Self {
            until: Arc::new(AtomicU64::new(NEVER_HAD)),
            clock,
        }
    }

    /// Gives it until `until`, or for longer.
    ///
    /// # Errors
    /// It has run out in the meantime, or was ended: it does not come back.
    pub(crate) fn extend(&self, until: Uptime) -> Result<(), NotLeader> {
        let now = nanoseconds((self.clock)());
        let next = nanoseconds(until);
        let extended = |before| {
            let alive = before == NEVER_HAD || (before != OVER && now < before);
            alive.then_some(if now < next { next } else { OVER })
        };
        let changed = self
            .until
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, extended);
        if changed.is_ok() && now < next {
            Ok(())
        } else {
            self.end();
            Err(NotLeader)
        }
    }

    /// Ends it for good.
    pub(crate) fn end(&self) {
        self.until.store(OVER, Ordering::SeqCst);
    }

    /// Whether it is held now. Once it was not, it is over.
    pub(crate) fn is_held(&self) -> bool {
        let now = nanoseconds((self.clock)());
        let over = |until| (until != NEVER_HAD && now >= until).then_some(OVER);
        // By one step with the look: an extension in between would not be one.
        match self
            .until
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, over)
        {
            Ok(_) => false,
            Err(until) => until != NEVER_HAD,
        }
    }
}

fn nanoseconds(at: Uptime) -> u64 {
    u64::try_from(at.since_start().as_nanos()).unwrap_or(u64::MAX)
}

impl Leave for Mandate {
    fn is_given(&self) -> bool {
        self.is_held()
    }
}

/// Refuses, without the mandate, each request to the API server that would change something.
impl<S> Layer<S> for Mandate {
    type Service = Bound<S>;

    fn layer(&self, inner: S) -> Bound<S> {
        Bound {
            inner,
            mandate: self.clone(),
        }
    }
}

/// A client's service that is bound to a mandate.
#[derive(Debug, Clone)]
pub(crate) struct Bound<S> {
    inner: S,
    mandate: Mandate,
}

impl<S, B> Service<Request<Body>> for Bound<S>
where
    S: Service<Request<Body>, Response = http::Response<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        if reads || self.mandate.is_held() {
            Either::Left(self.inner.call(request))
        } else {
            Either::Right(ready(Err(NotLeader.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
    use kube::client::ClientBuilder;

    use super::*;
    use crate::apply::{self, ApplyError};
    use crate::effect::Effect;

    thread_local! {
        static NOW: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }

    fn at(seconds: u64) -> Uptime {
        Uptime::new(Duration::from_secs(seconds))
    }

    /// A mandate by a clock that the test sets.
    fn mandate(now: u64) -> Mandate {
        NOW.set(now);
        Mandate::by(|| at(NOW.get()))
    }

    #[test]
    fn a_mandate_lasts_until_its_end_and_no_extension_brings_it_back() {
        let mandate = mandate(100);
        assert!(!mandate.is_held(), "nobody gave it");
        mandate.extend(at(110)).unwrap();
        NOW.set(109);
        assert!(mandate.is_held());
        mandate.extend(at(119)).unwrap();
        NOW.set(118);
        assert!(mandate.is_held());
        NOW.set(119);
        assert!(!mandate.is_held());
        assert_eq!(mandate.extend(at(130)), Err(NotLeader));
        NOW.set(118);
        assert!(!mandate.is_held(), "not by a clock that is set back either");
    }

    #[test]
    fn one_that_ran_out_unseen_cannot_be_extended() {
        let mandate = mandate(100);
        mandate.extend(at(110)).unwrap();
        NOW.set(110);
        assert_eq!(mandate.extend(at(120)), Err(NotLeader));
        assert!(!mandate.is_held());
    }

    #[test]
    fn an_answer_that_came_after_the_end_gives_nothing() {
        let mandate = mandate(111);
        assert_eq!(mandate.extend(at(110)), Err(NotLeader));
        assert!(!mandate.is_held());
    }

    #[test]
    fn the_clock_runs_and_counts_from_the_start_of_the_machine() {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
        let shown = uptime().since_start().as_secs_f64();
        // /proc/uptime is this very clock (proc(5)), in a time namespace, too.
        assert!((shown - seconds).abs() < 5.0, "{shown} {seconds}");
        assert!(uptime() >= uptime().min(at(0)));
    }

    /// Answers every request with the same object, and keeps which there were.
    fn client(mandate: &Mandate, asked: &Arc<Mutex<Vec<Method>>>) -> kube::Client {
        let asked = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            asked.lock().unwrap().push(request.method().clone());
            let body = r#"{"metadata":{"name":"m","resourceVersion":"1"}}"#;
            let answer = http::Response::new(Body::from(body.as_bytes().to_vec()));
            async move { Ok::<_, BoxError>(answer) }
        });
        ClientBuilder::new(service, "shop")
            .with_layer(mandate)
            .build()
    }

    #[tokio::test]
    async fn without_the_mandate_nothing_is_written_and_the_error_says_so() {
        let mandate = mandate(100);
        let asked = Arc::default();
        let api: Api<ConfigMap> = Api::default_namespaced(client(&mandate, &asked));
        let map: ConfigMap = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "m", "resourceVersion": "1"}}),
        )
        .unwrap();
        let write = async || {
            let effect = Effect::RecordIntent;
            [
                apply::create(&api, effect, &map).await.map(drop),
                apply::replace(&api, effect, &map).await.map(drop),
                apply::apply(&api, effect, &map).await.map(drop),
                apply::delete(&api, effect, "m", &apply::Expected::default())
                    .await
                    .map(drop),
            ]
        };
        mandate.extend(at(110)).unwrap();
        assert_eq!(write().await, [const { Ok(()) }; 4]);
        assert_eq!(asked.lock().unwrap().len(), 4);
        NOW.set(110);
        assert_eq!(write().await, [const { Err(ApplyError::NotLeader) }; 4]);
        assert_eq!(asked.lock().unwrap().len(), 4, "nothing more was sent");
        apply::within(api.get("m")).await.unwrap();
        assert_eq!(asked.lock().unwrap().last(), Some(&Method::GET));
        let told = ApplyError::NotLeader.to_string();
        assert!(told.contains("does not hold the Lease"), "{told}");
        // Whatever else goes by this client.
        #[expect(
            clippy::disallowed_methods,
            reason = "past apply.rs, to see that it is stopped"
        )]
        let past = [
            api.create(&PostParams::default(), &map).await.is_err(),
            api.patch("m", &PatchParams::default(), &Patch::Merge(&map))
                .await
                .is_err(),
            api.delete("m", &DeleteParams::default()).await.is_err(),
        ];
        assert_eq!(past, [true; 3]);
    }
}
