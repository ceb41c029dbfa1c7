//! Which program this is: measurements are worth nothing without the code they were made with.

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, with `-dirty` after it when tracked files differed, or `unknown`.
pub const COMMIT: &str = env!("UNDERTONE_COMMIT");
/// Both, for people.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("UNDERTONE_COMMIT"), ")");
