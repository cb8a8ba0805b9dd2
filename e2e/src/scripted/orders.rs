//! Orders: placed, read, finalized (RFC 8555 §7.4).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Reply;
use super::endpoint::Resource;
use super::identifier::{Identifier, is_within};
use super::issue::{Subject, read_request};
use super::jws::Jws;
use super::problem::Problem;
use super::script::Signing;
use super::settings::Profile;
use super::state::{AuthorizationState, Certificate, Order, OrderState, State, values};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder {
    identifiers: Vec<Identifier>,
    not_before: Option<String>,
    not_after: Option<String>,
    profile: Option<String>,
    replaces: Option<String>,
}

#[derive(Deserialize)]
struct Finalize {
    csr: String,
}

impl State {
    /// RFC 8555 §7.4.
    pub(super) fn new_order(&mut self, account: u64, jws: &Jws) -> Result<Reply, Problem> {
        let wanted: NewOrder = jws.read()?;
        let identifiers = distinct(wanted.identifiers);
        let profile = self.named_profile(wanted.profile.as_deref())?;
        self.check_identifiers(&identifiers, &profile)?;
        let replaces = wanted.replaces.as_deref();
        let exempt = self.check_replacement(replaces, account, &identifiers)?;
        self.check_order_limits(account, &identifiers, exempt)?;
        if let Some(number) = self.reusable_order(account, &identifiers, wanted.profile.as_ref()) {
            return self.order_reply(201, number);
        }
        self.spend_order(account, exempt);
        let now = self.now();
        let mut authorizations = Vec::new();
        for identifier in &identifiers {
            authorizations.push(self.authorize(account, identifier, &profile));
        }
        let order = Order {
            account,
            state: OrderState::Pending,
            authorizations,
            expires: now + profile.order_lifetime,
            profile: wanted.profile,
            replaces: wanted.replaces,
            validity: (
                instant(wanted.not_before.as_deref())?,
                instant(wanted.not_after.as_deref())?,
            ),
            identifiers,
            error: None,
            request: Vec::new(),
            certificate: None,
        };
        let number = self.number();
        self.orders.insert(number, order);
        self.made.orders += 1;
        self.order_reply(201, number)
    }

    /// RFC 8555 §7.1.3, read.
    pub(super) fn order(&mut self, number: u64, account: u64) -> Result<Reply, Problem> {
        self.own_order(number, account)?;
        self.order_reply(200, number)
    }

    /// RFC 8555 §7.4, the second half.
    pub(super) fn finalize(
        &mut self,
        number: u64,
        account: u64,
        jws: &Jws,
    ) -> Result<Reply, Problem> {
        let wanted: Finalize = jws.read()?;
        let order = self.own_order(number, account)?;
        if order.state != OrderState::Ready {
            let detail = format!("the order is {}, not ready", word(&order.state));
            return Err(Problem::new(403, "orderNotReady", detail));
        }
        let request = BASE64_URL_SAFE_NO_PAD
            .decode(&wanted.csr)
            .map_err(|_| Problem::malformed("the csr is no base64url"))?;
        let parsed = read_request(&request)?;
        let mut names = values(&order.identifiers);
        names.sort_unstable();
        if parsed.names != names {
            let detail = format!(
                "the request is for {}, the order for {}",
                parsed.names.join(", "),
                names.join(", ")
            );
            return Err(Problem::unauthorized(detail));
        }
        if self.accounts.values().any(|a| a.key.point() == parsed.key) {
            return Err(Problem::new(400, "badCSR", "the key is that of an account"));
        }
        let until = match &self.play.signing {
            Signing::AtOnce => Some(self.now()),
            Signing::After(time) => Some(self.now() + *time),
            Signing::Held | Signing::Fails(_) => None,
        };
        let failure = match &self.play.signing {
            Signing::Fails(problem) => Some(problem.clone()),
            Signing::AtOnce | Signing::After(_) | Signing::Held => None,
        };
        if let Some(order) = self.orders.get_mut(&number) {
            order.request = request;
            order.state = OrderState::Processing(until);
        }
        if let Some(problem) = failure {
            self.end_processing(number, Err(problem));
        }
        self.order_reply(200, number)
    }

