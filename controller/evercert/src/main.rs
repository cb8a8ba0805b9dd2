//! The one binary of Evercert.
fn main() {}
