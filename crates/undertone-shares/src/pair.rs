//! Both parties and a dealer in one process: the whole protocol without bytes, for tests, examples and `demo`.

use std::sync::Arc;

use undertone_ring::WordKernels;

use crate::dealer::{Dealer, DealerSession};
use crate::error::{Error, Result};
use crate::flight::Flight;
use crate::provider::{Provider, ProviderModel};
use crate::random::Seed;
use crate::rows::Placement;
use crate::user::{Reply, User, UserModel};
use crate::weights::QuantizedModel;

/// A model set up for both parties.
pub struct PairModel {
    /// The provider's side.
    pub provider: Arc<ProviderModel>,
    /// The user's side.
    pub user: Arc<UserModel>,
    /// The dealer.
    pub dealer: Arc<Dealer>,
}

impl PairModel {
    /// Sets a model up for sessions of at most `positions` positions, with weight masks from `weights`.
    ///
    /// # Errors
    /// A public model that contradicts itself.
    pub fn new(
        model: Arc<QuantizedModel>,
        positions: usize,
        kernels: Arc<dyn WordKernels>,
        weights: Seed,
    ) -> Result<Self> {
        let public = model.public().clone();
        let dealer = Arc::new(Dealer::with_seed(public.clone(), Arc::clone(&kernels), weights)?);
        let provider = ProviderModel::new(model, positions, Arc::clone(&kernels));
        let masked = provider.masked(&dealer.weight_seed());
        let user = UserModel::new(public, masked, positions, kernels)?;
        Ok(Self { provider: Arc::new(provider), user: Arc::new(user), dealer })
    }
}

/// One conversation.
pub struct Pair {
    dealer: DealerSession,
    provider: Provider,
    user: User,
    last: usize,
}

impl Pair {
    /// A conversation whose masks follow from `root`, which serves this one alone.
    pub fn new(model: &PairModel, root: Seed) -> Self {
        Self {
            dealer: model.dealer.session_with_seed(root),
            provider: Provider::new(Arc::clone(&model.provider)),
            user: User::new(Arc::clone(&model.user)),
            last: 0,
        }
    }

    /// The same conversation before its first step, for strict evaluation or not.
    #[must_use]
    pub fn with_strict(self, strict: bool) -> Self {
        Self {
            dealer: self.dealer.with_strict(strict),
            provider: self.provider.with_strict(strict),
            user: self.user.with_strict(strict),
            last: self.last,
        }
    }

    /// The rounding of this conversation, for a twin.
    #[cfg(any(test, feature = "replay"))]
    pub fn replay(&self) -> crate::twin::Replay {
        self.dealer.replay()
    }

    /// Runs one step: `tokens` in, the next token out. `choose` gets the permuted logits and returns a place;
    /// `see` gets every flight in the order of sending.
    ///
    /// # Errors
    /// What the parties refuse.
    pub fn step(
        &mut self,
        tokens: &[u32],
        choose: impl FnOnce(&[u64]) -> usize,
        see: impl FnMut(&Flight),
    ) -> Result<u32> {
        let placement = Placement { kept: self.last, skipped: 0 };
        let mut choose = Some(choose);
        let chosen = self.step_as(tokens, 1, placement, |row| choose.take().map_or(0, |choose| choose(row)), see)?;
        chosen.first().copied().ok_or(Error::OutOfTurn { have: "no token", need: "the token of an output" })
    }

    /// As [`Pair::step`] with `outputs` outputs, of which each is chosen, and rows that do not count.
    ///
    /// # Errors
    /// What the parties refuse.
    pub fn step_as(
        &mut self,
        tokens: &[u32],
        outputs: usize,
        placement: Placement,
        mut choose: impl FnMut(&[u64]) -> usize,
        mut see: impl FnMut(&Flight),
    ) -> Result<Vec<u32>> {
        let (for_user, for_provider) = self.dealer.deal(tokens.len(), outputs)?;
        self.last = tokens.len();
        self.provider.begin(for_provider, placement)?;
        let prepare = self.user.begin(for_user, placement)?;
        see(&prepare);
        self.provider.receive(prepare)?;
        let mut up = self.user.embed(tokens)?;
        loop {
            see(&up);
            let Some(down) = self.provider.receive(up)? else {
                return Err(Error::OutOfTurn { have: "nothing", need: "an answer of the provider" });
            };
            see(&down);
            up = match self.user.receive(down)? {
                Reply::Send(flight) => flight,
                Reply::Last(flight) => {
                    see(&flight);
                    self.provider.receive(flight)?;
                    return Ok(Vec::new());
                }
                Reply::Tokens(tokens) => return Ok(tokens.to_vec()),
                Reply::Choose => {
                    let Some((logits, _)) = self.user.logits() else {
                        return Err(Error::OutOfTurn { have: "logits", need: "logits of a step" });
                    };
                    let places: Vec<usize> = logits.chunks_exact(logits.len() / outputs).map(&mut choose).collect();
                    self.user.select(&places)?
                }
            };
        }
    }
}
