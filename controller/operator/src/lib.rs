//! The loop of Evercert: watch, gather, plan, execute, report.
//!
//! Decisions are evercert-core's; what is written to Kubernetes is written in [`apply`].

pub mod apply;
mod choice;
pub mod config;
mod context;
mod echo;
pub mod effect;
mod error;
mod events;
mod execute;
mod follow;
mod gather;
mod health;
mod issuer;
mod ledger;
mod memory;
pub mod projection;
mod reconcile;
mod run;
mod secrets;
mod slots;

pub use config::{Config, SolverConfig};
pub use run::{RunError, run};
