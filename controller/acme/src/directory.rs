//! A directory (RFC 8555 §7.1.1) over one HTTP client, and the account at it (§7.3).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};
use instant_acme::Account;
use jiff::Timestamp;
use serde::Serialize;
use url::Url;

use evercert_core::fault::{Fault, FaultClass, Place};
use evercert_core::renewal_info::{NoRenewalInfo, RenewalInfo};

use crate::account::AcmeAccount;
use crate::client::{Answer, Limits, Wire, WireError};
use crate::fault::Attempt;
use crate::jose::{ExternalAccount, FlattenedJws, Signer};
use crate::port::{Acme, Clock, Leave, SystemClock};
use crate::transport::{Transport, is_base64url, with_fresh_nonces};
use crate::trust::build_client_config;
use crate::wire::{WireAccount, WireDirectory, WireRenewalInfo, printable};

const NOT_P256: &str = "the account key is not a P-256 key in PKCS#8";

/// newAccount's payload (RFC 8555 §7.3).
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct NewAccount {
    #[serde(skip_serializing_if = "Option::is_none")]
    terms_of_service_agreed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    only_return_existing: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_account_binding: Option<FlattenedJws>,
}

/// How a directory is reached.
#[derive(Debug, Clone)]
pub struct DirectoryConfig {
    /// The directory's URL, https only.
    pub url: String,
    /// Further roots as PEM, beside the public ones and the system's.
    pub ca_bundle: Option<Vec<u8>>,
    /// The `User-Agent` of every request (RFC 8555 §6.1), such as `evercert/0.1.0`.
    pub user_agent: String,
    /// Longest time for a TCP connection.
    pub connect_timeout: Duration,
    /// Longest time for a whole request, from the look-up of the name to the last byte of the answer.
    pub request_timeout: Duration,
    /// How often a request is sent when the CA refuses its nonce (RFC 8555 §6.5), the first time counted.
    pub nonce_attempts: u32,
    /// Without it no request is sent; `None`: it is always given.
    pub leave: Option<Arc<dyn Leave>>,
    /// Tells when an answer arrived.
    pub clock: Arc<dyn Clock>,
}

