//! The program `undertone-server` itself: says where it listens, refuses what would expose sessions, ends on SIGTERM.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use undertone_infer::calibrate::{CalibrationOptions, WindowOptions, calibrate, windows};
use undertone_model::synthetic;
use undertone_model::synthetic::small_config;

const PROGRAM: &str = env!("CARGO_BIN_EXE_undertone-server");

/// A model directory with a calibration, removed when dropped.
struct ModelDir(PathBuf);

impl ModelDir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("undertone-served-{}", std::process::id()));
        let model = synthetic(small_config(), 3);
        model.save(&dir).unwrap();
        let tokens: Vec<u32> = (0..400u32).map(|i| (i * i * 7 + i / 3) % 50).collect();
        let prompts = windows(&tokens, Some(1), WindowOptions { count: 16, public: 6, private: 8, answer: 2 });
        calibrate(&model, &prompts, CalibrationOptions::default(), &mut |_| {}).unwrap().save(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for ModelDir {
    fn drop(&mut self) {
        // What is left in the temporary folder does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_program_says_where_it_listens_and_ends_cleanly() {
    let model = ModelDir::new();
    let mut server = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0", "--threads", "1", "--json", "--model"])
        .arg(&model.0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(line.starts_with("{\"event\":\"listening\""), "{line}");
    let address: SocketAddr = address.parse().unwrap();
    assert!(address.port() != 0);
    #[cfg(target_os = "linux")]
    {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
        let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        assert!(core.split_whitespace().take(2).eq(["0", "0"]), "{core}");
    }
    // An open session does not keep the program from ending.
    let _session = TcpStream::connect(address).unwrap();
    let killed = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_folder_that_takes_no_keys_is_refused_before_the_model_is_looked_at() {
    let output = Command::new(PROGRAM).args(["--key-folder", "absent/folder", "--model", "absent"]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("absent/folder") && said.contains("name a folder"), "{said}");
}

#[test]
fn addresses_of_other_machines_are_refused_before_the_model_is_looked_at() {
    let output = Command::new(PROGRAM).args(["--listen", "0.0.0.0:0", "--model", "absent"]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("TLS") && said.contains("127.0.0.1"), "{said}");
}
