//! The labels: words from closed lists, save the name of a Certificate.

use std::fmt::{self, Write};

use evercert_api::Reason;
use evercert_api::certificate::AttemptOutcome;
use evercert_api::issuer::{WELL_KNOWN, directory_url};
use evercert_core::fault::Fault;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// What a request to a CA is about (RFC 8555 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    /// An account is given other contacts.
    Account,
    /// An account is given another key.
    KeyChange,
    /// An account is registered, or looked up.
    NewAccount,
    /// An order is placed.
    NewOrder,
    /// An order is read, with its authorizations.
    Order,
    /// Challenges are accepted.
    Challenge,
    /// An order is finalized.
    Finalize,
    /// A certificate is downloaded.
    Certificate,
    /// Authorizations are given back.
    Authorization,
    /// A certificate is revoked.
    RevokeCert,
    /// A CA is asked whether it answers again.
    NewNonce,
}

/// The word of a label from a closed list.
macro_rules! words {
    ($kind:ident { $($variant:ident $word:literal),* $(,)? }) => {
        impl EncodeLabelValue for $kind {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
                encoder.write_str(match self { $(Self::$variant => $word),* })
            }
        }
    };
}

words!(Endpoint {
    Account "account",
    KeyChange "keyChange",
    NewAccount "newAccount",
    NewOrder "newOrder",
    Order "order",
    Challenge "challenge",
    Finalize "finalize",
    Certificate "certificate",
    Authorization "authorization",
    RevokeCert "revokeCert",
    NewNonce "newNonce",
});

/// How a CA answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Status {
    Success,
    RateLimited,
    ClientError,
    ServerError,
    NoAnswer,
}

words!(Status {
    Success "2xx",
    RateLimited "429",
    ClientError "4xx",
    ServerError "5xx",
    NoAnswer "none",
});

impl Status {
    pub(super) fn of<T>(answer: &Result<T, Fault>) -> Self {
        match answer {
            Ok(_) => Self::Success,
            Err(fault) => match fault.http_status {
                Some(429) => Self::RateLimited,
                Some(500..) => Self::ServerError,
                // A good status with a bad body.
                Some(..400) => Self::Success,
                Some(_) => Self::ClientError,
                None => Self::NoAnswer,
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Request {
    pub(super) endpoint: Endpoint,
    pub(super) status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Outcome(pub(super) AttemptOutcome);

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self.0 {
            AttemptOutcome::Issued => "Issued",
            AttemptOutcome::Failed => "Failed",
            AttemptOutcome::Abandoned => "Abandoned",
            AttemptOutcome::Revoked => "Revoked",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Word(pub(super) Reason);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(self.0.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Attempt {
    pub(super) outcome: Outcome,
    pub(super) reason: Word,
}

/// A directory by its well-known name, `other` without one: a URL is what a tenant writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub(super) struct Directory {
    pub(super) directory: &'static str,
}

impl Directory {
    pub(super) fn of(url: &str) -> Self {
        let known = WELL_KNOWN.iter().find(|name| directory_url(name) == url);
        Self {
            directory: known.copied().unwrap_or("other"),
        }
    }
}

/// The kind of an object that has passes of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A Certificate.
    Certificate,
    /// An Issuer.
    Issuer,
    /// A ClusterIssuer.
    ClusterIssuer,
}

words!(Kind {
    Certificate "Certificate",
    Issuer "Issuer",
    ClusterIssuer "ClusterIssuer",
});

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ended {
    /// As it should.
    Done,
    /// Another writer was faster, and the next pass sees what it wrote.
    Conflict,
    /// The API server refused a request, or did not answer.
    Failed,
}

words!(Ended {
    Done "done",
    Conflict "conflict",
    Failed "failed",
});

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Pass {
    pub(super) kind: Kind,
    pub(super) result: Ended,
}

/// Whether an issuer is Ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Truth(pub(super) bool);

impl EncodeLabelValue for Truth {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(if self.0 { "true" } else { "false" })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfIssuers {
    pub(super) kind: Kind,
    pub(super) ready: Truth,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfCertificate {
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Build {
    pub(super) version: &'static str,
}
