use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::client::Body;

use serde_json::json;

use super::*;

/// Gives prepared answers, one a request (nothing prepared: it hangs), and remembers the requests.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<(u16, Value)>>>,
    requests: Arc<Mutex<Vec<(Method, String, Value)>>>,
}

impl Script {
    fn new(answers: &[(u16, Value)]) -> Self {
        let script = Self::default();
        script
            .answers
            .lock()
            .unwrap()
            .extend(answers.iter().cloned());
        script
    }

    fn client(&self) -> Client {
        let script = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let script = script.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let asked = (head.method, head.uri.to_string(), body);
                script.requests.lock().unwrap().push(asked);
                let answer = script.answers.lock().unwrap().pop_front();
                let Some((code, body)) = answer else {
                    std::future::pending().await
                };
                let mut answer = Response::new(Body::from(body.to_string().into_bytes()));
                *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
                Ok::<_, Infallible>(answer)
            }
        });
        Client::new(service, "default")
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client(), "shop")
    }

    fn requests(&self) -> Vec<(Method, String, Value)> {
        self.requests.lock().unwrap().clone()
    }
}

fn failure(code: u16, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "r", "code": code,
    });
    (code, status)
}

fn map() -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": { "name": "m", "namespace": "shop", "managedFields": [{ "manager": "x" }] },
        "data": { "a": "b" },
    }))
    .unwrap()
}

fn good() -> (u16, Value) {
    (200, serde_json::to_value(map()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn apply_is_forced_under_the_concerns_own_field_manager() {
    let script = Script::new(&[good()]);
    apply(&script.api(), Effect::ApplyRouteService, &map())
        .await
        .unwrap();
    let (method, uri, body) = script.requests().remove(0);
    assert_eq!(method, Method::PATCH);
    assert!(
        uri.starts_with("/api/v1/namespaces/shop/configmaps/m?"),
        "{uri}"
    );
    assert!(
        uri.contains("force=true") && uri.contains("fieldManager=evercert-route"),
        "{uri}"
    );
    let want = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "m", "namespace": "shop" }, "data": { "a": "b" },
    });
    assert_eq!(
        body, want,
        "and without managed fields, which an apply may not carry"
    );
}

#[tokio::test(start_paused = true)]
async fn a_busy_api_server_is_asked_once_and_its_error_says_when_to_come_again() {
    let busy = |code, seconds: u32| {
        let (code, mut status) = failure(code, "busy");
        status["details"] = json!({ "retryAfterSeconds": seconds });
        (code, status)
    };
    let script = Script::new(&[busy(429, 7), busy(503, 0), busy(500, 86_400), good()]);
    let begin = tokio::time::Instant::now();
    let mut waits = Vec::new();
    for _ in 0..3 {
        let told = apply(&script.api(), Effect::ApplyRouteService, &map()).await;
        let error = told.unwrap_err();
        assert!(
            error.is_passing() && error.to_string().ends_with("busy"),
            "{error}"
        );
        waits.push(error.retry_after());
    }
    let minute = Some(Duration::from_mins(1));
    assert_eq!(waits, [Some(Duration::from_secs(7)), None, minute]);
    assert_eq!(
        (script.requests().len(), begin.elapsed()),
        (3, Duration::ZERO)
    );
    assert!(
        apply(&script.api(), Effect::ApplyRouteService, &map())
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn what_hangs_ends_after_fifteen_seconds() {
    let script = Script::default();
    let start = tokio::time::Instant::now();
    let error = apply(&script.api(), Effect::ApplyRouteService, &map())
        .await
        .unwrap_err();
    assert_eq!((error, start.elapsed()), (ApplyError::TimedOut, DEADLINE));
    assert_eq!(script.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_the_api_servers_sentence_and_is_not_repeated() {
    let message = "admission webhook \"p\" denied the request: no";
    let script = Script::new(&[failure(403, message)]);
    let error = create(&script.api(), Effect::RecordIntent, &map())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), message);
    assert_eq!(
        error,
        ApplyError::Refused {
            code: 403,
            message: message.to_owned()
        }
    );
    assert_eq!(script.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_writer_is_a_conflict_and_a_replacement_needs_a_version() {
    let script = Script::new(&[failure(409, "the object has been modified")]);
    let error = replace(&script.api(), Effect::RecordIntent, &map())
        .await
        .unwrap_err();
    assert!(matches!(error, ApplyError::Unsendable(_)), "{error:?}");
    assert!(script.requests().is_empty());

    let mut read = map();
    read.metadata.resource_version = Some("7".to_owned());
    assert!(
        replace(&script.api(), Effect::RecordIntent, &read)
            .await
            .unwrap_err()
            .is_conflict()
    );
    assert_eq!(script.requests()[0].2["metadata"]["resourceVersion"], "7");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_of_the_expected_object_and_can_be_repeated() {
    let script = Script::new(&[
        good(),
        failure(404, "not found"),
        failure(409, "uid differs"),
    ]);
    let expected = Expected {
        uid: Some("u".to_owned()),
        resource_version: None,
    };
    assert_eq!(
        delete(&script.api(), Effect::DeleteRouteService, "m", &expected).await,
        Ok(true)
    );
    assert_eq!(
        delete(&script.api(), Effect::DeleteRouteService, "m", &expected).await,
        Ok(false)
    );
    assert!(
        delete(&script.api(), Effect::DeleteRouteService, "m", &expected)
            .await
            .unwrap_err()
            .is_conflict()
    );
    let (method, _, body) = script.requests().remove(0);
    assert_eq!(method, Method::DELETE);
    assert_eq!(
        body,
        json!({ "propagationPolicy": "Background", "preconditions": { "uid": "u" } })
    );
}