impl DirectoryConfig {
    /// The usual limits: 5 s to connect, 20 s for a request, 9 attempts at a nonce.
    #[must_use]
    pub fn new(url: impl Into<String>, user_agent: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca_bundle: None,
            user_agent: user_agent.into(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            nonce_attempts: 9,
            leave: None,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Why a directory cannot be used. Each text is a sentence for the Issuer's condition; the remedy differs by variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be read, or is not https: mend the spec.
    #[error("the directory {url:?} is not an https URL: {why}")]
    InvalidUrl {
        /// The URL given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The CA bundle holds no certificate, or one that cannot be read: mend the bundle.
    #[error("the CA bundle cannot be used: {0}")]
    InvalidBundle(String),
    /// The server's certificate comes from nobody that is trusted: give its root as CA bundle.
    #[error("the TLS certificate of {host} is not trusted: {why}")]
    Untrusted {
        /// Host and port of the directory.
        host: String,
        /// What the verifier says.
        why: String,
    },
    /// No answer: a wrong URL, a network in between, or an outage.
    #[error("the directory at {host} cannot be reached: {cause}")]
    Unreachable {
        /// Host and port of the directory.
        host: String,
        /// Why.
        cause: WireError,
    },
    /// The CA, or what stands before it, has an outage or limits the rate: nothing to mend.
    #[error("the CA at {host} is not available: it answers HTTP {status}")]
    Outage {
        /// Host and port of the directory.
        host: String,
        /// 429, or 500 and above.
        status: u16,
        /// When the CA wants to be asked again.
        retry_after: Option<Timestamp>,
    },
    /// Somebody answers, but not with an ACME directory: mend the URL.
    #[error("{url} is not an ACME directory: {why}")]
    NotAcme {
        /// The URL given.
        url: String,
        /// What was found instead.
        why: String,
    },
}

/// A directory, fetched once. Share one for each issuer: it holds the connections and the nonces.
pub struct Directory {
    url: String,
    host: String,
    content: WireDirectory,
    transport: Transport,
}

impl Directory {
    /// Fetches the directory: one request.
    ///
    /// # Errors
    /// [`ConnectError`], one variant for each remedy.
    pub async fn connect(
        config: DirectoryConfig,
        now: Timestamp,
    ) -> Result<Arc<Self>, ConnectError> {
        let invalid = |why: &str| ConnectError::InvalidUrl {
            url: config.url.clone(),
            why: why.to_owned(),
        };
        let url = Url::parse(&config.url).map_err(|e| invalid(&e.to_string()))?;
        if url.scheme() != "https" {
            return Err(invalid("its scheme is not https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("it holds a user name or a password"));
        }
        let host = url
            .host_str()
            .map(|h| {
                url.port()
                    .map_or_else(|| h.to_owned(), |p| format!("{h}:{p}"))
            })
            .unwrap_or_default();
        let tls = build_client_config(config.ca_bundle.as_deref())
            .await
            .map_err(ConnectError::InvalidBundle)?;
        let user_agent = HeaderValue::from_str(&config.user_agent).unwrap_or_else(|_| {
            HeaderValue::from_static(concat!("evercert/", env!("CARGO_PKG_VERSION")))
        });
        let limits = Limits {
            connect: config.connect_timeout,
            request: config.request_timeout,
            nonce_attempts: config.nonce_attempts.max(1),
        };
        let wire = Wire::new(
            tls,
            user_agent,
            config.leave.clone(),
            config.clock.clone(),
            limits,
        );
        // As the parser writes it, so that instant-acme's request for it is recognized.
        let url_text = url.to_string();
        let answer =
            wire.send(Method::GET, &url_text, None)
                .await
                .map_err(|cause| match cause {
                    WireError::Untrusted(why) => ConnectError::Untrusted {
                        host: host.clone(),
                        why,
                    },
                    cause => ConnectError::Unreachable {
                        host: host.clone(),
                        cause,
                    },
                })?;
        let content = read_directory(&answer, &url_text, &host, now)?;
        let origins = read_origins(&url, &content).map_err(|why| ConnectError::NotAcme {
            url: url_text.clone(),
            why,
        })?;
        let transport = Transport::new(
            wire,
            url_text.clone(),
            answer.body,
            content.new_nonce.clone(),
            origins,
        );
        Ok(Arc::new(Self {
            url: url_text,
            host,
            content,
            transport,
        }))
    }

    /// The directory's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the CA answers: one request that changes nothing there (newNonce, RFC 8555 §7.2).
    ///
    /// # Errors
    /// [`FaultClass::Unavailable`] and the like: it does not, or not as a CA.
    pub async fn ask(&self, now: Timestamp) -> Result<(), Fault> {
        let attempt = self.attempt("newNonce", Place::Directory, now);
        attempt.check(self.transport.ask_nonce().await).map(drop)
    }

    /// Whether the CA says when to renew its certificates (RFC 9773).
    #[must_use]
    pub fn offers_renewal_info(&self) -> bool {
        self.content.renewal_info.is_some()
    }

    /// Where certificates are revoked (RFC 8555 §7.6).
    pub(crate) fn revoke_cert(&self) -> Option<&str> {
        self.content.revoke_cert.as_deref()
    }

    /// When to renew the certificate `id` (RFC 9773 §4): one request, which no account signs.
    ///
    /// # Errors
    /// [`NoRenewalInfo`]: it lasts unless the CA did not answer, or answered 429 or 5xx.
    pub async fn renewal_info(
        &self,
        id: &str,
        now: Timestamp,
    ) -> Result<RenewalInfo, NoRenewalInfo> {
        let attempt = self.attempt("renewal information", Place::Read, now);
        let none = |lasting, fault: Fault| NoRenewalInfo {
            lasting,
            retry_after: fault.retry_after,
            detail: fault.detail,
        };
        let base = self.content.renewal_info.as_deref();
        let named = id
            .split_once('.')
            .is_some_and(|(authority, serial)| is_base64url(authority) && is_base64url(serial));
        let Some(base) = base.filter(|_| named) else {
            let fault = attempt.local(FaultClass::Permanent, "the CA offers none for it");
            return Err(none(true, fault));
        };
        let url = format!("{}/{id}", base.trim_end_matches('/'));
        let answer = self.transport.get(&url).await.map_err(|error| {
            let lasting = match &error {
                WireError::NameNotFound
                | WireError::Untrusted(_)
                | WireError::TooLarge
                | WireError::ForeignOrigin(_) => true,
                WireError::Refused
                | WireError::TimedOut
                | WireError::NoNonce
                | WireError::NoLeave
                | WireError::Broken(_) => false,
            };
            none(lasting, attempt.unanswered(&error))
        })?;
        let status = answer.status.as_u16();
        if !answer.status.is_success() {
            return Err(none(
                status < 500 && status != 429,
                attempt.refused(&answer),
            ));
        }
        let wire: WireRenewalInfo = attempt.parse(&answer).map_err(|fault| none(true, fault))?;
        let is_page = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        Ok(RenewalInfo {
            start: wire.suggested_window.start,
            end: wire.suggested_window.end,
            explanation_url: wire
                .explanation_url
                .filter(is_page)
                .map(|url| printable(&url)),
            retry_after: attempt.retry_after(&answer),
        })
    }

    /// The URL of the CA's terms of service, where it names some.
    #[must_use]
    pub fn terms_of_service(&self) -> Option<&str> {
        self.content.meta.terms_of_service.as_deref()
    }

    /// Whether the CA wants every new account bound to one that it knows (RFC 8555 §7.3.4).
    #[must_use]
    pub fn external_account_required(&self) -> bool {
        self.content.meta.external_account_required
    }

    /// The names of the profiles that the CA offers (draft-ietf-acme-profiles).
    #[must_use]
    pub fn profiles(&self) -> Vec<String> {
        let names = self.content.meta.profiles.keys();
        names.map(|name| printable(name)).collect()
    }

    /// The domains by which the CA recognizes itself in CAA records (RFC 8659).
    #[must_use]
    pub fn caa_identities(&self) -> &[String] {
        &self.content.meta.caa_identities
    }

    /// The account of a key, which must be P-256 in PKCS#8. Nothing is changed at the CA.
    ///
    /// With a `known_uri` on one of the directory's origins nothing is sent: whether the CA still knows the account shows at
    /// the first use, and its contact is unknown. Else the account is looked up by its key (RFC 8555 §7.3.1).
    ///
    /// # Errors
    /// [`FaultClass::Account`] when the key is of another kind, the account is deactivated, or the CA does not know the key
    /// ([`Fault::is_unknown_account`]).
    pub async fn account(
        self: &Arc<Self>,
        key_pkcs8_der: &[u8],
        known_uri: Option<&str>,
        now: Timestamp,
    ) -> Result<FoundAccount, Fault> {
        if let Some(uri) = known_uri.filter(|uri| self.transport.allows(uri)) {
            let attempt = self.attempt("account", Place::Account, now);
            return self.restore(key_pkcs8_der, uri, None, &attempt).await;
        }
        let wanted = NewAccount {
            only_return_existing: Some(true),
            ..NewAccount::default()
        };
        self.ask_for_account(key_pkcs8_der, &wanted, now).await
    }

    /// Makes the account of a key, bound to `external` where there is one (RFC 8555 §7.3.4), and agrees to the terms of service
    /// (§7.3). One request. Idempotent: the key is the account's identity, so a repetition finds what was made.
    ///
    /// # Errors
    /// As [`Self::account`]; and [`FaultClass::Account`] when the CA wants an external account.
    pub async fn new_account(
        self: &Arc<Self>,
        key_pkcs8_der: &[u8],
        external: Option<&ExternalAccount>,
        now: Timestamp,
    ) -> Result<FoundAccount, Fault> {
        let signer = Signer::of_key(key_pkcs8_der);
        let binding = external.and_then(|e| signer?.bind(e, &self.content.new_account));
        let wanted = NewAccount {
            terms_of_service_agreed: Some(true),
            external_account_binding: binding,
            ..NewAccount::default()
        };
        self.ask_for_account(key_pkcs8_der, &wanted, now).await
    }

    async fn ask_for_account(
        self: &Arc<Self>,
        key: &[u8],
        wanted: &NewAccount,
        now: Timestamp,
    ) -> Result<FoundAccount, Fault> {
        let attempt = self.attempt("account", Place::Account, now);
        let signer =
            Signer::of_key(key).ok_or_else(|| attempt.local(FaultClass::Account, NOT_P256))?;
        let payload = serde_json::to_vec(wanted)
            .map_err(|e| attempt.local(FaultClass::Permanent, &e.to_string()))?;
        let url = &self.content.new_account;
        let answer = attempt.check(self.transport.post(&signer, url, &payload).await)?;
        let Some(uri) = answer.header("location") else {
            return Err(attempt.unexpected(&answer, "it names no account"));
        };
        if !self.transport.allows(uri) {
            return Err(attempt.local(
                FaultClass::Permanent,
                "the account's URL is not on an origin of the directory",
            ));
        }
        // A CA may answer with an empty body; then nothing is known of status and contact.
        let content: WireAccount = serde_json::from_slice(&answer.body).unwrap_or_default();
        if let Some(status) = content.status.filter(|s| s != "valid") {
            return Err(attempt.local(
                FaultClass::Account,
                &format!("the account {uri} is {}", printable(&status)),
            ));
        }
        self.restore(key, uri, content.contact, &attempt).await
    }

    /// The account at `uri`, which the key is taken to be of. Nothing is sent.
    async fn restore(
        self: &Arc<Self>,
        key: &[u8],
        uri: &str,
        contact: Option<Vec<String>>,
        attempt: &Attempt<'_>,
    ) -> Result<FoundAccount, Fault> {
        let signer =
            Signer::parse(key, uri).ok_or_else(|| attempt.local(FaultClass::Account, NOT_P256))?;
        let restored = Account::builder_with_http(Box::new(self.transport.clone()))
            .from_parts(uri.to_owned(), key.into(), self.url.clone())
            .await;
        let account = restored.map_err(|e| attempt.local(FaultClass::Account, &e.to_string()))?;
        Ok(FoundAccount {
            directory: Arc::clone(self),
            account,
            signer,
            contact,
        })
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(crate) fn attempt(&self, what: &'static str, place: Place, now: Timestamp) -> Attempt<'_> {
        Attempt {
            what,
            place,
            host: &self.host,
            now,
        }
    }
}

/// An account that the CA knows, as it was found.
pub struct FoundAccount {
    directory: Arc<Directory>,
    account: Account,
    signer: Signer,
    contact: Option<Vec<String>>,
}

impl FoundAccount {
    /// The account's URL (RFC 8555 §7.3).
    #[must_use]
    pub fn account_uri(&self) -> &str {
        self.account.id()
    }

    /// The account's contacts, `mailto:` URLs, as the CA has told them; empty when it has told nothing.
    #[must_use]
    pub fn contacts(&self) -> &[String] {
        self.contact.as_deref().unwrap_or_default()
    }

    /// Replaces the account's contacts by these `mailto:` URLs (RFC 8555 §7.3.2). One request. Idempotent.
    ///
    /// # Errors
    /// [`FaultClass::Account`] when the CA refuses the address.
    pub async fn update_contacts(&self, contacts: &[String], now: Timestamp) -> Result<(), Fault> {
        let attempt = self
            .directory
            .attempt("contact of the account", Place::Account, now);
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        let call = with_fresh_nonces!(
            &self.directory.transport,
            self.account.update_contacts(&contacts)
        );
        attempt.check_call(call).map(|_| ())
    }

    /// Gives the account another key, a P-256 key in PKCS#8 (RFC 8555 §7.3.5), and gives the account with that key. One request.
    /// Not idempotent: whether a request without an answer was heeded shows when either key's account is looked up.
    ///
    /// # Errors
    /// [`FaultClass::Permanent`] when the CA offers no change of keys, or the key is of another kind; else what it says.
    pub async fn change_key(self, next_pkcs8_der: &[u8], now: Timestamp) -> Result<Self, Fault> {
        let directory = Arc::clone(&self.directory);
        let attempt = directory.attempt("keyChange", Place::Account, now);
        let Some(url) = &directory.content.key_change else {
            return Err(attempt.local(FaultClass::Permanent, "the CA does not offer it"));
        };
        let change = Signer::of_key(next_pkcs8_der)
            .and_then(|next| self.signer.change_to(&next, url))
            .ok_or_else(|| attempt.local(FaultClass::Permanent, NOT_P256))?;
        attempt.check(directory.transport.post(&self.signer, url, &change).await)?;
        let uri = self.account.id();
        directory
            .restore(next_pkcs8_der, uri, self.contact, &attempt)
            .await
    }

    /// The port to it.
    #[must_use]
    pub fn into_acme(self) -> Arc<dyn Acme> {
        Arc::new(AcmeAccount::new(self.directory, self.account, self.signer))
    }
}

fn read_directory(
    answer: &Answer,
    url: &str,
    host: &str,
    now: Timestamp,
) -> Result<WireDirectory, ConnectError> {
    let status = answer.status.as_u16();
    let not_acme = |why: String| ConnectError::NotAcme {
        url: url.to_owned(),
        why,
    };
    if status == 429 || status >= 500 {
        let retry_after = Attempt {
            what: "directory",
            place: Place::Directory,
            host,
            now,
        }
        .retry_after(answer);
        return Err(ConnectError::Outage {
            host: host.to_owned(),
            status,
            retry_after,
        });
    }
    if answer.status.is_redirection() {
        let target = printable(answer.header("location").unwrap_or("an unknown place"));
        return Err(not_acme(format!(
            "it redirects to {target}; give the directory's own URL"
        )));
    }
    if !answer.status.is_success() {
        return Err(not_acme(format!("it answers HTTP {status}")));
    }
    let json: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|_| {
        let kind = printable(answer.header("content-type").unwrap_or("something else"));
        not_acme(format!("it answers with {kind}, not with JSON"))
    })?;
    let missing: Vec<&str> = ["newNonce", "newAccount", "newOrder"]
        .into_iter()
        .filter(|k| !json.get(k).is_some_and(serde_json::Value::is_string))
        .collect();
    if !missing.is_empty() {
        return Err(not_acme(format!("its JSON lacks {}", missing.join(", "))));
    }
    serde_json::from_value(json).map_err(|e| not_acme(format!("its JSON is not understood: {e}")))
}

/// The origins that the directory names, its own among them; all of them https.
fn read_origins(url: &Url, content: &WireDirectory) -> Result<Vec<url::Origin>, String> {
    let optional = [
        &content.revoke_cert,
        &content.key_change,
        &content.renewal_info,
    ];
    let named = [&content.new_nonce, &content.new_account, &content.new_order]
        .into_iter()
        .chain(optional.into_iter().flatten());
    let mut origins = vec![url.origin()];
    for text in named {
        let named = Url::parse(text)
            .ok()
            .filter(|u| u.scheme() == "https")
            .ok_or_else(|| format!("it names {text:?}, which is not an https URL"))?;
        if !origins.contains(&named.origin()) {
            origins.push(named.origin());
        }
    }
    Ok(origins)
}
