//! What leads to an effect.

use anyhow::{Context, Result};
use evercert_api::certificate::DeletionPolicy;
use evercert_api::condition::FALLBACK_IN_USE;
use evercert_api::keys::{
    COMPONENT_LABEL, COMPONENT_ROUTE, DELETE_WITH, ROTATE_ACCOUNT_KEY, SECRET_ROLE_LABEL,
    SOLVER_NAME,
};
use evercert_api::{Certificate, Issuer, children};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::{NAMESPACE, ingress_class};
use evercert_e2e::story::issuer_yaml;
use evercert_operator::effect::Effect;
use evercert_operator::effect::failpoint::Point;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ResourceQuota, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::PATIENCE;
use crate::issue::no_route_stays;
use crate::placement;
use crate::revoked;

/// The name of the Certificate, and of its Secret.
pub(super) const SITE: &str = "site";
/// The name of what an earlier run left.
pub(super) const OLD: &str = "old";
/// How long a route that no challenge needs any more may stay.
pub(super) const ROUTE_PATIENCE: &str = "EVERCERT_ROUTE_PATIENCE";

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Play {
    /// A new Issuer, and a Certificate from it.
    Issue,
    /// The same with a self-signed Issuer.
    SelfSign,
    /// Another key for the account is asked for.
    Rotate,
    /// The certificate in place is to be revoked.
    Revoke,
    /// The TLS Secret is deleted.
    Restore,
    /// The TLS Secret loses its marks.
    Mend,
    /// The Certificate was deleted, and comes back; its Secret has no marks any more.
    Adopt,
    /// Another Certificate is deleted, whose Secret goes with it.
    Delete,
    /// The companion is deleted.
    Copy,
    /// The companion loses its owner, as in a copy.
    Disown,
    /// The CA refuses the name; then another is asked for.
    Refuse,
    /// An annotated Ingress asks for the Certificate.
    Source,
    /// An Ingress asks for another Certificate no longer.
    Unask,
    /// Another name is asked for while an authorization is open.
    Abandon,
    /// The first certificate in a cluster without a solver.
    StartSolver,
    /// The solver has nothing to do.
    StopSolver,
    /// While a route is open, routes of an earlier run are there.
    Leftovers,
    /// The path of the challenge goes into a user's own Ingress.
    Edit,
    /// The routes lead through a forwarder in the namespace.
    Forward,
    /// The operator is asked to end, in the middle.
    End,
}

impl Play {
    /// The play that leads to `effect`.
    pub(super) fn of(effect: Effect) -> Self {
        match effect {
            Effect::CreateAccountKey
            | Effect::NewAccount
            | Effect::UpdateContact
            | Effect::WriteIssuerStatus
            | Effect::RecordIntent
            | Effect::KeepPendingKey
            | Effect::TrySecret
            | Effect::NewOrder
            | Effect::RecordOrder
            | Effect::AcceptChallenges
            | Effect::Finalize
            | Effect::KeepIssued
            | Effect::StoreIssued
            | Effect::ClearOrder
            | Effect::DropPendingKey
            | Effect::WriteStatus
            | Effect::WriteEvent
            | Effect::ApplyChallenges
            | Effect::ApplyRouteService
            | Effect::ApplyRouteSlice
            | Effect::ApplyRouteIngress
            | Effect::DeleteRouteService
            | Effect::TakeLease
            | Effect::RenewLease => Self::Issue,
            Effect::ReleaseLease => Self::End,
            Effect::ApplyCertificate => Self::Source,
            Effect::RemoveCertificate => Self::Unask,
            Effect::KeepNextAccountKey | Effect::ChangeAccountKey | Effect::SettleAccountKey => {
                Self::Rotate
            }
            Effect::NoteRevocation | Effect::Revoke | Effect::SettleRevocation => Self::Revoke,
            Effect::KeepSelfSigned | Effect::StoreSelfSigned => Self::SelfSign,
            Effect::RestoreSecret => Self::Restore,
            Effect::MendMarks => Self::Mend,
            Effect::AdoptSecret => Self::Adopt,
            Effect::DeleteSecret => Self::Delete,
            Effect::KeepCopy => Self::Copy,
            Effect::OwnCompanion => Self::Disown,
            Effect::RecordFailure | Effect::WriteFallback => Self::Refuse,
            Effect::SettleIntent | Effect::DeactivateAuthorizations => Self::Abandon,
            Effect::ApplySolverDeployment | Effect::ApplySolverService => Self::StartSolver,
            Effect::DeleteSolverDeployment | Effect::DeleteSolverService => Self::StopSolver,
            Effect::DeleteRouteSlice | Effect::DeleteRouteIngress => Self::Leftovers,
            Effect::EditIngress | Effect::RestoreIngress => Self::Edit,
            Effect::ApplyForwarder | Effect::DeleteForwarder => Self::Forward,
        }
    }

