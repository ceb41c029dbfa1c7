//! One party's side of an exchange: openings in turn, each flight completing one and beginning the next.
//!
//! A flight brings what its sender could open, because it had both shares, and the sender's share of the next opening. So every
//! flight opens something, and two make a round. The user ends a program whose result is the provider's: it opens the
//! last values, truncates its share and returns it under the mask that it is to have.

use zeroize::Zeroizing;

use super::evaluator::{Evaluator, Share};
use super::party::Party;
use super::program::{Part, Program, Stage};
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::fixed::sum;
use crate::truncation::{OFFSET, opened, pack, signed, unpacked};

/// The contents of a flight: wide words, narrow ones, bits.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) words: Vec<u64>,
    pub(crate) entries: Vec<u32>,
    pub(crate) bits: Vec<u8>,
}

/// Contents that are read from the front. Their counts were checked.
struct Reader<'a> {
    words: &'a [u64],
    entries: &'a [u32],
}

impl Reader<'_> {
    fn next(&mut self, len: usize, narrow: bool) -> Vec<u64> {
        if narrow {
            let (part, rest) = self.entries.split_at(len);
            self.entries = rest;
            part.iter().map(|&entry| entry.into()).collect()
        } else {
            let (part, rest) = self.words.split_at(len);
            self.words = rest;
            part.to_vec()
        }
    }
}

impl Contents {
    fn push(&mut self, words: &[u64], narrow: bool) {
        if narrow {
            self.entries.extend(words.iter().map(|&word| word as u32));
        } else {
            self.words.extend_from_slice(words);
        }
    }
}

/// An opening of which this party has computed its share.
struct Opening {
    /// Its shares under its halves of the masks.
    masked: Vec<u64>,
    mask: Zeroizing<Vec<u64>>,
    narrow: bool,
}

enum Pending {
    Open(Vec<Opening>),
    Return(Zeroizing<Share>, u32),
    Reveal(Zeroizing<Share>),
    Over,
}

/// The error of an exchange that is called where it does not stand.
fn out_of_turn(have: &'static str) -> Error {
    Error::OutOfTurn { have, need: "another stage of the exchange" }
}

/// What a flight led to.
pub(crate) enum Turn {
    /// Contents to send.
    Send(Contents),
    /// The user's last contents of this exchange.
    Last(Contents),
    /// The user's results.
    Revealed(Zeroizing<Vec<u64>>),
}

/// A party in an exchange.
pub(crate) struct Exchange {
    program: Program,
    party: Party,
    pending: Pending,
    /// Whether the peer completes the opening that is pending.
    waits: bool,
}

impl Exchange {
    /// An exchange whose input this party holds a share of.
    pub(crate) fn new(program: Program, party: Party, input: Share) -> Self {
        let mut exchange = Self { program, party, pending: Pending::Over, waits: true };
        exchange.hold(Stage::Open(vec![Part::wide(input)]));
        exchange
    }

    /// This party's masked share of the input.
    pub(crate) fn masked_input(&self) -> Result<&[u64]> {
        Ok(&self.openings()?[0].masked)
    }

    /// What is to be opened next.
    fn openings(&self) -> Result<&[Opening]> {
        match &self.pending {
            Pending::Open(openings) => Ok(openings),
            _ => Err(out_of_turn("an opening")),
        }
    }

    fn hold(&mut self, stage: Stage) {
        self.pending = match stage {
            Stage::Open(parts) => {
                let open = |part: Part| {
                    let mask = self.party.masks(part.share.len());
                    Opening { masked: sum(&part.share, &mask), mask, narrow: part.narrow }
                };
                Pending::Open(parts.into_iter().map(open).collect())
            }
            Stage::Return(share, drop) => Pending::Return(share, drop),
            Stage::Reveal(share) => Pending::Reveal(share),
            Stage::Mix(_) => Pending::Over,
        };
    }

    /// Goes on with opened values.
    fn advance(&mut self, values: Vec<Vec<u64>>, mix: &mut dyn FnMut(&Wire) -> Share) -> Result<()> {
        let Pending::Open(openings) = std::mem::replace(&mut self.pending, Pending::Over) else {
            return Err(out_of_turn("an opening"));
        };
        let wires: Vec<Wire> =
            openings.into_iter().zip(values).map(|(opening, open)| Wire::new(open, opening.mask)).collect();
        let mut stage = self.program.next(&mut self.party, &wires);
        while let Stage::Mix(wire) = stage {
            let share = mix(&wire);
            stage = self.program.mixed(&mut self.party, share);
        }
        self.hold(stage);
        Ok(())
    }

    /// Reads what the peer has opened.
    fn read_opened(&self, from: &mut Reader<'_>) -> Result<Vec<Vec<u64>>> {
        let next = |opening: &Opening| from.next(opening.masked.len(), opening.narrow);
        Ok(self.openings()?.iter().map(next).collect())
    }

