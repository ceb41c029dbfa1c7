//! What the parties of mode permuted send each other.

use std::sync::{Arc, LazyLock};
use undertone_model::LlamaConfig;
use undertone_model::synthetic::{small_config, synthetic};
use undertone_protocol::message::Welcome;
use undertone_protocol::modes::permuted::Server;
use undertone_protocol::{Message, MessageType, Session, Turn};
use undertone_ring::scalar_word_kernels;
use undertone_shares::{
    Bundle, Dealer, Provider, ProviderBundle, ProviderModel, PublicModel, QuantizedModel, Seed, UserBundle,
};

/// Positions of the model that is fuzzed.
pub const POSITIONS: usize = 32;

/// A model that takes microseconds.
pub fn config() -> LlamaConfig {
    LlamaConfig { num_hidden_layers: 1, vocab_size: 60, max_position_embeddings: POSITIONS, ..small_config() }
}

/// The provider's model, and the dealer of its masks.
pub fn parties() -> (Arc<ProviderModel>, Arc<Dealer>) {
    let model = Arc::new(QuantizedModel::new(&synthetic(config(), 5)).unwrap());
    let seed = Seed::from_bytes([3; 32]);
    let dealer = Dealer::with_seed(model.public().clone(), scalar_word_kernels(), seed).unwrap();
    (Arc::new(ProviderModel::new(model, POSITIONS, scalar_word_kernels())), Arc::new(dealer))
}

static PARTIES: LazyLock<(Arc<ProviderModel>, Arc<Dealer>)> = LazyLock::new(parties);

/// A bundle of either party, for either evaluation: the first byte says which party.
pub fn bundles(data: &[u8]) -> bool {
    let Some((&party, bytes)) = data.split_first() else { return false };
    let shape = PARTIES.1.shape();
    let again = if party % 2 == 0 {
        let Ok(bundle) = UserBundle::decode(bytes, &shape, POSITIONS) else { return false };
        bundle.encode(&shape)
    } else {
        let Ok(bundle) = ProviderBundle::decode(bytes, &shape, POSITIONS) else { return false };
        bundle.encode(&shape)
    };
    assert_eq!(again[..], *bytes, "a bundle has one encoding");
    true
}

/// A public model.
pub fn public_models(data: &[u8]) -> bool {
    let Ok(public) = PublicModel::decode(data) else { return false };
    assert_eq!(public.encode(), data, "a public model has one encoding");
    true
}

/// A user's messages to a provider that is in the middle of a session: type, length in two bytes, payload.
///
/// Accepted is what leads to an answer.
pub fn flights(data: &[u8]) -> bool {
    is_answered(data, false)
}

/// The same to a provider that evaluates nonlinear steps on shares.
pub fn strict_flights(data: &[u8]) -> bool {
    is_answered(data, true)
}

fn is_answered(data: &[u8], strict: bool) -> bool {
    let (model, dealer) = &*PARTIES;
    let shape = dealer.shape();
    let mut session = dealer.session_with_seed(Seed::from_bytes([7; 32])).with_strict(strict);
    let welcome = Welcome { session: 1, idle_timeout_seconds: 1, max_sessions: 1 };
    let mut server = Server::new(welcome, shape, Provider::new(model.clone()).with_strict(strict));
    let (mut rest, mut answers) = (data, 0);
    while let Some(([kind, low, high], after)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (payload, next) = after.split_at(length);
        rest = next;
        let message = MessageType::from_byte(*kind).map(|kind| Message::decode(kind, payload));
        let Some(Ok(message)) = message else { continue };
        if server.receive(message).is_err() {
            assert_eq!(server.turn(), Turn::Closed, "an error ends the session");
            break;
        }
        if let Some(begin) = server.wanted() {
            // The dealer has dealt what a user may ask for.
            let step = begin.step();
            let Ok((_, bundle)) = session.deal(step.tokens, step.outputs) else { break };
            if server.supply(bundle).is_err() {
                break;
            }
        }
        while server.turn() == Turn::Work {
            if server.work(&()).is_err() {
                break;
            }
        }
        while let Some(message) = server.next_message() {
            answers += usize::from(matches!(message, Message::FlightBegin(_)));
        }
    }
    answers > 0
}
