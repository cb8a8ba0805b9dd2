//! The adapter against a CA that answers as it is told: what no real CA does on demand.

// A test fails by panicking, in the functions that tests share too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod accounts;
mod ca;
mod faults;
mod orders;
#[path = "../support/pki.rs"]
mod pki;
mod requests;
#[path = "../support/mod.rs"]
mod support;

use evercert_acme::{Acme, OrderRequest};
use evercert_api::Identifier;
use evercert_core::fault::Fault;
use evercert_core::order::OrderView;

use support::now;

/// The name that is ordered.
const NAME: &str = "www.example.test";

fn names(texts: &[&str]) -> Vec<Identifier> {
    texts
        .iter()
        .map(|t| Identifier::parse(t).unwrap())
        .collect()
}

/// An order for it.
async fn new_order(acme: &dyn Acme) -> Result<OrderView, Fault> {
    acme.new_order(OrderRequest::of(&names(&[NAME])), now())
        .await
}
