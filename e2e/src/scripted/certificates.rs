//! Certificates: downloaded (RFC 8555 §7.4.2), revoked (§7.6), and when to renew them (RFC 9773).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;

use super::answer::Reply;
use super::endpoint::Resource;
use super::jws::Jws;
use super::problem::{Problem, RetryAfter};
use super::request::Signer;
use super::state::{AuthorizationState, Certificate, State, values};

/// Reasons that a subscriber may give (RFC 5280 §5.3.1): those that Let's Encrypt takes.
const REASONS: [u64; 4] = [0, 1, 4, 5];
/// As Let's Encrypt answers.
const POLL: RetryAfter = RetryAfter::Seconds(6 * 3600);

/// What a CA says about when to renew a certificate (RFC 9773 §4.2).
#[derive(Debug, Clone)]
pub struct Advice {
    window: Option<(Timestamp, Timestamp)>,
    explanation: Option<String>,
    retry_after: Option<RetryAfter>,
}

impl Default for Advice {
    fn default() -> Self {
        Self {
            window: None,
            explanation: None,
            retry_after: Some(POLL),
        }
    }
}

impl Advice {
    /// The window that Let's Encrypt suggests: around two thirds of the lifetime, or half of it below ten days. For a revoked
    /// certificate one that has just begun.
    #[must_use]
    pub fn usual() -> Self {
        Self::default()
    }

    /// This window, possible or not.
    #[must_use]
    pub fn window(start: Timestamp, end: Timestamp) -> Self {
        Self {
            window: Some((start, end)),
            ..Self::default()
        }
    }

    /// A window that is over: renew now.
    #[must_use]
    pub fn at_once(now: Timestamp) -> Self {
        let hour = SignedDuration::from_hours(1);
        Self::window(now - hour - hour, now - hour)
    }

    /// With a page for people.
    #[must_use]
    pub fn explained(mut self, url: &str) -> Self {
        self.explanation = Some(url.to_owned());
        self
    }

    /// With this `Retry-After`, or with none. Else it is that of Let's Encrypt: six hours.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Option<RetryAfter>) -> Self {
        self.retry_after = retry_after;
        self
    }
}

#[derive(Deserialize)]
struct Revocation {
    certificate: String,
    reason: Option<u64>,
}

impl State {
    /// RFC 8555 §7.4.2.
    pub(super) fn certificate(
        &self,
        number: u64,
        chain: usize,
        account: u64,
    ) -> Result<Reply, Problem> {
        let missing = || Problem::not_found("certificate");
        let certificate = self.certificates.get(&number).ok_or_else(missing)?;
        if certificate.account != account {
            return Err(Problem::unauthorized(
                "the certificate is of another account",
            ));
        }
        let pem = certificate.chains.get(chain).ok_or_else(missing)?;
        let mut reply = Reply::new(200, "application/pem-certificate-chain", pem);
        for other in (0..certificate.chains.len()).filter(|other| *other != chain) {
            let url = self.url(&Resource::Certificate(number, other));
            reply = reply.header("link", &format!("<{url}>;rel=\"alternate\""));
        }
        Ok(reply)
    }

    /// RFC 8555 §7.6: by the account, by one that controls all its names, or by the certificate's own key.
    pub(super) fn revoke(&mut self, by: &Signer, jws: &Jws) -> Result<Reply, Problem> {
        let wanted: Revocation = jws.read()?;
        let der = BASE64_URL_SAFE_NO_PAD
            .decode(&wanted.certificate)
            .map_err(|_| Problem::malformed("the certificate is no base64url"))?;
        let found = self.certificates.iter().find(|(_, c)| c.der == der);
        let Some((number, certificate)) = found else {
            return Err(Problem::not_found("certificate"));
        };
        let may = match by {
            Signer::Key(key) => key.point() == certificate.public_key,
            Signer::Account(account) => {
                certificate.account == *account || self.controls(*account, certificate)
            }
        };
        if !may {
            return Err(Problem::unauthorized(
                "the certificate is not yours to revoke",
            ));
        }
        let reason = wanted.reason.unwrap_or_default();
        if !REASONS.contains(&reason) {
            let detail = format!("the reason {reason} is not one of {REASONS:?}");
            return Err(Problem::new(400, "badRevocationReason", detail));
        }
        if certificate.revoked.is_some() {
            return Err(Problem::new(400, "alreadyRevoked", "it is revoked already"));
        }
        let (number, account) = (*number, certificate.account);
        let names = values(&certificate.identifiers);
        if let Some(certificate) = self.certificates.get_mut(&number) {
            certificate.revoked = Some(reason);
        }
        self.note(
            account,
            &names,
            format!("certificate {number} is revoked, reason {reason}"),
        );
        Ok(Reply {
            status: 200,
            ..Reply::default()
        })
    }

    fn controls(&self, account: u64, certificate: &Certificate) -> bool {
        let now = self.now();
        certificate.identifiers.iter().all(|identifier| {
            self.authorizations.iter().any(|(number, authorization)| {
                authorization.account == account
                    && authorization.identifier == identifier.base()
                    && authorization.wildcard == identifier.is_wildcard()
                    && self.authorization_state(*number, now) == AuthorizationState::Valid
            })
        })
    }

    /// RFC 9773 §4.2.
    pub(super) fn renewal_info(&self, id: &str) -> Result<Reply, Problem> {
        let found = self
            .certificate_by(id)
            .filter(|_| self.settings.renewal_info);
        let (_, certificate) = found.ok_or_else(|| Problem::not_found("certificate"))?;
        let advice = self
            .play
            .advice_for(&values(&certificate.identifiers), certificate.not_before);
        let (start, end) = advice
            .window
            .unwrap_or_else(|| self.usual_window(certificate));
        let mut body = json!({"suggestedWindow": {"start": start, "end": end}});
        if let Some(url) = &advice.explanation {
            body["explanationURL"] = json!(url);
        }
        let reply = Reply::json(200, &body);
        Ok(match advice.retry_after {
            Some(retry_after) => reply.header("retry-after", &retry_after.to_string()),
            None => reply,
        })
    }

    fn usual_window(&self, certificate: &Certificate) -> (Timestamp, Timestamp) {
        let now = self.now();
        if certificate.revoked.is_some() {
            let hour = SignedDuration::from_hours(1);
            return (now - hour, now);
        }
        let lifetime = certificate.not_after.duration_since(certificate.not_before);
        let parts = if lifetime < SignedDuration::from_hours(240) {
            2
        } else {
            3
        };
        let ideal = certificate.not_after - lifetime / parts;
        (ideal - lifetime / 50, ideal + lifetime / 50)
    }
}