    /// With the operator at work; nothing of it may lead to the effect.
    pub(super) async fn prepare(self, story: &Story<'_>) -> Result<Option<TestCa>> {
        let ca = match self {
            Self::SelfSign => return Ok(None),
            Self::Refuse => {
                let settings = Pebble {
                    blocklist: vec![story.host("blocked")],
                    ..quick()
                };
                story.stage.ca(story.namespace, settings).await?
            }
            Self::Issue
            | Self::Rotate
            | Self::Revoke
            | Self::Restore
            | Self::Mend
            | Self::Adopt
            | Self::Delete
            | Self::Copy
            | Self::Disown
            | Self::Source
            | Self::Unask
            | Self::Abandon
            | Self::StartSolver
            | Self::StopSolver
            | Self::Leftovers
            | Self::Edit
            | Self::Forward
            | Self::End => story.stage.ca(story.namespace, quick()).await?,
        };
        match self {
            Self::Rotate
            | Self::Revoke
            | Self::Restore
            | Self::Mend
            | Self::Copy
            | Self::Disown
            | Self::StopSolver => {
                begin(story, &ca, "www").await?;
                story.ready(SITE, PATIENCE).await?;
                no_route_stays(story).await?;
            }
            Self::Adopt => {
                begin(story, &ca, "www").await?;
                story.ready(SITE, PATIENCE).await?;
                no_route_stays(story).await?;
                bereave(story).await?;
            }
            Self::Delete => {
                begin(story, &ca, "www").await?;
                story.ready(SITE, PATIENCE).await?;
                no_route_stays(story).await?;
                make_mortal(story).await?;
            }
            Self::Unask => {
                begin(story, &ca, "www").await?;
                story.ready(SITE, PATIENCE).await?;
                no_route_stays(story).await?;
                own_issuer(story).await?;
                story.apply(&annotated(story, OLD, OLD, OLD)).await?;
                story.ready(OLD, PATIENCE).await?;
            }
            Self::Abandon => limit_ingresses(story, 0).await?,
            Self::Leftovers => leave(story).await?,
            Self::Edit => story.apply(&plain(story)).await?,
            Self::Forward => placement::grant(story).await?,
            Self::Issue
            | Self::Source
            | Self::SelfSign
            | Self::Refuse
            | Self::StartSolver
            | Self::End => {}
        }
        Ok(Some(ca))
    }

    /// While there is no operator.
    pub(super) async fn while_down(self, story: &Story<'_>) -> Result<()> {
        if self != Self::StartSolver {
            return Ok(());
        }
        let client = &story.stage.client;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
        for gone in [
            deployments
                .delete(SOLVER_NAME, &DeleteParams::foreground())
                .await
                .map(drop),
            services
                .delete(SOLVER_NAME, &DeleteParams::default())
                .await
                .map(drop),
        ] {
            match gone {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => other?,
            }
        }
        story
            .wait_for("the solver is gone", PATIENCE, async || {
                let there = deployments.get_opt(SOLVER_NAME).await?;
                Ok(there.is_none().then_some(()))
            })
            .await
    }

    /// More variables of the operator's environment. Nobody else's changes are to be waited for.
    pub(super) fn variables(self) -> Vec<(&'static str, &'static str)> {
        let own = self
            .needs_hasty_solver()
            .then_some(("EVERCERT_SOLVER_IDLE", "1s"));
        let forwarders = (self == Self::Forward).then_some(placement::ALLOWED);
        [(ROUTE_PATIENCE, "0s")]
            .into_iter()
            .chain(own)
            .chain(forwarders)
            .collect()
    }

