//! The port over instant-acme, and over signed requests of our own for what is addressed by its URL.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use evercert_api::Identifier as Name;
use evercert_core::fault::{Fault, FaultClass, Place};
use evercert_core::order::{AuthorizationView, ChallengeView, OrderState, OrderView};
use evercert_core::revocation::RevocationReason;
use futures::{StreamExt, TryStreamExt, stream};
use instant_acme::{Account, CertificateIdentifier, Identifier, NewOrder, Order};
use jiff::Timestamp;

use crate::client::{Answer, Outcome};
use crate::directory::Directory;
use crate::fault::Attempt;
use crate::jose::Signer;
use crate::port::{Acme, Chain, OrderRequest};
use crate::transport::{Transport, is_base64url, with_fresh_nonces};
use crate::wire::{WireAuthorization, WireChallenge, WireOrder, WireProblem, WireProofStatus};

/// Requests for one order under way at a time: enough for a hundred names in seconds, far below what any CA limits.
const AT_A_TIME: usize = 8;
/// Most authorizations of an order: it has at most 100 names.
const MOST_AUTHORIZATIONS: usize = 100;

const NO_CERTIFICATE: &str = "the answer holds no certificate";

/// An account at a directory.
pub(crate) struct AcmeAccount {
    directory: Arc<Directory>,
    account: Account,
    signer: Signer,
}

impl AcmeAccount {
    pub(crate) fn new(directory: Arc<Directory>, account: Account, signer: Signer) -> Self {
        Self {
            directory,
            account,
            signer,
        }
    }

    /// Fetches an order: one request.
    async fn fetch(
        &self,
        url: &str,
        attempt: &Attempt<'_>,
    ) -> Result<(Order, WireOrder, Answer), Fault> {
        self.transport()
            .permit(url)
            .map_err(|e| attempt.unanswered(&e))?;
        let call = with_fresh_nonces!(self.transport(), self.account.order(url.to_owned()));
        let (order, answer) = attempt.check_call(call)?;
        let wire = self.read(&answer, attempt)?;
        Ok((order, wire, answer))
    }

    /// Reads an order's JSON, and refuses one that leads away from the directory's origins.
    fn read(&self, answer: &Answer, attempt: &Attempt<'_>) -> Result<WireOrder, Fault> {
        let wire: WireOrder = attempt.parse(answer)?;
        if let Some(foreign) = wire.urls().find(|u| !self.transport().allows(u)) {
            let why = format!(
                "the order names the URL {foreign}, which is not on an origin of the directory"
            );
            return Err(attempt.local(FaultClass::Permanent, &why));
        }
        if wire.authorizations.len() > MOST_AUTHORIZATIONS {
            return Err(attempt.local(
                FaultClass::Permanent,
                "the order has more than 100 authorizations",
            ));
        }
        Ok(wire)
    }

    /// The view of an order, with the authorizations that its state makes worth reading.
    async fn view(
        &self,
        url: &str,
        wire: WireOrder,
        answer: &Answer,
        now: Timestamp,
    ) -> Result<OrderView, Fault> {
        let attempt = self
            .directory
            .attempt("reading an authorization", Place::Read, now);
        let urls = wire.authorizations.clone();
        let mut view = view_of(url, wire, &attempt, answer);
        if matches!(view.state, OrderState::Pending | OrderState::Invalid) {
            let names = &view.names;
            let reads: Vec<_> = urls
                .into_iter()
                .map(|u| self.authorization(u, names, &attempt))
                .collect();
            let read: Vec<(AuthorizationView, Option<Timestamp>)> = stream::iter(reads)
                .buffered(AT_A_TIME)
                .try_collect()
                .await?;
            view.retry_after = read
                .iter()
                .filter_map(|(_, at)| *at)
                .chain(view.retry_after)
                .max();
            view.authorizations = read.into_iter().map(|(a, _)| a).collect();
        }
        Ok(view)
    }

    async fn authorization(
        &self,
        url: String,
        names: &[String],
        attempt: &Attempt<'_>,
    ) -> Result<(AuthorizationView, Option<Timestamp>), Fault> {
        let answer = attempt.check(self.post(&url, b"").await)?;
        let wire: WireAuthorization = attempt.parse(&answer)?;
        let name = wire.identifier.name();
        if wire.wildcard || !names.contains(&name) {
            return Err(attempt.local(
                FaultClass::Permanent,
                &format!("the authorization is for {name:?}, which the order is not for"),
            ));
        }
        let challenge = wire
            .challenges
            .into_iter()
            .find(|c| c.kind == "http-01")
            .map(|c| self.challenge(c, attempt))
            .transpose()?;
        Ok((
            AuthorizationView {
                url,
                name,
                state: wire.status.into(),
                challenge,
            },
            attempt.retry_after(&answer),
        ))
    }

