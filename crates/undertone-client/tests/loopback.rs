//! Client and server over a real loopback socket with a synthetic model: in the clear, and under small insecure
//! parameters.

mod support;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use undertone_client::{Error, LocalModel, Observer, Prompt, Request, RunReport, TokenReport, Way, generate};
use undertone_he::circuits::pc_matmul::{ProductKeyId, ProductKeys, ProductParameters};
use undertone_he::{EvaluationKeys, KEY_PREFIX_BYTES, KeyId, KeyMemory, KeyRequest, Parameters, UploadKey};
use undertone_infer::{Calibration, Error as InferError, Preparation};
use undertone_model::sampling::Sampler;
use undertone_model::{Llama, LlamaConfig, clear_generate, synthetic};
use undertone_protocol::message::{ErrorClass, ProgressReport, WireShape};
use undertone_protocol::modes::fhe::{self, KeySink};
use undertone_secret::{KeyGenerator, ProductKeyGenerator, SecretKey, SecretRng};
use undertone_server::{Handle, ModelHost, Options, Server};

const LOG_N: u32 = 11;
const NEW: usize = 3;

struct Setting {
    parameters: Parameters,
    weights: Arc<Llama>,
    calibration: Calibration,
    prompt: Prompt,
}

impl Setting {
    fn new() -> Self {
        Self::of(support::config(2, vec![]), Parameters::insecure_test(LOG_N))
    }

    /// Heads that fill whole values, as turns want them.
    fn in_turns() -> Self {
        let config = LlamaConfig {
            hidden_size: 32,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            ..support::config(3, vec![])
        };
        Self::of(config, Parameters::insecure_turn_test(LOG_N))
    }

    fn of(config: LlamaConfig, parameters: Parameters) -> Self {
        let (weights, calibration, window) = support::calibrated(config, &Preparation::default(), LOG_N, 6, 17, NEW);
        let prompt = Prompt::from_ids(window.public, window.private);
        Self { parameters, weights, calibration, prompt }
    }

    fn model(&self) -> LocalModel {
        LocalModel::new(self.weights.clone(), None, self.calibration.clone()).unwrap()
    }

    fn serve(&self, options: Options) -> Running {
        self.serve_keeping(KeyMemory::Seeded, options)
    }

    fn serve_keeping(&self, keys: KeyMemory, options: Options) -> Running {
        // Both kinds of sets, of which the client's hello takes one.
        let [slots, turns] = [Parameters::insecure_test(LOG_N), Parameters::insecure_turn_test(LOG_N)];
        let host = ModelHost::new(self.weights.clone(), self.calibration.clone(), slots).unwrap().offer(turns);
        let server = Server::bind(options, Box::new(host.offer_clear().keep_keys(keys))).unwrap();
        let (handle, address) = (server.handle(), server.address());
        Running { handle, address, thread: Some(std::thread::spawn(move || server.run().unwrap())) }
    }

    fn prepared(&self) -> fhe::Prepared {
        let shape = self.prompt.shape(NEW, &self.weights.config).unwrap();
        fhe::prepare(&self.parameters, &self.weights.config, &self.calibration, shape).unwrap()
    }

    fn planned_operations(&self) -> (u64, u64) {
        let steps = self.prepared().costs.steps;
        (steps.iter().map(|s| s.counts.bootstraps).sum(), steps.iter().map(|s| s.counts.key_switches).sum())
    }

    fn clear(&self) -> Way<'static> {
        Way::Clear { chain: self.parameters.chain() }
    }

    fn fhe(&self) -> Way<'_> {
        Way::Fhe { parameters: &self.parameters, key: None }
    }

    fn run(
        &self,
        way: Way<'_>,
        model: &LocalModel,
        server: &Running,
        observer: &mut dyn Observer,
    ) -> Result<RunReport, Error> {
        let sampler = &mut Sampler::greedy();
        let (prompt, server) = (&self.prompt, &server.address.into());
        generate(Request { model, prompt, max_new_tokens: NEW, sampler, server, way }, observer)
    }
}

