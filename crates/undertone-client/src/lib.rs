//! undertone-client: not written yet.