    /// Reads the peer's share of what is pending, opens it, and goes on; returns what it opened, to be sent.
    fn open(&mut self, from: &mut Reader<'_>, mix: &mut dyn FnMut(&Wire) -> Share) -> Result<Contents> {
        let mut out = Contents::default();
        let theirs = self.read_opened(from)?;
        let both = |(opening, theirs): (&Opening, Vec<u64>)| {
            let mut values = sum(&opening.masked, &theirs);
            if opening.narrow {
                values.iter_mut().for_each(|value| *value &= u64::from(u32::MAX));
            }
            out.push(&values, opening.narrow);
            values
        };
        let values = self.openings()?.iter().zip(theirs).map(both).collect();
        self.advance(values, mix)?;
        Ok(out)
    }

    /// The provider's first contents, from the user's masked share of the input.
    pub(crate) fn start(&mut self, theirs: &[u64], mix: &mut dyn FnMut(&Wire) -> Share) -> Result<Contents> {
        let contents = self.open(&mut Reader { words: theirs, entries: &[] }, mix)?;
        self.provider_share(contents)
    }

    /// The provider's answer to contents of the user.
    pub(crate) fn answer(
        &mut self,
        (words, entries): (&[u64], &[u32]),
        mix: &mut dyn FnMut(&Wire) -> Share,
    ) -> Result<Contents> {
        let mut from = Reader { words, entries };
        let values = self.read_opened(&mut from)?;
        self.advance(values, mix)?;
        // Where the user has opened the last values there is no share of it to read.
        let contents = match &self.pending {
            Pending::Return(..) | Pending::Reveal(_) => Contents::default(),
            _ => self.open(&mut from, mix)?,
        };
        self.provider_share(contents)
    }

    /// Adds the provider's share of what comes next.
    fn provider_share(&mut self, mut out: Contents) -> Result<Contents> {
        match &self.pending {
            Pending::Open(openings) => openings.iter().for_each(|part| out.push(&part.masked, part.narrow)),
            Pending::Return(share, _) => {
                let mask = self.party.masks(share.len());
                out.push(&sum(share, &mask), false);
            }
            // No more than what the values count by: what is above says nothing, and need not be argued about.
            Pending::Reveal(share) => out.push(share, true),
            Pending::Over => return Err(out_of_turn("a share of what comes next")),
        }
        Ok(out)
    }

    /// The provider's result from the user's last contents: it is what it was to be less the user's mask.
    pub(crate) fn finish(&mut self, words: &[u64], bits: &[u8]) -> Vec<u64> {
        let tops = self.party.corrections(words.len());
        let masks = self.party.corrections(words.len());
        let result =
            |(i, word): (usize, &u64)| word.wrapping_add(signed(unpacked(bits, i), tops[i])).wrapping_sub(masks[i]);
        words.iter().enumerate().map(result).collect()
    }

    /// The user's turn; `hidden` is what its share of the result is to be.
    pub(crate) fn turn(
        &mut self,
        (words, entries): (&[u64], &[u32]),
        hidden: impl FnOnce(usize) -> Zeroizing<Vec<u64>>,
        mix: &mut dyn FnMut(&Wire) -> Share,
    ) -> Result<Turn> {
        let mut from = Reader { words, entries };
        if self.waits {
            let values = self.read_opened(&mut from)?;
            self.advance(values, mix)?;
        }
        Ok(match std::mem::replace(&mut self.pending, Pending::Over) {
            Pending::Return(share, drop) => Turn::Last(self.returned(&share, drop, from.words, &hidden(share.len()))),
            Pending::Reveal(share) => {
                let values = share.iter().zip(from.entries).map(|(a, b)| (*a as u32).wrapping_add(*b).into());
                Turn::Revealed(Zeroizing::new(values.collect()))
            }
            pending => {
                self.pending = pending;
                let mut out = self.open(&mut from, mix)?;
                self.waits = matches!(self.pending, Pending::Open(_));
                if let Pending::Open(openings) = &self.pending {
                    openings.iter().for_each(|part| out.push(&part.masked, part.narrow));
                }
                Turn::Send(out)
            }
        })
    }

    fn returned(&mut self, share: &[u64], drop: u32, theirs: &[u64], hidden: &[u64]) -> Contents {
        let mask = self.party.masks(share.len());
        let tops = self.party.corrections(share.len());
        let masks = self.party.corrections(share.len());
        let mut top_bits = Vec::with_capacity(share.len());
        let words = (0..share.len())
            .map(|i| {
                let open = share[i].wrapping_add(mask[i]).wrapping_add(theirs[i]).wrapping_add(OFFSET);
                let (public, top) = opened(open, drop);
                top_bits.push(top);
                public.wrapping_add(signed(top, tops[i])).wrapping_sub(masks[i]).wrapping_sub(hidden[i])
            })
            .collect();
        Contents { words, entries: Vec::new(), bits: pack(&top_bits) }
    }
}
