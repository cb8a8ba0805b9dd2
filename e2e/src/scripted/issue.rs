//! Certificates: what a request asks for, and the hierarchy that signs.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::identifier::Identifier;
use super::jws::random_bytes;
use super::problem::Problem;
use crate::leaf::hex;

/// A certificate signing request, read and verified.
pub(super) struct SigningRequest {
    params: CertificateSigningRequestParams,
    /// Sorted.
    pub(super) names: Vec<String>,
    /// The public key's bits.
    pub(super) key: Vec<u8>,
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) identifiers: &'a [Identifier],
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

pub(super) struct Issued {
    pub(super) der: Vec<u8>,
    pub(super) serial: String,
    pub(super) chains: Vec<String>,
    pub(super) renewal_id: String,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Roots, and one intermediate that all of them have certified.
pub(super) struct Hierarchy {
    number: usize,
    roots: Vec<Authority>,
    intermediate: Authority,
    /// The intermediate as each root certified it, PEM.
    certified: Vec<String>,
}

/// # Errors
/// `badCSR`: it cannot be read, is not signed by its own key, or has no names.
pub(super) fn read_request(der: &[u8]) -> Result<SigningRequest, Problem> {
    let bad = |why: &str| Problem::new(400, "badCSR", why);
    let params = CertificateSigningRequestParams::from_der(&der.into())
        .map_err(|error| bad(&error.to_string()))?;
    let mut names = Vec::new();
    for name in &params.params.subject_alt_names {
        names.push(match name {
            SanType::DnsName(name) => name.as_str().to_lowercase(),
            SanType::IpAddress(address) => address.to_string(),
            _ => return Err(bad("it has a name that is neither DNS name nor address")),
        });
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(bad("it has no names"));
    }
    let key = params.public_key.der_bytes().to_vec();
    Ok(SigningRequest { params, names, key })
}

impl Hierarchy {
    /// A new one; `number` makes its names differ from those before it.
    pub(super) fn new(number: usize, alternates: usize) -> Result<Self> {
        let mut roots = Vec::new();
        for at in 0..=alternates {
            let params = authority(&format!("Scripted Root {number}.{at}"))?;
            let key = KeyPair::generate().context("generating a root's key")?;
            roots.push(Authority::self_signed(params, key).context("signing a root")?);
        }
        let (intermediate, certified) =
            certify(&roots, &format!("Scripted Intermediate {number}.0"))?;
        Ok(Self {
            number,
            roots,
            intermediate,
            certified,
        })
    }

    /// The same roots with another intermediate.
    pub(super) fn change_intermediate(&mut self, to: usize) -> Result<()> {
        let name = format!("Scripted Intermediate {}.{to}", self.number);
        (self.intermediate, self.certified) = certify(&self.roots, &name)?;
        Ok(())
    }

    /// The next one, of which nothing is like before.
    pub(super) fn successor(&self, alternates: usize) -> Result<Self> {
        Self::new(self.number + 1, alternates)
    }

    /// Roots as PEM, that of the default chain first.
    pub(super) fn roots(&self) -> Vec<String> {
        self.roots.iter().map(CertifiedIssuer::pem).collect()
    }

    /// Signs the request's key for a subject; nothing else of the request is heeded.
    pub(super) fn sign(&self, request: SigningRequest, subject: &Subject<'_>) -> Result<Issued> {
        let names: Vec<String> = subject
            .identifiers
            .iter()
            .map(|i| i.value.clone())
            .collect();
        let mut params = CertificateParams::new(names).context("reading the names")?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + epoch(subject.not_before);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + epoch(subject.not_after);
        params.serial_number = Some(SerialNumber::from_slice(&random_bytes::<16>()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let mut request = request.params;
        request.params = params;
        let leaf = request.signed_by(&self.intermediate).context("signing")?;
        let (serial, renewal_id) = identify(leaf.der())?;
        let pem = leaf.pem();
        Ok(Issued {
            der: leaf.der().to_vec(),
            serial,
            chains: self
                .certified
                .iter()
                .map(|above| format!("{pem}{above}"))
                .collect(),
            renewal_id,
        })
    }
}

/// An intermediate, and its certificate by each root.
fn certify(roots: &[Authority], name: &str) -> Result<(Authority, Vec<String>)> {
    let params = authority(name)?;
    let key = KeyPair::generate().context("generating an intermediate's key")?;
    let first = roots.first().context("a hierarchy without roots")?;
    let intermediate =
        Authority::signed_by(params.clone(), key, first).context("signing an intermediate")?;
    let certified = roots
        .iter()
        .map(|root| Ok(params.signed_by(intermediate.key(), root)?.pem()))
        .collect::<Result<_>>()
        .context("signing an intermediate again")?;
    Ok((intermediate, certified))
}

fn authority(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("an authority without names")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&random_bytes::<16>()));
    Ok(params)
}

/// The serial number in hexadecimal, and the identifier of its renewal information (RFC 9773 §4.1).
fn identify(der: &[u8]) -> Result<(String, String)> {
    let (_, certificate) = X509Certificate::from_der(der).context("reading a certificate")?;
    let key =
        certificate
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref(),
                _ => None,
            });
    let key = key.context("a certificate without its authority's key identifier")?;
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let serial = certificate.raw_serial();
    Ok((hex(serial), format!("{}.{}", encode(key.0), encode(serial))))
}

/// Since 1970; X.509 has whole seconds. Nothing is issued for before.
fn epoch(at: Timestamp) -> Duration {
    Duration::from_secs(at.as_second().try_into().unwrap_or_default())
}
