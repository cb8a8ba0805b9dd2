//! Certificate, Secret and companion come back from a copy, with new UIDs and without a status: nothing is ordered.

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, children, keys};
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::story::SOON;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::issue::{data, no_route_stays, usable};
use crate::midway::{garbage_is_collected, order_of};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        what_is_restored_from_a_copy_is_ready_without_an_order,
        a_companion_restored_with_its_old_owner_is_not_lost_with_it,
        a_certificate_restored_without_its_secret_gets_it_from_the_companion,
        a_certificate_restored_with_its_old_status_forgets_the_order_in_it,
    ]
}

async fn what_is_restored_from_a_copy_is_ready_without_an_order(story: Story<'_>) -> Result<()> {
    let (ca, mut copy) = Box::pin(deleted(&story)).await?;
    copy.companion.metadata.owner_references = None;
    // With a route that nobody needs any more, of a Service that is gone.
    ensure!(copy.route.owner_references().len() == 1, "{:?}", copy.route);
    let route = story.api().create(&post(), &copy.route).await?;
    ensure!(is_route(&route), "{route:?}");
    story.api().create(&post(), &copy.secret).await?;
    story.api().create(&post(), &copy.companion).await?;
    story.api().create(&post(), &copy.certificate).await?;
    as_before(&story, &ca, &copy).await?;
    no_route_stays(&story).await
}

/// As some tools leave it: the owner reference has the UID of a Certificate that is no longer there, so the garbage collector
/// takes the companion when it sees it.
async fn a_companion_restored_with_its_old_owner_is_not_lost_with_it(
    story: Story<'_>,
) -> Result<()> {
    garbage_is_collected(&story).await?;
    let (ca, copy) = Box::pin(deleted(&story)).await?;
    ensure!(
        copy.companion.owner_references().len() == 1,
        "the copy has no owner"
    );
    story.api().create(&post(), &copy.companion).await?;
    story.api().create(&post(), &copy.secret).await?;
    story.api().create(&post(), &copy.certificate).await?;
    as_before(&story, &ca, &copy).await
}

async fn a_certificate_restored_without_its_secret_gets_it_from_the_companion(
    story: Story<'_>,
) -> Result<()> {
    let (ca, mut copy) = Box::pin(deleted(&story)).await?;
    copy.companion.metadata.owner_references = None;
    story.api().create(&post(), &copy.companion).await?;
    story.api().create(&post(), &copy.certificate).await?;
    as_before(&story, &ca, &copy).await
}

async fn a_certificate_restored_with_its_old_status_forgets_the_order_in_it(
    story: Story<'_>,
) -> Result<()> {
    let (ca, mut copy) = Box::pin(deleted(&story)).await?;
    copy.companion.metadata.owner_references = None;
    story.api().create(&post(), &copy.secret).await?;
    story.api().create(&post(), &copy.companion).await?;
    let mut certificate = story
        .api::<Certificate>()
        .create(&post(), &copy.certificate)
        .await?;
    // A copy that was made in the middle of an order.
    let base = ca.directory();
    let status = serde_json::json!({"order": {
        "url": format!("{}/my-order/long-gone", base.trim_end_matches("/dir")),
        "issuer": "Issuer/ca", "names": certificate.spec.dns_names, "createdAt": "2026-01-01T00:00:00Z",
    }});
    story
        .wait_for("the old status is written", SOON, async || {
            certificate = story.api::<Certificate>().get("site").await?;
            certificate.status = Some(serde_json::from_value(status.clone())?);
            let (api, params) = (story.api::<Certificate>(), post());
            let written = api.replace_status("site", &params, &certificate);
            Ok(Some(written.await?))
        })
        .await?;
    story
        .until(
            "site",
            "the order is forgotten",
            SOON,
            |certificate: &Certificate| order_of(certificate).is_none(),
        )
        .await?;
    as_before(&story, &ca, &copy).await
}

/// What a backup has of a Certificate.
struct Copy {
    certificate: Certificate,
    secret: Secret,
    companion: Secret,
    /// What led to the solver amid its order.
    route: Ingress,
    serial: String,
}

