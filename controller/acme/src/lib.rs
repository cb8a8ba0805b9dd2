//! The certificate authority behind one port: instant-acme, time-outs, Retry-After and faults.
//!
//! Guarantees: every request goes to an origin that the directory names, over https, with our trust and our time-outs; every
//! answer's status, `Retry-After` and problem document reach the caller in a [`Fault`](evercert_core::fault::Fault); nothing
//! sleeps and nothing polls; no key, token or nonce is logged. It may not decide anything: what follows from a fault or a
//! state is core's business.

mod account;
mod directory;
mod fault;
mod jose;
mod port;
mod transport;
mod trust;
mod wire;

pub use directory::{ConnectError, Directory, DirectoryConfig};
pub use port::Acme;
pub use transport::WireError;
