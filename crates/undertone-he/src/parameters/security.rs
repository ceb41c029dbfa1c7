//! The 128-bit security gate every parameter set and every key passes.
//!
//! Bounds on log2(QP) for 128-bit classical security at error width 3.2. Uniform ternary secrets: eprint 2024/463.
//! Sparse secrets: estimates of the rotated primal-hybrid attack, eprint 2026/279. The special primes count, as does
//! every ring a key lives in. `docs/parameters.md` holds the table with its sources.

use crate::Error;

/// How the secret of a key is distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// Every coefficient uniform in {−1, 0, 1}.
    Ternary,
    /// Exactly `weight` non-zero coefficients of ±1.
    Sparse {
        /// The Hamming weight h.
        weight: usize,
    },
}

/// Rows: log2 N, then the largest log2(QP) for uniform ternary, h = 1024, h = 64 and h = 32; 0 where nobody estimated.
const LIMITS: [(u32, [u32; 4]); 6] = [
    (12, [106, 106, 58, 19]),
    (13, [214, 214, 113, 37]),
    (14, [430, 426, 229, 77]),
    (15, [868, 854, 468, 164]),
    (16, [1747, 1714, 961, 349]),
    (17, [3523, 0, 0, 0]),
];

/// Least weight of a secret that meets large moduli; anything sparser is ephemeral and bounded twice.
const MAIN_WEIGHT: usize = 1024;

/// The largest log2(QP) that keeps 128 bits of security, or 0 where no bound is known.
pub fn max_log_qp(log_n: u32, secret: SecretKind) -> u32 {
    let Some((_, [ternary, h1024, h64, h32])) = LIMITS.iter().find(|row| row.0 == log_n) else { return 0 };
    match secret {
        SecretKind::Ternary => *ternary,
        SecretKind::Sparse { weight } if weight >= MAIN_WEIGHT => *h1024,
        SecretKind::Sparse { weight } if weight >= 64 => *h64,
        SecretKind::Sparse { weight } if weight >= 32 => *h32,
        SecretKind::Sparse { .. } => 0,
    }
}

/// Largest log2 of the modulus under which the ephemeral secret may encrypt: q0 and one special prime.
const MAX_EPHEMERAL_LOG_QP: u32 = 122;
/// Presets stay this far below the bound of the table.
pub(crate) const PRESET_MARGIN: f64 = 0.99;

/// Checks one modulus against the table; a secret of weight below 1024 must also stay below 122 bits and at N ≥ 2^15.
///
/// # Errors
/// `Insecure` when log2(QP), rounded up, exceeds the bound.
pub fn gate(log_n: u32, log_qp: f64, secret: SecretKind) -> Result<(), Error> {
    let bound = max_log_qp(log_n, secret);
    let need = match secret {
        SecretKind::Sparse { weight } if weight < MAIN_WEIGHT && log_n < 15 => 0,
        SecretKind::Sparse { weight } if weight < MAIN_WEIGHT => bound.min(MAX_EPHEMERAL_LOG_QP),
        SecretKind::Ternary | SecretKind::Sparse { .. } => bound,
    };
    if log_qp > f64::from(need) {
        return Err(Error::Insecure { log_n, have: log_qp.ceil() as u32, need });
    }
    Ok(())
}

/// Bits of security of the set, scaled from the table's own point (128 bits at the bound): a lower modulus than the
/// bound gives more, close to in inverse proportion. This is a reading of the table, not a run of an estimator.
///
/// A set below the bound is reported as
/// 128 · bound / log2(QP), rounded down, capped at 256; 0 means the set is above the bound.
pub fn security_bits(log_n: u32, log_qp: f64, secret: SecretKind) -> u32 {
    let bound = f64::from(max_log_qp(log_n, secret));
    if bound == 0.0 || log_qp > bound {
        return 0;
    }
    (128.0 * bound / log_qp).floor().min(256.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_sharp() {
        let sparse = |weight| SecretKind::Sparse { weight };
        for (log_n, bounds) in LIMITS {
            let kinds = [SecretKind::Ternary, sparse(1024), sparse(64), sparse(32)];
            for (kind, bound) in kinds.into_iter().zip(bounds).filter(|(_, bound)| *bound > 0) {
                assert!(security_bits(log_n, f64::from(bound), kind) == 128);
                assert!(security_bits(log_n, f64::from(bound) + 0.001, kind) == 0);
                let bound = match kind {
                    SecretKind::Sparse { weight } if weight < 1024 && log_n < 15 => 0,
                    SecretKind::Sparse { weight } if weight < 1024 => bound.min(MAX_EPHEMERAL_LOG_QP),
                    _ => bound,
                };
                assert!(gate(log_n, f64::from(bound), kind).is_ok());
                let above = gate(log_n, f64::from(bound) + 0.001, kind);
                assert_eq!(above, Err(Error::Insecure { log_n, have: bound + 1, need: bound }));
            }
        }
    }

    #[test]
    fn a_medium_weight_counts_as_the_column_below_it() {
        assert_eq!(max_log_qp(16, SecretKind::Sparse { weight: 1023 }), 961);
        assert_eq!(max_log_qp(17, SecretKind::Sparse { weight: 1024 }), 0);
    }

    #[test]
    fn unknown_degrees_and_weights_are_refused() {
        assert!(gate(11, 20.0, SecretKind::Ternary).is_err());
        assert!(gate(16, 20.0, SecretKind::Sparse { weight: 31 }).is_err());
    }
}
