//! undertone-infer: not written yet.
