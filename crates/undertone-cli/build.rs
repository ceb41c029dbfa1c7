//! Notes the commit that the program is built from, so that measurements can name it.

use std::path::Path;
use std::process::Command;

fn main() {
    let commit = commit().unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=UNDERTONE_COMMIT={commit}");
    // Whether the tree is clean changes with the sources, and the commit with what HEAD names.
    for source in ["../../crates", "../../Cargo.toml", "../../Cargo.lock"] {
        watch(source);
    }
    let reference = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(reference.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            watch(&path);
        }
    }
}

/// The commit, and whether tracked files differ from it; none outside a checkout of this workspace.
fn commit() -> Option<String> {
    // A checkout of something else may have this workspace inside.
    if git(&["rev-parse", "--show-prefix"])? != "crates/undertone-cli/" {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if dirty.is_empty() { commit } else { commit + "-dirty" })
}

/// The trimmed output of git, in the folder of this crate; none when it fails or is not installed.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("--no-optional-locks").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Runs this again when the path changes; a path that does not exist would run it every time.
fn watch(path: &str) {
    if Path::new(path).exists() {
        println!("cargo::rerun-if-changed={path}");
    }
}
