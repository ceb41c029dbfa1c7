//! The plainly built server refuses insecure test parameters.
//!
//! `cargo test` unites features, so the programs built beside this test know the test sets. The server is therefore
//! built once more, without features, into a folder of its own; little optimisation is enough to refuse.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use undertone_he::Parameters;
use undertone_infer::Calibration;
use undertone_model::Llama;
use undertone_protocol::encode_frame;
use undertone_protocol::message::{Hello, Message, MessageType, Mode, WireShape, calibration_digest};

struct Server {
    process: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn build() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("plain");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--release", "-p", "undertone-server", "--target-dir"])
        .arg(&target)
        .args(["--config", "profile.release.opt-level=1", "--config", "profile.release.debug=false"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("release").join(format!("undertone-server{}", std::env::consts::EXE_SUFFIX))
}

fn start(program: &Path, model: &Path) -> Server {
    let mut command = Command::new(program);
    command.arg("--model").arg(model).args(["--listen", "127.0.0.1:0", "--json"]);
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(ready["security_bits"].as_u64().unwrap() >= 128, "{line}");
    Server { process, address: ready["address"].as_str().unwrap().to_owned() }
}

/// Everything the server answers to `frame` until it closes the connection.
fn answer(server: &Server, frame: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(frame).unwrap();
    let mut reply = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut reply);
    reply
}

/// The frame with the magic of plain builds and its checksum repaired.
fn as_plain(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..4].copy_from_slice(b"UTN\x01");
    let checksum = *blake3::hash(&frame[..36]).as_bytes();
    frame[36..40].copy_from_slice(&checksum[..4]);
    frame
}

fn hello(model: &Path, parameters: [u8; 32]) -> Vec<u8> {
    let shape = WireShape { public_tokens: 4, private_tokens: 4, max_new_tokens: 1 };
    let fingerprint = Llama::load(model).unwrap().fingerprint();
    let calibration = calibration_digest(&Calibration::load(model).unwrap());
    let message = Message::Hello(Hello::new(Mode::Fhe, parameters, fingerprint, calibration, shape));
    encode_frame(MessageType::Hello, 0, 0, &message.encode().unwrap()).unwrap()
}

fn says(reply: &[u8], words: &str) -> bool {
    reply.starts_with(b"UTN\x01") && String::from_utf8_lossy(reply).contains(words)
}

#[test]
fn the_plain_server_refuses_insecure_parameters() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let insecure = hello(&model, Parameters::insecure_test(10).digest());
    assert_eq!(&insecure[..4], b"UTX\x01", "this test is built with the feature");
    let server = start(&build(), &model);
    // A build with the feature is refused by its magic.
    let reply = answer(&server, &insecure);
    assert!(says(&reply, "insecure-test-parameters"), "{}", String::from_utf8_lossy(&reply));
    // One that forges the magic is refused by the digest of its parameters.
    let reply = answer(&server, &as_plain(&insecure));
    assert!(says(&reply, "the parameters of client and server differ"), "{}", String::from_utf8_lossy(&reply));
    // The same hello with the shipped parameters passes these checks, so that the refusals above mean something: it is
    // welcome, unless this machine has no memory left for a session's keys.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(&as_plain(&hello(&model, Parameters::default_preset().digest()))).unwrap();
    let mut header = [0u8; 40];
    stream.read_exact(&mut header).unwrap();
    if header[5] != MessageType::Welcome as u8 {
        let mut sentence = String::new();
        let _ = BufReader::new(stream).read_to_string(&mut sentence);
        assert!(sentence.contains("bytes of memory"), "{sentence}");
    }
}
