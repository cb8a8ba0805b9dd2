//! PEM in (RFC 7468), with a cap on its size. Lenient on text between sections, strict on sections that break off.

use rustls_pki_types::pem::{PemObject, SliceIter};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The most that is read of a chain: no object in Kubernetes is larger.
const CHAIN_CAP: usize = 1 << 20;
/// The most that is read of a key; RSA with 16384 bits takes 13 KiB.
const KEY_CAP: usize = 64 << 10;

/// Every certificate of a chain, leaf first. `None` when there is none, when a section cannot be decoded, or when the text is
/// larger than 1 MiB.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    if pem.len() > CHAIN_CAP {
        return None;
    }
    let all: Vec<CertificateDer<'static>> = SliceIter::new(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

/// How many sections of any kind the text begins.
pub(crate) fn count_sections(pem: &[u8]) -> usize {
    pem.split(|b| matches!(b, b'\n' | b'\r'))
        .filter(|line| line.starts_with(b"-----BEGIN "))
        .count()
}

/// The first private key: PKCS #8, PKCS #1 or SEC 1. `None` when there is none or when the text is larger than 64 KiB.
pub(crate) fn private_key(pem: &[u8]) -> Option<PrivateKeyDer<'static>> {
    if pem.len() > KEY_CAP {
        None
    } else {
        PrivateKeyDer::from_pem_slice(pem).ok()
    }
}

/// Whether there is nothing to read.
pub(crate) fn is_blank(pem: &[u8]) -> bool {
    pem.iter().all(u8::is_ascii_whitespace)
}