    fn challenge(
        &self,
        wire: WireChallenge,
        attempt: &Attempt<'_>,
    ) -> Result<ChallengeView, Fault> {
        // The token becomes part of a URL path and of an answer to anybody (RFC 8555 §8.3).
        if !is_base64url(&wire.token) || wire.token.len() > 256 {
            return Err(attempt.local(
                FaultClass::Permanent,
                "the challenge's token is not of the base64url alphabet",
            ));
        }
        if !self.transport().allows(&wire.url) {
            return Err(attempt.local(
                FaultClass::Permanent,
                "the challenge's URL is not on an origin of the directory",
            ));
        }
        Ok(ChallengeView {
            key_authorization: format!("{}.{}", wire.token, self.account.key_thumbprint()),
            url: wire.url,
            token: wire.token,
            state: wire.status.into(),
            error: wire.error.and_then(WireProblem::into_problem),
        })
    }

    async fn accept_one(&self, url: &str, attempt: &Attempt<'_>) -> Result<(), Fault> {
        let fault = match attempt.check(self.post(url, b"{}").await) {
            Ok(answer) => return attempt.parse::<WireChallenge>(&answer).map(drop),
            Err(fault) => fault,
        };
        // A CA refuses a challenge that it has decided already; only the challenge itself tells that from a bad request.
        if fault.problem.as_ref().is_none_or(|p| p.kind != "malformed") {
            return Err(fault);
        }
        let answer = attempt.check(self.post(url, b"").await)?;
        let wire: WireChallenge = attempt.parse(&answer)?;
        if wire.status == WireProofStatus::Pending {
            Err(fault)
        } else {
            Ok(())
        }
    }

