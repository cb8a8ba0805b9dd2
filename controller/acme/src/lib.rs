//! The certificate authority behind one port: instant-acme, time-outs, Retry-After and faults.
//!
//! Guarantees: every request goes to an origin that the directory names, over https, with our trust and our time-outs; every
//! answer's status, `Retry-After` and problem document reach the caller in a [`Fault`](evercert_core::fault::Fault); nothing
//! sleeps and nothing polls; no key, token or nonce is logged. It may not decide anything: what follows from a fault or a
//! state is core's business.

// A fault goes up through futures that are larger by far, and at most once for a request.
#![allow(clippy::result_large_err)]

mod account;
mod client;
mod directory;
mod fault;
mod jose;
mod port;
mod transport;
mod trust;
mod wire;

pub use client::WireError;
pub use directory::{ConnectError, Directory, DirectoryConfig, FoundAccount};
pub use jose::ExternalAccount;
pub use port::{Acme, Chain, Clock, Leave, OrderRequest, SystemClock};
