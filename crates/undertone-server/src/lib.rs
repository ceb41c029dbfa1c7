//! undertone-server: not written yet.
