//! A request's way through the CA: what is it for, may it be heard, what does the script want, what does the CA do (RFC 8555
//! §6).

use std::net::IpAddr;

use serde_json::{Value, json};

use super::answer::{Answer, Basis, Delivery, Ending, Reply, terms_changed};
use super::endpoint::{Endpoint, Resource};
use super::journal::Entry;
use super::jws::{AccountKey, Jws, random_bytes, random_token};
use super::problem::{Problem, http_date};
use super::state::State;

/// A request, whole.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) content_type: String,
    pub(super) user_agent: String,
    pub(super) body: Vec<u8>,
    pub(super) client: IpAddr,
}

/// What goes back to the client.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) reply: Reply,
    pub(super) delivery: Delivery,
}

/// A request that was verified.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) jws: Jws,
    pub(super) by: Signer,
    pub(super) client: IpAddr,
}

/// Who signed it (RFC 8555 §6.2).
#[derive(Debug)]
pub(super) enum Signer {
    Account(u64),
    Key(AccountKey),
}

impl State {
    /// Answers a request, whatever it is, and writes it down.
    pub(super) fn serve(&mut self, request: &Request) -> Served {
        let resource = Resource::parse(&request.path);
        let endpoint = resource.endpoint();
        let (mut account, mut names) = peek(&request.body);
        if names.is_empty() {
            names = self.names_of(&resource);
        }
        let rule = self.play.rule(endpoint, &names, account.as_deref());
        let behind_front = rule.is_some_and(|(_, a)| matches!(a.basis, Basis::Front(_)));
        let rule = rule.map(|(at, answer)| (at, answer.clone()));
        let mut heard = Ok(None);
        if !behind_front {
            heard = self.hear(&resource, request);
        }
        // What the CA does not accept at all uses no rule up.
        let (answer, own) = match (rule, heard) {
            (_, Err(problem)) => (Answer::real(), Err(problem)),
            (None, Ok(signed)) => (Answer::real(), self.own(&resource, request, signed)),
            (Some((at, answer)), Ok(signed)) => {
                self.play.used(at);
                let own = match answer.basis {
                    Basis::Real => self.own(&resource, request, signed),
                    Basis::Ca(_) | Basis::Front(_) => Ok(Reply::default()),
                };
                (answer, own)
            }
        };
        let own = own.unwrap_or_else(|problem| Reply::problem(&problem));
        let location = own.headers.iter().find(|(name, _)| name == "location");
        let location = location.map(|(_, url)| url.clone());
        let reply = self.finish(endpoint, request, &answer, own);
        if endpoint == Endpoint::NewAccount {
            account.clone_from(&location);
        }
        self.journal.push(Entry {
            at: self.now(),
            endpoint: Some(endpoint),
            account,
            names,
            status: Some(reply.status),
            problem: reply.problem_kind(),
            note: note(&request.method, &reply, location.as_deref(), &answer),
        });
        Served {
            reply,
            delivery: answer.delivery,
        }
    }

    /// Verifies what has to be verified: everything but the three that anybody may get.
    fn hear(&mut self, resource: &Resource, request: &Request) -> Result<Option<Signed>, Problem> {
        if request.user_agent.is_empty() {
            return Err(Problem::malformed("a request must have a User-Agent"));
        }
        let allowed: &[&str] = match resource {
            Resource::Elsewhere => return Err(Problem::not_found("resource")),
            Resource::NewNonce => &["HEAD", "GET"],
            Resource::Directory | Resource::RenewalInfo(_) => &["GET"],
            _ => &["POST"],
        };
        if !allowed.contains(&request.method.as_str()) {
            let detail = format!("{} is not allowed here", request.method);
            return Err(Problem::new(405, "malformed", detail).header("allow", &allowed.join(", ")));
        }
        if allowed == ["POST"] {
            self.verify(resource, request).map(Some)
        } else {
            Ok(None)
        }
    }

