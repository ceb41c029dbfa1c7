//! `cargo xtask tidy`: the invariants of `ARCHITECTURE.md`, stated as absences.
//!
//! `graph` reads `cargo metadata`, `source` reads Rust files through `lexer`, `text` reads every tracked file. Each
//! check is a pure function from text to findings, so that a test can show it failing.

mod graph;
mod lexer;
mod source;
mod text;

use std::path::{Path, PathBuf};
use std::process::Command;

/// One broken invariant.
#[derive(Debug, PartialEq)]
pub struct Finding {
    /// File (with line where there is one) or package.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Finding {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

/// Runs every check over the workspace at `root`, prints the findings and fails when there are any.
pub fn run(root: &Path) -> Result<(), String> {
    let mut findings = graph::check(&graph::Graph::from_metadata(&metadata(root)?)?);
    let files = tracked_files(root)?;
    let mut rust_files = 0;
    for path in &files {
        let Ok(content) = std::fs::read_to_string(root.join(path)) else {
            continue; // A binary file or one that was deleted in the working tree.
        };
        let name = path.to_string_lossy().replace('\\', "/");
        if [".orig", ".rej"].iter().any(|end| name.ends_with(end)) {
            findings.push(Finding::new(&name, "is what a merge left behind"));
        }
        findings.extend(text::check(&name, &content));
        if name.ends_with(".rs") {
            rust_files += 1;
            findings.extend(source::check(&name, &content));
        }
    }
    for finding in &findings {
        println!("{}: {}", finding.place, finding.message);
    }
    if findings.is_empty() {
        println!("tidy: {} files, {rust_files} of them Rust, nothing to report", files.len());
        Ok(())
    } else {
        Err(format!("{} finding(s); ARCHITECTURE.md explains the rules", findings.len()))
    }
}

/// `cargo metadata` for this machine's target only, so that packages of other systems need not be downloaded.
fn metadata(root: &Path) -> Result<serde_json::Value, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host =
        version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc -vV names no host")?.to_owned();
    let text = output(Command::new(cargo).current_dir(root).args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        &host,
    ]))?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata printed no JSON: {error}"))
}

/// Files that git tracks or would track, relative to `root`.
fn tracked_files(root: &Path) -> Result<Vec<PathBuf>, String> {
    let list = output(Command::new("git").current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    Ok(list.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

fn output(command: &mut Command) -> Result<String, String> {
    let result = command.output().map_err(|error| format!("{command:?} could not be started: {error}"))?;
    if !result.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&result.stderr).trim()));
    }
    String::from_utf8(result.stdout).map_err(|_| format!("{command:?} printed bytes that are not UTF-8"))
}
