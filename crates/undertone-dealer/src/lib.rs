//! The dealer of mode `permuted`: makes correlated randomness for a provider and its users, and hands it out.
//!
//! A program of its own (`undertone deal`) that holds neither weights nor prompts. It keeps sessions in stock before any
//! user asks, deals ahead of every user while tokens stream, and gives each half of a bundle away once. It serves
//! connections with the driver of `undertone-server`; what it answers is [`DealerHost`].
//!
//! Roots of sessions are in memory only: when the program ends, its sessions end, and nothing can be dealt twice.
#![forbid(unsafe_code)]

mod book;
mod dealt;
mod desk;
mod error;
mod folder;
mod registered;
mod settings;
mod window;

pub use book::Book;
pub use desk::DealerHost;
pub use error::Error;
pub use folder::StateFolder;
pub use settings::Settings;
