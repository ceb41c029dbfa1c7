//! undertone-secret: not written yet.
