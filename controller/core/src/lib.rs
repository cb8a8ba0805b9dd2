//! The decisions of Evercert: pure functions from what was observed, and an instant, to what to do next.
//!
//! No IO, no clock, no randomness: `now` is an argument, and the same input has the same answer on every machine.

// A new variant must be decided about wherever a decision is made.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod adopt;
pub mod backoff;
pub mod caa;
#[cfg(test)]
mod cases;
pub mod chain;
pub mod choice;
pub mod circuit;
pub mod contact;
pub mod facts;
pub mod fallback;
pub mod fault;
pub mod forwarder;
pub mod key;
pub mod lanes;
pub mod lease;
pub mod limits;
pub mod need;
pub mod observe;
pub mod order;
pub mod ownership;
pub mod permission;
pub mod plan;
pub mod pod;
pub mod preflight;
pub mod profile;
pub mod reach;
pub mod renewal;
pub mod renewal_info;
pub mod report;
pub mod revocation;
pub mod rights;
pub mod routes;
pub mod sentence;
pub mod served;
pub mod source;
pub mod template;
pub mod trouble;
