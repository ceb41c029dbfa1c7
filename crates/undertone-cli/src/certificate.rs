//! `undertone keys certificate` and `undertone keys pin`: what TLS between machines needs, made offline.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{Access, write_whole};
use serde_json::json;
use std::path::Path;
use undertone_net::{Pins, make_certificate};

/// Makes `NAME.crt` and `NAME.key` in a folder, and prints the pin for the other side.
///
/// # Errors
/// `Usage` when one of the files exists, `Net` for a name that is refused, `File` when writing fails.
pub fn make(name: &str, folder: &Path, context: &Context) -> Result<()> {
    let made = make_certificate(name)?;
    let (certificate, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    for path in [&certificate, &key] {
        if path.symlink_metadata().is_ok() {
            // The other side has pinned what is there.
            let sentence = format!("{} exists already; choose another name or remove it", path.display());
            return Err(Error::Usage(sentence));
        }
    }
    std::fs::create_dir_all(folder).map_err(|source| Error::file("making", folder, source))?;
    write_whole(&context.cleanup, &key, made.key.as_bytes(), Access::OwnerOnly)?;
    write_whole(&context.cleanup, &certificate, made.certificate.as_bytes(), Access::Ordinary)?;
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let object = json!({ "name": name, "certificate": certificate, "key": key, "pin": made.pin.to_string() });
    context.result(&object, || format!("certificate {certificate}\nkey {key}\npin {}", made.pin));
    Ok(())
}

/// Prints the pins of the certificates in a file, or those that it lists.
///
/// # Errors
/// What [`Pins::read`] reports.
pub fn pin(file: &str, context: &Context) -> Result<()> {
    for pin in Pins::read([file])?.iter() {
        context.result(&json!({ "pin": pin.to_string() }), || pin.to_string());
    }
    Ok(())
}
