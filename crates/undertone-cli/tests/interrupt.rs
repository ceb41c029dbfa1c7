//! Ctrl-C leaves nothing behind: no scratch folder, no child process.
#![cfg(target_os = "linux")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use undertone_server::SystemMemory;

fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("interrupt-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Starts the program, waits until `ready`, lets it work for `pause` and interrupts it; it must end by that.
fn interrupt(command: &mut Command, ready: impl Fn() -> bool, pause: Duration) {
    let mut process: Child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = process.stderr.take().unwrap();
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).map(|_| said).unwrap()
    });
    let begun = Instant::now();
    while !ready() && process.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(pause);
    let sent = Command::new("kill").arg("-INT").arg(process.id().to_string()).status().unwrap();
    let code = process.wait().unwrap().code();
    let said = said.join().unwrap();
    assert!(sent.success() && code == Some(130), "{code:?}: {said}");
    assert!(said.contains("undertone: interrupted"), "{said}");
}

/// Whether a server can admit the session of the demo now, with room to spare for what else the machine does.
fn demo_fits() -> bool {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let mut plan = Command::new(env!("CARGO_BIN_EXE_undertone"));
    // At least as many tokens as the demo has.
    plan.arg("plan").arg("--model").arg(model);
    plan.args(["--public", "384", "--private", "96", "--max-new-tokens", "8", "--json"]);
    let planned: serde_json::Value = serde_json::from_slice(&plan.output().unwrap().stdout).unwrap();
    let memory = SystemMemory::read().unwrap();
    planned["session_bytes"].as_u64().unwrap() <= memory.for_sessions(4 << 30)
}

/// Whether a process has all these texts in its command line.
fn process_with(texts: &[&str]) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .map(|entry| entry.path().join("cmdline"))
        .filter_map(|path| std::fs::read(path).ok())
        .any(|line| texts.iter().all(|text| String::from_utf8_lossy(&line).contains(text)))
}

