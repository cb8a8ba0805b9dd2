//! What a certificate says, as a test compares it.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use jiff::Timestamp;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, Pem, X509Certificate};

/// One certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The DNS names and IP addresses of the subject alternative name, sorted.
    pub names: Vec<String>,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// The serial number, hexadecimal, without separators.
    pub serial: String,
    /// SHA-256 of the DER form, hexadecimal.
    pub sha256: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
}

impl Leaf {
    /// Parses a chain in PEM, leaf first.
    ///
    /// # Errors
    /// There is no certificate in it, or one that cannot be read.
    pub fn parse_chain(pem: &[u8]) -> Result<Vec<Self>> {
        let chain: Vec<Self> = Pem::iter_from_buffer(pem)
            .map(|block| Self::parse_der(&block.context("reading PEM")?.contents))
            .collect::<Result<_>>()?;
        ensure!(!chain.is_empty(), "there is no certificate in it");
        Ok(chain)
    }

    /// Parses one certificate in DER.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn parse_der(der: &[u8]) -> Result<Self> {
        let (_, certificate) = X509Certificate::from_der(der).context("reading a certificate")?;
        let mut names = Vec::new();
        for extension in certificate.extensions() {
            if let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() {
                for name in &san.general_names {
                    match name {
                        GeneralName::DNSName(name) => names.push((*name).to_owned()),
                        GeneralName::IPAddress(bytes) => names.push(read_address(bytes)?),
                        _ => {}
                    }
                }
            }
        }
        names.sort();
        let validity = certificate.validity();
        Ok(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            names,
            not_before: Timestamp::from_second(validity.not_before.timestamp())
                .context("notBefore")?,
            not_after: Timestamp::from_second(validity.not_after.timestamp())
                .context("notAfter")?,
            serial: hex(certificate.raw_serial()),
            sha256: hex(digest::digest(&digest::SHA256, der).as_ref()),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Whether a Pebble signed it: by the name of its intermediate certificate.
    #[must_use]
    pub fn is_from_pebble(&self) -> bool {
        self.issuer.contains("CN=Pebble ")
    }

    /// Whether each certificate of a chain in PEM, leaf first, is signed by the next one, and the last by `root`, also PEM.
    ///
    /// # Errors
    /// One is not, or cannot be read.
    pub fn verify_chain(pem: &[u8], root: &[u8]) -> Result<()> {
        let blocks: Vec<Pem> = Pem::iter_from_buffer(pem)
            .chain(Pem::iter_from_buffer(root))
            .collect::<Result<_, _>>()
            .context("reading PEM")?;
        ensure!(blocks.len() > 1, "a chain without a root");
        for pair in blocks.windows(2) {
            let [below, above] = pair else { continue };
            let (below, above) = (below.parse_x509()?, above.parse_x509()?);
            below
                .verify_signature(Some(above.public_key()))
                .with_context(|| {
                    format!("{} is not signed by {}", below.subject(), above.subject())
                })?;
        }
        Ok(())
    }

    /// Whether `at` is within the validity.
    #[must_use]
    pub fn is_valid_at(&self, at: Timestamp) -> bool {
        self.not_before <= at && at <= self.not_after
    }

    /// Whether the private key in `pem` (PKCS #8) is the one of this certificate.
    #[must_use]
    pub fn has_key(&self, pem: &[u8]) -> bool {
        use rcgen::PublicKeyData;
        let Ok(text) = std::str::from_utf8(pem) else {
            return false;
        };
        rcgen::KeyPair::from_pem(text)
            .is_ok_and(|key| key.subject_public_key_info() == self.public_key)
    }
}

fn read_address(bytes: &[u8]) -> Result<String> {
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes)?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes)?),
    };
    Ok(address.to_string())
}

/// In lower case, without separators.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_under_another_root_is_found() {
        let root = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap())
                .unwrap()
        };
        let (own, other) = (root("own"), root("other"));
        let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &own).unwrap().pem();
        let verify = |root: &str| Leaf::verify_chain(leaf.as_bytes(), root.as_bytes());
        verify(&own.pem()).unwrap();
        let told = verify(&other.pem()).unwrap_err().to_string();
        assert!(told.contains("not signed by"), "{told}");
    }

    #[test]
    fn a_certificate_knows_its_names_and_its_key() {
        let own =
            rcgen::generate_simple_self_signed(vec!["b.test".into(), "a.test".into()]).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let chain = Leaf::parse_chain(own.cert.pem().as_bytes()).unwrap();
        assert_eq!(chain[0].names, ["a.test", "b.test"]);
        assert!(chain[0].has_key(own.signing_key.serialize_pem().as_bytes()));
        assert!(!chain[0].has_key(other.serialize_pem().as_bytes()));
        assert!(!chain[0].has_key(b"nonsense"));
    }
}
