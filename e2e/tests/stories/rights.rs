//! The operator lacks a right (they change its role): it says so at its start, by name, and is ready where it can be.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_e2e::operator::{Operator, Role};
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, operator, wait_for};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::PostParams;

use crate::{Tale, tales};

const ALL: &str = "the operator has every right that it needs";
/// A watch that is refused begins anew with growing pauses.
const AGAIN: Duration = Duration::from_mins(1);

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_part_that_it_has_no_right_to_is_said_at_its_start_and_it_is_ready,
        a_watch_that_it_has_no_right_to_is_said_at_its_start_and_it_is_not_ready_before,
    ]
}

async fn a_part_that_it_has_no_right_to_is_said_at_its_start_and_it_is_ready(
    story: Story<'_>,
) -> Result<()> {
    let mut operator = story.stage.operator.lock().await;
    let log = begin_anew(&mut operator, async || Ok(())).await?;
    says(&log, ALL).await?;

    let withdrawn = withdraw(&story, "cert-manager.io/certificates", &["get"]).await?;
    let told = async {
        let log = begin_anew(&mut operator, async || {
            is_refused(&story, "cert-manager.io", "certificates", "get").await
        })
        .await?;
        operator.ready().await?;
        let line = says(
            &log,
            "may not get certificates of cert-manager.io in all namespaces",
        )
        .await?;
        ensure!(
            line.contains("WARN")
                && line.contains("the chart's ClusterRole")
                && line.contains("rbac.create: true"),
            "{line}"
        );
        let others = log.read()?.matches("the operator may not").count();
        ensure!(others == 1, "{}", log.read()?);
        Ok(())
    };
    let told = told.await;
    withdrawn.give_back().await?;
    told
}

async fn a_watch_that_it_has_no_right_to_is_said_at_its_start_and_it_is_not_ready_before(
    story: Story<'_>,
) -> Result<()> {
    let mut operator = story.stage.operator.lock().await;
    let audit = story.stage.audit()?;
    let withdrawn = withdraw(&story, "ingresses", &["list", "watch"]).await?;
    let told = async {
        let log = begin_anew(&mut operator, async || {
            is_refused(&story, "networking.k8s.io", "ingresses", "watch").await
        })
        .await?;
        let words = "may not list and watch ingresses of networking.k8s.io in all namespaces";
        let line = says(&log, words).await?;
        ensure!(
            line.contains("ERROR") && line.contains("does not get ready"),
            "{line}"
        );
        // By then all other caches would have been filled.
        wait_for(
            "it has asked for Ingresses three times",
            AGAIN,
            async || {
                let calls = audit.calls(&operator::user())?;
                let refused = calls
                    .iter()
                    .filter(|call| call.resource() == "ingresses" && !call.was_authorized());
                Ok((refused.count() >= 3).then_some(()))
            },
        )
        .await?;
        let role = operator.role()?;
        ensure!(role.is_none(), "it says that it is {role:?}");
        operator.pid().context("it has ended")
    };
    let told = told.await;
    withdrawn.give_back().await?;
    let pid = told?;
    operator.is(Role::Leader, AGAIN).await?;
    ensure!(operator.pid() == Some(pid), "it was started again");
    Ok(())
}

/// Ends the operator, waits for `change`, and starts it; gives what it says from then on.
async fn begin_anew(
    operator: &mut Operator,
    change: impl AsyncFnOnce() -> Result<()>,
) -> Result<Log> {
    operator.kill()?;
    change().await?;
    let log = Log {
        file: operator.log().to_path_buf(),
        from: std::fs::read(operator.log())?.len(),
    };
    operator.restart()?;
    Ok(log)
}

/// The operator's log, from a place in it.
struct Log {
    file: std::path::PathBuf,
    from: usize,
}

impl Log {
    fn read(&self) -> Result<String> {
        let all = std::fs::read(&self.file)?;
        let new = all.get(self.from..).context("the log was cut")?;
        Ok(String::from_utf8_lossy(new).into_owned())
    }
}

/// The first line with these words.
async fn says(log: &Log, words: &str) -> Result<String> {
    wait_for(&format!("the log says: {words}"), SOON, async || {
        let text = log.read()?;
        let line = text.lines().find(|line| line.contains(words));
        Ok(line.map(ToOwned::to_owned))
    })
    .await
}

/// Waits until the API server has noticed.
async fn is_refused(story: &Story<'_>, group: &str, resource: &str, verb: &str) -> Result<()> {
    let reviews: Api<SubjectAccessReview> = Api::all(story.stage.client.clone());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(operator::user()),
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    wait_for("the right is withdrawn", SOON, async || {
        let answer = reviews.create(&PostParams::default(), &review).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        Ok((!allowed).then_some(()))
    })
    .await
}

/// The operator's rights, without some of them.
pub(crate) struct Withdrawn {
    api: Api<ClusterRole>,
    before: ClusterRole,
}

/// Takes `verbs` out of the rule for `resource`, or for `group/resource` where two groups have one.
pub(crate) async fn withdraw(
    story: &Story<'_>,
    resource: &str,
    verbs: &[&str],
) -> Result<Withdrawn> {
    let api: Api<ClusterRole> = Api::all(story.stage.client.clone());
    let before = api.get("evercert").await?;
    let mut less = before.clone();
    let (group, resource) = match resource.split_once('/') {
        Some((group, resource)) => (Some(group), resource),
        None => (None, resource),
    };
    let rules = less.rules.iter_mut().flatten().filter(|rule| {
        let of_group =
            group.is_none_or(|g| rule.api_groups.iter().flatten().any(|other| other == g));
        of_group && rule.resources.iter().flatten().any(|r| r == resource)
    });
    let mut hit = 0;
    for rule in rules {
        rule.verbs.retain(|verb| !verbs.contains(&verb.as_str()));
        hit += 1;
    }
    ensure!(hit == 1, "{hit} rules are about {resource}");
    // A rule without a verb is refused.
    if let Some(rules) = &mut less.rules {
        rules.retain(|rule| !rule.verbs.is_empty());
    }
    api.replace("evercert", &PostParams::default(), &less)
        .await
        .context("withdrawing a right")?;
    Ok(Withdrawn { api, before })
}

impl Withdrawn {
    /// All of them again.
    pub(crate) async fn give_back(self) -> Result<()> {
        let mut role = self.api.get("evercert").await?;
        role.rules = self.before.rules;
        self.api
            .replace("evercert", &PostParams::default(), &role)
            .await
            .context("giving a right back")?;
        Ok(())
    }
}
