//! The model that a provider has brought, and what follows from it: masks, memory, pieces of prompts.

use crate::Settings;
use crate::window::Limits;
use std::sync::Arc;
use undertone_protocol::Error;
use undertone_protocol::modes::permuted::deal::{MAX_LENGTHS, MAX_PIECES};
use undertone_server::Budget;
use undertone_shares::{Dealer, MAX_BUNDLE_BYTES, pieces};

/// The model of the provider.
pub(crate) struct Registered {
    pub(crate) digest: [u8; 32],
    pub(crate) fingerprint: [u8; 32],
    pub(crate) dealer: Arc<Dealer>,
    pub(crate) limits: Limits,
    pub(crate) budget: Arc<Budget>,
    /// Pieces of the prompts of which there is a stock, and tokens of the answer.
    pub(crate) stock: Vec<(Vec<usize>, usize)>,
}

impl Registered {
    /// The pieces of a prompt of `tokens` tokens, of at most `most` each, evaluated strictly or not.
    pub(crate) fn pieces(&self, tokens: usize, most: usize, strict: bool) -> Result<Vec<usize>, Error> {
        // Half of a session's memory for one step, so that the next can be dealt while it waits. Strictly both halves have
        // its keys; else the user's is next to nothing.
        let halves = if strict { 2 } else { 1 };
        let bytes = self.limits.session_bytes / (2 * halves);
        let largest = usize::try_from(bytes).unwrap_or(usize::MAX).min(MAX_BUNDLE_BYTES);
        let dealer = &self.dealer;
        Ok(pieces(&dealer.shape(), dealer.positions(), tokens, (most, strict), largest, MAX_PIECES)?)
    }

    /// What to have in stock. A prompt that the model cannot take is left out; whoever asks for it hears the reason.
    pub(crate) fn stocked(&self, settings: &Settings) -> Vec<(Vec<usize>, usize)> {
        let stocked = |&prompt: &usize| {
            let pieces = self.pieces(prompt, settings.piece, false).ok()?;
            let steps = usize::try_from(settings.most_steps).unwrap_or(usize::MAX);
            let left = (self.dealer.positions() + 1 - prompt).min(steps.saturating_add(1).checked_sub(pieces.len())?);
            Some((pieces, settings.stock_new_tokens.min(left)))
        };
        settings.stock_prompts.iter().take(MAX_LENGTHS).filter_map(stocked).filter(|(_, answer)| *answer > 0).collect()
    }
}