    /// Whether the solver is to go at once, which the next story would not bear.
    fn needs_hasty_solver(self) -> bool {
        self == Self::StopSolver
    }

    /// Leads to the effect: the operator is on its way up.
    pub(super) async fn go(self, story: &Story<'_>, ca: Option<&TestCa>) -> Result<()> {
        let ca = || ca.context("a play without a CA");
        match self {
            Self::Issue | Self::StartSolver | Self::End => begin(story, ca()?, "www").await?,
            Self::SelfSign => {
                let issuer = "{apiVersion: evercert.dev/v1, kind: Issuer, metadata: {name: ca}, spec: {selfSigned: {}}}";
                story.apply(issuer).await?;
                want(story, "www").await?;
            }
            Self::Rotate => {
                let asked = json!({"metadata": {"annotations": {ROTATE_ACCOUNT_KEY: "once"}}});
                let issuers = story.api::<Issuer>();
                issuers
                    .patch("ca", &PatchParams::default(), &Patch::Merge(&asked))
                    .await?;
            }
            Self::Revoke => revoked::ask(story, SITE, Some("superseded")).await?,
            Self::Restore => {
                let secrets = story.api::<Secret>();
                secrets.delete(SITE, &DeleteParams::default()).await?;
            }
            Self::Mend => strip(story).await?,
            Self::Adopt => want(story, "www").await?,
            Self::Delete => {
                let certificates = story.api::<Certificate>();
                certificates.delete(OLD, &DeleteParams::default()).await?;
            }
            Self::Copy => {
                let companion = children::companion_name(story.namespace, SITE);
                let secrets = story.api::<Secret>();
                secrets.delete(&companion, &DeleteParams::default()).await?;
            }
            Self::Disown => {
                let companion = children::companion_name(story.namespace, SITE);
                let without = json!({"metadata": {"ownerReferences": null}});
                let secrets = story.api::<Secret>();
                secrets
                    .patch(&companion, &PatchParams::default(), &Patch::Merge(&without))
                    .await?;
            }
            Self::Refuse => begin(story, ca()?, "blocked").await?,
            Self::Source => {
                issuer(story, ca()?).await?;
                story.apply(&annotated(story, SITE, "ca", "www")).await?;
            }
            Self::Unask => {
                let without = json!({"spec": {"tls": null}});
                let ingresses = story.api::<Ingress>();
                ingresses
                    .patch(OLD, &PatchParams::default(), &Patch::Merge(&without))
                    .await?;
            }
            Self::Abandon => {
                begin(story, ca()?, "other").await?;
                // Its route is refused: the authorization stays open.
                find_route(story).await?;
                want(story, "www").await?;
                let quotas = story.api::<ResourceQuota>();
                quotas.delete(OLD, &DeleteParams::default()).await?;
            }
            Self::StopSolver => {}
            Self::Leftovers => {
                begin(story, ca()?, "www").await?;
                adopt(story).await?;
            }
            Self::Edit | Self::Forward => {
                let mut issuer = build_issuer(ca()?)?;
                issuer["spec"]["acme"]["http01"] = if self == Self::Edit {
                    json!({"editInPlace": true})
                } else {
                    json!({"placement": "Namespace"})
                };
                story.apply(&issuer.to_string()).await?;
                want(story, "www").await?;
            }
        }
        Ok(())
    }

    /// What a person does about it when the operator is back.
    pub(super) async fn mend(self, story: &Story<'_>) -> Result<()> {
        if self == Self::Delete {
            return is_gone(story).await;
        }
        if self == Self::Unask {
            return is_unasked(story).await;
        }
        if self == Self::Edit {
            return is_restored(story).await;
        }
        if self == Self::Revoke {
            return revoked::done(story, SITE).await.map(drop);
        }
        if self != Self::Refuse {
            return Ok(());
        }
        story
            .condition(SITE, FALLBACK_IN_USE, "True", PATIENCE)
            .await?;
        want(story, "www").await
    }
}

