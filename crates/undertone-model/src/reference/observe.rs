//! What a forward pass shows of itself: the input of every nonlinear step, which is what calibration needs.

/// The place of an observed value inside a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// The residual stream before a norm, `[T, D]`; see [`SiteShape::block`] for which.
    Residual,
    /// Mean of the squared residual stream, without ε, `[T, 1]`.
    MeanSquare,
    /// The output of a norm, which feeds the projections, `[T, D]`.
    NormedInput,
    /// Queries after the rotary embedding, `[T, H d]`.
    QueryRope,
    /// Keys after the rotary embedding, `[T, K d]`; only the new positions.
    KeyRope,
    /// Values, `[T, K d]`; only the new positions.
    Value,
    /// Scores `q·k / √d` of one head and one token over the positions that it sees, `[1, position + 1]`.
    Scores,
    /// Attention outputs of all heads, `[T, H d]`.
    AttentionOut,
    /// Output of the projection `o`, `[T, D]`.
    OProjOut,
    /// Gate of the feed-forward network before SiLU, `[T, F]`.
    Gate,
    /// Up projection, `[T, F]`.
    Up,
    /// `silu(gate) · up`, `[T, F]`.
    Product,
    /// Output of the projection `down`, `[T, D]`.
    DownOut,
    /// Mean of the squared residual stream before the final norm, `[T, 1]`.
    FinalMeanSquare,
    /// Logits of the positions that were asked for, `[T or 1, V]`.
    Logits,
}

/// The part of the network that an observed value belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Block {
    /// The attention half of a layer.
    Attention,
    /// The feed-forward half of a layer.
    Mlp,
    /// Final norm and head; the layer number is then `num_hidden_layers`.
    Final,
}

/// The shape and the origin of observed values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteShape {
    /// The half of the layer, which tells the two norms of a layer apart.
    pub block: Block,
    /// Number of rows: tokens.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Position in the sequence of the first row.
    pub position: usize,
    /// The query head of [`Site::Scores`], 0 elsewhere.
    pub head: usize,
}

/// Sees intermediate values of a forward pass.
pub trait Observer {
    /// Whether [`Observer::record`] is called at all; when false, heads are computed in parallel.
    fn is_active(&self) -> bool {
        true
    }

    /// Called once per layer and site, and for [`Site::Scores`] once per head and token; `values` is
    /// `[shape.rows, shape.cols]`, row major.
    fn record(&mut self, layer: usize, site: Site, values: &[f32], shape: SiteShape);
}

/// Observes nothing.
impl Observer for () {
    fn is_active(&self) -> bool {
        false
    }

    fn record(&mut self, _: usize, _: Site, _: &[f32], _: SiteShape) {}
}
