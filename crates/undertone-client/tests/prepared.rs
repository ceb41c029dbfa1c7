//! A prefix and a rotation over a real loopback socket: the answer is that of the stored model behind the prefix.

mod support;

use std::sync::Arc;
use undertone_client::{Error, LocalModel, Prompt, Request, RunReport, Way, generate};
use undertone_he::Parameters;
use undertone_infer::{Calibration, Error as InferError, Preparation};
use undertone_model::sampling::Sampler;
use undertone_model::{Llama, LlamaConfig, clear_generate};
use undertone_server::{ModelHost, Options, Server};

const LOG_N: u32 = 11;
const NEW: usize = 2;
const PREFIX: [u32; 3] = [1, 9, 4];

fn setting(config: LlamaConfig) -> (Arc<Llama>, Calibration, Prompt) {
    let preparation = Preparation { prefix: PREFIX.to_vec(), rotation_seed: Some(11) };
    let (weights, calibration, window) = support::calibrated(config, &preparation, LOG_N, 6, 17, NEW);
    (weights, calibration, Prompt::from_ids(window.public, window.private))
}

/// Runs a request with a server of its own.
fn run(weights: &Arc<Llama>, calibration: &Calibration, prompt: &Prompt, clear: bool) -> Result<RunReport, Error> {
    let parameters = Parameters::insecure_test(LOG_N);
    let host = ModelHost::new(weights.clone(), calibration.clone(), parameters.clone()).unwrap();
    let server =
        Server::bind(Options { threads: Some(2), ..Options::default() }, Box::new(host.offer_clear())).unwrap();
    let (address, handle) = (server.address(), server.handle());
    let serving = std::thread::spawn(move || server.run());
    let model = LocalModel::new(weights.clone(), None, calibration.clone()).unwrap();
    assert!(*model.embed == *weights.clone().as_ref().clone().rotated(11).embed, "both sides derive one embedding");
    let way = match clear {
        true => Way::Clear { chain: parameters.chain() },
        false => Way::Fhe { parameters: &parameters, key: None },
    };
    let sampler = &mut Sampler::greedy();
    let request = Request { model: &model, prompt, max_new_tokens: NEW, sampler, server: &address.into(), way };
    let report = generate(request, &mut ());
    handle.stop();
    serving.join().unwrap().unwrap();
    report
}

#[test]
fn answers_are_those_of_the_stored_model_behind_the_prefix() {
    for tied in [false, true] {
        let config = LlamaConfig { tie_word_embeddings: tied, ..support::config(2, vec![]) };
        let (weights, calibration, prompt) = setting(config);
        let given = prompt.public.clone();
        let prompt = prompt.prepare(&calibration.preparation, &weights.config);
        assert_eq!(prompt.public, [&PREFIX[..], &given[1..]].concat());
        let ids = [&prompt.public[..], &prompt.private].concat();
        let expected = clear_generate(&weights, &ids, NEW, &mut Sampler::greedy()).unwrap();
        // The tied shape is the same circuit, so that encrypting it once suffices.
        for clear in if tied { vec![true] } else { vec![true, false] } {
            let report = run(&weights, &calibration, &prompt, clear).unwrap();
            assert_eq!(report.tokens.iter().map(|token| token.id).collect::<Vec<_>>(), expected, "tied {tied}");
            for token in &report.tokens {
                println!("clear {clear}: kl {:.1e}", token.kl.unwrap());
                assert!(token.top1_agrees == Some(true) && token.kl.unwrap() < 1e-3);
            }
        }
    }
}

#[test]
fn a_prompt_without_the_prefix_is_refused_before_anything_is_sent() {
    let (weights, calibration, prompt) = setting(support::config(1, vec![]));
    let refused = run(&weights, &calibration, &prompt, true).err();
    assert!(matches!(refused, Some(Error::Infer(InferError::PrefixMissing { need: 3 }))));
}
