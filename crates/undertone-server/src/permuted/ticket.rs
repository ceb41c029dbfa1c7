//! Files of 32 secret bytes in hexadecimal digits: how a dealer tells its provider that it is the one.

use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;
use zeroize::Zeroizing;

/// Reads the ticket that a dealer has made for its provider.
///
/// # Errors
/// Those of the operating system, and `InvalidData` for anything but 64 hexadecimal digits.
pub fn read_ticket(path: &Path) -> Result<Zeroizing<[u8; 32]>> {
    let mut text = Zeroizing::new(String::with_capacity(80));
    // Room for the digits and a line break; anything longer is no ticket.
    std::fs::File::open(path)?.take(80).read_to_string(&mut text)?;
    let wrong = || Error::new(ErrorKind::InvalidData, "it must hold 64 hexadecimal digits");
    let digits = text.trim().chars().map(|c| c.to_digit(16).map(|digit| digit as u8));
    let digits: Zeroizing<Vec<u8>> = Zeroizing::new(digits.collect::<Option<_>>().ok_or_else(wrong)?);
    match digits.as_chunks::<2>() {
        (pairs, []) if pairs.len() == 32 => Ok(Zeroizing::new(std::array::from_fn(|i| pairs[i][0] << 4 | pairs[i][1]))),
        _ => Err(wrong()),
    }
}
