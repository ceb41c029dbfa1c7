//! undertone-ring: not written yet.
