//! What a dealer keeps in stock and allows; everything has a default.

/// What a dealer keeps in stock and allows.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Tokens of the prompts for which sessions wait in stock, at most [`MAX_LENGTHS`](undertone_protocol::modes::permuted::deal::MAX_LENGTHS).
    pub stock_prompts: Vec<usize>,
    /// Sessions in stock for each of them.
    pub stock_sessions: usize,
    /// Most tokens of the answer that a session in stock has room for, fewer where the context ends before.
    pub stock_new_tokens: usize,
    /// Steps dealt ahead of a user.
    pub ahead: u64,
    /// Most tokens of one piece of a prompt.
    pub piece: usize,
    /// Most steps of one session.
    pub most_steps: u64,
    /// Most sessions of users at a time. The provider needs a connection for each of them.
    pub most_sessions: usize,
    /// Whether the masks of all weights are held in memory, eight bytes for each.
    pub hold_masks: bool,
    /// Memory for the bundles of all sessions in bytes; `None` takes half of what is free beside the masks.
    pub memory_bytes: Option<u64>,
    /// Memory for the bundles of one session in bytes; `None` takes a quarter of that for all.
    pub session_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stock_prompts: Vec::new(),
            stock_sessions: 1,
            stock_new_tokens: 512,
            ahead: 8,
            piece: 64,
            most_steps: 4096,
            most_sessions: usize::MAX,
            hold_masks: true,
            memory_bytes: None,
            session_bytes: None,
        }
    }
}
