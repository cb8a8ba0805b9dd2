//! Problem documents (RFC 7807, RFC 8555 §6.7), and the `Retry-After` that goes with some.

use std::fmt;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::{Value, json};

use super::identifier::Identifier;

/// What every type of RFC 8555 begins with.
const PREFIX: &str = "urn:ietf:params:acme:error:";

/// A refusal in the CA's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub(super) status: u16,
    pub(super) kind: Box<str>,
    pub(super) detail: Box<str>,
    instance: Option<String>,
    pub(super) subproblems: Vec<Subproblem>,
    pub(super) headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subproblem {
    identifier: Identifier,
    kind: String,
    detail: String,
}

impl Problem {
    /// A problem of an HTTP status and a type without its prefix, such as `rateLimited` (RFC 8555 §6.7).
    #[must_use]
    pub fn new(status: u16, kind: &str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind: kind.into(),
            detail: detail.into().into(),
            instance: None,
            subproblems: Vec::new(),
            headers: Vec::new(),
        }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(400, "malformed", detail)
    }

    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(403, "unauthorized", detail)
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(404, "malformed", format!("there is no such {what}"))
    }

    /// With what is wrong with one name (RFC 8555 §6.7.1).
    #[must_use]
    pub fn naming(mut self, name: &str, kind: &str, detail: &str) -> Self {
        self.subproblems.push(Subproblem {
            identifier: Identifier::of(name),
            kind: kind.to_owned(),
            detail: detail.to_owned(),
        });
        self
    }

    /// With the page that a person has to open (RFC 8555 §7.3.3).
    #[must_use]
    pub fn instance(mut self, url: &str) -> Self {
        self.instance = Some(url.to_owned());
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn to_json(&self) -> Value {
        let mut body = json!({
            "type": format!("{PREFIX}{}", self.kind), "detail": self.detail, "status": self.status,
        });
        if let Some(instance) = &self.instance {
            body["instance"] = json!(instance);
        }
        if !self.subproblems.is_empty() {
            let subproblems = self.subproblems.iter().map(|sub| {
                json!({
                    "type": format!("{PREFIX}{}", sub.kind), "detail": sub.detail,
                    "identifier": sub.identifier.to_json(),
                })
            });
            body["subproblems"] = subproblems.collect();
        }
        body
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

/// A `Retry-After` (RFC 9110 §10.2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryAfter {
    /// So many seconds.
    Seconds(u64),
    /// A date, in whole seconds.
    At(Timestamp),
    /// Anything, an empty or an absurd text too.
    Text(String),
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => write!(f, "{seconds}"),
            Self::At(at) => f.write_str(&http_date(*at)),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// An instant as HTTP writes it (RFC 9110 §5.6.7); empty before the year 0, which has no such form.
pub(super) fn http_date(at: Timestamp) -> String {
    DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&at)
        .unwrap_or_default()
}
