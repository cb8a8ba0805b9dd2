//! The CA's profiles: ordered where the CA offers them, and what happens where it does not.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::{Profile as Wanted, ProfilePolicy};
use evercert_api::{Certificate, condition, keys};
use evercert_e2e::Story;
use evercert_e2e::scripted::{Answer, Endpoint, Problem, Profile, ScriptedCa, Settings};
use evercert_e2e::story::{SOON, conditions_of};
use jiff::Timestamp;
use kube::ResourceExt;

use crate::midway::never_failed;
use crate::requested::{another, ask, serial};
use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_profile_is_ordered_and_a_changed_one_comes_with_the_next_renewal,
        a_profile_that_the_ca_does_not_offer_is_done_without_unless_it_is_required,
    ]
}

async fn ca(story: &Story<'_>) -> Result<ScriptedCa> {
    let days = |n: u64| Profile::living(Duration::from_hours(24 * n));
    let profiles = [("classic", days(90)), ("tlsserver", days(45))];
    let ca = story
        .scripted_ca(Settings {
            profiles: profiles.map(|(name, p)| (name.to_owned(), p)).into(),
            ..Settings::default()
        })
        .await?;
    let issuer = story.issuer_ready("ca").await?;
    let listed = issuer.status.context("no status")?.profiles;
    ensure!(listed == ["classic", "tlsserver"], "{listed:?}");
    Ok(ca)
}

async fn want(story: &Story<'_>, name: &str, profile: &str, policy: ProfilePolicy) -> Result<()> {
    let profile = Wanted {
        name: profile.to_owned(),
        policy,
    };
    let hosts = [story.host(name)];
    story
        .certificate_with(name, &hosts, |spec| spec.profile = Some(profile))
        .await
        .map(drop)
}

/// The profiles that the orders for a host were placed with.
fn ordered(ca: &ScriptedCa, host: &str) -> BTreeMap<String, usize> {
    let orders = ca.journal().of(Endpoint::NewOrder).naming(host);
    let mut found = BTreeMap::new();
    for entry in orders.entries() {
        let words = entry
            .note
            .split_once("profile ")
            .map_or("none", |(_, rest)| rest);
        let profile = words.split(' ').next().unwrap_or_default();
        *found.entry(profile.to_owned()).or_default() += 1;
    }
    found
}

async fn a_profile_is_ordered_and_a_changed_one_comes_with_the_next_renewal(
    story: Story<'_>,
) -> Result<()> {
    let ca = ca(&story).await?;
    want(&story, "www", "classic", ProfilePolicy::Preferred).await?;
    let first = story.ready("www", SOON).await?;
    let lifetime = |c: &Certificate| {
        let status = c.status.as_ref()?;
        let (from, to) = (status.not_before.as_ref()?, status.not_after.as_ref()?);
        Some(to.0.duration_since(from.0).as_hours() / 24)
    };
    ensure!(lifetime(&first) == Some(90), "{:?}", lifetime(&first));
    let mark = story
        .secret("www")
        .await?
        .annotations()
        .get(keys::PROFILE)
        .cloned();
    ensure!(mark.as_deref() == Some("classic"), "{mark:?}");

    want(&story, "www", "tlsserver", ProfilePolicy::Required).await?;
    let words =
        "was ordered with the profile classic, tlsserver is wanted: it comes with the renewal at";
    story
        .condition_says("www", condition::PROFILE_PENDING, words, SOON)
        .await?;
    ensure!(ca.count().orders == 1, "{}", ca.journal());
    ask(&story, "www", &Timestamp::now().to_string()).await?;
    another(&story, "www", &serial(&first)?).await?;
    let second: Certificate = story
        .until("www", "nothing is pending", SOON, |c: &Certificate| {
            condition::find(conditions_of(c), condition::PROFILE_PENDING).is_none()
        })
        .await?;
    ensure!(lifetime(&second) == Some(45), "{:?}", lifetime(&second));
    let placed = ordered(&ca, &story.host("www"));
    let both = [("classic".to_owned(), 1), ("tlsserver".to_owned(), 1)];
    ensure!(placed == BTreeMap::from(both), "{placed:?}");
    never_failed(&story, "www").await
}

async fn a_profile_that_the_ca_does_not_offer_is_done_without_unless_it_is_required(
    story: Story<'_>,
) -> Result<()> {
    let ca = ca(&story).await?;
    let offers = "which the CA does not offer (it offers classic, tlsserver)";
    want(&story, "must", "shortlived", ProfilePolicy::Required).await?;
    let message = story
        .condition_says("must", condition::STALLED, offers, SOON)
        .await?;
    ensure!(
        message.contains("spec.profile.name asks for the profile shortlived"),
        "{message}"
    );
    want(&story, "may", "shortlived", ProfilePolicy::Preferred).await?;
    story.ready("may", SOON).await?;
    story
        .condition_says("may", condition::PROFILE_PENDING, offers, SOON)
        .await?;
    ensure!(
        ordered(&ca, &story.host("must")).is_empty(),
        "{}",
        ca.journal()
    );
    let without = BTreeMap::from([("none".to_owned(), 1)]);
    ensure!(
        ordered(&ca, &story.host("may")) == without,
        "{}",
        ca.journal()
    );

    // Offered, and refused all the same.
    let refusal = Problem::new(400, "invalidProfile", "not for you");
    for name in ["refused", "denied"] {
        let host = story.host(name);
        ca.script()
            .on(Endpoint::NewOrder)
            .naming(&host)
            .once(Answer::problem(&refusal));
    }
    want(&story, "refused", "tlsserver", ProfilePolicy::Preferred).await?;
    story.ready("refused", SOON).await?;
    never_failed(&story, "refused").await?;
    ensure!(
        ca.journal()
            .of(Endpoint::NewOrder)
            .naming(&story.host("refused"))
            .len()
            == 2
    );
    want(&story, "denied", "tlsserver", ProfilePolicy::Required).await?;
    let message = story
        .condition_says("denied", condition::STALLED, "not for you", SOON)
        .await?;
    ensure!(message.contains("spec.profile.name"), "{message}");
    want(&story, "must", "tlsserver", ProfilePolicy::Required).await?;
    story.ready("must", SOON).await?;
    Ok(())
}
