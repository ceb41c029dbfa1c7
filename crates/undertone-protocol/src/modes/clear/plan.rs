//! What both sides of mode clear compute beforehand.
