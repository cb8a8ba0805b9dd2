//! Accounts: made, found, changed, bound to an external account, given another key (RFC 8555 §7.3).

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Reply;
use super::endpoint::Resource;
use super::jws::{AccountKey, Jws};
use super::limits::Limit;
use super::problem::Problem;
use super::request::Signed;
use super::state::{Account, State};

/// The network of 48 bits that an IPv6 address is in.
fn network(client: IpAddr) -> Option<String> {
    let IpAddr::V6(address) = client else {
        return None;
    };
    let [a, b, c, ..] = address.segments();
    Some(format!("{a:x}:{b:x}:{c:x}::/48"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewAccount {
    #[serde(default)]
    contact: Vec<String>,
    #[serde(default)]
    terms_of_service_agreed: bool,
    #[serde(default)]
    only_return_existing: bool,
    external_account_binding: Option<Value>,
}

#[derive(Deserialize)]
struct Change {
    contact: Option<Vec<String>>,
    status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyChange {
    account: String,
    old_key: Value,
}

impl State {
    /// RFC 8555 §7.3, §7.3.1.
    pub(super) fn new_account(
        &mut self,
        key: &AccountKey,
        signed: &Signed,
    ) -> Result<Reply, Problem> {
        let wanted: NewAccount = signed.jws.read()?;
        if let Some(found) = self.account_of(key) {
            return self.account_reply(200, found);
        }
        if wanted.only_return_existing {
            let detail = "there is no account of this key";
            return Err(Problem::new(400, "accountDoesNotExist", detail));
        }
        let external = match &wanted.external_account_binding {
            Some(binding) => Some(self.verify_binding(binding, key)?),
            None if self.settings.external_accounts.required => {
                let detail = "a new account must be bound to an external account";
                return Err(Problem::new(403, "externalAccountRequired", detail));
            }
            None => None,
        };
        if self.settings.terms.is_some() && !wanted.terms_of_service_agreed {
            return Err(Problem::malformed("the terms of service must be agreed to"));
        }
        check_contact(&wanted.contact)?;
        let client = signed.client.to_string();
        let mut buckets = vec![(Limit::Accounts, client.clone(), client)];
        if let Some(network) = network(signed.client) {
            buckets.push((Limit::AccountsOfNetwork, network.clone(), network));
        }
        self.check_limits(&buckets)?;
        for (limit, key, _) in &buckets {
            self.spend(*limit, key);
        }
        let number = self.number();
        let account = Account {
            key: key.clone(),
            deactivated: false,
            contact: wanted.contact,
            agreed: self.settings.terms.clone(),
        };
        self.accounts.insert(number, account);
        self.made.accounts += 1;
        if let Some(kid) = external {
            self.bound.insert(kid, number);
        }
        self.account_reply(201, number)
    }

    fn account_of(&self, key: &AccountKey) -> Option<u64> {
        let found = self.accounts.iter().find(|(_, a)| a.key == *key);
        found.map(|(number, _)| *number)
    }

    /// RFC 8555 §7.3.4. Gives the key id.
    fn verify_binding(&self, binding: &Value, key: &AccountKey) -> Result<String, Problem> {
        let jws = Jws::parse(binding.to_string().as_bytes())?;
        let kid = jws.header.kid.clone().unwrap_or_default();
        let Some(secret) = self.settings.external_accounts.keys.get(&kid) else {
            let detail = format!("there is no external account {kid:?}");
            return Err(Problem::unauthorized(detail));
        };
        let secret = BASE64_URL_SAFE_NO_PAD
            .decode(secret.trim_end_matches('='))
            .map_err(|_| Problem::new(500, "serverInternal", "a MAC key that is no base64url"))?;
        jws.verify_mac(&secret)?;
        if jws.header.nonce.is_some()
            || jws.header.url.as_deref() != Some(self.url(&Resource::NewAccount).as_str())
        {
            let detail = "the binding's header must have newAccount's url and no nonce";
            return Err(Problem::malformed(detail));
        }
        if AccountKey::parse(&jws.read()?)? != *key {
            return Err(Problem::malformed("the binding is for another account key"));
        }
        if self.settings.external_accounts.once && self.bound.contains_key(&kid) {
            let detail = format!("the account {kid:?} is not awaiting external account binding");
            return Err(Problem::unauthorized(detail));
        }
        Ok(kid)
    }

    /// RFC 8555 §7.3.2, §7.3.6.
    pub(super) fn account(&mut self, number: u64, by: u64, jws: &Jws) -> Result<Reply, Problem> {
        if number != by {
            return Err(Problem::unauthorized("the account is another one"));
        }
        if !jws.is_get() {
            let change: Change = jws.read()?;
            if let Some(contact) = &change.contact {
                check_contact(contact)?;
            }
            let account = self.accounts.get_mut(&number);
            let account = account.ok_or_else(|| Problem::not_found("account"))?;
            match change.status.as_deref() {
                None | Some("valid") => {}
                Some("deactivated") => account.deactivated = true,
                Some(other) => {
                    let detail = format!("an account cannot be made {other:?}");
                    return Err(Problem::malformed(detail));
                }
            }
            if let Some(contact) = change.contact {
                account.contact = contact;
            }
        }
        let account = self.accounts.get(&number);
        let account = account.ok_or_else(|| Problem::not_found("account"))?;
        Ok(Reply::json(200, &account_json(account)))
    }

    /// RFC 8555 §7.3.5.
    pub(super) fn change_key(&mut self, by: u64, jws: &Jws) -> Result<Reply, Problem> {
        let inner = Jws::parse(&jws.payload)?;
        let jwk = inner.header.jwk.as_ref();
        let jwk = jwk.ok_or_else(|| Problem::malformed("the inner JWS must have a jwk"))?;
        let new = AccountKey::parse(jwk)?;
        inner.verify(&new)?;
        if inner.header.nonce.is_some() || inner.header.url != jws.header.url {
            let detail = "the inner header must have the outer url and no nonce";
            return Err(Problem::malformed(detail));
        }
        let change: KeyChange = inner.read()?;
        let url = self.account_url(by);
        let holder = self.account_of(&new);
        let account = self.accounts.get_mut(&by);
        let account = account.ok_or_else(|| Problem::not_found("account"))?;
        if change.account != url || AccountKey::parse(&change.old_key)? != account.key {
            let detail = "the inner payload names another account or another old key";
            return Err(Problem::malformed(detail));
        }
        if let Some(holder) = holder {
            let problem = Problem::new(409, "malformed", "the new key has an account already");
            return Err(problem.header("location", &self.account_url(holder)));
        }
        account.key = new;
        Ok(Reply::json(200, &account_json(account)))
    }

    fn account_reply(&self, status: u16, number: u64) -> Result<Reply, Problem> {
        let account = self.accounts.get(&number);
        let account = account.ok_or_else(|| Problem::not_found("account"))?;
        if account.deactivated {
            return Err(Problem::unauthorized(
                "the account of this key is deactivated",
            ));
        }
        let reply = Reply::json(status, &account_json(account));
        Ok(reply.header("location", &self.account_url(number)))
    }
}

fn account_json(account: &Account) -> Value {
    let status = if account.deactivated {
        "deactivated"
    } else {
        "valid"
    };
    json!({
        "status": status, "contact": account.contact, "key": account.key.to_jwk(),
        "termsOfServiceAgreed": account.agreed.is_some(),
    })
}

/// RFC 8555 §7.3: e-mail addresses only, each plain and without header fields.
fn check_contact(contact: &[String]) -> Result<(), Problem> {
    for url in contact {
        let Some(address) = url.strip_prefix("mailto:") else {
            let detail = format!("{url:?} is no mailto: URL");
            return Err(Problem::new(400, "unsupportedContact", detail));
        };
        let parts: Vec<&str> = address.split('@').collect();
        let plain = matches!(parts.as_slice(), [local, domain] if !local.is_empty() && domain.contains('.'));
        if !plain || address.contains([' ', '?', ',']) {
            let detail = format!("{address:?} is no e-mail address");
            return Err(Problem::new(400, "invalidContact", detail));
        }
    }
    Ok(())
}
