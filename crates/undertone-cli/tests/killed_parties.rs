//! Provider, dealer and user as processes of their own, each killed (SIGKILL) at one message after another of a short chat.
//!
//! Relays between them count messages, kill, and note every bundle that passes. After each kill the parties that are left say
//! one clear error or nothing, serve the next chat without being touched, and no bundle ever passes twice.
#![cfg(target_os = "linux")]

#[path = "support/relay.rs"]
mod relay;

use relay::{Relays, Victim};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest time for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed when the test is over.
type Process = Arc<Mutex<Child>>;

fn start(command: &mut Command) -> Process {
    Arc::new(Mutex::new(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
}

/// Where a program says that it listens.
fn address(process: &Process) -> SocketAddr {
    let stdout = process.lock().unwrap().stdout.take().unwrap();
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| {
        let mut error = String::new();
        process.lock().unwrap().stderr.take().unwrap().read_to_string(&mut error).unwrap();
        panic!("no address: {line}{error}")
    });
    said["address"].as_str().unwrap().parse().unwrap()
}

fn is_running(process: &Process) -> bool {
    process.lock().unwrap().try_wait().unwrap().is_none()
}

fn kill(process: &Process) {
    let mut process = process.lock().unwrap();
    // One that has ended already is as good.
    let _ = process.kill();
    process.wait().unwrap();
}

struct Scene {
    folder: PathBuf,
    relays: Relays,
    dealer: Process,
    provider: Process,
}

impl Drop for Scene {
    fn drop(&mut self) {
        kill(&self.provider);
        kill(&self.dealer);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_undertone"))
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")
}

fn start_dealer(folder: &Path) -> Process {
    let mut command = Command::new(program());
    start(command.args(["deal", "--listen", "127.0.0.1:0", "--json", "--state"]).arg(folder.join("dealer")))
}

fn start_provider(folder: &Path, dealer: SocketAddr) -> Process {
    let mut command = Command::new(program().with_file_name("undertone-server"));
    command.args(["--mode", "permuted", "--listen", "127.0.0.1:0", "--json", "--model"]).arg(model());
    command.args(["--dealer", &dealer.to_string(), "--dealer-ticket"]).arg(folder.join("dealer/provider.ticket"));
    start(command.arg("--store").arg(folder.join("provider")))
}

impl Scene {
    fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("killed-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("private.txt"), "A note.").unwrap();
        let (relays, dealer) = (Relays::new(), start_dealer(&folder));
        relays.dealer.lead_to(address(&dealer));
        let provider = start_provider(&folder, relays.dealer.address);
        relays.provider.lead_to(address(&provider));
        Self { folder, relays, dealer, provider }
    }

    fn user(&self) -> Process {
        let mut command = Command::new(program());
        command.args(["run", "--mode", "permuted", "--json", "--max-new-tokens", "2", "--model"]).arg(model());
        command.arg("--private-file").arg(self.folder.join("private.txt"));
        command.args(["--server", &self.relays.provider.address.to_string()]);
        command.args(["--dealer", &self.relays.dealer.address.to_string(), "--store"]).arg(self.folder.join("user"));
        start(&mut command)
    }

    /// What a user says to its end.
    fn ended(user: Process) -> Output {
        // Whoever kills holds it as well.
        let begun = Instant::now();
        let (mut stdout, mut stderr) = {
            let mut user = user.lock().unwrap();
            (user.stdout.take().unwrap(), user.stderr.take().unwrap())
        };
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            stderr.read_to_end(&mut said).map(|_| said).unwrap()
        });
        let mut out = Vec::new();
        stdout.read_to_end(&mut out).unwrap();
        while is_running(&user) {
            assert!(begun.elapsed() < PATIENCE, "the user does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = user.lock().unwrap().wait().unwrap();
        assert!(begun.elapsed() < PATIENCE, "the user took {:?}", begun.elapsed());
        Output { status, stdout: out, stderr: reader.join().unwrap() }
    }

    /// The one sentence of a user that failed.
    fn sentence(ended: &Output) -> String {
        let said = String::from_utf8_lossy(&ended.stderr);
        let errors: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("undertone: ") && !line.contains("test-only feature"))
            .collect();
        assert!(errors.len() == 1 && !said.contains("panicked"), "{said}");
        assert_eq!(ended.status.code(), Some(1), "{said}");
        errors[0].to_owned()
    }

    /// A chat that must succeed, soon, though a party that was started again may need a moment to be known.
    fn chat(&self) -> Vec<u64> {
        let begun = Instant::now();
        loop {
            let ended = Self::ended(self.user());
            if ended.status.success() {
                return tokens(&ended);
            }
            let said = Self::sentence(&ended);
            assert!(said.contains("no provider has come yet"), "{said}");
            assert!(begun.elapsed() < PATIENCE, "{said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills one party at the message of a number; whether the chat was long enough.
    fn kill_at(&mut self, victim: Victim, number: usize, need: &[u64]) -> bool {
        let user = self.user();
        let process = match victim {
            Victim::User => &user,
            Victim::Dealer => &self.dealer,
            Victim::Provider => &self.provider,
        };
        self.relays.arm(number, process.clone());
        let ended = Self::ended(user.clone());
        let fired = self.relays.disarm();
        match (victim, ended.status.success()) {
            (Victim::User, false) if fired => assert_eq!(ended.status.code(), None, "{victim:?} at {number}"),
            // What the chat needed had come already, or the goodbye was all that was left.
            (_, true) => assert_eq!(tokens(&ended), need, "{victim:?} at {number}"),
            (_, false) => {
                let said = Self::sentence(&ended);
                assert!(fired, "nobody was killed, and the chat failed at {number}: {said}");
            }
        }
        match victim {
            Victim::User => {}
            Victim::Dealer if fired => {
                kill(&self.dealer);
                self.dealer = start_dealer(&self.folder);
                self.relays.dealer.lead_to(address(&self.dealer));
            }
            Victim::Provider if fired => {
                kill(&self.provider);
                self.provider = start_provider(&self.folder, self.relays.dealer.address);
                self.relays.provider.lead_to(address(&self.provider));
            }
            _ => {}
        }
        // The others were not touched, and the next chat is served.
        assert!(is_running(&self.dealer) && is_running(&self.provider), "{victim:?} at {number}");
        assert_eq!(self.chat(), need, "{victim:?} at {number}");
        self.relays.assert_no_reuse();
        self.assert_stores_empty();
        fired
    }

    /// Nothing of a session stays in a store when it is over, whoever was killed.
    fn assert_stores_empty(&self) {
        for party in ["user", "provider"] {
            let store = self.folder.join(party).join(format!("undertone-{party}-bundles"));
            let begun = Instant::now();
            // The provider notices within moments that the user has left.
            while std::fs::read_dir(&store).unwrap().count() != 1 {
                assert!(begun.elapsed() < PATIENCE, "{} still holds sessions", store.display());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn tokens(ended: &Output) -> Vec<u64> {
    let report: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    report["tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect()
}

/// Kills each party at every message that `chosen` takes of those of a chat.
fn sweep(name: &str, chosen: impl Fn(usize, usize) -> bool) {
    let server = program().with_file_name("undertone-server");
    assert!(server.is_file(), "{} is missing; build it with `cargo build -p undertone-server`", server.display());
    let mut scene = Scene::new(name);
    // The first chat fetches the masked weights, which the others find.
    let need = scene.chat();
    assert_eq!(need.len(), 2);
    scene.relays.count_anew();
    assert_eq!(scene.chat(), need);
    let total = scene.relays.counted();
    assert!(total > 60, "{total} messages");
    for victim in [Victim::User, Victim::Dealer, Victim::Provider] {
        let mut fired = 0;
        let numbers: Vec<usize> = (0..total).filter(|&number| chosen(number, total)).collect();
        for &number in &numbers {
            fired += usize::from(scene.kill_at(victim, number, &need));
        }
        // How many questions for bundles there are depends on the moment.
        assert!(2 * fired > numbers.len(), "{victim:?}: {fired} of {}", numbers.len());
    }
}

#[test]
fn each_party_killed_here_and_there_leaves_the_others_ready() {
    sweep("spread", |number, total| [3, total / 4, total / 2, 4 * total / 5].contains(&number));
}

/// `cargo test --release --workspace --test killed_parties -- --ignored`; ten minutes on two busy cores.
#[test]
#[ignore = "takes ten minutes: each party is killed at each of some hundred messages"]
fn each_party_killed_at_every_message_leaves_the_others_ready() {
    sweep("every", |_, _| true);
}
