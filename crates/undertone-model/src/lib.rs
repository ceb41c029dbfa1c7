//! undertone-model: not written yet.
