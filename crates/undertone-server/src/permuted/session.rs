//! A session of the provider as the driver sees it: waiting for a bundle is work that needs no computer, and steps are held
//! to what the hello said.

use super::limits::Limits;
use super::{Bundles, Shared};
use std::sync::Arc;
use undertone_infer::Progress;
use undertone_protocol::message::{Message, Mode, Welcome};
use undertone_protocol::modes::permuted::Server;
use undertone_protocol::{Error, Session, Turn};
use undertone_shares::Provider;

/// The protocol's session with a supply of bundles.
pub(super) struct ProviderSession {
    inner: Server,
    shared: Arc<Shared>,
    limits: Limits,
    /// The supply, once the user has named the dealer's session.
    bundles: Option<Bundles>,
}

impl ProviderSession {
    pub(super) fn new(welcome: Welcome, limits: Limits, shared: Arc<Shared>) -> Self {
        let inner =
            Server::new(welcome, shared.shape, Provider::new(Arc::clone(&shared.model)).with_strict(limits.strict));
        Self { inner, shared, limits, bundles: None }
    }
}

impl Session for ProviderSession {
    fn mode(&self) -> Mode {
        self.inner.mode()
    }

    fn turn(&self) -> Turn {
        match self.inner.turn() {
            Turn::Application => Turn::Work,
            turn => turn,
        }
    }

    fn waits(&self) -> bool {
        self.inner.wanted().is_some()
    }

    fn receive(&mut self, message: Message) -> Result<(), Error> {
        if let Message::StepBegin(begin) = &message {
            self.limits.check(begin)?;
        }
        self.inner.receive(message)
    }

    fn next_message(&mut self) -> Option<Message> {
        self.inner.next_message()
    }

    fn work(&mut self, progress: &dyn Progress) -> Result<(), Error> {
        let Some(begin) = self.inner.wanted() else { return self.inner.work(progress) };
        let bundles = match &mut self.bundles {
            Some(bundles) => bundles,
            none => none.insert(Bundles::start(begin.session, self.limits, Arc::clone(&self.shared))?),
        };
        self.inner.supply(bundles.take(&begin, progress)?)
    }
}