/// The operator rests, and the next story finds nothing of this one to do.
pub(super) async fn end(story: &Story<'_>, point: Point) -> Result<()> {
    let all = ListParams::default();
    let (certificates, issuers) = (story.api::<Certificate>(), story.api::<Issuer>());
    // Else they ask for their Certificates again.
    story
        .api::<Ingress>()
        .delete_collection(&DeleteParams::default(), &all)
        .await?;
    certificates
        .delete_collection(&DeleteParams::default(), &all)
        .await?;
    issuers
        .delete_collection(&DeleteParams::default(), &all)
        .await?;
    if Play::of(point.effect).needs_hasty_solver() {
        let mut operator = story.stage.operator.lock().await;
        operator.kill()?;
        operator.restart()?;
    }
    Ok(())
}

/// A CA that never asks for patience.
fn quick() -> Pebble {
    Pebble {
        retry_after: (0, 0),
        ..Pebble::default()
    }
}

async fn begin(story: &Story<'_>, ca: &TestCa, label: &str) -> Result<()> {
    issuer(story, ca).await?;
    want(story, label).await
}

async fn issuer(story: &Story<'_>, ca: &TestCa) -> Result<()> {
    story.apply(&build_issuer(ca)?.to_string()).await
}

fn build_issuer(ca: &TestCa) -> Result<Value> {
    let issuer = issuer_yaml("Issuer", "ca", &ca.directory(), &ca.bundle()?);
    let mut issuer: Value = serde_json::from_str(&issuer)?;
    let acme = issuer.pointer_mut("/spec/acme").context("no acme")?;
    acme["email"] = json!("ops@example.test");
    Ok(issuer)
}

/// An Ingress that serves the name, and asks for nothing.
fn plain(story: &Story<'_>) -> String {
    let backend = json!({"service": {"name": "x", "port": {"number": 80}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": SITE},
        "spec": {"ingressClassName": ingress_class(), "rules": [{"host": story.host("www"), "http": {
            "paths": [{"path": "/", "pathType": "Prefix", "backend": backend}],
        }}]},
    })
    .to_string()
}

/// The user's Ingress has its own path, and no other.
async fn is_restored(story: &Story<'_>) -> Result<()> {
    let api = story.api::<Ingress>();
    story.ready(SITE, PATIENCE).await?;
    story
        .wait_for("the Ingress is as it was", PATIENCE, async || {
            let content = serde_json::to_value(api.get(SITE).await?)?;
            let paths = content.pointer("/spec/rules/0/http/paths");
            let paths = paths.and_then(Value::as_array).context("no paths")?;
            anyhow::ensure!(paths.len() == 1 && paths[0]["path"] == "/", "{paths:?}");
            Ok(Some(()))
        })
        .await
}

/// An Ingress that asks for a Certificate of its own name.
fn annotated(story: &Story<'_>, name: &str, issuer: &str, label: &str) -> String {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "annotations": {"evercert.dev/issuer": issuer}},
        "spec": {
            "ingressClassName": ingress_class(),
            "tls": [{"hosts": [story.host(label)], "secretName": name}],
            "defaultBackend": {"service": {"name": "x", "port": {"number": 80}}},
        },
    })
    .to_string()
}

async fn want(story: &Story<'_>, label: &str) -> Result<()> {
    story.certificate(SITE, &[story.host(label)]).await?;
    Ok(())
}

/// Somebody takes labels and annotations away from the Secret.
async fn strip(story: &Story<'_>) -> Result<()> {
    let bare = json!({"metadata": {"annotations": null, "labels": null}});
    let secrets = story.api::<Secret>();
    secrets
        .patch(SITE, &PatchParams::default(), &Patch::Merge(&bare))
        .await?;
    Ok(())
}

/// The Secret is all that is left of the Certificate, and it does not tell.
async fn bereave(story: &Story<'_>) -> Result<()> {
    let gone = DeleteParams::default();
    story.api::<Certificate>().delete(SITE, &gone).await?;
    let companion = children::companion_name(story.namespace, SITE);
    let deleted = story.api::<Secret>().delete(&companion, &gone).await;
    if let Err(error) = deleted {
        // The garbage collector may have been faster.
        let there = story.api::<Secret>().get_opt(&companion).await?;
        anyhow::ensure!(there.is_none(), "{error}");
    }
    strip(story).await
}

async fn own_issuer(story: &Story<'_>) -> Result<()> {
    let issuer = json!({
        "apiVersion": "evercert.dev/v1", "kind": "Issuer", "metadata": {"name": OLD}, "spec": {"selfSigned": {}},
    });
    story.apply(&issuer.to_string()).await
}

