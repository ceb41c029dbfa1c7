//! Cuts running text into calibration prompts.

use super::{MAX_PRIVATE, Prompt};

/// Sixteenths of the longest private part, in turn: short and long blocks alternate.
const PRIVATE_PARTS: [usize; 8] = [16, 2, 8, 13, 4, 16, 1, 10];
/// Eighths of the longest public part, in turn.
const PUBLIC_PARTS: [usize; 5] = [8, 1, 4, 6, 2];

/// The shape of the prompts that text is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOptions {
    /// Most prompts.
    pub count: usize,
    /// Most public tokens, the starting one included.
    pub public: usize,
    /// Most private tokens, at most [`MAX_PRIVATE`].
    pub private: usize,
    /// Tokens after the private ones, taken as generated.
    pub answer: usize,
}

/// Prompts of varied lengths, evenly spread over `tokens`: a public part after `bos`, a private part, an answer.
///
/// Text too short for one window of the smallest lengths gives none.
pub fn windows(tokens: &[u32], bos: Option<u32>, options: WindowOptions) -> Vec<Prompt> {
    let longest = options.private.clamp(1, MAX_PRIVATE);
    let lengths = |i: usize| {
        let public = (options.public * PUBLIC_PARTS[i % PUBLIC_PARTS.len()]).div_ceil(8).max(1);
        let private = (longest * PRIVATE_PARTS[i % PRIVATE_PARTS.len()]).div_ceil(16).max(1);
        // The starting token takes one public place; text without one starts with its own first token.
        (if bos.is_some() { public - 1 } else { public }, private)
    };
    let mut prompts = Vec::new();
    for i in 0..options.count {
        let (public, private) = lengths(i);
        let need = public + private + options.answer;
        let Some(room) = tokens.len().checked_sub(need) else { continue };
        let start = (room as u128 * i as u128 / options.count.max(2).saturating_sub(1) as u128) as usize;
        let (public, rest) = tokens[start.min(room)..][..need].split_at(public);
        let (private, answer) = rest.split_at(private);
        let public = bos.into_iter().chain(public.iter().copied()).collect();
        prompts.push(Prompt { public, private: private.to_vec(), answer: answer.to_vec() });
    }
    prompts
}
