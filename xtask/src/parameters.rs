//! `cargo xtask parameters`: what the preset is made of, as the code computes it.

use undertone_he::circuits::pc_matmul::{ProductKeyId, ProductParameters, SeededProductKey};
use undertone_he::{KeyId, KeyRequest, Parameters, SecretKind, SeededKey, max_log_qp};

/// Prints one block per preset.
pub fn print() -> Result<(), String> {
    for parameters in [Parameters::default_preset(), Parameters::product_preset()] {
        println!("{}", report(&parameters)?);
    }
    Ok(())
}

fn report(parameters: &Parameters) -> Result<String, String> {
    let (literal, chain) = (parameters.literal(), parameters.chain());
    let (q, p) = (parameters.ring().q_moduli(), parameters.ring().p_moduli());
    let bits = |moduli: &[undertone_ring::Modulus]| -> f64 { moduli.iter().map(|m| (m.value() as f64).log2()).sum() };
    let digits = parameters.digits(chain.max_level);
    let full = KeyRequest { id: KeyId::Relinearization, level: chain.max_level };
    let full_bytes = SeededKey::byte_len(parameters, full).map_err(|error| error.to_string())?;
    let largest = digits.iter().map(|digit| bits(&q[digit.clone()])).fold(0.0, f64::max);
    let product = match chain.product_prime {
        None => "none".to_owned(),
        Some(prime) => product(parameters, prime)?,
    };
    let lines = [
        parameters.name().to_owned(),
        format!("  ring degree        2^{}, {} slots", chain.log_n, chain.slot_count()),
        format!(
            "  levels             {} (bootstraps from {}, to {})",
            chain.max_level, chain.boot_level, chain.top_level
        ),
        format!("  log2 Q             {:.1} in {} primes, q0 of {:.1} bits", bits(q), q.len(), bits(&q[..1])),
        format!("  product prime      {product}"),
        format!("  log2 P             {:.1} in {} primes", bits(p), p.len()),
        format!(
            "  log2 QP            {:.1} of {} allowed for a secret of weight {}",
            parameters.log_qp(),
            max_log_qp(chain.log_n, parameters.secret_kind()),
            literal.secret_weight
        ),
        format!(
            "  sparse secret      h = {}, modulus {:.1} of {} bits allowed",
            literal.sparse_weight,
            bits(&q[..1]) + bits(&p[..1]),
            max_log_qp(chain.log_n, SecretKind::Sparse { weight: literal.sparse_weight })
        ),
        format!("  gadget digits      {}, the largest of {largest:.1} bits", digits.len()),
        format!("  security           {} bits", parameters.security_bits()),
        format!("  failure            2^{:.1} per bootstrap", parameters.failure_log2()),
        format!("  full-level key     {full_bytes} bytes on the wire"),
        format!("  digest             {}", hex(&parameters.digest())),
    ];
    Ok(lines.join("\n"))
}

/// The product prime and what products between bootstraps of the usual number of tokens need.
fn product(parameters: &Parameters, prime: u64) -> Result<String, String> {
    let tokens = 128;
    let product = ProductParameters::of_turn(parameters, tokens).map_err(|error| error.to_string())?;
    let bytes: usize = ProductKeyId::ALL.into_iter().map(|id| SeededProductKey::byte_len(&product, id)).sum();
    let (log_qp, security) = (product.log_qp(), product.security_bits());
    let bits = (prime as f64).log2();
    Ok(format!(
        "{prime}, {bits:.1} bits; small ring 2^{} with log2 QP {log_qp:.1} ({security} bits of security), \
         {bytes} bytes of keys for {tokens} tokens",
        product.small_ring().log_n()
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_states_what_a_preset_must_state() {
        let text = report(&Parameters::default_preset()).unwrap();
        for word in ["log2 QP", "security", "failure", "2^-132", "h = 32", "digest"] {
            assert!(text.contains(word), "{word} is missing from {text}");
        }
        let text = report(&Parameters::product_preset()).unwrap();
        for word in ["786433, 19.6 bits", "small ring 2^13 with log2 QP 169.6", "log2 QP            1678.6 of 1714"] {
            assert!(text.contains(word), "{word} is missing from {text}");
        }
    }
}
