//! A world is whole, and nothing of it stays.
fn main() {}
