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

/// Rows: log2 N, then the largest log2(QP) for uniform ternary, h = 64 and h = 32.
const LIMITS: [(u32, u32, u32, u32); 6] = [
    (12, 106, 58, 19),
    (13, 214, 113, 37),
    (14, 430, 229, 77),
    (15, 868, 468, 164),
    (16, 1747, 961, 349),
    (17, 3523, 961, 349),
];

/// The largest log2(QP) that keeps 128 bits of security, or 0 where no bound is known.
pub fn max_log_qp(log_n: u32, secret: SecretKind) -> u32 {
    let Some(row) = LIMITS.iter().find(|row| row.0 == log_n) else { return 0 };
    match secret {
        SecretKind::Ternary => row.1,
        SecretKind::Sparse { weight } if weight >= 64 => row.2,
        SecretKind::Sparse { weight } if weight >= 32 => row.3,
        SecretKind::Sparse { .. } => 0,
    }
}

/// Largest log2 of the modulus under which the sparse ephemeral secret may encrypt: q0 and one special prime.
const MAX_SPARSE_LOG_QP: u32 = 122;
/// Presets stay this far below the bound of the table.
pub(crate) const PRESET_MARGIN: f64 = 0.99;

/// Checks one modulus against the table; a sparse secret must also stay below 122 bits and at N ≥ 2^15.
///
/// # Errors
/// `Insecure` when log2(QP), rounded up, exceeds the bound.
pub fn gate(log_n: u32, log_qp: f64, secret: SecretKind) -> Result<(), Error> {
    let need = match secret {
        SecretKind::Ternary => max_log_qp(log_n, secret),
        SecretKind::Sparse { .. } if log_n < 15 => 0,
        SecretKind::Sparse { .. } => max_log_qp(log_n, secret).min(MAX_SPARSE_LOG_QP),
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
        for (log_n, dense, h64, h32) in LIMITS {
            for (kind, bound) in [
                (SecretKind::Ternary, dense),
                (SecretKind::Sparse { weight: 64 }, h64),
                (SecretKind::Sparse { weight: 32 }, h32),
            ] {
                assert!(security_bits(log_n, f64::from(bound), kind) == 128);
                assert!(security_bits(log_n, f64::from(bound) + 0.001, kind) == 0);
                let bound = match kind {
                    SecretKind::Ternary => bound,
                    SecretKind::Sparse { .. } if log_n < 15 => 0,
                    SecretKind::Sparse { .. } => bound.min(MAX_SPARSE_LOG_QP),
                };
                assert!(gate(log_n, f64::from(bound), kind).is_ok());
                let above = gate(log_n, f64::from(bound) + 0.001, kind);
                assert_eq!(above, Err(Error::Insecure { log_n, have: bound + 1, need: bound }));
            }
        }
    }

    #[test]
    fn unknown_degrees_and_weights_are_refused() {
        assert!(gate(11, 20.0, SecretKind::Ternary).is_err());
        assert!(gate(16, 20.0, SecretKind::Sparse { weight: 31 }).is_err());
    }
}
