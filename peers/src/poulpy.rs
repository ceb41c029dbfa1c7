//! Poulpy 0.10.0 on its AVX-512 IFMA backend, one thread: rotation, multiplication, and bootstrapping of all slots.
//!
//! Poulpy has no prime chain: log Q is the width of a ciphertext in bits, and a product that is written to a
//! destination narrower by the scale is multiplied, relinearized and rescaled. Its benchmark crate is not published, so
//! keys and presets are set up by the drivers of its `test-utils` feature. Radix and bounds on moduli (128 bits of
//! security, a secret of weight 1024) are those of its bootstrapping presets.

use crate::measure::{Times, peak_rss_bytes, print};
use poulpy_ckks::api::{
    CKKSDecryptOps, CKKSEncodingHostOps, CKKSEncryptOps, CKKSModuleInfos, CKKSMulOps, CKKSRotateOps,
};
use poulpy_ckks::layouts::{CKKSCiphertextOwned, CKKSPlaintextAlloc};
use poulpy_ckks::presets::bootstrapping::{BootstrappingPreset, n16_d35_k685_p19_s2c_ffr_ci};
use poulpy_ckks::test_suite::CKKSTestParams;
use poulpy_ckks::test_suite::helpers::{alloc_ct, alloc_scratch, gen_atk, gen_sk_with_raw, gen_tsk};
use poulpy_ckks::test_suite::presets::{BootstrappingPresetRun, preset_for_backend};
use poulpy_ckks::{CKKSInfos, GLWEPlaintextMeta, Scale, SetCKKSInfos, SlotsKind};
use poulpy_core::layouts::{GLWESecretPrepared, LWEInfos};
use poulpy_cpu_avx512::{NTT3x42CIIfma, NTT3x42Ifma};
use poulpy_hal::AlignedBuf;
use poulpy_hal::api::{ScratchOwnedAlloc, ScratchOwnedBorrow};
use poulpy_hal::layouts::{Module, ScratchOwned};
use poulpy_hal::source::Source;
use serde_json::{Value, json};
use std::collections::HashMap;

type Ifma = NTT3x42Ifma;

const LOG_N: usize = 16;
const SLOTS: usize = 1 << (LOG_N - 1);
/// Width of the operands in bits.
const LOG_Q: usize = 1300;
/// Scale of messages, that of Poulpy's presets.
const LOG_DELTA: usize = 35;
/// Limbs per digit of a key: the most for which a key at [`LOG_Q`] stays within the presets' bound of 1707 bits.
const DIGIT_LIMBS: usize = 6;
/// Bits above the scale that a decrypted message is read with.
const MESSAGE_BITS: usize = 8;

/// Measures all operations and prints one line each.
pub fn run(runs: usize, bootstraps: usize) -> Result<(), String> {
    let preset = n16_d35_k685_p19_s2c_ffr_ci().map_err(|error| error.to_string())?;
    let preset = preset_for_backend::<Ifma, NTT3x42CIIfma>(&preset).map_err(|error| error.to_string())?;
    Operations::new(preset.base2k())?.measure(runs, preset.max_dense_modulus())?;
    if bootstraps > 0 {
        bootstrap(preset, bootstraps);
    }
    Ok(())
}

/// What every line has.
fn shared_fields(operation: &str) -> Value {
    json!({
        "operation": operation, "library": "Poulpy", "version": "0.10.0", "code": "NTT3x42Ifma", "log_n": LOG_N,
        "threads": 1, "peak_rss_bytes": peak_rss_bytes(),
    })
}

/// Two ciphertexts and the secret that they are under.
struct Operations {
    parameters: CKKSTestParams,
    module: Module<Ifma>,
    scratch: ScratchOwned<Ifma>,
}

type Secret = GLWESecretPrepared<AlignedBuf, Ifma>;
type Ciphertext = CKKSCiphertextOwned<Ifma>;
/// Real and imaginary parts of all slots.
type SlotValues = (Vec<f64>, Vec<f64>);

