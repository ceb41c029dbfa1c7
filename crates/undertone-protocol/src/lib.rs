//! undertone-protocol: not written yet.
