//! The nouns of Evercert: custom resources, conditions, reasons, annotations, and names parsed once.
//!
//! This crate may not do IO, read a clock or decide anything; it depends on kube-core and kube-derive, never on `kube`.

pub mod certificate;
pub mod challenge;
pub mod children;
pub mod condition;
pub mod crd;
pub mod duration;
pub mod issuer;
pub mod keys;
mod lenient;
pub mod names;
pub mod reason;
mod schema;

pub use certificate::{Certificate, CertificateSpec, CertificateStatus};
pub use issuer::{ClusterIssuer, ClusterIssuerSpec, Issuer, IssuerSpec, IssuerStatus};
pub use names::{DnsName, Identifier};
pub use reason::Reason;
