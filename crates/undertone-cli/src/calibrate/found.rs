//! What a search of a prefix came to: the prefix that a calibration takes, and how it is told.

use serde_json::{Value, json};
use undertone_infer::calibrate::PrefixStep;

/// The step whose prefix is taken, if one says more than what every prompt starts with anyway.
///
/// That is BOS, where the model has one, and nothing where it has none.
pub fn kept(steps: &[PrefixStep], bos: Option<u32>) -> Option<&PrefixStep> {
    steps.iter().rfind(|step| step.kept).filter(|step| step.prefix.len() > usize::from(bos.is_some()))
}

/// One step as JSON.
pub fn object(step: &PrefixStep) -> Value {
    json!({
        "prefix": step.prefix, "fitted_bits": step.fitted_bits, "held_out_bits": step.held_out_bits, "kept": step.kept,
    })
}

/// The outcome as a line to append, empty without a search; `decode` makes text of the tokens after BOS.
pub fn sentence(steps: &[PrefixStep], bos: Option<u32>, decode: impl Fn(&[u32]) -> String) -> String {
    let Some(first) = steps.first() else { return String::new() };
    match kept(steps, bos) {
        None => format!("\nno prefix narrows the ranges enough ({:.1} bits)", first.held_out_bits),
        Some(step) => format!(
            "\nprefix {:?}, {}{:?}: {:.1} bits of range become {:.1} on held-out prompts",
            step.prefix,
            if bos.is_some() { "after BOS " } else { "" },
            decode(&step.prefix[usize::from(bos.is_some())..]),
            first.held_out_bits,
            step.held_out_bits
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(prefix: &[u32], held_out_bits: f64, kept: bool) -> PrefixStep {
        PrefixStep { prefix: prefix.to_vec(), fitted_bits: held_out_bits, held_out_bits, kept }
    }

    fn text(steps: &[PrefixStep], bos: Option<u32>) -> String {
        sentence(steps, bos, |ids| format!("{} tokens", ids.len()))
    }

    #[test]
    fn one_token_is_a_prefix_where_there_is_no_bos() {
        let steps = [step(&[], 30.0, true), step(&[7], 20.0, true), step(&[7, 8], 19.9, false)];
        assert_eq!(kept(&steps, None).unwrap().prefix, [7]);
        let expected = "\nprefix [7], \"1 tokens\": 30.0 bits of range become 20.0 on held-out prompts";
        assert_eq!(text(&steps, None), expected);
        assert!(kept(&steps[..1], None).is_none());
        assert!(text(&steps[..1], None).contains("no prefix"));
    }

    #[test]
    fn bos_alone_is_no_prefix() {
        let steps = [step(&[1], 30.0, true), step(&[1, 7], 20.0, true), step(&[1, 7, 8], 19.9, false)];
        assert_eq!(kept(&steps, Some(1)).unwrap().prefix, [1, 7]);
        let expected = "\nprefix [1, 7], after BOS \"1 tokens\": 30.0 bits of range become 20.0 on held-out prompts";
        assert_eq!(text(&steps, Some(1)), expected);
        assert!(kept(&steps[..1], Some(1)).is_none());
        assert!(text(&steps[..1], Some(1)).contains("(30.0 bits)") && text(&[], Some(1)).is_empty());
    }
}
