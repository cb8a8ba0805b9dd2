//! Which of the chains that a CA offers for a certificate is stored (RFC 8555 §7.4.2).

use std::sync::Arc;

use evercert_acme::{Acme, Chain};
use evercert_core::sentence::{build_fault, list, quote};
use jiff::Timestamp;

use super::secret;
use crate::gather::Gathered;

/// The most chains of a certificate that are looked at; CAs offer two or three.
const MOST_CHAINS: usize = 8;

/// The chain to the root that the issuer prefers, else the CA's default one; and then what it offers instead. No chain is worth
/// a certificate: an alternate that cannot be read is none.
pub(super) async fn choose(
    gathered: &Gathered,
    acme: &Arc<dyn Acme>,
    chain: Chain,
    key: &[u8],
    now: Timestamp,
) -> (Vec<u8>, Option<String>) {
    let default = chain.pem.into_bytes();
    let session = gathered.session.as_ref();
    let Some(preferred) = session.and_then(|s| s.preferred_chain.as_deref()) else {
        return (default, None);
    };
    let root = evercert_pki::find_root(&default).unwrap_or_default();
    if root == preferred {
        return (default, None);
    }
    let names = secret::names(gathered);
    let mut offered = vec![root.clone()];
    for url in chain.alternates.iter().take(MOST_CHAINS) {
        let pem = match acme.alternate(url, now).await {
            Ok(pem) => pem.into_bytes(),
            Err(fault) => {
                tracing::warn!(url, fault = %build_fault(&fault), "a chain could not be read");
                continue;
            }
        };
        match evercert_pki::find_root(&pem) {
            Some(root)
                if root == preferred
                    && evercert_pki::check_chain(&pem, key, &names, now).is_ok() =>
            {
                return (pem, None);
            }
            other => offered.extend(other),
        }
    }
    let text = format!(
        "the certificate has the CA's default chain, which leads to {}: a chain to {} (spec.acme.preferredChain) is not offered, only \
         to {}",
        quote(&root),
        quote(preferred),
        list(&offered)
    );
    (default, Some(text))
}