/// The Certificate that nobody asks for any more is gone, its Secret is not; then the rest goes.
async fn is_unasked(story: &Story<'_>) -> Result<()> {
    story
        .wait_for("the Certificate is gone", PATIENCE, async || {
            let there = story.api::<Certificate>().get_opt(OLD).await?;
            Ok(there.is_none().then_some(()))
        })
        .await?;
    story.secret(OLD).await?;
    let gone = DeleteParams::default();
    story.api::<Issuer>().delete(OLD, &gone).await?;
    story.api::<Ingress>().delete(OLD, &gone).await?;
    story.api::<Secret>().delete(OLD, &gone).await?;
    Ok(())
}

/// Another Certificate, whose Secret goes with it.
async fn make_mortal(story: &Story<'_>) -> Result<()> {
    own_issuer(story).await?;
    story
        .certificate_with(OLD, &[story.host(OLD)], |spec| {
            OLD.clone_into(&mut spec.issuer_ref.name);
            spec.deletion_policy = DeletionPolicy::Delete;
        })
        .await?;
    story.ready(OLD, PATIENCE).await?;
    let marked = |secret: &Secret| secret.annotations().get(DELETE_WITH) == secret.uid().as_ref();
    story.until(OLD, "it is marked", PATIENCE, marked).await?;
    Ok(())
}

/// Its Secret, and what else was its own.
async fn is_gone(story: &Story<'_>) -> Result<()> {
    let issuers = story.api::<Issuer>();
    issuers.delete(OLD, &DeleteParams::default()).await?;
    story
        .wait_for("the Secret is gone", PATIENCE, async || {
            let there = story.api::<Secret>().get_opt(OLD).await?;
            Ok(there.is_none().then_some(()))
        })
        .await
}

/// An Ingress in a namespace that may have one.
async fn leave(story: &Story<'_>) -> Result<()> {
    let old = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": OLD},
        "spec": {"ingressClassName": "nobodys", "defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}},
    });
    story.apply(&old.to_string()).await?;
    limit_ingresses(story, 1).await
}

/// The namespace may have so many Ingresses, and the API server knows it.
async fn limit_ingresses(story: &Story<'_>, most: usize) -> Result<()> {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": OLD},
        "spec": {"hard": {"count/ingresses.networking.k8s.io": most.to_string()}},
    });
    story.apply(&quota.to_string()).await?;
    let counted = |quota: &ResourceQuota| {
        quota
            .status
            .as_ref()
            .is_some_and(|status| status.used.is_some())
    };
    story
        .until(OLD, "the quota is counted", PATIENCE, counted)
        .await?;
    Ok(())
}

/// Makes the Ingress, and a slice, a route of an earlier run: the route Service owns them. Until the Ingress goes there is no
/// room for the one that is needed.
async fn adopt(story: &Story<'_>) -> Result<()> {
    let service = find_route(story).await?;
    let route = service.name_any();
    let metadata = |name: &str| {
        json!({
            "name": name,
            "labels": {COMPONENT_LABEL: COMPONENT_ROUTE},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": route,
                "uid": service.uid().unwrap_or_default(),
            }],
        })
    };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata(&format!("{route}-{OLD}")),
        "addressType": "IPv4", "endpoints": [],
    });
    story.apply(&slice.to_string()).await?;
    let marks = json!({"metadata": metadata(OLD)});
    story
        .api::<Ingress>()
        .patch(OLD, &PatchParams::default(), &Patch::Merge(&marks))
        .await?;
    Ok(())
}

/// The Service of the namespace's routes.
async fn find_route(story: &Story<'_>) -> Result<Service> {
    let routes = ListParams::default().labels(&format!("{COMPONENT_LABEL}={COMPONENT_ROUTE}"));
    let services = story.api::<Service>();
    story
        .wait_for("the route's Service", PATIENCE, async || {
            Ok(services.list(&routes).await?.items.pop())
        })
        .await
}

/// The label that the operator finds its Secrets by.
pub(super) fn is_labelled(secret: &Secret) -> bool {
    secret.labels().contains_key(SECRET_ROLE_LABEL)
}
