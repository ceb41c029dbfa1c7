//! The leakage statement of a mode without a job; `run` and `demo` report the one of theirs, with its numbers.

/// The statement for mode `fhe`.
pub fn fhe() -> Vec<&'static str> {
    vec![
        "The server reads every public token in the clear.",
        "The server sees exactly how many private tokens there are, and their positions; --pad-private-to hides the number.",
        "The server sees how many tokens are generated, when each is asked for, and from which network address.",
        "The server knows which model, calibration and parameters are used.",
        "The server cannot read the private text, the activations, the logits or the generated text.",
        "Someone on the network sees what the server sees, because there is no TLS yet (loopback or a tunnel only).",
        "A malicious server can return wrong results; nothing proves that it ran the model.",
        "Do not hand logits or exact probabilities back to the server: they can reveal the secret key.",
    ]
}