#[test]
fn an_interrupted_demo_leaves_no_files() {
    let folder = scratch("demo");
    let entries = || std::fs::read_dir(&folder).unwrap().flatten();
    // The last file of the model that the demo unpacks.
    let unpacked = || entries().any(|entry| entry.path().join("undertone-calibration.json").is_file());
    let pause = if demo_fits() {
        Duration::from_millis(1500)
    } else {
        eprintln!("not interrupted while it makes keys, for lack of memory: interrupted when it has written its files");
        Duration::ZERO
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    interrupt(command.arg("demo").arg("--key-folder").arg(&folder).env("TMPDIR", &folder), unpacked, pause);
    assert_eq!(entries().count(), 0, "the scratch folder is left");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_interrupted_synthetic_checkpoint_leaves_nothing() {
    let folder = scratch("synth");
    let files = || std::fs::read_dir(&folder).unwrap().flatten().flat_map(|entry| std::fs::read_dir(entry.path()));
    let begun = || files().flatten().flatten().any(|file| file.file_name() == "model.safetensors");
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    command.args(["model", "synth", "--like", "llama-2-7b", "--layers", "1", "--vocab", "2048", "--out"]);
    interrupt(command.arg(folder.join("model")), begun, Duration::from_millis(200));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "a half-written checkpoint is left");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_interrupted_run_leaves_no_server() {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_undertone"));
    let server = program.with_file_name("undertone-server");
    assert!(server.is_file(), "{} is missing; build it with `cargo build -p undertone-server`", server.display());
    let folder = scratch("run");
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let model = folder.join("model");
    std::fs::create_dir_all(&model).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "undertone-calibration.json"] {
        std::fs::copy(bundled.join(file), model.join(file)).unwrap();
    }
    std::fs::write(folder.join("private.txt"), "A note about a patient.").unwrap();
    let mut command = Command::new(&program);
    command.args(["run", "--model"]).arg(&model).arg("--private-file").arg(folder.join("private.txt"));
    let model = model.to_str().unwrap();
    // At once, because a server that is short of memory, or built without the test features, ends the run by itself.
    interrupt(&mut command, || process_with(&["undertone-server", model]), Duration::ZERO);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!process_with(&[model]), "the server is still running");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// An interrupted client tells the server, which then need not wait for it.
#[test]
fn an_interrupted_run_says_goodbye() {
    let folder = scratch("goodbye");
    std::fs::write(folder.join("private.txt"), "A note about a patient.").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (said, greeted) = (std::sync::Mutex::new(Vec::new()), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        // A server that never welcomes anybody.
        scope.spawn(|| {
            let mut stream = undertone_protocol::MessageStream::new(listener.accept().unwrap().0);
            while let Ok(message) = stream.receive() {
                said.lock().unwrap().push(message.message_type());
                greeted.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        });
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
        let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
        command.args(["run", "--server", &address, "--model"]).arg(model);
        command.arg("--private-file").arg(folder.join("private.txt"));
        interrupt(&mut command, || greeted.load(std::sync::atomic::Ordering::SeqCst), Duration::from_millis(100));
    });
    use undertone_protocol::MessageType::{Bye, Hello};
    assert_eq!(said.into_inner().unwrap(), [Hello, Bye]);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// An interrupted dealer tells its parties, who then need not wait for it.
#[test]
fn an_interrupted_dealer_says_goodbye() {
    use std::io::{BufRead, BufReader};
    use undertone_protocol::message::{ErrorClass, Hello, WireShape};
    use undertone_protocol::{Message, MessageStream, Mode};
    let folder = scratch("dealer");
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    command.args(["deal", "--listen", "127.0.0.1:0", "--json", "--state"]).arg(&folder);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let stream = std::net::TcpStream::connect(ready["address"].as_str().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = MessageStream::new(stream);
    let shape = WireShape { public_tokens: 0, private_tokens: 1, max_new_tokens: 1 };
    stream.send(&Message::Hello(Hello::new(Mode::Deal, [0; 32], [0; 32], [0; 32], shape))).unwrap();
    assert!(matches!(stream.receive().unwrap(), Message::Welcome(_)));
    let begun = Instant::now();
    assert!(Command::new("kill").arg("-INT").arg(process.id().to_string()).status().unwrap().success());
    let Message::Error(report) = stream.receive().unwrap() else { panic!("no farewell") };
    assert_eq!(report.class, ErrorClass::ShuttingDown);
    assert_eq!(process.wait().unwrap().code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    std::fs::remove_dir_all(&folder).unwrap();
}

/// What a run keeps for its session goes when it is interrupted.
#[test]
fn an_interrupted_run_leaves_no_session_in_its_store() {
    let folder = scratch("store");
    std::fs::write(folder.join("private.txt"), "A note about a patient.").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // A provider that says nothing: the system takes the connection for it.
    let store = folder.join("user");
    let sessions = || std::fs::read_dir(store.join("undertone-user-bundles")).map_or(0, Iterator::count);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    command.args(["run", "--mode", "permuted", "--server", &address, "--dealer", &address, "--model"]).arg(model);
    command.arg("--private-file").arg(folder.join("private.txt")).arg("--store").arg(&store);
    // The marker, and the folder of the session.
    interrupt(&mut command, || sessions() == 2, Duration::from_millis(100));
    assert_eq!(sessions(), 1);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Copies an executable. Another process writes it, because a program that this one had open for writing while another
/// test started a process could not be run until that process is past its start.
fn install(from: &Path, to: &Path) {
    assert!(Command::new("install").args(["-m", "755"]).args([from, to]).status().unwrap().success());
}

/// A folder with a copy of the program, a model, a private text, and `script` in the place of the server.
fn scene_with_server(name: &str, script: &str) -> (PathBuf, Command) {
    let folder = scratch(name);
    let program = folder.join("undertone");
    install(Path::new(env!("CARGO_BIN_EXE_undertone")), &program);
    let source = folder.join("server.sh");
    std::fs::write(&source, script).unwrap();
    install(&source, &folder.join("undertone-server"));
    std::fs::write(folder.join("private.txt"), "A note.").unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let mut command = Command::new(program);
    command.args(["run", "--model"]).arg(model).arg("--private-file").arg(folder.join("private.txt"));
    (folder, command)
}

#[test]
fn a_server_that_is_still_loading_is_ended() {
    let nap = format!("86399.{}", std::process::id());
    let started = format!("#!/bin/sh\ntouch \"${{0%/*}}/started\"\nexec sleep {nap}\n");
    let (folder, mut command) = scene_with_server("loading", &started);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !folder.join("started").is_file() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(process_with(&[&nap]), "the server was not started");
    assert!(Command::new("kill").arg("-INT").arg(process.id().to_string()).status().unwrap().success());
    assert_eq!(process.wait().unwrap().code(), Some(130));
    assert!(!process_with(&[&nap]), "the server is still running");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_server_that_says_much_before_it_fails_does_not_hang() {
    let talkative = "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x >&2\necho >&2\necho 'undertone-server: no luck' >&2\nexit 1\n";
    let (folder, mut command) = scene_with_server("talkative", talkative);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("undertone-server did not start: no luck"), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn core_dumps_are_denied() {
    // The script in the place of the server tells what holds for the program that started it.
    let tell = "#!/bin/sh\ngrep 'Max core file size' /proc/$PPID/limits >&2\nexit 1\n";
    let (folder, mut command) = scene_with_server("core", tell);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let words: Vec<&str> = said.split("Max core file size").nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words[..2], ["0", "0"], "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}
