//! What leads to an effect.

use super::PATIENCE;
use super::step::{
    adopt, annotated, begin, bereave, build_issuer, find_route, is_gone, is_restored, is_unasked,
    issuer, leave, limit_ingresses, make_mortal, own_issuer, plain, quick, strip, want,
};
use crate::issue::no_route_stays;
use crate::placement;
use crate::revoked;
use anyhow::{Context, Result};
use evercert_api::condition::FALLBACK_IN_USE;
use evercert_api::keys::{ROTATE_ACCOUNT_KEY, SOLVER_NAME};
use evercert_api::{Certificate, Issuer, children};
use evercert_cluster::Pebble;
use evercert_e2e::Story;
use evercert_e2e::ca::TestCa;
use evercert_e2e::operator::NAMESPACE;
use evercert_operator::effect::Effect;
use evercert_operator::effect::failpoint::Point;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ResourceQuota, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

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
