//! undertone-he: not written yet.
