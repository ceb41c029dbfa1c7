//! Both parties and a dealer in one process: the whole protocol without bytes, for tests, examples and `demo`.

use std::sync::Arc;

use undertone_ring::WordKernels;

use crate::dealer::{Dealer, DealerSession};
use crate::error::{Error, Result};
use crate::flight::Flight;
use crate::provider::{Provider, ProviderModel};
use crate::random::Seed;
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
}

impl Pair {
    /// A conversation whose masks follow from `root`, which serves this one alone.
    pub fn new(model: &PairModel, root: Seed) -> Self {
        Self {
            dealer: model.dealer.session_with_seed(root),
            provider: Provider::new(Arc::clone(&model.provider)),
            user: User::new(Arc::clone(&model.user)),
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
        mut see: impl FnMut(&Flight),
    ) -> Result<u32> {
        let (for_user, for_provider) = self.dealer.deal(tokens.len())?;
        self.provider.begin(for_provider)?;
        let prepare = self.user.begin(for_user)?;
        see(&prepare);
        self.provider.receive(prepare)?;
        let mut up = self.user.embed(tokens)?;
        let mut choose = Some(choose);
        loop {
            see(&up);
            let Some(down) = self.provider.receive(up)? else {
                return Err(Error::OutOfTurn { have: "nothing", need: "an answer of the provider" });
            };
            see(&down);
            up = match self.user.receive(down)? {
                Reply::Send(flight) => flight,
                Reply::Token(token) => return Ok(token),
                Reply::Choose => {
                    let place = match (choose.take(), self.user.logits()) {
                        (Some(choose), Some((logits, _))) => choose(logits),
                        _ => return Err(Error::OutOfTurn { have: "logits", need: "one choice in a step" }),
                    };
                    self.user.select(place)?
                }
            };
        }
    }
}