    async fn deactivate_one(&self, url: &str, attempt: &Attempt<'_>) -> Result<(), Fault> {
        match attempt.check(self.post(url, br#"{"status":"deactivated"}"#).await) {
            Err(fault) if fault.class != FaultClass::Gone => Err(fault),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn post(&self, url: &str, payload: &[u8]) -> Outcome {
        self.transport().post(&self.signer, url, payload).await
    }

    fn transport(&self) -> &Transport {
        self.directory.transport()
    }
}

#[async_trait]
impl Acme for AcmeAccount {
    fn account_uri(&self) -> &str {
        self.account.id()
    }

    async fn new_order(
        &self,
        request: OrderRequest<'_>,
        now: Timestamp,
    ) -> Result<OrderView, Fault> {
        let attempt = self.directory.attempt("newOrder", Place::NewOrder, now);
        let mut wanted: Vec<&Name> = request.names.iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let identifiers: Vec<Identifier> = wanted
            .iter()
            .map(|name| match name.address() {
                Some(address) => Identifier::Ip(address),
                None => Identifier::Dns(name.as_str().to_owned()),
            })
            .collect();
        let wanted: Vec<&str> = wanted.iter().map(|name| name.as_str()).collect();
        let replaced = request
            .replaces
            .filter(|_| self.directory.offers_renewal_info())
            .and_then(|id| id.split_once('.'));
        let call = with_fresh_nonces!(self.transport(), async {
            let mut new = NewOrder::new(&identifiers);
            if let Some((authority, serial)) = replaced {
                new = new.replaces(CertificateIdentifier {
                    authority_key_identifier: authority.into(),
                    serial: serial.into(),
                });
            }
            if let Some(profile) = request.profile {
                new = new.profile(profile);
            }
            self.account.new_order(&new).await.map(drop)
        });
        // An order that was made is taken, also from a CA that gives back an older one, which replaces nothing.
        let answer = match call {
            (_, Some(outcome)) => attempt.check(outcome)?,
            (Err(error), None) => {
                return Err(attempt.local(FaultClass::Transient, &error.to_string()));
            }
            (Ok(()), None) => return Err(attempt.local(FaultClass::Transient, "nothing was sent")),
        };
        let wire = self.read(&answer, &attempt)?;
        let url = answer.header("location").unwrap_or_default();
        if !self.transport().allows(url) {
            return Err(attempt.local(
                FaultClass::Permanent,
                "the order's URL is not on an origin of the directory",
            ));
        }
        let view = view_of(url, wire, &attempt, &answer);
        if !view.is_for(request.names) {
            let why = format!(
                "the CA's order is for {}, wanted was {}",
                view.names.join(", "),
                wanted.join(", ")
            );
            return Err(attempt.local(FaultClass::Permanent, &why));
        }
        Ok(view)
    }

    async fn read_order(&self, url: &str, now: Timestamp) -> Result<OrderView, Fault> {
        let attempt = self
            .directory
            .attempt("reading the order", Place::Read, now);
        let (_, wire, answer) = self.fetch(url, &attempt).await?;
        self.view(url, wire, &answer, now).await
    }

    async fn accept(&self, challenge_urls: &[String], now: Timestamp) -> Result<(), Fault> {
        let attempt = self
            .directory
            .attempt("accepting a challenge", Place::Challenge, now);
        let posts: Vec<_> = challenge_urls
            .iter()
            .map(|url| self.accept_one(url, &attempt))
            .collect();
        stream::iter(posts).buffered(AT_A_TIME).try_collect().await
    }

    async fn finalize(
        &self,
        order_url: &str,
        csr_der: &[u8],
        now: Timestamp,
    ) -> Result<OrderView, Fault> {
        let reading = self
            .directory
            .attempt("reading the order", Place::Read, now);
        let (mut order, wire, answer) = self.fetch(order_url, &reading).await?;
        if OrderState::from(wire.status) != OrderState::Ready {
            return self.view(order_url, wire, &answer, now).await;
        }
        let attempt = self.directory.attempt("finalize", Place::Finalize, now);
        let call = with_fresh_nonces!(self.transport(), order.finalize_csr(csr_der));
        let ((), answer) = attempt.check_call(call)?;
        let wire = self.read(&answer, &attempt)?;
        self.view(order_url, wire, &answer, now).await
    }

    async fn certificate(&self, order_url: &str, now: Timestamp) -> Result<Chain, Fault> {
        let reading = self
            .directory
            .attempt("reading the order", Place::Read, now);
        let (mut order, wire, answer) = self.fetch(order_url, &reading).await?;
        let view = view_of(order_url, wire, &reading, &answer);
        if view.state != OrderState::Valid {
            let class = if view.state == OrderState::Invalid {
                FaultClass::Gone
            } else {
                FaultClass::NotReady
            };
            let mut fault = reading.local(class, "the order has no certificate yet");
            (fault.problem, fault.retry_after) = (view.error, view.retry_after);
            return Err(fault);
        }
        let attempt = self
            .directory
            .attempt("downloading the certificate", Place::Read, now);
        let call = with_fresh_nonces!(self.transport(), order.certificate());
        match attempt.check_call(call)? {
            (Some(pem), answer) if is_chain(&pem) => {
                let alternates = answer.links("alternate");
                Ok(Chain { pem, alternates })
            }
            _ => Err(attempt.local(FaultClass::Transient, NO_CERTIFICATE)),
        }
    }

    async fn alternate(&self, url: &str, now: Timestamp) -> Result<String, Fault> {
        let attempt = self
            .directory
            .attempt("downloading another chain", Place::Read, now);
        let answer = attempt.check(self.post(url, b"").await)?;
        let pem = String::from_utf8(answer.body.into()).unwrap_or_default();
        if is_chain(&pem) {
            Ok(pem)
        } else {
            Err(attempt.local(FaultClass::Transient, NO_CERTIFICATE))
        }
    }

    async fn revoke(
        &self,
        certificate_der: &[u8],
        reason: RevocationReason,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let attempt = self.directory.attempt("revokeCert", Place::Revoke, now);
        let Some(url) = self.directory.revoke_cert() else {
            return Err(attempt.local(FaultClass::Permanent, "the CA does not offer it"));
        };
        let payload = serde_json::json!({
            "certificate": BASE64_URL_SAFE_NO_PAD.encode(certificate_der),
            "reason": reason.code(),
        });
        match attempt.check(self.post(url, payload.to_string().as_bytes()).await) {
            Ok(_) => Ok(()),
            Err(fault) if is_already_revoked(&fault) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    async fn deactivate(&self, authorization_urls: &[String], now: Timestamp) -> Result<(), Fault> {
        let attempt = self
            .directory
            .attempt("deactivating an authorization", Place::Read, now);
        let posts: Vec<_> = authorization_urls
            .iter()
            .map(|url| self.deactivate_one(url, &attempt))
            .collect();
        stream::iter(posts).buffered(AT_A_TIME).try_collect().await
    }
}

fn is_already_revoked(fault: &Fault) -> bool {
    let problem = fault.problem.as_ref();
    problem.is_some_and(|p| p.kind == "alreadyRevoked")
}

fn is_chain(pem: &str) -> bool {
    pem.contains("-----BEGIN CERTIFICATE-----")
}

fn view_of(url: &str, wire: WireOrder, attempt: &Attempt<'_>, answer: &Answer) -> OrderView {
    OrderView {
        url: url.to_owned(),
        state: wire.status.into(),
        names: wire.names(),
        expires: wire.expires(),
        error: wire.error.and_then(WireProblem::into_problem),
        authorizations: Vec::new(),
        retry_after: attempt.retry_after(answer),
        read_at: attempt.arrival(answer),
    }
}
