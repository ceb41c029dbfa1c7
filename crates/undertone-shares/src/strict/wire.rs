//! Masked values: what both parties know, and the masks that neither does.

use zeroize::Zeroizing;

/// Values `open + sign · top - mask`, entry by entry. `mask` and `top` are the dealer's numbers: it holds them, a party
/// holds shares of them. In the clear twin `open` is the value itself, and the mask says only which way it is rounded.
#[derive(Clone, Default)]
pub(crate) struct Wire {
    pub(crate) open: Vec<u64>,
    pub(crate) mask: Zeroizing<Vec<u64>>,
    pub(crate) top: Option<Top>,
}

/// What a truncation leaves over (see `truncation`): T, and one or minus one.
#[derive(Clone)]
pub(crate) struct Top {
    pub(crate) sign: Vec<u64>,
    pub(crate) value: Zeroizing<Vec<u64>>,
}

impl Wire {
    /// Opened values under a mask.
    pub(crate) fn new(open: Vec<u64>, mask: Zeroizing<Vec<u64>>) -> Self {
        debug_assert_eq!(open.len(), mask.len());
        Self { open, mask, top: None }
    }

    /// Public numbers, under no mask.
    pub(crate) fn public(values: Vec<u64>) -> Self {
        let mask = Zeroizing::new(vec![0; values.len()]);
        Self::new(values, mask)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// The entries at these places. Only of wires without `top`, as all below.
    pub(crate) fn gather(&self, places: &[usize]) -> Self {
        debug_assert!(self.top.is_none());
        let of = |values: &[u64]| places.iter().map(|&place| values[place]).collect();
        Self { open: of(&self.open), mask: Zeroizing::new(of(&self.mask)), top: None }
    }

    /// The entries of both.
    pub(crate) fn concat(&self, other: &Self) -> Self {
        debug_assert!(self.top.is_none() && other.top.is_none());
        let mask = Zeroizing::new([&self.mask[..], &other.mask[..]].concat());
        Self { open: [&self.open[..], &other.open[..]].concat(), mask, top: None }
    }

    /// self - other.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        debug_assert!(self.top.is_none() && other.top.is_none());
        let mask = Zeroizing::new(crate::fixed::difference(&self.mask, &other.mask));
        Self { open: crate::fixed::difference(&self.open, &other.open), mask, top: None }
    }

    /// self times k.
    pub(crate) fn scaled(&self, k: u64) -> Self {
        debug_assert!(self.top.is_none());
        let times = |values: &[u64]| values.iter().map(|value| value.wrapping_mul(k)).collect::<Vec<u64>>();
        Self { open: times(&self.open), mask: Zeroizing::new(times(&self.mask)), top: None }
    }

    /// self + k.
    pub(crate) fn plus(mut self, k: u64) -> Self {
        self.open.iter_mut().for_each(|open| *open = open.wrapping_add(k));
        self
    }

    /// Sums of rows of these lengths.
    pub(crate) fn row_sums(&self, lengths: &[usize]) -> Self {
        debug_assert!(self.top.is_none());
        let sums = |values: &[u64]| {
            let mut rest = values;
            let sum = |&length: &usize| {
                let (row, after) = rest.split_at(length);
                rest = after;
                row.iter().copied().fold(0, u64::wrapping_add)
            };
            lengths.iter().map(sum).collect::<Vec<u64>>()
        };
        Self { open: sums(&self.open), mask: Zeroizing::new(sums(&self.mask)), top: None }
    }
}
