//! The `undertone` program.
fn main() {}