struct Running {
    handle: Handle,
    address: std::net::SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn expect_idle(&self) {
        let start = Instant::now();
        while self.handle.session_count() != 0 {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(joined.is_some_and(|joined| joined.is_ok()) || std::thread::panicking());
    }
}

#[derive(Default)]
struct Follow {
    keys: usize,
    tokens: Vec<u32>,
    news: usize,
    stop_after_news: Option<usize>,
}

impl Observer for Follow {
    fn key(&mut self, done: usize, total: usize, done_bytes: u64, total_bytes: u64) {
        assert_eq!(done, self.keys + 1);
        assert!(done <= total && done_bytes <= total_bytes);
        assert_eq!(done == total, done_bytes == total_bytes);
        self.keys = done;
    }

    fn progress(&mut self, _: usize, report: &ProgressReport) {
        assert!((0.0..=1.0).contains(&report.fraction));
        self.news += 1;
    }

    fn token(&mut self, report: &TokenReport) {
        self.tokens.push(report.id);
    }

    fn stopped(&self) -> bool {
        self.stop_after_news.is_some_and(|stop| self.news >= stop)
    }
}

fn options() -> Options {
    Options { threads: Some(2), ..Options::default() }
}

/// The answer is that of the clear model, and every figure is filled in.
fn check(setting: &Setting, report: &RunReport, follow: &Follow, largest_kl: f64) {
    let prompt: Vec<u32> = setting.prompt.public.iter().chain(setting.prompt.private.iter()).copied().collect();
    let expected = clear_generate(&setting.weights, &prompt, NEW, &mut Sampler::greedy()).unwrap();
    let found: Vec<u32> = report.tokens.iter().map(|token| token.id).collect();
    for token in &report.tokens {
        println!(
            "{}: kl {:.2e}, max logit error {:.2e}",
            report.mode,
            token.kl.unwrap(),
            token.max_logit_error.unwrap()
        );
        assert_eq!(token.clear_id, Some(token.id));
        assert_eq!(token.top1_agrees, Some(true));
        assert!(token.kl.unwrap() < largest_kl && token.seconds > 0.0);
    }
    assert_eq!(found, expected);
    assert_eq!(follow.tokens, found);
    assert_eq!(report.public_tokens + report.private_tokens, prompt.len());
    assert!(report.bytes_up > 0 && report.bytes_down > 0 && !report.leakage.is_empty());
    assert_eq!(report.ring_degree, 1 << LOG_N);
    // Hello and welcome, then one round per token.
    assert_eq!(report.rounds, 1 + NEW as u64);
    let json = serde_json::to_string(report).unwrap();
    for field in ["\"tokens\":[{\"id\":", "\"top1_agrees\":true", "\"key_bytes\":", "\"leakage\":["] {
        assert!(json.contains(field), "{field}");
    }
}

#[test]
fn the_clear_mode_gives_the_answer_of_the_model() {
    let setting = Setting::new();
    let server = setting.serve(options());
    let mut follow = Follow::default();
    let report = setting.run(setting.clear(), &setting.model(), &server, &mut follow).unwrap();
    // Polynomials of 12.5 bits in about ten places move logits by less than 10 · 2^-11 of their bound.
    check(&setting, &report, &follow, 1e-2);
    assert_eq!((report.mode, report.key_bytes, report.bootstraps), ("clear", 0, 0));
    server.expect_idle();
}

#[test]
fn the_encrypted_mode_gives_the_answer_of_the_model_to_two_clients() {
    let setting = Setting::new();
    let server = setting.serve(options());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut follow = Follow::default();
                let report = setting.run(setting.fhe(), &setting.model(), &server, &mut follow).unwrap();
                check(&setting, &report, &follow, 5e-2);
                assert!(follow.keys > 10 && report.bootstraps > 0);
                // What the server counted is what the plan says.
                assert_eq!((report.bootstraps, report.key_switches), setting.planned_operations());
                assert!(report.key_bytes > 0 && report.key_bytes < report.bytes_up);
            });
        }
    });
    server.expect_idle();
}

