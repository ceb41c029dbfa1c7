//! `undertone keys certificate` and the TLS flags, through the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("certificates-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Runs the program in this folder.
    fn undertone(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
        command.args(arguments.split_whitespace()).current_dir(&self.0).output().unwrap()
    }

    fn refuses(&self, arguments: &str, code: i32, words: &[&str]) {
        let output = self.undertone(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{arguments}: {said}");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the folder of build outputs does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_certificate_is_made_once_with_a_private_key() {
    let folder = Folder::new("made");
    let output = folder.undertone("keys certificate --out tls --name server --json");
    assert!(output.status.success(), "{output:?}");
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["certificate"], Path::new("tls").join("server.crt").to_str().unwrap());
    let pin = made["pin"].as_str().unwrap();
    assert!(pin.len() == 64 && !output.stdout.windows(7).any(|text| text == b"PRIVATE"));
    let shown = folder.undertone("keys pin tls/server.crt");
    assert_eq!(String::from_utf8(shown.stdout).unwrap().trim(), pin);
    let key = folder.0.join("tls/server.key");
    let content = std::fs::read(&key).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // Neither file is ever replaced, not even when the other one is gone.
    folder.refuses("keys certificate --out tls --name server", 2, &["exists already"]);
    std::fs::remove_file(folder.0.join("tls/server.crt")).unwrap();
    folder.refuses("keys certificate --out tls --name server", 2, &["server.key exists already"]);
    assert_eq!(std::fs::read(&key).unwrap(), content);
    folder.refuses("keys certificate --out tls --name ../server", 1, &["letters, digits"]);
    folder.refuses("keys pin tls/server.key", 1, &["holds no pin"]);
}

#[test]
fn tls_flags_come_together_and_name_what_exists() {
    let folder = Folder::new("flags");
    assert!(folder.undertone("keys certificate --out . --name me").status.success());
    std::fs::write(folder.0.join("text"), "A note.").unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny").canonicalize().unwrap();
    let run = format!("run --model {} --private-file text", model.display());
    for lacking in [
        "--tls-certificate me.crt --tls-key me.key --server-pin me.crt",
        "--server 127.0.0.1:1 --tls-certificate me.crt --tls-key me.key",
        "--server 127.0.0.1:1 --tls-certificate me.crt --server-pin me.crt",
        "--server 127.0.0.1:1 --server-pin me.crt",
    ] {
        folder.refuses(&format!("{run} {lacking}"), 2, &["required"]);
    }
    let tls = "--server 127.0.0.1:1 --tls-certificate me.crt --tls-key me.key --server-pin";
    folder.refuses(&format!("{run} {tls} nonsense"), 1, &["is no pin", "64"]);
    folder.refuses(&format!("{run} {tls} me.crt"), 1, &["127.0.0.1:1"]);
    folder.refuses(&format!("{run} --server 127.0.0.1:1 --network moon"), 2, &["lan", "wan"]);
    folder.refuses(&format!("{run} --server 192.0.2.1:1"), 1, &["loopback", "--server-pin"]);
}

#[test]
fn a_dealer_takes_nobody_for_the_provider_and_a_user_at_once() {
    let folder = Folder::new("dealer");
    for name in ["dealer", "provider", "user"] {
        assert!(folder.undertone(&format!("keys certificate --out tls --name {name}")).status.success());
    }
    let deal = "deal --state state --listen 127.0.0.1:0 --tls-certificate tls/dealer.crt --tls-key tls/dealer.key";
    folder.refuses(&format!("{deal} --party-pin tls/user.crt"), 2, &["--provider-pin"]);
    let both = format!("{deal} --party-pin tls/user.crt --party-pin tls/provider.crt --provider-pin tls/provider.crt");
    folder.refuses(&both, 2, &["pinned as a user and as the provider"]);
    folder.refuses("deal --state state --provider-pin tls/provider.crt", 2, &["--tls-certificate"]);
    // Refused before anything is made.
    assert!(!folder.0.join("state").exists());
}
