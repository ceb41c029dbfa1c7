//! What a client may rely on: escapes are reported, noise stays noise, calibration by the library suffices, a caller
//! can stop a run.

mod session;

use session::{Session, chain, config, measure, tokens, top};
use std::sync::Mutex;
use undertone_he::{ClearEvaluator, Evaluator};
use undertone_infer::calibrate::{CalibrationOptions, Prompt, calibrate};
use undertone_infer::{Calibration, Error, Interval, Program, Progress, PublicCache, Shape};
use undertone_model::reference::{KvCache, forward_last};
use undertone_model::{Llama, synthetic};

const SHAPE: Shape = Shape { public_tokens: 6, private_tokens: 18, max_new_tokens: 3 };

fn model() -> Llama {
    synthetic(config([24, 40, 2, 4, 2, 8, 50]), 11)
}

fn ids() -> Vec<u32> {
    tokens(27, 50, 5)
}

fn expected(model: &Llama, ids: &[u32]) -> Vec<f32> {
    forward_last(model, &mut KvCache::new(&model.config), ids).unwrap()
}

fn error(found: &[f32], expected: &[f32]) -> f64 {
    found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// Runs a prefill with an altered calibration and returns what the client finds out of range in its results alone.
fn reported(alter: impl Fn(&mut Calibration)) -> Option<&'static str> {
    let (model, ids) = (model(), ids());
    let mut calibration = measure(&model, &ids, 2, 1.05);
    alter(&mut calibration);
    // As under encryption, nothing but the results may tell.
    let ev = ClearEvaluator::new(chain(12)).without_range_check();
    let mut session = Session::on(ev, &model, &calibration, SHAPE, &ids[..6]);
    let output = session.prefill(&ids[6..24]);
    match session.read(&output) {
        Ok(_) => None,
        Err(Error::OutOfCalibratedRange { what, .. }) => Some(what),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn escapes_are_reported() {
    assert_eq!(reported(|_| ()), None);
    let narrowed = |i: Interval| Interval { low: i.low, high: i.low + 0.3 * (i.high - i.low) };
    let guarded = |alter: &dyn Fn(&mut Calibration)| assert_eq!(reported(alter), Some("guard"));
    guarded(&|c| c.layers[0].attention_norm.mean_square = narrowed(c.layers[0].attention_norm.mean_square));
    guarded(&|c| c.layers[1].mlp_norm.mean_square.high /= 4.0);
    guarded(&|c| c.final_norm.high /= 3.0);
    guarded(&|c| c.layers[0].gate_bound /= 3.0);
    guarded(&|c| c.layers[0].softmax.sums[0] = narrowed(c.layers[0].softmax.sums[0]));
    guarded(&|c| c.layers[1].softmax.shift.iter_mut().for_each(|s| *s -= 4.0));
    guarded(&|c| c.layers[0].softmax.half_span /= 2.0);
    assert_eq!(reported(|c| c.logit_bound /= 2.0), Some("logits relative to their bound"));
}

#[test]
fn values_too_large_for_a_bootstrap_are_reported() {
    // The public part and the margin widen these bounds, so half of one is exceeded by less than twice.
    let guarded = |alter: &dyn Fn(&mut Calibration)| assert_eq!(reported(alter), Some("guard"));
    // The last layer goes on with the last row alone, which need not be the largest.
    (1..3).for_each(|point| guarded(&|c| c.residual_bound[point] /= 2.0));
    guarded(&|c| c.layers[0].query_bound /= 2.0);
    guarded(&|c| c.layers[1].key_bound /= 2.0);
}

#[test]
fn the_guard_of_an_honest_run_stays_below_one() {
    let (model, ids) = (model(), ids());
    let calibration = measure(&model, &ids, 2, 1.05);
    let mut session = Session::new(&model, &calibration, SHAPE, &ids[..6], 12);
    let output = session.prefill(&ids[6..24]);
    let guard = session.ev.decrypt(&output.guard);
    let largest = guard.iter().copied().fold(0.0, f64::max);
    assert!(largest <= 1.0 + 1e-9 && largest > 0.0, "{largest}");
}

#[test]
fn noise_at_bootstraps_stays_small_in_the_logits() {
    let (model, ids) = (model(), ids());
    let calibration = measure(&model, &ids, 2, 1.2);
    let ev = ClearEvaluator::new(chain(12)).with_noise(16.0, 1);
    let mut session = Session::on(ev, &model, &calibration, SHAPE, &ids[..6]);
    // Noise of 2^-16 per slot at the bounds, through 2 layers of gains below about 30 in all: below 2^-9 of the bound.
    let tolerance = calibration.logit_bound / 512.0;
    for step in 0..3 {
        let output = if step == 0 { session.prefill(&ids[6..24]) } else { session.decode(ids[23 + step]) };
        let found = session.read(&output).unwrap();
        let expected = expected(&model, &ids[..24 + step]);
        let error = error(&found, &expected);
        println!("step {step}: {error:.2e} of {tolerance:.2e}");
        assert!(error < tolerance, "{error} exceeds {tolerance}");
        assert_eq!(top(&found), top(&expected));
    }
}

#[test]
fn a_calibrated_model_answers_prompts_of_its_corpus() {
    let model = model();
    let prompt = |seed| {
        let ids = tokens(30, 50, seed);
        Prompt { public: ids[..6].to_vec(), private: ids[6..24].to_vec(), answer: ids[24..].to_vec() }
    };
    let prompts: Vec<Prompt> = (0..24).map(prompt).collect();
    let options = CalibrationOptions { slot_count: 1 << 11, target_bits: 14.0, ..CalibrationOptions::default() };
    let calibration = calibrate(&model, &prompts, options, &mut |_| ()).unwrap();
    for prompt in &prompts[..6] {
        let mut session = Session::new(&model, &calibration, SHAPE, &prompt.public, 12);
        let mut text = [&prompt.public[..], &prompt.private].concat();
        for step in 0..3 {
            let output =
                if step == 0 { session.prefill(&prompt.private) } else { session.decode(text[text.len() - 1]) };
            let found = session.read(&output).unwrap();
            let expected = expected(&model, &text);
            // Polynomials of 14 bits and gains as above.
            assert!(error(&found, &expected) < calibration.logit_bound / 64.0);
            text.push(prompt.answer[step]);
        }
    }
}

/// Stops after a number of stages and remembers the fractions.
struct Stop(usize, Mutex<Vec<f64>>);

impl Progress for Stop {
    fn step(&self, _: &'static str, _: usize, _: usize, done_fraction: f64) {
        self.1.lock().unwrap().push(done_fraction);
    }

    fn cancelled(&self) -> bool {
        self.1.lock().unwrap().len() >= self.0
    }
}

#[test]
fn a_run_reports_progress_and_stops_when_told() {
    let (model, ids) = (model(), ids());
    let calibration = measure(&model, &ids, 2, 1.05);
    let program = Program::new(&model.config, &calibration, SHAPE, chain(12)).unwrap();
    let public = PublicCache::new(&model, &ids[..6]).unwrap();
    let ev = ClearEvaluator::new(chain(12));
    let rows: Vec<Vec<f32>> = ids[6..24].iter().map(|&id| model.embed.row(id as usize).to_vec()).collect();
    let packed = program.pack_prompt(&rows).unwrap();
    let input: Vec<_> = packed.iter().map(|slots| ev.encrypt(slots, program.input_level())).collect();
    let stop = Stop(3, Mutex::default());
    let stopped = program.prefill(&ev, &model, &public, input.clone(), &stop);
    assert!(matches!(stopped, Err(Error::Cancelled { stage: "scores" })));
    let all = Stop(usize::MAX, Mutex::default());
    program.prefill(&ev, &model, &public, input, &all).unwrap();
    let fractions = all.1.into_inner().unwrap();
    assert_eq!(fractions.len(), 17);
    assert!(fractions.windows(2).all(|w| w[0] < w[1]) && fractions[16] == 1.0);
}

/// Asks to stop once asked a number of times.
struct Impatient(usize, Mutex<usize>);

impl Progress for Impatient {
    fn step(&self, _: &'static str, _: usize, _: usize, _: f64) {}

    fn cancelled(&self) -> bool {
        let mut asked = self.1.lock().unwrap();
        *asked += 1;
        *asked >= self.0
    }
}

#[test]
fn a_run_stops_between_the_bootstraps_of_a_stage() {
    let (model, ids) = (model(), ids());
    let calibration = measure(&model, &ids, 2, 1.05);
    let session = Session::new(&model, &calibration, SHAPE, &ids[..6], 12);
    let packed = session.program.pack_prompt(&session.rows(&ids[6..24])).unwrap();
    let level = session.program.input_level();
    let input: Vec<_> = packed.iter().map(|slots| session.ev.encrypt(slots, level)).collect();
    // The attention norm asks once, at its end; the next question comes before the bootstrap of queries and keys.
    let stop = Impatient(2, Mutex::default());
    let stopped = session.program.prefill(&session.ev, &model, &session.public, input, &stop);
    assert!(matches!(stopped, Err(Error::Cancelled { stage: "attention norm" })));
    assert_eq!(session.ev.counts().bootstraps, 0);
}

#[test]
fn wrong_inputs_are_refused() {
    let (model, ids) = (model(), ids());
    let calibration = measure(&model, &ids, 2, 1.05);
    let mut session = Session::new(&model, &calibration, SHAPE, &ids[..6], 12);
    assert!(session.program.prefill(&session.ev, &model, &session.public, vec![], &()).is_err());
    let short = PublicCache::new(&model, &ids[..5]).unwrap();
    let level = session.program.input_level();
    let packed = session.program.pack_prompt(&session.rows(&ids[6..24])).unwrap();
    let input: Vec<_> = packed.iter().map(|slots| session.ev.encrypt(slots, level)).collect();
    assert!(session.program.prefill(&session.ev, &model, &short, input, &()).is_err());
    // Three new tokens were planned: the prefill yields the first, two steps the others.
    session.prefill(&ids[6..24]);
    session.decode(ids[24]);
    session.decode(ids[25]);
    let token = session.program.pack_token(&session.rows(&[5])[0]).unwrap();
    let input = vec![session.ev.encrypt(&token[0], level)];
    let state = session.state.as_mut().unwrap();
    let full = session.program.decode(&session.ev, &model, &session.public, state, input, &());
    assert!(matches!(full, Err(Error::SequenceFull { have: 4, need: 3 })));
    assert!(session.program.read_logits(&[], &[0.0]).is_err());
    assert!(session.program.read_logits(&[vec![0.0; 64]], &[f64::NAN]).is_err());
    assert!(session.program.read_logits(&[vec![0.5; 64]], &[0.0]).is_err());
    assert_eq!(session.program.read_logits(&[vec![0.0; 64]], &[0.0]).unwrap().len(), 50);
}