impl Operations {
    fn new(base2k: usize) -> Result<Self, String> {
        let meta = GLWEPlaintextMeta { scale: Scale::Log(LOG_DELTA), slots: SlotsKind::Complex, log_sparsity: 0 };
        let parameters = CKKSTestParams {
            n: 2 * SLOTS,
            base2k,
            k: LOG_Q,
            prec_meta: meta,
            prec_log_budget: MESSAGE_BITS,
            hw: 1024,
            dsize: DIGIT_LIMBS,
            rank: 1,
        };
        let module = Module::<Ifma>::new(parameters.n as u64);
        let scratch = alloc_scratch(&parameters, &module);
        Ok(Self { parameters, module, scratch })
    }

    fn measure(mut self, runs: usize, most_log_qp: usize) -> Result<(), String> {
        let host = Module::new(self.parameters.n as u64);
        let (raw, secret) = gen_sk_with_raw(&self.parameters, &self.module, &host, [5; 32]);
        let tensor_key = gen_tsk(&self.parameters, &self.module, &raw, &mut self.scratch.borrow());
        let galois = self.module.ckks_galois_element(1);
        let rotation_key = gen_atk(&self.parameters, &self.module, galois, &raw, &mut self.scratch.borrow());
        let log_qp = rotation_key_bits(&self.parameters);
        if log_qp > most_log_qp {
            return Err(format!("Poulpy: keys of {log_qp} bits exceed the secure {most_log_qp}"));
        }
        let keys = HashMap::from([(galois, rotation_key)]);
        let (x, y) = (slot_values(1), slot_values(2));
        let (a, b) = (self.encrypt(&secret, &x, 1)?, self.encrypt(&secret, &y, 2)?);

        let mut rotated = alloc_ct(&self.parameters, &self.module, LOG_Q);
        let bytes = self.module.ckks_rotate_tmp_bytes(&a, &self.parameters.atk_layout());
        let mut scratch = ScratchOwned::<Ifma>::alloc(bytes);
        let times = Times::measure(runs, || {
            self.module.ckks_rotate_into(1, &mut rotated, &a, &keys, &mut scratch.borrow()).expect("a fitting key");
        });
        self.report("rotate", &times, log_qp, &secret, &rotated, &rotate(&x))?;

        // Narrower by the scale, as a rescaled product is.
        let mut product = alloc_ct(&self.parameters, &self.module, LOG_Q - LOG_DELTA);
        let bytes = self.module.ckks_mul_tmp_bytes(&product, &a, &b, &tensor_key);
        let mut scratch = ScratchOwned::<Ifma>::alloc(bytes);
        let times = Times::measure(runs, || {
            self.module
                .ckks_mul_into(&mut product, &a, &b, &tensor_key, &mut scratch.borrow())
                .expect("operands of one scale");
        });
        self.report("multiply", &times, log_qp, &secret, &product, &multiply(&x, &y))
    }

    fn encrypt(&mut self, secret: &Secret, values: &SlotValues, seed: u8) -> Result<Ciphertext, String> {
        let precision = self.parameters.prec();
        let base2k = self.parameters.base2k.into();
        let mut plaintext = self.module.ckks_plaintext_alloc_from_slots(SLOTS, base2k, precision.k());
        plaintext.set_meta(self.parameters.prec_meta);
        self.module
            .ckks_encode_slots_host_into(&mut plaintext, &values.0, &values.1, &mut self.scratch.borrow())
            .map_err(|error| error.to_string())?;
        let mut ciphertext = alloc_ct(&self.parameters, &self.module, LOG_Q);
        let (mut errors, mut uniform) = (Source::new([seed; 32]), Source::new([seed + 100; 32]));
        self.module
            .ckks_encrypt_sk(&mut ciphertext, &plaintext, secret, &mut errors, &mut uniform, &mut self.scratch.borrow())
            .map_err(|error| error.to_string())?;
        Ok(ciphertext)
    }

    fn decrypt(&mut self, secret: &Secret, ciphertext: &Ciphertext) -> Result<SlotValues, String> {
        let width = (ciphertext.log_delta() + MESSAGE_BITS).into();
        let mut plaintext = self.module.ckks_plaintext_alloc_from_slots(SLOTS, ciphertext.base2k(), width);
        let meta = self.parameters.prec_meta;
        plaintext.set_meta(GLWEPlaintextMeta { scale: Scale::Log(ciphertext.log_delta()), ..meta });
        self.module
            .ckks_decrypt(&mut plaintext, ciphertext, secret, &mut self.scratch.borrow())
            .map_err(|error| error.to_string())?;
        let (mut real, mut imaginary) = (vec![0.0; SLOTS], vec![0.0; SLOTS]);
        self.module
            .ckks_decode_slots_host_into(&plaintext, &mut real, &mut imaginary, &mut self.scratch.borrow())
            .map_err(|error| error.to_string())?;
        Ok((real, imaginary))
    }