    fn verify(&mut self, resource: &Resource, request: &Request) -> Result<Signed, Problem> {
        if request.content_type != "application/jose+json" {
            let detail = "the Content-Type must be application/jose+json";
            return Err(Problem::new(415, "malformed", detail));
        }
        let jws = Jws::parse(&request.body)?;
        jws.check_algorithm()?;
        let url = format!("{}{}", self.base, request.path);
        if jws.header.url.as_deref() != Some(url.as_str()) {
            return Err(Problem::unauthorized(format!(
                "the header's url is {:?}, the request is for {url}",
                jws.header.url.as_deref().unwrap_or_default()
            )));
        }
        self.use_nonce(jws.header.nonce.as_deref())?;
        let by = match (&jws.header.jwk, resource) {
            (Some(jwk), Resource::NewAccount | Resource::RevokeCert) => {
                let key = AccountKey::parse(jwk)?;
                jws.verify(&key)?;
                Signer::Key(key)
            }
            (None, Resource::NewAccount) => {
                return Err(Problem::malformed(
                    "newAccount is signed with jwk, not with kid",
                ));
            }
            (Some(_), _) => {
                return Err(Problem::malformed("the request must be signed with kid"));
            }
            (None, _) => Signer::Account(self.verify_account(&jws, resource)?),
        };
        let client = request.client;
        Ok(Signed { jws, by, client })
    }

    fn verify_account(&self, jws: &Jws, resource: &Resource) -> Result<u64, Problem> {
        let kid = jws.header.kid.as_deref().unwrap_or_default();
        let number = kid
            .strip_prefix(self.base.as_str())
            .map(Resource::parse)
            .and_then(|resource| match resource {
                Resource::Account(number) => Some(number),
                _ => None,
            });
        let known = number.and_then(|number| Some((number, self.accounts.get(&number)?)));
        let Some((number, account)) = known else {
            let detail = format!("there is no account {kid}");
            return Err(Problem::new(400, "accountDoesNotExist", detail));
        };
        jws.verify(&account.key)?;
        if account.deactivated {
            return Err(Problem::unauthorized("the account is deactivated"));
        }
        match &self.settings.terms {
            Some(terms)
                if account.agreed.as_ref() != Some(terms)
                    && !matches!(resource, Resource::Account(_)) =>
            {
                Err(terms_changed(terms))
            }
            _ => Ok(number),
        }
    }

    /// RFC 8555 §6.5: each nonce once.
    fn use_nonce(&mut self, nonce: Option<&str>) -> Result<(), Problem> {
        let nonce = nonce.unwrap_or_default();
        let [random] = random_bytes::<1>();
        let refused =
            u32::from(random) * 100 / 256 < u32::from(self.settings.nonce_refusals_percent);
        if self.nonces.remove(nonce) && !refused {
            return Ok(());
        }
        let detail = format!("the nonce {nonce:?} is not one of ours, or was used");
        Err(Problem::new(400, "badNonce", detail))
    }

    fn own(
        &mut self,
        resource: &Resource,
        request: &Request,
        signed: Option<Signed>,
    ) -> Result<Reply, Problem> {
        let Some(signed) = signed else {
            return match resource {
                Resource::Directory => Ok(Reply::json(200, &self.directory())),
                Resource::NewNonce => {
                    let status = if request.method == "HEAD" { 200 } else { 204 };
                    Ok(Reply {
                        status,
                        ..Reply::default()
                    })
                }
                Resource::RenewalInfo(id) => self.renewal_info(id),
                _ => Err(Problem::not_found("resource")),
            };
        };
        match (resource, &signed.by) {
            (Resource::NewAccount, Signer::Key(key)) => self.new_account(key, &signed),
            (Resource::RevokeCert, by) => self.revoke(by, &signed.jws),
            (resource, Signer::Account(account)) => self.by_account(resource, *account, &signed),
            _ => Err(Problem::not_found("resource")),
        }
    }

    fn by_account(
        &mut self,
        resource: &Resource,
        account: u64,
        signed: &Signed,
    ) -> Result<Reply, Problem> {
        let jws = &signed.jws;
        let reads = matches!(resource, Resource::Order(_) | Resource::Certificate(..));
        if reads && !jws.is_get() {
            return Err(Problem::malformed("a POST-as-GET has an empty payload"));
        }
        match resource {
            Resource::Account(id) => self.account(*id, account, jws),
            Resource::KeyChange => self.change_key(account, jws),
            Resource::NewOrder => self.new_order(account, jws),
            Resource::Order(id) => self.order(*id, account),
            Resource::Finalize(id) => self.finalize(*id, account, jws),
            Resource::Authorization(id) => self.authorization(*id, account, jws),
            Resource::Challenge(id, kind) => self.challenge(*id, kind, account, jws),
            Resource::Certificate(id, chain) => self.certificate(*id, *chain, account),
            _ => Err(Problem::not_found("resource")),
        }
    }

