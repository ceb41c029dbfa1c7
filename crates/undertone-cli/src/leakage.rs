//! The leakage statement: what each party sees, in sentences, with the numbers of the job where there is one.

/// The public facts of one job.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Tokens of the public part, BOS included.
    pub public_tokens: usize,
    /// Tokens of the private part.
    pub private_tokens: usize,
    /// Tokens generated so far.
    pub generated_tokens: usize,
}

/// The statement for mode `fhe`.
pub fn fhe(facts: Option<Facts>) -> Vec<String> {
    let (public, private, generated) = match facts {
        Some(facts) => (
            format!("all {} public tokens", facts.public_tokens),
            format!("exactly {} private tokens", facts.private_tokens),
            format!("{} tokens were generated", facts.generated_tokens),
        ),
        None => (
            "every public token".to_owned(),
            "exactly how many private tokens there are".to_owned(),
            "how many tokens are generated".to_owned(),
        ),
    };
    vec![
        format!("The server reads {public} in the clear."),
        format!("The server sees {private}, and their positions."),
        format!("The server sees that {generated}, and when each step was asked for.").replace("that how", "how"),
        "The server cannot read the private text, the activations, the logits or the generated text.".to_owned(),
        "Someone on the network sees what the server sees, because there is no TLS yet (loopback only).".to_owned(),
        "A malicious server can return wrong results; nothing proves that it ran the model.".to_owned(),
        "Do not hand logits or exact probabilities back to the server: they can reveal the secret key.".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_carries_the_numbers_of_the_job() {
        let job = fhe(Some(Facts { public_tokens: 300, private_tokens: 71, generated_tokens: 4 })).join(" ");
        assert!(job.contains("all 300 public") && job.contains("exactly 71 private") && job.contains("that 4 tokens"));
        let general = fhe(None).join(" ");
        assert!(general.contains("sees how many tokens are generated") && !general.contains("that how"));
    }
}
