//! The decisions of Evercert: pure functions from what was observed, and an instant, to what to do next.
//!
//! No IO, no clock, no randomness: `now` is an argument, and the same input has the same answer on every machine.

pub mod facts;
pub mod fault;
pub mod observe;
pub mod order;
pub mod plan;