#[test]
fn sessions_in_turns_and_through_slots_share_a_server() {
    let setting = Setting::in_turns();
    let server = setting.serve(options());
    let slots = Parameters::insecure_test(LOG_N);
    let mut follow = Follow::default();
    let report = setting.run(setting.fhe(), &setting.model(), &server, &mut follow).unwrap();
    check(&setting, &report, &follow, 5e-2);
    assert_eq!(report.route, Some("turns"));
    assert_eq!((report.bootstraps, report.key_switches), setting.planned_operations());
    let planned = setting.prepared().plan;
    assert_eq!((follow.keys, report.key_bytes), (planned.keys.len(), planned.key_bytes()));
    assert!(matches!(planned.keys.last().unwrap().key, UploadKey::Product { id: ProductKeyId::Up, tokens: 32 }));

    let mut follow = Follow::default();
    let way = Way::Fhe { parameters: &slots, key: None };
    let report = setting.run(way, &setting.model(), &server, &mut follow).unwrap();
    check(&setting, &report, &follow, 5e-2);
    assert_eq!(report.route, Some("slots"));
    server.expect_idle();

    // A server that offers one set refuses the other as it did when there was one.
    let host = ModelHost::new(setting.weights.clone(), setting.calibration.clone(), slots).unwrap();
    let only = Server::bind(options(), Box::new(host)).unwrap();
    let (handle, address) = (only.handle(), only.address());
    let only = Running { handle, address, thread: Some(std::thread::spawn(move || only.run().unwrap())) };
    let (class, sentence) = refusal(setting.run(setting.fhe(), &setting.model(), &only, &mut ()));
    assert!(class == ErrorClass::Mismatch && sentence.contains("parameters"), "{sentence}");
}