    /// Brings an order's state up to the clock and to its authorizations.
    pub(super) fn settle(&mut self, number: u64) {
        let now = self.now();
        let Some(order) = self.orders.get(&number).cloned() else {
            return;
        };
        match order.state {
            OrderState::Pending | OrderState::Ready => {
                let states: Vec<_> = order
                    .authorizations
                    .iter()
                    .map(|id| self.authorization_state(*id, now))
                    .collect();
                let ended = states.iter().any(|state| {
                    !matches!(
                        state,
                        AuthorizationState::Pending | AuthorizationState::Valid
                    )
                });
                let ready = states.iter().all(|s| *s == AuthorizationState::Valid);
                let state = match (ended || order.expires <= now, ready) {
                    (true, _) => OrderState::Invalid,
                    (false, true) => OrderState::Ready,
                    (false, false) => OrderState::Pending,
                };
                if let Some(order) = self.orders.get_mut(&number) {
                    order.state = state;
                }
            }
            OrderState::Processing(Some(until)) if until <= now => {
                self.end_processing(number, Ok(()));
            }
            OrderState::Processing(_) | OrderState::Valid | OrderState::Invalid => {}
        }
    }

    /// Signs what is processing, or fails it.
    pub(super) fn end_processing(&mut self, number: u64, verdict: Result<(), Problem>) {
        let Some(order) = self.orders.get(&number).cloned() else {
            return;
        };
        if !matches!(order.state, OrderState::Processing(_)) {
            return;
        }
        let ended = verdict.and_then(|()| self.issue(&order));
        let note = match &ended {
            Ok((_, serial)) => format!("order {number}: issued {serial}"),
            Err(problem) => format!("order {number}: not issued, {problem}"),
        };
        self.note(order.account, &values(&order.identifiers), note);
        if let Some(order) = self.orders.get_mut(&number) {
            match ended {
                Ok((certificate, _)) => {
                    order.state = OrderState::Valid;
                    order.certificate = Some(certificate);
                }
                Err(problem) => {
                    order.state = OrderState::Invalid;
                    order.error = Some(problem);
                }
            }
        }
    }

    /// Gives the certificate's number, and its serial number.
    fn issue(&mut self, order: &Order) -> Result<(u64, String), Problem> {
        let now = self.now();
        let profile = self.profile_of(order);
        let not_before = order.validity.0.unwrap_or(now - profile.backdate);
        let subject = Subject {
            identifiers: &order.identifiers,
            not_before,
            not_after: order.validity.1.unwrap_or(not_before + profile.lifetime),
        };
        let parsed = read_request(&order.request)?;
        let public_key = parsed.key.clone();
        let issued = self
            .hierarchy
            .sign(parsed, &subject)
            .map_err(|error| Problem::new(500, "serverInternal", format!("{error:#}")))?;
        let certificate = Certificate {
            account: order.account,
            identifiers: order.identifiers.clone(),
            der: issued.der,
            public_key,
            chains: issued.chains,
            renewal_id: issued.renewal_id,
            not_before: subject.not_before,
            not_after: subject.not_after,
            revoked: None,
        };
        self.spend_certificate(&order.identifiers, order.replaces.is_some());
        let number = self.number();
        self.certificates.insert(number, certificate);
        Ok((number, issued.serial))
    }

    fn own_order(&mut self, number: u64, account: u64) -> Result<Order, Problem> {
        self.settle(number);
        let order = self.orders.get(&number);
        let order = order.ok_or_else(|| Problem::not_found("order"))?;
        if order.account != account {
            return Err(Problem::unauthorized("the order is of another account"));
        }
        Ok(order.clone())
    }

    fn order_reply(&mut self, status: u16, number: u64) -> Result<Reply, Problem> {
        self.settle(number);
        let order = self.orders.get(&number);
        let order = order.ok_or_else(|| Problem::not_found("order"))?;
        let mut reply = Reply::json(status, &self.order_json(number, order));
        reply = reply.header("location", &self.url(&Resource::Order(number)));
        if matches!(order.state, OrderState::Processing(_))
            && let Some(retry_after) = &self.play.processing_retry_after
        {
            reply = reply.header("retry-after", &retry_after.to_string());
        }
        Ok(reply)
    }

