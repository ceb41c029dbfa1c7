//! The index maps of a product, in the clear: which coefficient is which channel and token, before and after each step.
//!
//! Coefficient c + (N/T)·t of a ciphertext is token t of component c. Splitting into N/N' polynomials sends
//! coefficient p to position p / (N/N') of polynomial p mod N/N', so component c is component c / (N/N') of
//! polynomial c mod N/N'. Tokens keep their order through a product, whatever it is.

use crate::Error;

/// Which channel of a ciphertext each module component holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentOrder(Vec<u32>);

impl ComponentOrder {
    /// Component c holds channel c.
    pub fn natural(components: usize) -> Self {
        Self((0..components as u32).collect())
    }

    /// Component c holds the channel whose binary digits are those of c in reverse: what slots-to-coefficients leaves
    /// when tokens are fastest in the slots.
    ///
    /// # Errors
    /// `ProductLimit` outside 1 to 2^31 components, `ProductShape` unless their number is a power of two.
    pub fn bit_reversed(components: usize) -> Result<Self, Error> {
        let (least, most) = (1, 1 << 31);
        if !(least..=most).contains(&components) {
            return Err(Error::ProductLimit { what: "components", have: components, least, most });
        }
        if !components.is_power_of_two() {
            let need = components.next_power_of_two();
            return Err(Error::ProductShape { what: "components, a power of two,", have: components, need });
        }
        let bits = components.trailing_zeros();
        let reversed = |c: u32| if bits == 0 { 0 } else { c.reverse_bits() >> (u32::BITS - bits) };
        Ok(Self((0..components as u32).map(reversed).collect()))
    }

    /// Any order; entry c is the channel of component c.
    ///
    /// # Errors
    /// `ProductIndex` for a channel that is not below their number, `ProductDuplicate` for one that occurs twice.
    pub fn new(channels: Vec<u32>) -> Result<Self, Error> {
        let count = channels.len();
        let mut seen = vec![false; count];
        for channel in channels.iter().map(|&channel| channel as usize) {
            let place = seen.get_mut(channel);
            let place = place.ok_or(Error::ProductIndex { what: "channel", index: channel, count })?;
            if std::mem::replace(place, true) {
                return Err(Error::ProductDuplicate { channel });
            }
        }
        Ok(Self(channels))
    }

    /// Identifies the order in weights and inputs, which must agree on it: BLAKE3 over the number of components (u64)
    /// and the channel of each (u32), little-endian.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("undertone component order v1");
        hasher.update(&(self.0.len() as u64).to_le_bytes());
        self.0.iter().for_each(|channel| {
            hasher.update(&channel.to_le_bytes());
        });
        *hasher.finalize().as_bytes()
    }

    /// How many components there are.
    pub fn components(&self) -> usize {
        self.0.len()
    }

    /// The channel of component `c`.
    ///
    /// # Panics
    /// When there is no such component.
    pub fn channel(&self, c: usize) -> usize {
        self.0[c] as usize
    }
}

/// Cuts the coefficients of a polynomial in X into those of `parts` polynomials in X^parts.
pub fn split<V: Copy>(coefficients: &[V], parts: usize) -> Vec<Vec<V>> {
    (0..parts).map(|part| coefficients.iter().skip(part).step_by(parts).copied().collect()).collect()
}

/// The inverse of [`split`].
///
/// # Panics
/// When the parts have different lengths.
pub fn join<V: Copy>(parts: &[&[V]]) -> Vec<V> {
    let length = parts.first().map_or(0, |part| part.len());
    assert!(parts.iter().all(|part| part.len() == length), "parts of different lengths");
    (0..length).flat_map(|k| parts.iter().map(move |part| part[k])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_and_joining_move_every_coefficient_as_documented() {
        for (n, parts, tokens) in [(16, 2, 2), (32, 4, 4), (64, 8, 2), (256, 8, 16), (64, 1, 4)] {
            let values: Vec<usize> = (0..n).collect();
            let cut = split(&values, parts);
            assert_eq!(cut.len(), parts);
            for p in 0..n {
                assert_eq!(cut[p % parts][p / parts], p);
            }
            let views: Vec<&[usize]> = cut.iter().map(Vec::as_slice).collect();
            assert_eq!(join(&views), values);
            // Component c of the whole is component c / parts of part c mod parts, token by token.
            let (components, rank) = (n / tokens, n / parts / tokens);
            for c in 0..components {
                for t in 0..tokens {
                    assert_eq!(cut[c % parts][c / parts + rank * t], c + components * t);
                }
            }
        }
    }

    #[test]
    fn orders_are_permutations() {
        let order = ComponentOrder::bit_reversed(8).unwrap();
        assert_eq!((0..8).map(|c| order.channel(c)).collect::<Vec<_>>(), [0, 4, 2, 6, 1, 5, 3, 7]);
        assert_eq!(ComponentOrder::new(vec![0, 4, 2, 6, 1, 5, 3, 7]).unwrap(), order);
        assert_eq!(ComponentOrder::bit_reversed(1).unwrap(), ComponentOrder::natural(1));
        // Order and number of components both count.
        let digests = [order.digest(), ComponentOrder::natural(8).digest(), ComponentOrder::natural(4).digest()];
        assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] == order.clone().digest());
    }

    #[test]
    fn what_is_no_order_is_refused_with_its_cause() {
        let sentence = |order: Result<ComponentOrder, Error>| order.unwrap_err().to_string();
        let uneven = sentence(ComponentOrder::bit_reversed(12));
        assert!(uneven.starts_with("a matrix product needs 16 components, a power of two, but got 12;"), "{uneven}");
        let none = sentence(ComponentOrder::bit_reversed(0));
        assert!(none.starts_with("a matrix product takes 1 to 2147483648 components but got 0;"), "{none}");
        let beyond = sentence(ComponentOrder::new(vec![0, 2]));
        assert!(beyond.starts_with("there is no channel 2 among 2 of a matrix product;"), "{beyond}");
        let twice = sentence(ComponentOrder::new(vec![1, 1]));
        assert!(twice.starts_with("channel 1 occurs twice in a component order;"), "{twice}");
    }

    /// Slots-to-coefficients puts slot k at coefficient bitrev(k) of its half of the polynomial. With tokens fastest,
    /// slot = t + T·channel, the channel lands on the low digits and the token on the high ones; both halves (real and
    /// imaginary parts) then hold different tokens of the same channels.
    #[test]
    fn bit_reversed_slots_make_every_channel_a_component() {
        let (log_n, log_t) = (9, 3);
        let (half, tokens) = (1usize << (log_n - 1), 1usize << log_t);
        let reverse = |x: usize, bits: u32| x.reverse_bits() >> (usize::BITS - bits);
        let channels = half / tokens;
        let order = ComponentOrder::bit_reversed(channels).unwrap();
        for part in 0..2 {
            for slot in 0..half {
                let (channel, token) = (slot / tokens, slot % tokens);
                let coefficient = part * half + reverse(slot, log_n - 1);
                let (component, position) = (coefficient % channels, coefficient / channels);
                assert_eq!(order.channel(component), channel);
                assert_eq!(position, part * tokens + reverse(token, log_t));
            }
        }
    }
}
