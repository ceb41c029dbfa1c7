//! Drafted tokens: guesses that are checked together in one pass, which costs the rounds of one token.
//!
//! The guess is that the text repeats itself (prompt look-up): what followed the last tokens when they stood together
//! before. Wrong guesses cost bytes and rows of the cache, never a wrong token: a drafted token is kept only when it is
//! the one that the model chose. Source: Saxena, "Prompt Lookup Decoding" (2023); speculative verification by
//! Leviathan and others (arXiv 2211.17192) for greedy choice.

/// Longest run of tokens that is searched for.
const LONGEST: usize = 3;

/// `count` guesses of what follows `tokens`; the last token is repeated where nothing was found.
pub(super) fn guesses(tokens: &[u32], count: usize) -> Vec<u32> {
    let filler = tokens.last().copied().unwrap_or(0);
    for length in (1..=LONGEST.min(tokens.len().saturating_sub(1))).rev() {
        let (before, run) = tokens.split_at(tokens.len() - length);
        // The latest occurrence that ends before the run's own last token.
        let found = (0..before.len()).rev().find(|&start| tokens[start..start + length] == *run);
        if let Some(start) = found {
            let mut guesses: Vec<u32> = tokens[start + length..].iter().copied().take(count).collect();
            guesses.resize(count, filler);
            return guesses;
        }
    }
    vec![filler; count]
}

/// How many guesses are the tokens that the model chose after each token before them.
pub(super) fn agreeing(guesses: &[u32], chosen: &[u32]) -> usize {
    guesses.iter().zip(chosen).take_while(|(guess, chosen)| guess == chosen).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_longest_run_is_continued() {
        let text = [1, 2, 3, 4, 9, 2, 3, 5, 8, 2, 3];
        assert_eq!(guesses(&text, 3), [5, 8, 2]);
        assert_eq!(guesses(&text, 6), [5, 8, 2, 3, 3, 3]);
        // One token of the run is known, the pair is not.
        assert_eq!(guesses(&[7, 1, 6, 2, 1], 2), [6, 2]);
        // A run may overlap what it repeats.
        assert_eq!(guesses(&[4, 4, 4], 2), [4, 4]);
        assert_eq!(guesses(&[1, 2, 3], 2), [3, 3]);
        assert_eq!(guesses(&[], 2), [0, 0]);
    }

    #[test]
    fn guesses_are_kept_up_to_the_first_wrong_one() {
        assert_eq!(agreeing(&[1, 2, 3], &[1, 2, 4, 5]), 2);
        assert_eq!(agreeing(&[1, 2, 3], &[9, 2, 3, 5]), 0);
        assert_eq!(agreeing(&[1, 2], &[1, 2, 7]), 2);
    }
}