#[test]
fn a_session_in_turns_whose_other_keys_wait_on_disk_gives_the_answer_too() {
    let setting = Setting::in_turns();
    let folder = std::env::temp_dir().join(format!("undertone-turn-keys-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let spooled = KeyMemory::Spooled { folder: folder.clone(), held_bytes: 1 << 16 };
    let plan = setting.prepared().plan;
    let [held, disk] = plan.waiting_bytes(&spooled);
    let products = plan.keys.iter().filter(|planned| matches!(planned.key, UploadKey::Product { .. }));
    let products: u64 = products.map(|planned| planned.held_bytes).sum();
    assert!(products > 0 && held <= products + (1 << 16) && disk > 0);
    let options = Options { memory_bytes: Some(plan.memory_bytes_with(&spooled)), ..options() };
    let server = setting.serve_keeping(spooled, options);
    let report = setting.run(setting.fhe(), &setting.model(), &server, &mut ()).unwrap();
    assert!(report.tokens.iter().all(|token| token.top1_agrees == Some(true)));
    server.expect_idle();
    std::fs::remove_dir(&folder).unwrap();
}

#[test]
fn a_calibration_that_is_too_narrow_is_an_escape_and_no_answer() {
    let mut setting = Setting::new();
    for layer in &mut setting.calibration.layers {
        layer.gate_bound /= 3.0;
        layer.mlp_norm.mean_square.high /= 3.0;
        layer.mlp_norm.mean_square.low /= 3.0;
    }
    let server = setting.serve(options());
    let error = setting.run(setting.fhe(), &setting.model(), &server, &mut ()).err().unwrap();
    assert!(matches!(error, Error::Infer(InferError::OutOfCalibratedRange { .. })), "{error}");
    println!("{error}");
    assert!(error.to_string().contains("calibrated ranges"), "{error}");
    server.expect_idle();
}

#[test]
fn the_planned_memory_holds_the_keys() {
    for setting in [Setting::new(), Setting::in_turns()] {
        let prepared = setting.prepared();
        let mut rng = SecretRng::from_os().unwrap();
        let secret = SecretKey::generate(&setting.parameters, &mut rng);
        let generator = KeyGenerator::new(&setting.parameters, &secret);
        let mut keys = EvaluationKeys::new(&setting.parameters, &KeyMemory::Seeded).unwrap();
        let (mut prefixes, mut products, mut products_len) = (0, 0, 0);
        for planned in &prepared.plan.keys {
            match planned.key {
                UploadKey::Evaluation(request) => {
                    keys.insert(generator.generate(&request, &mut rng).unwrap()).unwrap();
                    prefixes += KEY_PREFIX_BYTES as u64;
                }
                UploadKey::Product { .. } => products_len += planned.len as u64,
            }
        }
        for &tokens in &prepared.costs.keys.product_tokens {
            let product = ProductParameters::of_turn(&setting.parameters, tokens).unwrap();
            let made = ProductKeyGenerator::new(&product, &secret, &mut rng).generate_all(&mut rng).unwrap();
            products_len -= made.iter().map(|key| key.to_bytes(&product).len() as u64).sum::<u64>();
            products += ProductKeys::new(&product, made).unwrap().size_bytes() as u64;
        }
        assert_eq!(products_len, 0);
        let [held, disk] = prepared.plan.waiting_bytes(&KeyMemory::Seeded);
        assert_eq!((held, disk), (keys.size_bytes() as u64 + products, keys.disk_bytes()));
        let lengths = prepared.plan.keys.iter().filter(|planned| matches!(planned.key, UploadKey::Evaluation(_)));
        assert_eq!(lengths.map(|planned| planned.len as u64).sum::<u64>(), held - products + prefixes);
        assert!(prepared.plan.memory_bytes > held);
        assert_eq!(products > 0, setting.parameters.chain().product_prime.is_some());
    }
}

#[test]
fn a_session_whose_keys_wait_on_disk_fits_less_memory_and_leaves_no_file() {
    let setting = Setting::new();
    let folder = std::env::temp_dir().join(format!("undertone-session-keys-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let spooled = KeyMemory::Spooled { folder: folder.clone(), held_bytes: 1 << 16 };
    let plan = setting.prepared().plan;
    let bytes = plan.memory_bytes_with(&spooled);
    let [held, disk] = plan.waiting_bytes(&spooled);
    assert!(held <= 1 << 16 && disk > 0 && bytes + disk == plan.memory_bytes);

    // As much memory as the plan says for keys on disk, which is too little for keys in memory.
    let options = || Options { memory_bytes: Some(bytes), ..options() };
    let in_memory = setting.serve(options());
    let (class, _) = refusal(setting.run(setting.fhe(), &setting.model(), &in_memory, &mut ()));
    assert_eq!(class, ErrorClass::TooLarge);
    let on_disk = setting.serve_keeping(spooled, options());
    let report = setting.run(setting.fhe(), &setting.model(), &on_disk, &mut ()).unwrap();
    assert!(report.tokens.iter().all(|token| token.top1_agrees == Some(true)));
    on_disk.expect_idle();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);

    // A folder that is gone when a session begins ends that session alone, without its path.
    std::fs::remove_dir(&folder).unwrap();
    let (class, sentence) = refusal(setting.run(setting.fhe(), &setting.model(), &on_disk, &mut ()));
    assert!(class == ErrorClass::Internal && sentence.contains("could not be made"), "{sentence}");
    assert!(!sentence.contains("session-keys"), "{sentence}");
    on_disk.expect_idle();
    std::fs::create_dir(&folder).unwrap();
    assert!(setting.run(setting.fhe(), &setting.model(), &on_disk, &mut ()).is_ok());
    on_disk.expect_idle();
    std::fs::remove_dir(&folder).unwrap();
}

#[test]
fn a_run_that_is_stopped_frees_its_session() {
    let setting = Setting::new();
    let server = setting.serve(options());
    let mut follow = Follow { stop_after_news: Some(1), ..Follow::default() };
    let error = setting.run(setting.fhe(), &setting.model(), &server, &mut follow).err().unwrap();
    assert!(matches!(error, Error::Stopped), "{error}");
    server.expect_idle();
    assert!(setting.run(setting.clear(), &setting.model(), &server, &mut ()).is_ok());
}

/// The class and sentence with which the server refused.
fn refusal(result: Result<RunReport, Error>) -> (ErrorClass, String) {
    match result.err().unwrap() {
        Error::Protocol(undertone_protocol::Error::Peer { class, sentence }) => (class, sentence),
        other => panic!("{other}"),
    }
}

#[test]
fn other_parameters_models_calibrations_and_too_little_memory_are_refused() {
    let setting = Setting::new();
    let server = setting.serve(options());
    let model = setting.model();

    let other = Parameters::insecure_test(LOG_N + 1);
    let way = Way::Fhe { parameters: &other, key: None };
    let (class, sentence) = refusal(setting.run(way, &model, &server, &mut ()));
    assert!(class == ErrorClass::Mismatch && sentence.contains("parameters"), "{sentence}");

    let mut calibration = setting.calibration.clone();
    calibration.logit_bound *= 1.001;
    let edited = LocalModel::new(setting.weights.clone(), None, calibration).unwrap();
    let (class, sentence) = refusal(setting.run(setting.clear(), &edited, &server, &mut ()));
    assert!(class == ErrorClass::Mismatch && sentence.contains("calibration"), "{sentence}");

    let mut renamed = setting.model();
    renamed.fingerprint[0] ^= 1;
    let (class, sentence) = refusal(setting.run(setting.clear(), &renamed, &server, &mut ()));
    assert!(class == ErrorClass::Mismatch && sentence.contains("model"), "{sentence}");

    let foreign = Arc::new(synthetic(support::config(2, vec![]), 6));
    assert!(LocalModel::new(foreign.clone(), None, setting.calibration.clone()).is_err());
    assert!(ModelHost::new(foreign, setting.calibration.clone(), setting.parameters.clone()).is_err());

    let small = setting.serve(Options { memory_bytes: Some(1000), ..options() });
    let (class, sentence) = refusal(setting.run(setting.fhe(), &model, &small, &mut ()));
    assert!(class == ErrorClass::TooLarge && sentence.contains("1000 are free"), "{sentence}");
    server.expect_idle();
}

#[test]
fn keys_of_other_parameters_ids_and_levels_are_refused_by_the_engine() {
    let setting = Setting::new();
    let shape = WireShape { public_tokens: 3, private_tokens: 4, max_new_tokens: 2 };
    let prepared = fhe::prepare(&setting.parameters, &setting.weights.config, &setting.calibration, shape).unwrap();
    let mut setup =
        fhe::CkksSetup::new(&setting.parameters, setting.weights.clone(), &prepared, &KeyMemory::Seeded).unwrap();
    let mut rng = SecretRng::from_os().unwrap();
    let mut key = |parameters: &Parameters, request: KeyRequest| {
        let secret = SecretKey::generate(parameters, &mut rng);
        KeyGenerator::new(parameters, &secret).generate(&request, &mut rng).unwrap().to_bytes(parameters)
    };
    let request = KeyRequest { id: KeyId::Galois(5), level: 4 };
    let good = key(&setting.parameters, request);
    setup.insert(request.into(), &good).unwrap();

    let other = Parameters::insecure_test(LOG_N + 1);
    assert!(setup.insert(request.into(), &key(&other, request)).is_err());
    for wrong in [
        KeyRequest { level: 5, ..request },
        KeyRequest { id: KeyId::Galois(25), ..request },
        KeyRequest { id: KeyId::Relinearization, ..request },
    ] {
        let bytes = key(&setting.parameters, wrong);
        let error = setup.insert(request.into(), &bytes).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Key, "{error}");
    }
    let mut damaged = good.clone();
    damaged[10] ^= 1;
    assert!(setup.insert(request.into(), &damaged).is_err());
    assert!(setup.insert(request.into(), &good[..good.len() - 1]).is_err());
    // No products are planned here.
    let unplanned = setup.insert(UploadKey::Product { id: ProductKeyId::Down, tokens: 32 }, &good).unwrap_err();
    assert_eq!(unplanned.class(), ErrorClass::Key, "{unplanned}");
}

#[test]
fn product_keys_of_other_kinds_tokens_sets_and_lengths_are_refused_by_the_engine() {
    let setting = Setting::in_turns();
    let prepared = setting.prepared();
    let mut rng = SecretRng::from_os().unwrap();
    let secret = SecretKey::generate(&setting.parameters, &mut rng);
    let mut keys = |tokens| {
        let product = ProductParameters::of_turn(&setting.parameters, tokens).unwrap();
        let keys = ProductKeyGenerator::new(&product, &secret, &mut rng).generate_all(&mut rng).unwrap();
        keys.iter().map(|key| key.to_bytes(&product)).collect::<Vec<_>>()
    };
    let (good, stranger, other) = (keys(32), keys(32), keys(16));
    let setup =
        || fhe::CkksSetup::new(&setting.parameters, setting.weights.clone(), &prepared, &KeyMemory::Seeded).unwrap();
    let named = |id| UploadKey::Product { id, tokens: 32 };
    let [down, pack, up] = ProductKeyId::ALL.map(named);

    // Another kind, another number of tokens, one byte less, a damaged header.
    let error = setup().insert(down, &good[1]).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Key, "{error}");
    assert!(setup().insert(down, &other[0]).is_err());
    assert!(setup().insert(UploadKey::Product { id: ProductKeyId::Down, tokens: 16 }, &other[0]).is_err());
    assert!(setup().insert(down, &good[0][..good[0].len() - 1]).is_err());
    let mut damaged = good[0].clone();
    damaged[9] ^= 1;
    assert!(setup().insert(down, &damaged).is_err());
    // Keys of two secrets of the small ring do not fit each other; the last one shows it.
    let mut mixed = setup();
    mixed.insert(down, &good[0]).unwrap();
    mixed.insert(pack, &stranger[1]).unwrap();
    let error = mixed.insert(up, &good[2]).unwrap_err();
    assert!(error.to_string().contains("another set of keys"), "{error}");
    let mut whole = setup();
    [down, pack, up].into_iter().zip(&good).for_each(|(key, bytes)| whole.insert(key, bytes).unwrap());
    assert!(Box::new(whole).finish().is_ok());
}

#[test]
fn lengths_are_checked_before_anything_is_sent() {
    let setting = Setting::new();
    let config = &setting.weights.config;
    let shape = |public, private, new| Prompt::from_ids(vec![1; public], vec![2; private]).shape(new, config);
    assert!(shape(10, 50, 5).is_ok());
    assert!(matches!(shape(10, 50, 6), Err(Error::TooLong { have: 65, need: 64, .. })));
    assert!(matches!(shape(1, 129, 1), Err(Error::TooLong { have: 129, need: 128, .. })));
    assert!(matches!(shape(0, 1, 1), Err(Error::Empty { .. })));
    assert!(matches!(shape(1, 0, 1), Err(Error::Empty { .. })));
    assert!(matches!(shape(1, 1, 0), Err(Error::Empty { .. })));

    let sampler = &mut Sampler::greedy();
    let remote: std::net::SocketAddr = "192.0.2.1:7411".parse().unwrap();
    let (model, prompt) = (&setting.model(), &setting.prompt);
    let request = Request { model, prompt, max_new_tokens: 1, sampler, server: &remote.into(), way: setting.clear() };
    assert!(matches!(generate(request, &mut ()), Err(Error::Net(undertone_net::Error::NotLoopback { .. }))));
}
