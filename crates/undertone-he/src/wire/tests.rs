//! Round trips and single faults. Needs no secret: any reduced polynomials make a valid object.

use crate::{Ciphertext, Error, KeyId, KeyRequest, Parameters, SeededCiphertext, SeededKey};
use undertone_ring::{Seed, expand_uniform};

fn parameters() -> Parameters {
    let literal = crate::ParametersLiteral {
        name: "small",
        log_n: 12,
        application_levels: 0,
        arcsine_levels: 0,
        slots_to_coeffs_levels: 1,
        eval_mod_levels: 0,
        coeffs_to_slots_levels: 0,
        scale_bits: 30,
        base_bits: 36,
        special_bits: 38,
        special_count: 1,
        digit_bits: 37,
        ..crate::ParametersLiteral::n16_l16_d36()
    };
    Parameters::build_unchecked(literal)
}

fn uniform(parameters: &Parameters, counter: u64, level: usize) -> undertone_ring::Poly<undertone_ring::Ntt> {
    expand_uniform(parameters.ring(), &Seed([9; 32]), counter, parameters.basis(level))
}

fn key(parameters: &Parameters) -> SeededKey {
    let request = KeyRequest { id: KeyId::Galois(5), level: 1 };
    let basis = parameters.key_basis(1);
    let b = (0..parameters.digits(1).len() as u64)
        .map(|digit| parameters.ring().pack(&expand_uniform(parameters.ring(), &Seed([3; 32]), digit, basis)))
        .collect();
    SeededKey::from_parts(request, b, Seed([1; 32]))
}

#[test]
fn objects_round_trip_at_their_exact_length() {
    let parameters = parameters();
    let ciphertext =
        Ciphertext::from_parts(uniform(&parameters, 0, 1), uniform(&parameters, 1, 1), parameters.scale(1));
    let bytes = ciphertext.to_bytes(&parameters).unwrap();
    assert_eq!(bytes.len(), Ciphertext::byte_len(&parameters, 1));
    let back = Ciphertext::from_bytes(&parameters, &bytes).unwrap();
    assert!(back.c0 == ciphertext.c0 && back.c1 == ciphertext.c1 && back.scale == ciphertext.scale);

    let seeded = SeededCiphertext::from_parts(uniform(&parameters, 2, 0), Seed([4; 32]));
    let bytes = seeded.to_bytes(&parameters);
    assert_eq!(bytes.len(), SeededCiphertext::byte_len(&parameters, 0));
    assert!(SeededCiphertext::from_bytes(&parameters, &bytes).unwrap().c0 == seeded.c0);

    let key = key(&parameters);
    let bytes = key.to_bytes(&parameters);
    let request = KeyRequest { id: key.id(), level: key.level() };
    assert_eq!(bytes.len(), SeededKey::byte_len(&parameters, request).unwrap());
    assert_eq!(SeededKey::from_bytes(&parameters, &bytes).unwrap().to_bytes(&parameters), bytes);
}

#[test]
fn every_header_bit_and_every_truncation_is_refused_or_canonical() {
    let parameters = parameters();
    let bytes = key(&parameters).to_bytes(&parameters);
    for bit in 0..64 * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // A flipped Galois element can still be a valid element; everything else must be refused.
        match SeededKey::from_bytes(&parameters, &damaged) {
            Ok(other) => assert_eq!(other.to_bytes(&parameters), damaged, "bit {bit}"),
            Err(error) => assert!(matches!(error, Error::Decode { .. }), "bit {bit}: {error}"),
        }
    }
    for length in (0..200).chain([bytes.len() / 2, bytes.len() - 1]) {
        assert!(SeededKey::from_bytes(&parameters, &bytes[..length]).is_err());
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(SeededKey::from_bytes(&parameters, &longer).is_err());
}

#[test]
fn residues_at_or_above_the_modulus_are_refused() {
    let parameters = parameters();
    let scale = parameters.scale(0);
    let ciphertext = Ciphertext::from_parts(uniform(&parameters, 0, 0), uniform(&parameters, 1, 0), scale);
    let mut bytes = ciphertext.to_bytes(&parameters).unwrap();
    bytes[64..72].fill(0xff);
    let error = Ciphertext::from_bytes(&parameters, &bytes).err();
    assert_eq!(error, Some(Error::Decode { what: "ciphertext", cause: "a residue is not below its modulus" }));
    assert!(SeededCiphertext::from_bytes(&parameters, &bytes).is_err());
}

#[test]
fn ciphertexts_off_their_canonical_scale_do_not_leave() {
    let parameters = parameters();
    let canonical = parameters.scale(1);
    let encoded = |scale| {
        Ciphertext::from_parts(uniform(&parameters, 0, 1), uniform(&parameters, 1, 1), scale).to_bytes(&parameters)
    };
    // What rounding leaves is no other scale.
    assert_eq!(encoded(canonical * (1.0 + 4.0 * f64::EPSILON)), encoded(canonical));
    assert!(encoded(canonical).is_ok());
    for scale in [canonical * 2.0, canonical * (1.0 + 1e-6), 1.0, 0.0, -canonical, f64::NAN, f64::INFINITY] {
        let refused = encoded(scale).unwrap_err();
        assert!(matches!(refused, Error::ScaleMismatch { op: "to_bytes", .. }), "{scale}: {refused}");
    }
}
