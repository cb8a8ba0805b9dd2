//! The CA by itself: what it refuses, what it counts, what it signs.

mod accounts;
mod certificates;
mod client;
mod limits;
mod orders;
mod protocol;
mod script;
mod validation;