    fn report(
        &mut self,
        operation: &str,
        times: &Times,
        log_qp: usize,
        secret: &Secret,
        found: &Ciphertext,
        expected: &SlotValues,
    ) -> Result<(), String> {
        let found = self.decrypt(secret, found)?;
        let (worst, mean) = precision_bits(&found, expected);
        if worst < 10.0 {
            return Err(format!(
                "Poulpy: {operation} has {worst:.1} bits of precision, so it is not what was measured"
            ));
        }
        let more = json!({
            "log_q": LOG_Q, "log_qp": log_qp, "scale_log2": LOG_DELTA, "base2k": self.parameters.base2k,
            "worst_slot_bits": worst, "mean_slot_bits": mean,
        });
        print([shared_fields(operation), more, times.fields()]);
        Ok(())
    }
}

/// Bits of the widest key: all its digits and the guard below them.
fn rotation_key_bits(parameters: &CKKSTestParams) -> usize {
    let layout = parameters.atk_layout();
    layout.dnum.as_usize() * layout.k_digit.as_usize() + layout.k_aux.as_usize()
}

/// Uniform parts in [-1, 1) from SplitMix64.
fn slot_values(seed: u64) -> SlotValues {
    let mut state = seed;
    let mut part = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 * 2f64.powi(-52) - 1.0
    };
    ((0..SLOTS).map(|_| part()).collect(), (0..SLOTS).map(|_| part()).collect())
}

fn rotate((real, imaginary): &SlotValues) -> SlotValues {
    let turned = |part: &[f64]| part.iter().cycle().skip(1).take(part.len()).copied().collect();
    (turned(real), turned(imaginary))
}

fn multiply(x: &SlotValues, y: &SlotValues) -> SlotValues {
    let parts = |i: usize| (x.0[i], x.1[i], y.0[i], y.1[i]);
    let real = (0..SLOTS).map(parts).map(|(a, b, c, d)| a * c - b * d).collect();
    (real, (0..SLOTS).map(parts).map(|(a, b, c, d)| a * d + b * c).collect())
}

/// -log2 of the largest and of the mean error over real and imaginary parts of all slots.
fn precision_bits(found: &SlotValues, expected: &SlotValues) -> (f64, f64) {
    let pairs = found.0.iter().zip(&expected.0).chain(found.1.iter().zip(&expected.1));
    let errors: Vec<f64> = pairs.map(|(a, b)| (a - b).abs()).collect();
    let largest = errors.iter().copied().fold(0.0, f64::max);
    (-largest.log2(), -(errors.iter().sum::<f64>() / errors.len() as f64).log2())
}

/// The preset that Poulpy tuned for speed: complex values in all slots, with the precision of the last run.
fn bootstrap(preset: BootstrappingPreset, runs: usize) {
    let mut run = BootstrappingPresetRun::<Ifma>::setup_ci(preset);
    let times = Times::measure(runs, || run.bootstrap());
    let (real, imaginary) = run.precision();
    let preset = run.preset();
    let usable = preset.output_k() - preset.input_k();
    let more = json!({
        "preset": preset.name(), "slots": SLOTS, "log_q": preset.bootstrap_k(), "log_qp": widest_key(preset),
        "scale_log2": preset.log_delta(), "base2k": preset.base2k(),
        "levels_left": usable / preset.log_delta(), "bits_left": usable,
        "worst_slot_bits": real.min_log2_prec.min(imaginary.min_log2_prec),
        "mean_slot_bits": real.avg_log2_prec.min(imaginary.avg_log2_prec),
    });
    print([shared_fields("bootstrap"), more, times.fields()]);
}

/// Bits of the widest rotation key of a preset.
fn widest_key(preset: &BootstrappingPreset) -> usize {
    preset.keys_layout().rotation_key_layouts().iter().map(|key| key.k().as_usize()).max().unwrap_or(0)
}
