//! The solver cannot start, for one reason after another: each is told with its remedy before any order is placed, and told once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evercert_api::condition;
use evercert_api::keys::SOLVER_NAME;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::NAMESPACE;
use evercert_e2e::story::SOON;
use evercert_e2e::{Story, manifest, operator, pods};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, ResourceQuota};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::issue::no_route_stays;
use crate::{Tale, tales};

/// Each reason is told within this.
const TOLD: Duration = Duration::from_mins(1);
/// In so long one object is written at most.
const CALM: Duration = Duration::from_secs(30);
/// The object that is in the way, of whatever kind.
const OBSTACLE: &str = "in-the-way";
/// Its pods.
const SOLVERS: &str = "app.kubernetes.io/name=evercert-solver";
/// An image that is nowhere.
const NOWHERE: &str = "localhost/nobody:1";
/// Which level of PodSecurity pods have to conform to.
const LEVEL: &str = "pod-security.kubernetes.io/enforce";

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_solver_that_cannot_start_is_told_with_its_own_reason_and_no_order_is_placed_before_it_can
    ]
}

/// What is in the way, and what is said of it.
struct Case {
    name: &'static str,
    obstacle: Obstacle,
    words: &'static [&'static str],
}

enum Obstacle {
    /// An object in the operator's namespace.
    Object(&'static str),
    /// The operator may not write Deployments.
    NoRight,
    /// The solver may not read the challenges: it never says that it is ready, as behind a policy that lets it reach nobody.
    NoRightOfItsOwn,
    /// The operator is told an image that is nowhere.
    Image,
}

fn cases() -> [Case; 5] {
    [
        Case {
            name: "quota",
            obstacle: Obstacle::Object(
                "{apiVersion: v1, kind: ResourceQuota, metadata: {name: in-the-way}, spec: {hard: {pods: '0'}}}",
            ),
            words: &[
                "exceeded quota: in-the-way",
                "Remedy: let the operator's namespace take",
            ],
        },
        Case {
            name: "limits",
            obstacle: Obstacle::Object(
                "{apiVersion: v1, kind: LimitRange, metadata: {name: in-the-way}, \
                 spec: {limits: [{type: Container, min: {memory: 128Mi}}]}}",
            ),
            words: &[
                "minimum memory usage per Container is 128Mi",
                "its LimitRanges",
            ],
        },
        Case {
            name: "right",
            obstacle: Obstacle::NoRight,
            words: &[
                "Deployment evercert-system/evercert-solver cannot be written",
                "forbidden",
            ],
        },
        Case {
            name: "own-right",
            obstacle: Obstacle::NoRightOfItsOwn,
            words: &[
                "runs and is not ready",
                "NetworkPolicies",
                "bind the solver's Role",
            ],
        },
        // The last, since it starts the operator anew.
        Case {
            name: "image",
            obstacle: Obstacle::Image,
            words: &[
                "its image localhost/nobody:1 cannot be pulled",
                "solver.image",
            ],
        },
    ]
}

async fn a_solver_that_cannot_start_is_told_with_its_own_reason_and_no_order_is_placed_before_it_can(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.ca().await?;
    // It conforms to that: no reason not to start.
    enforce(&story, Some("restricted")).await?;
    let mut told = Ok(());
    for (case, number) in cases().iter().zip(0..) {
        told = tell(&story, case, number, &ca).await;
        if told.is_err() {
            break;
        }
    }
    enforce(&story, None).await?;
    told
}

async fn tell(story: &Story<'_>, case: &Case, orders: usize, ca: &TestCa) -> Result<()> {
    let taken = put(story, &case.obstacle).await.context(case.name)?;
    let told = held(story, case, orders, ca).await;
    taken.give_back(story).await?;
    told.context(case.name)?;
    if matches!(case.obstacle, Obstacle::Object(_)) {
        // The cluster tries ever more rarely to make a pod that it refused.
        stop(story).await?;
    }
    story.ready(case.name, SOON * 2).await.context(case.name)?;
    ensure!(ca.count()?.orders == orders + 1, "{:?}", ca.count()?);
    Ok(())
}

/// The certificate waits for the solver, which is told why it does not start, and nothing else happens.
async fn held(story: &Story<'_>, case: &Case, orders: usize, ca: &TestCa) -> Result<()> {
    stop(story).await?;
    story
        .certificate(case.name, &[story.host(case.name)])
        .await?;
    let [first, rest @ ..] = case.words else {
        anyhow::bail!("no words");
    };
    let message = story
        .condition_says(case.name, condition::READY, first, TOLD)
        .await?;
    ensure!(
        rest.iter().all(|words| message.contains(words)),
        "{message}"
    );
    if matches!(case.obstacle, Obstacle::Image) {
        is_calm(story, case.name).await?;
    }
    let count = ca.count()?;
    ensure!(
        count.orders == orders && count.challenges == orders,
        "asked for before the solver was ready: {count:?}"
    );
    Ok(())
}

/// Once all is said and a fallback stands in, nothing is written, however often a kubelet tries.
async fn is_calm(story: &Story<'_>, name: &str) -> Result<()> {
    story
        .condition(name, condition::FALLBACK_IN_USE, "True", SOON)
        .await?;
    no_route_stays(story).await?;
    let audit = story.stage.audit()?;
    let from = Instant::now();
    story
        .wait_for("thirty seconds are over", CALM * 2, async || {
            Ok((from.elapsed() >= CALM).then_some(()))
        })
        .await?;
    let writes = audit.mutating(&operator::user())?;
    ensure!(writes.len() <= 1, "{writes:?}");
    Ok(())
}

/// Whether pods of the operator's namespace have to conform to a level of PodSecurity.
async fn enforce(story: &Story<'_>, level: Option<&str>) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(story.stage.client.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {LEVEL: level}}}));
    namespaces
        .patch(NAMESPACE, &PatchParams::default(), &label)
        .await?;
    Ok(())
}

/// Takes the solver's pods away; the cluster makes others where it can. The Deployment stays: who deletes it again and again is
/// given way to ever longer.
async fn stop(story: &Story<'_>) -> Result<()> {
    let client = || story.stage.client.clone();
    let sets: Api<ReplicaSet> = Api::namespaced(client(), NAMESPACE);
    let of_solver = ListParams::default().labels(SOLVERS);
    let before = pods::list(&client(), NAMESPACE, SOLVERS).await?;
    let before: Vec<_> = before.iter().map(ResourceExt::uid).collect();
    // A new one tries at once.
    for set in sets.list(&of_solver).await? {
        // It may be going by itself.
        let _ = sets
            .delete(&set.name_any(), &DeleteParams::background())
            .await;
    }
    let pods: Api<Pod> = Api::namespaced(client(), NAMESPACE);
    let at_once = DeleteParams::default().grace_period(0);
    story
        .wait_for("its pods are gone", SOON, async || {
            let mut left = pods::list(&client(), NAMESPACE, SOLVERS).await?;
            left.retain(|pod| before.contains(&pod.uid()));
            for pod in &left {
                let _ = pods.delete(&pod.name_any(), &at_once).await;
            }
            Ok(left.is_empty().then_some(()))
        })
        .await
}

/// What was taken away for a case, or is in the way.
enum Taken {
    Object,
    Role(Box<Role>),
    Binding(Box<RoleBinding>),
    Image,
}

async fn put(story: &Story<'_>, obstacle: &Obstacle) -> Result<Taken> {
    let client = || story.stage.client.clone();
    match obstacle {
        Obstacle::Object(yaml) => {
            manifest::apply(&client(), NAMESPACE, yaml).await?;
            Ok(Taken::Object)
        }
        Obstacle::NoRight => {
            let roles: Api<Role> = Api::namespaced(client(), NAMESPACE);
            let role = roles.get(operator::SERVICE_ACCOUNT).await?;
            let mut less = role.clone();
            for rule in less.rules.iter_mut().flatten() {
                let resources = rule.resources.iter().flatten();
                if resources
                    .into_iter()
                    .any(|resource| resource == "deployments")
                {
                    rule.verbs.retain(|verb| verb == "list" || verb == "watch");
                }
            }
            roles
                .replace(&role.name_any(), &PostParams::default(), &less)
                .await?;
            let deployments: Api<Deployment> = Api::namespaced(client(), NAMESPACE);
            deployments
                .delete(SOLVER_NAME, &DeleteParams::background())
                .await?;
            Ok(Taken::Role(Box::new(role)))
        }
        Obstacle::NoRightOfItsOwn => {
            let bindings: Api<RoleBinding> = Api::namespaced(client(), NAMESPACE);
            let binding = bindings.get(SOLVER_NAME).await?;
            bindings
                .delete(SOLVER_NAME, &DeleteParams::default())
                .await?;
            Ok(Taken::Binding(Box::new(binding)))
        }
        Obstacle::Image => {
            let mut operator = story.stage.operator.lock().await;
            operator.kill()?;
            operator.restart_with(&[("EVERCERT_SOLVER_IMAGE", NOWHERE)])?;
            operator.ready().await?;
            let deployments: Api<Deployment> = Api::namespaced(client(), NAMESPACE);
            story
                .wait_for("the solver's Deployment names it", SOON, async || {
                    let deployment = json!(deployments.get(SOLVER_NAME).await?.spec);
                    Ok(deployment.to_string().contains(NOWHERE).then_some(()))
                })
                .await?;
            Ok(Taken::Image)
        }
    }
}

impl Taken {
    async fn give_back(self, story: &Story<'_>) -> Result<()> {
        let client = || story.stage.client.clone();
        match self {
            Self::Object => {
                let quotas: Api<ResourceQuota> = Api::namespaced(client(), NAMESPACE);
                let limits: Api<LimitRange> = Api::namespaced(client(), NAMESPACE);
                let params = DeleteParams::default();
                // One of them is there.
                let gone = (
                    quotas.delete(OBSTACLE, &params).await,
                    limits.delete(OBSTACLE, &params).await,
                );
                ensure!(gone.0.is_ok() || gone.1.is_ok(), "{gone:?}");
                Ok(())
            }
            Self::Role(role) => {
                let roles: Api<Role> = Api::namespaced(client(), NAMESPACE);
                let mut now = roles.get(&role.name_any()).await?;
                now.rules = role.rules;
                roles
                    .replace(&now.name_any(), &PostParams::default(), &now)
                    .await?;
                Ok(())
            }
            Self::Binding(mut binding) => {
                binding.metadata.resource_version = None;
                binding.metadata.uid = None;
                let bindings: Api<RoleBinding> = Api::namespaced(client(), NAMESPACE);
                bindings.create(&PostParams::default(), &binding).await?;
                Ok(())
            }
            Self::Image => {
                let mut operator = story.stage.operator.lock().await;
                operator.kill()?;
                operator.ensure_ready().await
            }
        }
    }
}
