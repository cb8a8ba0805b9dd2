//! The user's own certificate as the fallback.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::certificate::{Fallback, FallbackMode, FallbackTrigger};
use evercert_api::condition::{FALLBACK_IN_USE, READY};
use evercert_api::issuer::SecretRef;
use evercert_api::{CertificateSpec, keys};
use evercert_e2e::Story;
use evercert_e2e::foreign::Pair;
use evercert_e2e::history::Version;
use evercert_e2e::story::SOON;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::json;

use crate::issue::data;
use crate::{Tale, tales};

/// A change of the user's own certificate is followed within 30 s.
const FOLLOWED: Duration = Duration::from_secs(35);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        the_users_own_certificate_stands_in_and_is_followed_and_a_self_signed_one_takes_over,
        a_fallback_that_is_wanted_immediately_is_there_before_anything_failed,
    ]
}

fn own(spec: &mut CertificateSpec, trigger: FallbackTrigger) {
    spec.fallback = Some(Fallback {
        mode: FallbackMode::Secret,
        secret_ref: Some(SecretRef {
            name: "wildcard".into(),
        }),
        trigger,
    });
}

/// The Issuer does not exist, so that the fallback stays.
async fn the_users_own_certificate_stands_in_and_is_followed_and_a_self_signed_one_takes_over(
    story: Story<'_>,
) -> Result<()> {
    let wildcard = format!("*.{}.test", story.namespace);
    let first = Pair::issue(std::slice::from_ref(&wildcard), 86_400)?;
    let name = |pair: &Pair| pair.secret("wildcard", &json!({}));
    story.apply(&name(&first).to_string()).await?;
    story
        .certificate_with("site", &[story.host("www")], |spec| {
            own(spec, FallbackTrigger::Immediately);
        })
        .await?;
    holds(&story, &first, SOON).await?;
    let words = "the certificate from Secret wildcard stands in";
    story
        .condition_says("site", FALLBACK_IN_USE, words, SOON)
        .await?;
    story.condition("site", READY, "False", SOON).await?;

    // It changes, and is soon to end.
    let second = Pair::issue(std::slice::from_ref(&wildcard), 50)?;
    story.apply(&name(&second).to_string()).await?;
    holds(&story, &second, FOLLOWED).await?;

    // It ends.
    let words = "holds a certificate that expired";
    story
        .condition_says("site", FALLBACK_IN_USE, words, SOON * 3)
        .await?;
    let secret = story.secret("site").await?;
    let version = Version::of(&secret, Timestamp::now());
    ensure!(
        version.is_usable_at(Timestamp::now()) && version.fallback,
        "{version:?}"
    );
    let leaf = version.leaf.context("no certificate")?;
    ensure!(
        leaf.names == [story.host("www")] && leaf.issuer == leaf.subject,
        "{leaf:?}"
    );

    // It lacks the name, then is good again.
    let other = Pair::issue(&["elsewhere.test".to_owned()], 86_400)?;
    story.apply(&name(&other).to_string()).await?;
    let words = format!("lacks {}", story.host("www"));
    story
        .condition_says("site", FALLBACK_IN_USE, &words, FOLLOWED)
        .await?;
    let third = Pair::issue(&[wildcard], 86_400)?;
    story.apply(&name(&third).to_string()).await?;
    holds(&story, &third, FOLLOWED).await
}

async fn holds(story: &Story<'_>, pair: &Pair, within: Duration) -> Result<()> {
    let what = "it holds the user's own certificate, marked";
    story
        .until("site", what, within, |secret: &Secret| {
            data(secret, keys::TLS_CRT) == pair.chain.as_bytes()
                && data(secret, keys::TLS_KEY) == pair.key.as_bytes()
                && secret.annotations().contains_key(keys::FALLBACK)
        })
        .await
        .map(drop)
}

async fn a_fallback_that_is_wanted_immediately_is_there_before_anything_failed(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    let mark = |spec: &mut CertificateSpec| {
        spec.fallback = Some(Fallback {
            trigger: FallbackTrigger::Immediately,
            ..Fallback::default()
        });
    };
    story
        .certificate_with("site", &[story.host("www")], mark)
        .await?;
    story.ready("site", SOON).await?;
    let name = format!("{}/site", story.namespace);
    let seen: Vec<bool> = story
        .stage
        .history
        .of(&name)
        .iter()
        .map(|v| v.fallback)
        .collect();
    ensure!(
        seen.first() == Some(&true) && seen.last() == Some(&false),
        "not first a fallback, then the certificate: {seen:?}"
    );
    let count = ca.count()?;
    ensure!(count.orders == 1 && count.certificates == 1, "{count:?}");
    Ok(())
}
