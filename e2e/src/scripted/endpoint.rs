//! What a request is for, told by its path.

use std::fmt;

/// The kinds of requests that a CA serves (RFC 8555 §7.1, RFC 9773 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// `GET` of the directory.
    Directory,
    /// `HEAD` or `GET` for a nonce.
    NewNonce,
    /// An account made or looked up.
    NewAccount,
    /// An account read, changed or deactivated.
    Account,
    /// An order placed.
    NewOrder,
    /// An order read.
    Order,
    /// An authorization read or deactivated.
    Authorization,
    /// A challenge read or accepted.
    Challenge,
    /// An order finalized.
    Finalize,
    /// A certificate, or one of its alternate chains, downloaded.
    Certificate,
    /// An account's key changed.
    KeyChange,
    /// A certificate revoked.
    RevokeCert,
    /// Renewal information read.
    RenewalInfo,
    /// Anything else.
    Elsewhere,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Directory => "directory",
            Self::NewNonce => "newNonce",
            Self::NewAccount => "newAccount",
            Self::Account => "account",
            Self::NewOrder => "newOrder",
            Self::Order => "order",
            Self::Authorization => "authorization",
            Self::Challenge => "challenge",
            Self::Finalize => "finalize",
            Self::Certificate => "certificate",
            Self::KeyChange => "keyChange",
            Self::RevokeCert => "revokeCert",
            Self::RenewalInfo => "renewalInfo",
            Self::Elsewhere => "elsewhere",
        })
    }
}

/// One resource; the numbers are those in its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resource {
    Directory,
    NewNonce,
    NewAccount,
    Account(u64),
    NewOrder,
    Order(u64),
    Authorization(u64),
    /// Of an authorization, the challenge of this type.
    Challenge(u64, String),
    Finalize(u64),
    /// Of a certificate, the chain to this root.
    Certificate(u64, usize),
    KeyChange,
    RevokeCert,
    /// By the certificate's identifier (RFC 9773 §4.1).
    RenewalInfo(String),
    Elsewhere,
}

impl Resource {
    pub(super) fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        Self::parse_parts(&parts).unwrap_or(Self::Elsewhere)
    }

    fn parse_parts(parts: &[&str]) -> Option<Self> {
        Some(match parts {
            ["dir"] => Self::Directory,
            ["new-nonce"] => Self::NewNonce,
            ["new-account"] => Self::NewAccount,
            ["account", id] => Self::Account(id.parse().ok()?),
            ["new-order"] => Self::NewOrder,
            ["order", id] => Self::Order(id.parse().ok()?),
            ["order", id, "finalize"] => Self::Finalize(id.parse().ok()?),
            ["authorization", id] => Self::Authorization(id.parse().ok()?),
            ["challenge", id, kind] => Self::Challenge(id.parse().ok()?, (*kind).to_owned()),
            ["certificate", id] => Self::Certificate(id.parse().ok()?, 0),
            ["certificate", id, chain] => Self::Certificate(id.parse().ok()?, chain.parse().ok()?),
            ["key-change"] => Self::KeyChange,
            ["revoke-cert"] => Self::RevokeCert,
            ["renewal-info", id] => Self::RenewalInfo((*id).to_owned()),
            _ => return None,
        })
    }

    /// The path, as [`Self::parse`] reads it.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Directory => "/dir".into(),
            Self::NewNonce => "/new-nonce".into(),
            Self::NewAccount => "/new-account".into(),
            Self::Account(id) => format!("/account/{id}"),
            Self::NewOrder => "/new-order".into(),
            Self::Order(id) => format!("/order/{id}"),
            Self::Authorization(id) => format!("/authorization/{id}"),
            Self::Challenge(id, kind) => format!("/challenge/{id}/{kind}"),
            Self::Finalize(id) => format!("/order/{id}/finalize"),
            Self::Certificate(id, 0) => format!("/certificate/{id}"),
            Self::Certificate(id, chain) => format!("/certificate/{id}/{chain}"),
            Self::KeyChange => "/key-change".into(),
            Self::RevokeCert => "/revoke-cert".into(),
            Self::RenewalInfo(id) => format!("/renewal-info/{id}"),
            Self::Elsewhere => "/".into(),
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Directory => Endpoint::Directory,
            Self::NewNonce => Endpoint::NewNonce,
            Self::NewAccount => Endpoint::NewAccount,
            Self::Account(_) => Endpoint::Account,
            Self::NewOrder => Endpoint::NewOrder,
            Self::Order(_) => Endpoint::Order,
            Self::Authorization(_) => Endpoint::Authorization,
            Self::Challenge(..) => Endpoint::Challenge,
            Self::Finalize(_) => Endpoint::Finalize,
            Self::Certificate(..) => Endpoint::Certificate,
            Self::KeyChange => Endpoint::KeyChange,
            Self::RevokeCert => Endpoint::RevokeCert,
            Self::RenewalInfo(_) => Endpoint::RenewalInfo,
            Self::Elsewhere => Endpoint::Elsewhere,
        }
    }
}
