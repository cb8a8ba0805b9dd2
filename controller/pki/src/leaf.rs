//! A certificate's facts, and whether a key belongs to it.

use std::net::IpAddr;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use evercert_core::facts::{CertificateFacts, Damage, KeyKind};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::sign::FALLBACK_NAME;
use crate::{key, pem};

/// Reads what a TLS Secret holds: `tls.crt` (leaf first) and `tls.key`. Ok means that the leaf can be read and the key is
/// its own; whether it is still valid, and for which names, is for the reader of the facts.
///
/// # Errors
/// [`Damage::MissingData`] when either is blank, else [`Damage::InvalidCertificate`], else [`Damage::InvalidKeyPair`].
pub fn read_pair(chain_pem: &[u8], key_pem: &[u8]) -> Result<CertificateFacts, Damage> {
    if pem::is_blank(chain_pem) || pem::is_blank(key_pem) {
        return Err(Damage::MissingData);
    }
    let chain = pem::certificates(chain_pem).ok_or(Damage::InvalidCertificate)?;
    let leaf = chain.first().ok_or(Damage::InvalidCertificate)?;
    let facts = read_facts(leaf).ok_or(Damage::InvalidCertificate)?;
    if belongs(key_pem, leaf) {
        Ok(facts)
    } else {
        Err(Damage::InvalidKeyPair)
    }
}

/// Reads the first certificate of a PEM chain.
///
/// # Errors
/// [`Damage::MissingData`] when the text is blank, else [`Damage::InvalidCertificate`].
pub fn read_leaf(chain_pem: &[u8]) -> Result<CertificateFacts, Damage> {
    if pem::is_blank(chain_pem) {
        return Err(Damage::MissingData);
    }
    let chain = pem::certificates(chain_pem).ok_or(Damage::InvalidCertificate)?;
    chain
        .first()
        .and_then(read_facts)
        .ok_or(Damage::InvalidCertificate)
}

/// Reads one certificate in DER; `None` when it cannot be read.
#[must_use]
pub fn read_der(der: &[u8]) -> Option<CertificateFacts> {
    read_facts(&CertificateDer::from(der.to_vec()))
}

/// The DER of the first certificate of a PEM chain; `None` when it cannot be read.
#[must_use]
pub fn leaf_der(chain_pem: &[u8]) -> Option<Vec<u8>> {
    let chain = pem::certificates(chain_pem)?;
    chain.first().map(|leaf| leaf.as_ref().to_vec())
}

/// Whether the private key's public half is the certificate's.
pub(crate) fn belongs(key_pem: &[u8], certificate: &CertificateDer<'_>) -> bool {
    let Ok(key) = key::read(key_pem) else {
        return false;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
}

/// The facts of one certificate; `None` when it cannot be read, or when anything follows it.
pub(crate) fn read_facts(der: &CertificateDer<'static>) -> Option<CertificateFacts> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut names: Vec<String> = match certificate.subject_alternative_name().ok()? {
        Some(san) => san
            .value
            .general_names
            .iter()
            .filter_map(read_name)
            .collect(),
        None => Vec::new(),
    };
    names.sort_unstable();
    names.dedup();
    let validity = certificate.validity();
    let self_signed =
        certificate.issuer() == certificate.subject() && certificate.verify_signature(None).is_ok();
    Some(CertificateFacts {
        serial: read_serial(certificate.raw_serial()),
        renewal_id: read_renewal_id(&certificate),
        fingerprint: hex(digest::digest(&digest::SHA256, der).as_ref()),
        not_before: read_instant(validity.not_before.timestamp()),
        not_after: read_instant(validity.not_after.timestamp()),
        names,
        key: read_key_kind(certificate.public_key()),
        self_signed,
        stands_in: self_signed && is_fallback_name(certificate.subject()),
    })
}

/// A host name or an IP address; a host name that looks like an address is neither.
fn read_name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        let is_address = name.parse::<IpAddr>().is_ok();
        return (!is_address).then(|| name.to_ascii_lowercase());
    }
    let GeneralName::IPAddress(bytes) = name else {
        return None;
    };
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
    };
    Some(address.to_string())
}

fn is_fallback_name(subject: &X509Name<'_>) -> bool {
    let mut names = subject.iter_common_name();
    names.any(|name| name.as_str().is_ok_and(|name| name == FALLBACK_NAME))
}

/// An instant of X.509; the "no end" of RFC 5280 §4.1.2.5 lies two hours behind what a [`Timestamp`] holds.
fn read_instant(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(if second < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// Hexadecimal as openssl prints it: without the zero byte that DER puts before a high bit.
fn read_serial(raw: &[u8]) -> String {
    match raw {
        [0, rest @ ..] if !rest.is_empty() => hex(rest),
        _ => hex(raw),
    }
}

/// The key identifier of the authority and the serial number's DER bytes, a leading zero among them (RFC 9773 §4.1).
fn read_renewal_id(certificate: &X509Certificate<'_>) -> Option<String> {
    let authority = certificate.extensions().iter().find_map(|extension| {
        if let ParsedExtension::AuthorityKeyIdentifier(authority) = extension.parsed_extension() {
            authority.key_identifier.as_ref()
        } else {
            None
        }
    })?;
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Some(format!(
        "{}.{}",
        encode(authority.0),
        encode(certificate.raw_serial())
    ))
}

fn read_key_kind(key: &SubjectPublicKeyInfo<'_>) -> KeyKind {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => count_bits(rsa.modulus).map_or(KeyKind::Other, KeyKind::Rsa),
        Ok(PublicKey::EC(_)) if key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY => {
            let curve = key
                .algorithm
                .parameters
                .as_ref()
                .and_then(|p| p.as_oid().ok());
            match curve {
                Some(oid) if oid == OID_EC_P256 => KeyKind::Ecdsa(256),
                Some(oid) if oid == OID_NIST_EC_P384 => KeyKind::Ecdsa(384),
                Some(oid) if oid == OID_NIST_EC_P521 => KeyKind::Ecdsa(521),
                _ => KeyKind::Other,
            }
        }
        _ => KeyKind::Other,
    }
}

/// The modulus of an `RSAPublicKey` (RFC 8017 §A.1.1) in bits.
pub(crate) fn rsa_bits(public_key: &[u8]) -> Option<u16> {
    let (_, key) = RSAPublicKey::from_der(public_key).ok()?;
    count_bits(key.modulus)
}

/// The length in bits of a big-endian integer.
fn count_bits(integer: &[u8]) -> Option<u16> {
    let start = integer.iter().position(|b| *b != 0)?;
    let digits = integer.get(start..)?;
    let bits = digits
        .len()
        .checked_mul(8)?
        .checked_sub(digits.first()?.leading_zeros() as usize)?;
    u16::try_from(bits).ok()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
