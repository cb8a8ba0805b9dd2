//! X.509 for Evercert: read certificates into facts, match keys, make keys, CSRs and self-signed certificates.
//!
//! Only this crate sees bytes; everybody else sees [`CertificateFacts`](evercert_core::facts::CertificateFacts). It may not do
//! IO or read a clock, and randomness goes into keys and serial numbers only. What comes from a Secret or a CA is hostile
//! input: nothing here panics, whatever the bytes.

pub mod account;
pub mod chain;
pub mod key;
mod leaf;
mod pem;
pub mod sign;
#[cfg(test)]
mod tests;

pub use account::{AccountKeyError, account_key_der, generate_account_key};
pub use chain::{ChainError, check_chain, find_root};
pub use key::{KeyError, PrivateKeyPem, generate_key, is_same_key, key_kind};
pub use leaf::{leaf_der, read_der, read_leaf, read_pair};
pub use sign::{Marking, SignError, build_csr, self_signed};
