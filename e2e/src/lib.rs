//! The stories: what Evercert promises, tried on real parts.
//!
//! A [`Stage`] is a world with the CRDs, the operator's rights, the operator itself and a node, real or [played](node); a
//! [`Story`] has a namespace, a DNS domain and a CA of its own on it. Nothing here sleeps: [`wait_for`] waits on a condition,
//! and when time is up it shows the evidence.

pub mod account;
pub mod audit;
pub mod ca;
pub mod chart;
pub mod costs;
pub mod crd_cases;
pub mod crowd;
pub mod curl;
pub mod deployment;
pub mod dns;
pub mod foreign;
pub mod history;
pub mod image;
pub mod inventory;
pub mod leaf;
pub mod ledger;
pub mod manifest;
pub mod node;
pub mod operator;
pub mod pods;
pub mod rights;
pub mod sbom;
pub mod scripted;
mod short;
pub mod site;
pub mod stage;
pub mod story;
pub mod tarpit;
pub mod wait;

pub use stage::Stage;
pub use story::Story;
pub use wait::wait_for;