/// A Certificate was issued, copied, and is gone with all that belonged to it.
async fn deleted(story: &Story<'_>) -> Result<(TestCa, Copy)> {
    let ca = story.ca().await?;
    let names = [story.host("a"), story.host("b")];
    story.certificate("site", &names).await?;
    let route: Ingress = story
        .wait_for("a route to the solver", SOON, async || {
            let ingresses = story.api().list(&ListParams::default()).await?.items;
            Ok(ingresses.into_iter().find(is_route))
        })
        .await?;
    let certificate = story.ready("site", SOON).await?;
    no_route_stays(story).await?;
    let companion = children::companion_name(story.namespace, "site");
    story
        .until(
            &companion,
            "the companion is at rest",
            SOON,
            |companion: &Secret| !holds(companion, keys::PENDING_KEY),
        )
        .await?;
    let status = certificate.status.clone().context("no status")?;
    let copy = Copy {
        certificate: stripped(Certificate {
            status: None,
            ..certificate.clone()
        }),
        secret: stripped(story.secret("site").await?),
        companion: stripped(story.secret(&companion).await?),
        route: stripped(route),
        serial: status.serial_number.context("no serialNumber")?,
    };
    let gone = DeleteParams::default();
    story.api::<Certificate>().delete("site", &gone).await?;
    story
        .wait_for("the Certificate is gone", SOON, async || {
            let there = story.api::<Certificate>().get_opt("site").await?;
            Ok(there.is_none().then_some(()))
        })
        .await?;
    story.api::<Secret>().delete("site", &gone).await?;
    // Unless the garbage collector was faster.
    if let Err(kube::Error::Api(refused)) = story.api::<Secret>().delete(&companion, &gone).await {
        ensure!(refused.code == 404, "{refused}");
    }
    story
        .wait_for("the Secrets are gone", SOON, async || {
            let secrets = story.api::<Secret>();
            let (tls, other) = (
                secrets.get_opt("site").await?,
                secrets.get_opt(&companion).await?,
            );
            Ok((tls.is_none() && other.is_none()).then_some(()))
        })
        .await?;
    Ok((ca, copy))
}

/// Ready with the same certificate and key, without an order; and the companion is this Certificate's and does its work.
async fn as_before(story: &Story<'_>, ca: &TestCa, copy: &Copy) -> Result<()> {
    let now = story.ready("site", SOON).await?;
    let status = now.status.clone().context("no status")?;
    ensure!(
        status.serial_number.as_deref() == Some(&copy.serial)
            && status.not_after.is_some()
            && status.renewal_time.is_some(),
        "the status was not rebuilt: {status:?}"
    );
    let uid = now.uid().context("no UID")?;
    let companion = &copy.companion.name_any();
    let kept: Secret = story
        .until(
            companion,
            "the companion is owned by this very Certificate",
            SOON,
            |secret: &Secret| {
                let owners = secret.owner_references();
                !owners.is_empty() && owners.iter().all(|owner| owner.uid == uid)
            },
        )
        .await?;
    ensure!(
        data(&kept, keys::TLS_CRT) == data(&copy.secret, keys::TLS_CRT)
            && data(&kept, keys::TLS_KEY) == data(&copy.secret, keys::TLS_KEY),
        "the companion holds something else"
    );
    let good = usable(&copy.secret).context("the copy is not usable")?;
    story
        .api::<Secret>()
        .delete("site", &DeleteParams::default())
        .await?;
    let whole: Secret = story
        .until("site", "the Secret is whole", SOON, |secret: &Secret| {
            usable(secret).as_ref() == Some(&good)
        })
        .await?;
    ensure!(
        data(&whole, keys::TLS_KEY) == data(&copy.secret, keys::TLS_KEY),
        "the key is another one"
    );
    story.ready("site", SOON).await?;
    let still = story.secret(companion).await?;
    ensure!(
        still.uid() == kept.uid(),
        "the companion was made a second time"
    );
    let count = ca.count()?;
    ensure!(
        count.orders == 1 && count.certificates == 1,
        "only the first certificate was ordered: {count:?}"
    );
    Ok(())
}

fn is_route(ingress: &Ingress) -> bool {
    let component = ingress.labels().get(keys::COMPONENT_LABEL);
    component.is_some_and(|component| component == keys::COMPONENT_ROUTE)
}

fn holds(secret: &Secret, key: &str) -> bool {
    secret
        .data
        .as_ref()
        .is_some_and(|data| data.contains_key(key))
}

/// Without what the API server gave it; owner references stay.
fn stripped<K: kube::Resource>(mut object: K) -> K {
    let meta = object.meta_mut();
    meta.uid = None;
    meta.resource_version = None;
    meta.creation_timestamp = None;
    meta.generation = None;
    meta.managed_fields = None;
    object
}

fn post() -> PostParams {
    PostParams::default()
}
