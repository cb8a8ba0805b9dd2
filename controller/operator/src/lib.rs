//! The loop of Evercert: watch, gather, plan, execute, report.
//!
//! Decisions are evercert-core's; what is written to Kubernetes is written in [`apply`].

pub mod apply;
mod choice;
mod claim;
pub mod config;
mod context;
mod echo;
pub mod effect;
mod error;
mod events;
mod execute;
mod extras;
mod follow;
mod gather;
mod health;
mod issuer;
mod lease;
mod ledger;
mod memory;
pub mod metrics;
mod orphans;
mod polls;
mod preflight;
pub mod projection;
mod reconcile;
mod rights;
mod run;
mod secrets;
mod served;
mod slots;
mod source;
mod stint;
mod territory;

pub use config::{Config, LeaseConfig, SolverConfig};
pub use evercert_probe::Network;
pub use run::{RunError, run};
pub use territory::Territory;
