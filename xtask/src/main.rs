//! Repository chores; `cargo xtask tidy` checks the invariants of `ARCHITECTURE.md`.
fn main() {}