    /// RFC 8555 §7.1.1.
    fn directory(&self) -> Value {
        let mut meta = json!({
            "caaIdentities": self.settings.caa_identities,
            "externalAccountRequired": self.settings.external_accounts.required,
        });
        if let Some(terms) = &self.settings.terms {
            meta["termsOfService"] = json!(terms);
        }
        if !self.settings.profiles.is_empty() {
            let profiles = self.settings.profiles.iter();
            meta["profiles"] = profiles
                .map(|(name, profile)| (name.clone(), json!(profile.description)))
                .collect();
        }
        let mut directory = json!({
            "newNonce": self.url(&Resource::NewNonce),
            "newAccount": self.url(&Resource::NewAccount),
            "newOrder": self.url(&Resource::NewOrder),
            "keyChange": self.url(&Resource::KeyChange),
            "revokeCert": self.url(&Resource::RevokeCert),
            "meta": meta,
        });
        if self.settings.renewal_info {
            directory["renewalInfo"] = json!(format!("{}/renewal-info", self.base));
        }
        directory
    }

    /// The answer as the script wants it, with what every answer has.
    fn finish(
        &mut self,
        endpoint: Endpoint,
        request: &Request,
        answer: &Answer,
        own: Reply,
    ) -> Reply {
        let mut reply = answer.make(own);
        let wants_nonce = endpoint == Endpoint::NewNonce || request.method == "POST";
        if let Some(nonce) = wants_nonce.then(|| answer.nonce(random_token)).flatten() {
            self.nonces.insert(nonce.clone());
            reply = reply.header("replay-nonce", &nonce);
            reply = reply.header("cache-control", "no-store");
        }
        if endpoint != Endpoint::Directory && !matches!(answer.basis, Basis::Front(_)) {
            let link = format!("<{}>;rel=\"index\"", self.url(&Resource::Directory));
            reply = reply.header("link", &link);
        }
        let date = self.now() + self.play.date_ahead;
        if !reply.headers.iter().any(|(name, _)| name == "date") {
            reply = reply.header("date", &http_date(date));
        }
        reply
    }
}

/// Account and names of a request, unverified, for rules and for the journal.
fn peek(body: &[u8]) -> (Option<String>, Vec<String>) {
    let Ok(jws) = Jws::parse(body) else {
        return (None, Vec::new());
    };
    let payload: Value = serde_json::from_slice(&jws.payload).unwrap_or_default();
    let identifiers = payload.get("identifiers").and_then(Value::as_array);
    let names = identifiers.into_iter().flatten().filter_map(|identifier| {
        let value = identifier.get("value")?.as_str()?;
        Some(value.to_owned())
    });
    (jws.header.kid, names.collect())
}

/// What came of a request, in few words.
fn note(method: &str, reply: &Reply, location: Option<&str>, answer: &Answer) -> String {
    let json: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let status = json.get("status").and_then(Value::as_str);
    let number = location.and_then(|url| url.rsplit('/').next());
    let played = match answer.basis {
        Basis::Real => None,
        Basis::Ca(_) => Some("(played)"),
        Basis::Front(_) => Some("(played by the front)"),
    };
    let fate = match answer.delivery.ending {
        Ending::Whole => None,
        Ending::Cut => Some("(cut)"),
        Ending::Lost => Some("(lost)"),
        Ending::Never => Some("(never sent)"),
    };
    let of_order = |name: &str| {
        let value = json.get(name).and_then(Value::as_str);
        value.map(|value| format!("{name} {value}"))
    };
    let (replaces, profile) = (of_order("replaces"), of_order("profile"));
    let (replaces, profile) = (replaces.as_deref(), profile.as_deref());
    let words = [
        Some(method),
        number,
        status,
        replaces,
        profile,
        played,
        fate,
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}
