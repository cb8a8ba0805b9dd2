//! The middle of an order, for as long as a story wants it: no Ingress can be made, so the challenges stay open.

use anyhow::{Context, Result, anyhow, ensure};
use evercert_api::certificate::OrderStatus;
use evercert_api::{Certificate, Issuer, condition};
use evercert_e2e::Story;
use evercert_e2e::account::Account;
use evercert_e2e::ca::{Count, TestCa};
use evercert_e2e::story::{SOON, conditions_of};
use k8s_openapi::api::core::v1::{Event, ResourceQuota, Secret};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::issue::no_route_stays;

const QUOTA: &str = "no-ingresses";

/// From now on a quota of the story's namespace allows no Ingress. Waits until an earlier order's routes are gone: what is
/// there already may be changed.
pub(crate) async fn close_the_route(story: &Story<'_>) -> Result<()> {
    no_route_stays(story).await?;
    let quota = format!(
        "{{apiVersion: v1, kind: ResourceQuota, metadata: {{name: {QUOTA}}}, \
         spec: {{hard: {{count/ingresses.networking.k8s.io: '0'}}}}}}"
    );
    story.apply(&quota).await?;
    let probe: Ingress = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "probe"},
        "spec": {"defaultBackend": {"service": {"name": "nobody", "port": {"number": 80}}}},
    }))?;
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    story
        .wait_for("an Ingress is refused", SOON, async || {
            match story.api::<Ingress>().create(&dry, &probe).await {
                Err(kube::Error::Api(status)) if status.message.contains("quota") => Ok(Some(())),
                Err(error) => Err(error.into()),
                Ok(_) => Ok(None),
            }
        })
        .await
}

/// Waits until the garbage collector takes what belongs to a Certificate that is not there: it learns of new kinds every 30 s,
/// and those of this world are young.
pub(crate) async fn garbage_is_collected(story: &Story<'_>) -> Result<()> {
    let canary = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "canary", "ownerReferences": [{
            "apiVersion": "evercert.dev/v1", "kind": "Certificate", "name": "never-was",
            "uid": "00000000-0000-0000-0000-000000000000",
        }]},
    });
    story.apply(&canary.to_string()).await?;
    story
        .wait_for("garbage is collected", SOON * 3, async || {
            let there = story.api::<Secret>().get_opt("canary").await?;
            Ok(there.is_none().then_some(()))
        })
        .await
}

/// Ingresses can be made again.
pub(crate) async fn open_the_route(story: &Story<'_>) -> Result<()> {
    let quotas = story.api::<ResourceQuota>();
    quotas.delete(QUOTA, &DeleteParams::default()).await?;
    Ok(())
}

/// Certificate `site` for `names`, whose order waits for its route, which is closed.
pub(crate) async fn begin_in_the_middle(
    story: &Story<'_>,
    names: &[String],
) -> Result<OrderStatus> {
    close_the_route(story).await?;
    story.certificate("site", names).await?;
    in_the_middle(story, "site").await
}

/// Waits until a Certificate is in the middle of its order: placed, its challenges open, its route refused.
pub(crate) async fn in_the_middle(story: &Story<'_>, name: &str) -> Result<OrderStatus> {
    let certificate: Certificate = story
        .until(
            name,
            "its order waits for its route",
            SOON,
            |certificate: &Certificate| {
                let issuing = condition::find(conditions_of(certificate), condition::ISSUING);
                order_of(certificate).is_some()
                    && issuing.is_some_and(|c| c.status == "True" && c.message.contains("quota"))
            },
        )
        .await?;
    order_of(&certificate).cloned().context("no order")
}

/// The order that a Certificate's status names.
pub(crate) fn order_of(certificate: &Certificate) -> Option<&OrderStatus> {
    certificate.status.as_ref()?.order.as_ref()
}

/// The account of an Issuer, to look at its orders with.
pub(crate) async fn account<'a>(
    story: &Story<'_>,
    issuer: &str,
    ca: &'a TestCa,
) -> Result<Account<'a>> {
    let found = story.api::<Issuer>().get(issuer).await?;
    let secret = story.secret(&format!("{issuer}-account")).await?;
    Account::of(ca, &found, &secret)
}

/// Waits until the CA holds nothing open for an order: it was given up, and its authorizations were deactivated.
pub(crate) async fn given_back(
    story: &Story<'_>,
    account: &Account<'_>,
    order: &OrderStatus,
) -> Result<()> {
    story
        .wait_for("the old order is given back", SOON, async || {
            let (order, authorizations) = account.order(&order.url)?;
            let all = authorizations.iter().all(|state| state == "deactivated");
            ensure!(
                !authorizations.is_empty() && all,
                "the order is {order}, its authorizations are {authorizations:?}"
            );
            Ok(Some(()))
        })
        .await
}

/// Waits until the log of the CA tells what is wanted.
pub(crate) async fn counted(
    story: &Story<'_>,
    ca: &TestCa,
    what: &str,
    there: impl Fn(Count) -> bool,
) -> Result<()> {
    story
        .wait_for(what, SOON, async || {
            let count = ca.count()?;
            ensure!(there(count), "{count:?}");
            Ok(Some(()))
        })
        .await
}

/// The log of the CA tells what is wanted, now.
///
/// # Errors
/// It does not: with the evidence.
pub(crate) async fn count(
    story: &Story<'_>,
    ca: &TestCa,
    what: &str,
    holds: impl Fn(Count) -> bool,
) -> Result<()> {
    let count = ca.count()?;
    if holds(count) {
        return Ok(());
    }
    Err(story.with_evidence(anyhow!("{what}: {count:?}")).await)
}

/// The notes of a namespace's events with a reason, about an object of that name.
pub(crate) async fn events(story: &Story<'_>, about: &str, reason: &str) -> Result<Vec<String>> {
    let events = story.api::<Event>().list(&ListParams::default()).await?;
    let concerned = events.items.into_iter().filter(|event| {
        event.involved_object.name.as_deref() == Some(about)
            && event.reason.as_deref() == Some(reason)
    });
    Ok(concerned.filter_map(|event| event.message).collect())
}

/// No attempt of a Certificate has failed so far: its status forgets that with the next success, events do not.
pub(crate) async fn never_failed(story: &Story<'_>, name: &str) -> Result<()> {
    let warnings = warnings(story, name).await?;
    ensure!(
        warnings.is_empty(),
        "{name}: an attempt failed: {warnings:?}"
    );
    Ok(())
}

/// What was told of the attempts of a Certificate that failed.
pub(crate) async fn warnings(story: &Story<'_>, name: &str) -> Result<Vec<String>> {
    let events = story.api::<Event>().list(&ListParams::default()).await?;
    let warnings = events
        .items
        .into_iter()
        .filter(|event| event.involved_object.name.as_deref() == Some(name))
        .filter(|event| event.type_.as_deref() == Some("Warning"))
        .filter(|event| event.reason.as_deref() != Some("FallbackWritten"))
        .filter_map(|event| event.message);
    Ok(warnings.collect())
}

/// Waits for an event, and gives its note.
pub(crate) async fn event(story: &Story<'_>, about: &str, reason: &str) -> Result<String> {
    let what = format!("an event {reason} about {about}");
    story
        .wait_for(&what, SOON, async || {
            Ok(events(story, about, reason).await?.pop())
        })
        .await
}
