//! Checks on Rust files: unsafe code, names, length, docs, and what a crate must not contain.

use super::Finding;
use super::lexer::{code_only, words};

const LINE_LIMIT: usize = 500;
const DOC_LIMIT: usize = 15;

/// Files that may be longer than the limit, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Where `unsafe` may stand: SIMD kernels, the GPU backend, and the one memory map.
const UNSAFE_PLACES: &[&str] =
    &["crates/undertone-ring/src/cpu/", "crates/undertone-cuda/src/", "crates/undertone-model/src/safetensors_file.rs"];

/// Words that name nothing.
const EMPTY_WORDS: &[&str] = &["util", "utils", "common", "misc", "manager", "helper", "helpers"];

/// Names for which the vocabulary has another word.
const FOREIGN_NAMES: &[(&str, &str)] = &[
    ("poly_modulus_degree", "ring_degree"),
    ("coeff_modulus", "q"),
    ("noise_budget", "precision_bits"),
    ("mod_switch", "rescale, drop_level, mod_up or mod_down"),
    ("evk", "evaluation keys"),
];

/// Names that must not occur in the code of a crate, and why.
const ABSENT: &[(&str, &[&str], &str)] = &[
    ("undertone-infer", &["getrandom", "SecretRng", "OsRng", "thread_rng"], "infer has no randomness"),
    (
        "undertone-protocol",
        &["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "Instant", "SystemTime", "thread", "rayon", "tokio"],
        "protocol opens no socket, reads no clock, starts no thread",
    ),
    ("undertone-model", &["Ciphertext", "SecretKey"], "model knows no ciphertext"),
    ("undertone-server", &["SecretKey", "Decryptor"], "the server holds no secret"),
];

/// Types that make a `static` mutable.
const MUTABLE: &[&str] = &["Mutex", "RwLock", "RefCell", "Cell", "UnsafeCell", "OnceLock", "OnceCell"];

/// Findings of one Rust file; `name` is its path from the workspace root, with forward slashes.
pub fn check(name: &str, content: &str) -> Vec<Finding> {
    let code = code_only(content);
    let words = words(&code);
    let mut findings = length(name, content);
    findings.extend(module_doc(name, content));
    findings.extend(crate_attribute(name, &code));
    findings.extend(unsafe_code(name, &words));
    findings.extend(names(name, &words));
    findings.extend(absences(name, &code));
    findings.extend(global_state(name, &code));
    findings
}

fn at(name: &str, line: usize) -> String {
    format!("{name}:{line}")
}

fn length(name: &str, content: &str) -> Vec<Finding> {
    let lines = content.lines().count();
    if lines <= LINE_LIMIT || LONG_FILES.iter().any(|(file, _)| *file == name) {
        return Vec::new();
    }
    vec![Finding::new(
        name,
        format!("has {lines} lines where {LINE_LIMIT} are the limit; split it or justify it in tidy"),
    )]
}

/// Every file below `src` says in at most fifteen lines what it is; `tests.rs` is what its parent says.
fn module_doc(name: &str, content: &str) -> Vec<Finding> {
    if !name.contains("/src/") || name.ends_with("/tests.rs") {
        return Vec::new();
    }
    let lines = content.lines().take_while(|line| line.starts_with("//!")).count();
    match lines {
        0 => vec![Finding::new(name, "has no module doc; say in a few lines what it is")],
        _ if lines > DOC_LIMIT => {
            vec![Finding::new(name, format!("has a module doc of {lines} lines where {DOC_LIMIT} are the limit"))]
        }
        _ => Vec::new(),
    }
}

fn crate_attribute(name: &str, code: &str) -> Vec<Finding> {
    let root = name.ends_with("/src/lib.rs") || name.ends_with("/src/main.rs");
    if !root || code.contains("#![forbid(unsafe_code)]") {
        return Vec::new();
    }
    let may_deny = UNSAFE_PLACES.iter().any(|place| place.starts_with(name.trim_end_matches("lib.rs")));
    if may_deny && code.contains("#![deny(unsafe_code)]") {
        return Vec::new();
    }
    vec![Finding::new(name, "does not forbid unsafe code; add #![forbid(unsafe_code)]")]
}

fn unsafe_code(name: &str, words: &[(usize, &str)]) -> Vec<Finding> {
    if UNSAFE_PLACES.iter().any(|place| name.starts_with(place)) {
        return Vec::new();
    }
    let found = words.iter().filter(|(_, word)| *word == "unsafe");
    found.map(|(line, _)| Finding::new(at(name, *line), "unsafe code outside the places that may hold it")).collect()
}

fn names(name: &str, words: &[(usize, &str)]) -> Vec<Finding> {
    const DECLARERS: &[&str] =
        &["fn", "struct", "enum", "trait", "mod", "type", "const", "static", "union", "macro_rules"];
    let mut findings = Vec::new();
    let folders = name.trim_end_matches(".rs").split('/').map(|part| (0, part));
    let declared = words.windows(2).filter(|pair| DECLARERS.contains(&pair[0].1)).map(|pair| pair[1]);
    for (line, word) in folders.chain(declared) {
        if let Some(empty) = parts(word).into_iter().find(|part| EMPTY_WORDS.contains(&part.as_str())) {
            findings.push(Finding::new(at(name, line), format!("{word}: \"{empty}\" says nothing; name the thing")));
        }
        if let Some(rest) = word.strip_prefix("get_") {
            findings.push(Finding::new(at(name, line), format!("{word}: write {rest} instead")));
        }
    }
    for (line, word) in words {
        if let Some((_, better)) = FOREIGN_NAMES.iter().find(|(foreign, _)| foreign == word) {
            findings.push(Finding::new(at(name, *line), format!("{word} is called {better} here")));
        }
    }
    findings
}

/// The lower-case words of an identifier in snake, camel or kebab case.
fn parts(identifier: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut previous_lower = false;
    for c in identifier.chars() {
        let separator = c == '_' || c == '-' || c == '.';
        if separator || (c.is_uppercase() && previous_lower) {
            parts.push(String::new());
        }
        if !separator {
            parts.last_mut().expect("never empty").extend(c.to_lowercase());
        }
        previous_lower = c.is_lowercase() || c.is_ascii_digit();
    }
    parts
}

/// The code before the module's own tests, which may use what the crate must not.
fn without_tests(code: &str) -> &str {
    let tests = code.match_indices("#[cfg(test)]").find(|(at, mark)| {
        let after = code[at + mark.len()..].trim_start();
        after.starts_with("mod ")
    });
    tests.map_or(code, |(at, _)| &code[..at])
}

fn absences(name: &str, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (package, forbidden, reason) in ABSENT {
        if !name.starts_with(&format!("crates/{package}/src/")) {
            continue;
        }
        for (line, word) in words(without_tests(code)) {
            if forbidden.contains(&word) {
                findings.push(Finding::new(at(name, line), format!("{word} may not occur here: {reason}")));
            }
        }
    }
    findings
}

fn global_state(name: &str, code: &str) -> Vec<Finding> {
    if !name.contains("/src/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in without_tests(code).lines().enumerate() {
        let words: Vec<&str> = words(line).into_iter().map(|(_, word)| word).collect();
        let declared = words.windows(2).find(|pair| pair[0] == "static" && pair[1].chars().all(|c| !c.is_lowercase()));
        let mutable =
            declared.is_some() && words.iter().any(|word| MUTABLE.contains(word) || word.starts_with("Atomic"));
        if mutable || words.windows(2).any(|pair| pair == ["static", "mut"]) || words.contains(&"thread_local") {
            findings.push(Finding::new(at(name, number + 1), "is global mutable state; pass it as a value"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "crates/undertone-he/src/chain.rs";

    fn messages(name: &str, content: &str) -> Vec<String> {
        check(name, content).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_clean_file_passes() {
        let text = "//! A chain.\nfn level() {} // unsafe get_\nconst TEXT: &str = \"unsafe util\";\n";
        assert_eq!(check(FILE, text), vec![]);
    }

    #[test]
    fn unsafe_code_is_found_outside_its_places() {
        let text = "//! Doc.\nfn f() { unsafe { g() } }\n";
        assert!(messages(FILE, text)[0].contains("unsafe code outside"));
        assert_eq!(check("crates/undertone-ring/src/cpu/scalar.rs", text), vec![]);
        assert_eq!(check("crates/undertone-model/src/safetensors_file.rs", text), vec![]);
    }

    #[test]
    fn crate_roots_must_forbid_unsafe_code() {
        assert!(messages("crates/undertone-he/src/lib.rs", "//! Doc.\n")[0].contains("forbid"));
        assert!(messages("crates/undertone-he/src/lib.rs", "//! Doc.\n#![deny(unsafe_code)]\n")[0].contains("forbid"));
        assert_eq!(check("crates/undertone-ring/src/lib.rs", "//! Doc.\n#![deny(unsafe_code)]\n"), vec![]);
    }

    #[test]
    fn empty_names_are_found() {
        for text in
            ["fn get_level() {}", "mod util;", "struct KeyManager;", "fn common_part() {}", "const MISC: u8 = 0;"]
        {
            assert_eq!(messages(FILE, &format!("//! Doc.\n{text}\n")).len(), 1, "{text}");
        }
        assert_eq!(messages("crates/undertone-he/src/utils.rs", "//! Doc.\n").len(), 1);
        assert_eq!(messages(FILE, "//! Doc.\nfn target() { let commonly = widget_of(); }\n").len(), 0);
    }

    #[test]
    fn foreign_vocabulary_is_found() {
        assert!(messages(FILE, "//! Doc.\nlet noise_budget = 3;\n")[0].contains("precision_bits"));
    }

    #[test]
    fn long_files_are_found() {
        let text = format!("//! Doc.\n{}", "\n".repeat(LINE_LIMIT));
        assert!(messages(FILE, &text)[0].contains("501 lines"));
    }

    #[test]
    fn missing_and_long_module_docs_are_found() {
        assert!(messages(FILE, "fn f() {}\n")[0].contains("no module doc"));
        assert!(messages(FILE, &"//! a\n".repeat(16))[0].contains("16 lines"));
    }

    #[test]
    fn what_a_crate_must_not_contain_is_found() {
        assert!(
            messages("crates/undertone-protocol/src/session.rs", "//! Doc.\nuse std::time::Instant;\n")[0]
                .contains("clock")
        );
        assert!(
            messages("crates/undertone-infer/src/lib.rs", "//! Doc.\n#![forbid(unsafe_code)]\nuse getrandom;\n")[0]
                .contains("random")
        );
        let tests_only = "//! Doc.\n#[cfg(test)]\nmod tests { use std::thread; }\n";
        assert_eq!(check("crates/undertone-protocol/src/session.rs", tests_only), vec![]);
    }

    #[test]
    fn global_mutable_state_is_found() {
        assert_eq!(messages(FILE, "//! Doc.\nstatic DEGREE: AtomicUsize = AtomicUsize::new(0);\n").len(), 1);
        assert_eq!(messages(FILE, "//! Doc.\nstatic mut DEGREE: usize = 0;\n").len(), 1);
        assert_eq!(
            messages(FILE, "//! Doc.\nfn f(x: &'static Mutex<u8>) {}\nstatic TABLE: [u8; 2] = [1, 2];\n").len(),
            0
        );
    }
}
