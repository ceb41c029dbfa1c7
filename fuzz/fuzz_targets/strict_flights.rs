//! Fuzzes one decoder; the body is shared with the replay in `cargo test`.
#![no_main]

#[path = "../../crates/undertone-cli/tests/fuzz_targets/mod.rs"]
mod fuzz_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::run("strict_flights", data));
