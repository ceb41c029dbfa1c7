//! Files of 32 secret bytes in hexadecimal digits: how a dealer tells its provider that it is the one.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;
use zeroize::Zeroizing;

/// Reads the ticket that a dealer has made for its provider.
///
/// # Errors
/// Those of the operating system, `PermissionDenied` for a file that others can read or write as well, and `InvalidData`
/// for anything but 64 hexadecimal digits.
pub fn read_ticket(path: &Path) -> Result<Zeroizing<[u8; 32]>> {
    let mut text = Zeroizing::new(String::with_capacity(80));
    // Room for the digits and a line break; anything longer is no ticket.
    let file = File::open(path)?;
    refuse_exposed(&file)?;
    file.take(80).read_to_string(&mut text)?;
    let wrong = || Error::new(ErrorKind::InvalidData, "it must hold 64 hexadecimal digits");
    let digits = text.trim().chars().map(|c| c.to_digit(16).map(|digit| digit as u8));
    let digits: Zeroizing<Vec<u8>> = Zeroizing::new(digits.collect::<Option<_>>().ok_or_else(wrong)?);
    match digits.as_chunks::<2>() {
        (pairs, []) if pairs.len() == 32 => Ok(Zeroizing::new(std::array::from_fn(|i| pairs[i][0] << 4 | pairs[i][1]))),
        _ => Err(wrong()),
    }
}

/// Looks at the open file, which nobody can exchange in between.
#[cfg(unix)]
fn refuse_exposed(file: &File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let sentence = format!(
        "its mode is {mode:04o}, so that others on this machine may know what is in it; remove it to have a new one made, \
         or set its mode to 0600 where nobody else was there"
    );
    Err(Error::new(ErrorKind::PermissionDenied, sentence))
}

#[cfg(not(unix))]
fn refuse_exposed(_: &File) -> Result<()> {
    Ok(())
}
