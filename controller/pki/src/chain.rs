//! What a CA sends, checked before it is stored (RFC 8555 §7.4.2, §9.1).

use evercert_api::Identifier;
use evercert_core::facts::CertificateFacts;
use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::{leaf, pem};

/// The longest chain that is taken; real ones have two to four.
const LONGEST_CHAIN: usize = 20;

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not PEM certificates.
    #[error("the CA's answer is not a chain of PEM certificates")]
    NotPem,
    /// Something else beside certificates, which must not reach a file (RFC 8555 §9.1).
    #[error("the CA's answer holds something else than certificates")]
    NotOnlyCertificates,
    /// Too many certificates.
    #[error("the CA's chain has {0} certificates, more than {LONGEST_CHAIN}")]
    TooLong(usize),
    /// A certificate that cannot be read.
    #[error("certificate {0} of the CA's chain cannot be read (0 is the leaf)")]
    Unreadable(usize),
    /// Another key.
    #[error("the certificate from the CA does not belong to the private key of the order")]
    WrongKey,
    /// A name is not covered.
    #[error("the certificate from the CA is not for {missing}: its names are {have}")]
    MissingName {
        /// The first name that is wanting.
        missing: Identifier,
        /// The names that it has, joined by commas.
        have: String,
    },
    /// Expired on arrival.
    #[error("the certificate from the CA has expired: it was valid until {0}")]
    Expired(Timestamp),
}

/// The name of the root that a PEM chain leads to: the common name, else the whole name, of the issuer of its last certificate.
/// `None` when that cannot be read.
#[must_use]
pub fn find_root(chain_pem: &[u8]) -> Option<String> {
    let chain = pem::certificates(chain_pem)?;
    let (_, last) = X509Certificate::from_der(chain.last()?).ok()?;
    let issuer = last.issuer();
    let common = issuer.iter_common_name().last();
    Some(match common.and_then(|name| name.as_str().ok()) {
        Some(name) => name.to_owned(),
        None => issuer.to_string(),
    })
}

/// Checks a chain from the CA against the key and the names of the order: only certificates, each one readable, the leaf of
/// this key, for all these names, and not expired at `now`.
///
/// A `notBefore` ahead of `now` is accepted: the clock here is slow, and another order would bring the same. The caller says
/// so where `facts.not_before > now`. Signatures and validity of the issuers are for the client to judge.
///
/// # Errors
/// [`ChainError`], whose sentence says which.
pub fn check_chain(
    chain_pem: &[u8],
    key_pem: &[u8],
    names: &[Identifier],
    now: Timestamp,
) -> Result<CertificateFacts, ChainError> {
    let chain = pem::certificates(chain_pem).ok_or(ChainError::NotPem)?;
    if pem::count_sections(chain_pem) != chain.len() {
        return Err(ChainError::NotOnlyCertificates);
    }
    if chain.len() > LONGEST_CHAIN {
        return Err(ChainError::TooLong(chain.len()));
    }
    let mut facts = None;
    for (index, der) in chain.iter().enumerate().rev() {
        facts = Some((
            leaf::read_facts(der).ok_or(ChainError::Unreadable(index))?,
            der,
        ));
    }
    let (facts, der) = facts.ok_or(ChainError::NotPem)?;
    if !leaf::belongs(key_pem, der) {
        return Err(ChainError::WrongKey);
    }
    if let Some(missing) = names.iter().find(|name| !facts.covers([name.as_str()])) {
        return Err(ChainError::MissingName {
            missing: missing.clone(),
            have: facts.names.join(", "),
        });
    }
    if facts.not_after <= now {
        return Err(ChainError::Expired(facts.not_after));
    }
    Ok(facts)
}