    fn order_json(&self, number: u64, order: &Order) -> Value {
        let identifiers: Vec<Value> = order.identifiers.iter().map(Identifier::to_json).collect();
        let authorizations = order.authorizations.iter();
        let authorizations: Vec<String> = authorizations
            .map(|id| self.url(&Resource::Authorization(*id)))
            .collect();
        let mut json = json!({
            "status": word(&order.state), "expires": order.expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "identifiers": identifiers, "authorizations": authorizations,
            "finalize": self.url(&Resource::Finalize(number)),
        });
        let certificate = order.certificate.map(|id| Resource::Certificate(id, 0));
        let optional = [
            ("certificate", certificate.map(|c| json!(self.url(&c)))),
            ("profile", order.profile.as_ref().map(|p| json!(p))),
            ("replaces", order.replaces.as_ref().map(|r| json!(r))),
            ("notBefore", order.validity.0.map(|at| json!(at))),
            ("notAfter", order.validity.1.map(|at| json!(at))),
            ("error", order.error.as_ref().map(Problem::to_json)),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                json[name] = value;
            }
        }
        json
    }

    fn named_profile(&self, name: Option<&str>) -> Result<Profile, Problem> {
        let Some(name) = name else {
            return Ok(self.settings.default_profile.clone());
        };
        self.settings.profiles.get(name).cloned().ok_or_else(|| {
            let detail = format!("there is no profile {name:?}");
            Problem::new(400, "invalidProfile", detail)
        })
    }

    fn check_identifiers(
        &self,
        identifiers: &[Identifier],
        profile: &Profile,
    ) -> Result<(), Problem> {
        if identifiers.is_empty() || identifiers.len() > profile.most_names {
            let detail = format!("an order has 1 to {} identifiers", profile.most_names);
            return Err(Problem::malformed(detail));
        }
        let good = |identifier: &&Identifier| {
            let is_dns = identifier.kind == "dns" && !identifier.value.is_empty();
            is_dns || profile.addresses && identifier.address().is_some()
        };
        let bad = identifiers.iter().find(|identifier| !good(identifier));
        if let Some(Identifier { kind, value }) = bad {
            let detail = format!("{value:?} of type {kind:?} cannot be certified here");
            return Err(Problem::new(400, "unsupportedIdentifier", detail));
        }
        let refused: Vec<&str> = identifiers
            .iter()
            .map(|identifier| identifier.value.as_str())
            .filter(|name| {
                self.settings
                    .refused_names
                    .iter()
                    .any(|r| is_within(name, r))
            })
            .collect();
        let why = |name: &str| {
            format!("Cannot issue for {name:?}: the CA will not issue for this identifier")
        };
        match refused.as_slice() {
            [] => Ok(()),
            [name] => Err(Problem::new(400, "rejectedIdentifier", why(name))),
            [first, rest @ ..] => {
                let detail = format!("{} (and {} more problems)", why(first), rest.len());
                let problem = Problem::new(400, "rejectedIdentifier", detail);
                Err(refused.iter().fold(problem, |problem, name| {
                    problem.naming(name, "rejectedIdentifier", &why(name))
                }))
            }
        }
    }

    /// An order of the account for the same names and profile, pending or ready, where the CA gives such a one back.
    fn reusable_order(
        &mut self,
        account: u64,
        identifiers: &[Identifier],
        profile: Option<&String>,
    ) -> Option<u64> {
        if !self.settings.reuses_orders {
            return None;
        }
        let same = |order: &Order| {
            order.account == account
                && order.identifiers == identifiers
                && order.profile.as_ref() == profile
        };
        let candidates: Vec<u64> = self
            .orders
            .iter()
            .filter(|(_, order)| same(order))
            .map(|(number, _)| *number)
            .collect();
        candidates.into_iter().rev().find(|number| {
            self.settle(*number);
            let state = self.orders.get(number).map(|order| &order.state);
            matches!(state, Some(OrderState::Pending | OrderState::Ready))
        })
    }
}

fn word(state: &OrderState) -> &'static str {
    match state {
        OrderState::Pending => "pending",
        OrderState::Ready => "ready",
        OrderState::Processing(_) => "processing",
        OrderState::Valid => "valid",
        OrderState::Invalid => "invalid",
    }
}

fn instant(text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    text.map(str::parse)
        .transpose()
        .map_err(|_| Problem::malformed("a date that cannot be read"))
}

/// In lower case, sorted, each once.
fn distinct(identifiers: Vec<Identifier>) -> Vec<Identifier> {
    let mut all: Vec<Identifier> = identifiers
        .into_iter()
        .map(|identifier| Identifier {
            value: identifier.value.to_lowercase(),
            ..identifier
        })
        .collect();
    all.sort();
    all.dedup();
    all
}
