//! Whether the operator has every right that it needs: the API server is asked beside the start, which waits for nothing of it, and
//! what is missing is said in the log. Nothing is changed by it, not even what the process says of itself.

use std::time::Duration;

use evercert_core::rights::{Need, Right, find_needed};
use futures::stream::{StreamExt, TryStreamExt, iter};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::sleep;

use crate::apply::{ApplyError, within};
use crate::config::Config;

/// A right, and the namespace where it is needed; the whole cluster without one.
type Needed = (Right, Option<String>);

/// Reviews under way at a time: some fifty in all, or for each namespace, of a millisecond each.
const AT_ONCE: usize = 4;
/// How often it is tried again while the API server does not answer.
const AGAIN: Duration = Duration::from_secs(5);

/// Says each right that is missing to the operator of `config`, once, those for forwarders only where there may be some. Waits out an
/// API server in trouble.
pub(crate) async fn tell_missing(client: Client, config: Config) {
    let (own, only) = (&config.namespace, config.territory.names());
    let needed = find_needed(own, only, config.forwarder.is_some());
    let missing = loop {
        match find_missing(&client, &needed).await {
            Ok(missing) => break missing,
            Err(error) if error.is_passing() => {
                tracing::debug!(%error, "the operator's rights cannot be looked at yet");
                sleep(AGAIN).await;
            }
            Err(error) => {
                tracing::warn!(%error, "whether the operator has the rights that it needs is not known: it may not ask");
                return;
            }
        }
    };
    if missing.is_empty() {
        tracing::info!("the operator has every right that it needs");
    }
    for ((right, place), verbs) in missing {
        let sentence = right.build_sentence(&verbs, place.as_deref());
        match right.need {
            Need::Start | Need::Work => tracing::error!("{sentence}"),
            Need::Part => tracing::warn!("{sentence}"),
        }
    }
}

/// The rows of the table that are not granted in full, with the verbs that are not.
async fn find_missing(
    client: &Client,
    needed: &[Needed],
) -> Result<Vec<(Needed, Vec<&'static str>)>, ApplyError> {
    let questions: Vec<_> = needed
        .iter()
        .flat_map(|needed| needed.0.verbs.iter().map(move |verb| (needed, *verb)))
        .map(|(needed, verb)| is_granted(client, needed, verb))
        .collect();
    let granted: Vec<bool> = iter(questions).buffered(AT_ONCE).try_collect().await?;
    let mut granted = granted.into_iter();
    let rows = needed.iter().map(|needed| {
        let verbs = needed.0.verbs.iter().copied().zip(granted.by_ref());
        let refused = verbs.filter(|(_, granted)| !granted);
        let refused: Vec<_> = refused.map(|(verb, _)| verb).collect();
        (needed.clone(), refused)
    });
    Ok(rows.filter(|(_, verbs)| !verbs.is_empty()).collect())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a review is created and not kept: it changes nothing, so it is no effect, and needs no Lease"
)]
async fn is_granted(client: &Client, needed: &Needed, verb: &str) -> Result<bool, ApplyError> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review = build_review(needed, verb);
    let answer = within(reviews.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// Without a namespace the question is about all of them.
fn build_review((right, place): &Needed, verb: &str) -> SelfSubjectAccessReview {
    let (resource, subresource) = right.parts();
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: given(right.group),
                resource: given(resource),
                subresource: given(subresource),
                name: right.name.map(ToOwned::to_owned),
                verb: given(verb),
                namespace: place.clone(),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use evercert_core::rights::OPERATOR;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    /// An API server that grants all but what `refused` says, and what was asked of it.
    fn server(refused: fn(&Value) -> bool) -> (Client, Arc<Mutex<Vec<Value>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = asked.clone();
        let service = service_fn(move |request: Request<Body>| {
            let all = all.clone();
            async move {
                assert_eq!(request.method(), "POST");
                assert_eq!(
                    request.uri().path(),
                    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
                );
                let body = request.into_body().collect_bytes().await.unwrap();
                let mut review: Value = serde_json::from_slice(&body).unwrap();
                let question = review["spec"]["resourceAttributes"].clone();
                review["status"] = json!({"allowed": !refused(&question)});
                all.lock().unwrap().push(question);
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(
                    review.to_string().into_bytes(),
                )))
            }
        });
        (Client::new(service, "default"), asked)
    }

    fn everywhere() -> Vec<Needed> {
        find_needed("certs", &BTreeSet::new(), false)
    }

    #[tokio::test]
    async fn each_verb_of_each_row_is_asked_once_where_it_is_needed() {
        let (client, asked) = server(|_| false);
        let needed = everywhere();
        assert_eq!(find_missing(&client, &needed).await.unwrap(), []);
        let asked = asked.lock().unwrap();
        let verbs: usize = OPERATOR.iter().map(|right| right.verbs.len()).sum();
        assert_eq!(asked.len(), verbs);
        assert!(asked.contains(&json!({"group": "coordination.k8s.io", "resource": "leases", "verb": "update", "namespace": "certs"})));
        assert!(asked.contains(&json!({"resource": "secrets", "verb": "create"})));
        assert!(asked.contains(&json!({"group": "evercert.dev", "resource": "certificates", "subresource": "status", "verb": "update"})));
    }

    #[tokio::test]
    async fn what_is_refused_is_found_by_row_with_its_verbs_alone() {
        let (client, _) = server(|question| {
            let is = |key: &str, value: &str| question[key] == value;
            is("resource", "deployments") && (is("verb", "create") || is("verb", "patch"))
        });
        let missing = find_missing(&client, &everywhere()).await.unwrap();
        let named: Vec<_> = missing
            .iter()
            .map(|((right, place), verbs)| (right.resource, place.as_deref(), verbs.as_slice()))
            .collect();
        assert_eq!(
            named,
            [("deployments", Some("certs"), ["create", "patch"].as_slice())]
        );
    }

    #[tokio::test]
    async fn where_it_is_confined_it_is_asked_about_each_namespace_and_what_one_of_them_lacks_is_found()
     {
        let (client, asked) =
            server(|question| question["namespace"] == "b" && question["resource"] == "events");
        let only = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let needed = find_needed("certs", &only, false);
        let missing = find_missing(&client, &needed).await.unwrap();
        let named: Vec<_> = missing
            .iter()
            .map(|((right, place), _)| (right.resource, place.as_deref()))
            .collect();
        assert_eq!(named, [("events", Some("b"))]);
        let asked = asked.lock().unwrap();
        assert!(
            asked
                .iter()
                .all(|question| question["namespace"].is_string())
        );
    }
}
