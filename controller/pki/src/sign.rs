//! What a private key signs for itself: certificate requests and self-signed certificates.

use std::time::Duration;

use aws_lc_rs::rand;
use evercert_api::Identifier;
use jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};

use crate::key::{self, KeyError};

/// The common name of every fallback, as subject and as issuer: nobody can mistake it for a CA.
pub const FALLBACK_NAME: &str = "Evercert fallback: not issued by a CA";

/// The common name of a self-signed certificate whose first name is too long for one.
const SELF_SIGNED_NAME: &str = "Evercert self-signed";
/// The longest common name (RFC 5280 appendix A.1, ub-common-name).
const COMMON_NAME_CAP: usize = 64;

/// What a self-signed certificate is for, and so whose name it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marking {
    /// It stands in for an issued certificate: subject and issuer are [`FALLBACK_NAME`].
    Fallback,
    /// It is what a `selfSigned` Issuer issues: subject and issuer are the first name.
    SelfSignedIssuer,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No name at all.
    #[error("a certificate without a name is of no use")]
    NoName,
    /// The validity ends before it begins, or lies before 1970.
    #[error("the validity from {0} to {1} is empty or too early")]
    Validity(Timestamp, Timestamp),
    /// The crypto library failed.
    #[error("signing failed")]
    Signing(#[source] rcgen::Error),
    /// The source of randomness failed.
    #[error("no random serial number could be had")]
    Randomness,
}

/// Builds the request for a certificate (PKCS #10, DER) that ACME's finalize takes (RFC 8555 §7.4): `names` as subject
/// alternative names in their order, an empty subject, signed by the key.
///
/// # Errors
/// [`SignError::Key`], [`SignError::NoName`] or [`SignError::Signing`].
pub fn build_csr(key_pem: &[u8], names: &[Identifier]) -> Result<Vec<u8>, SignError> {
    let pair = key::read(key_pem)?;
    let params = build_params(names, DistinguishedName::new())?;
    let request = params
        .serialize_request(&pair)
        .map_err(SignError::Signing)?;
    Ok(request.der().to_vec())
}

/// Builds a self-signed certificate (PEM) for `names`, valid from `not_before` to `not_after` (whole seconds), with a random
/// serial number: an end entity (CA:false) for servers, that no client takes for an authority.
///
/// # Errors
/// [`SignError`].
pub fn self_signed(
    key_pem: &[u8],
    names: &[Identifier],
    not_before: Timestamp,
    not_after: Timestamp,
    marking: Marking,
) -> Result<String, SignError> {
    let pair = key::read(key_pem)?;
    let first = names.iter().find(|name| name.address().is_none());
    let common_name = match (marking, first) {
        (Marking::Fallback, _) => FALLBACK_NAME,
        (Marking::SelfSignedIssuer, Some(name)) if name.as_str().len() <= COMMON_NAME_CAP => {
            name.as_str()
        }
        (Marking::SelfSignedIssuer, _) => SELF_SIGNED_NAME,
    };
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);

    let since_epoch = |at: Timestamp| u64::try_from(at.as_second()).ok().map(Duration::from_secs);
    let (Some(from), Some(to), true) = (
        since_epoch(not_before),
        since_epoch(not_after),
        not_before < not_after,
    ) else {
        return Err(SignError::Validity(not_before, not_after));
    };
    let epoch = rcgen::date_time_ymd(1970, 1, 1);

    let mut params = build_params(names, subject)?;
    params.not_before = epoch + from;
    params.not_after = epoch + to;
    params.serial_number = Some(random_serial()?);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = build_usages(&pair);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params.self_signed(&pair).map_err(SignError::Signing)?.pem())
}

fn build_params(
    names: &[Identifier],
    subject: DistinguishedName,
) -> Result<CertificateParams, SignError> {
    if names.is_empty() {
        return Err(SignError::NoName);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.address() {
            Some(address) => Ok(SanType::IpAddress(address)),
            None => name.as_str().try_into().map(SanType::DnsName),
        })
        .collect::<Result<_, _>>()
        .map_err(SignError::Signing)?;
    Ok(params)
}

/// Only RSA keys encipher keys (RFC 5246 §7.4.2, TLS_RSA); all of them sign.
fn build_usages(pair: &KeyPair) -> Vec<KeyUsagePurpose> {
    if pair.algorithm() == &rcgen::PKCS_RSA_SHA256 {
        vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ]
    } else {
        vec![KeyUsagePurpose::DigitalSignature]
    }
}

/// 126 random bits, positive and always of 16 bytes (RFC 5280 §4.1.2.2).
fn random_serial() -> Result<SerialNumber, SignError> {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).map_err(|_| SignError::Randomness)?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from(bytes.to_vec()))
}
