//! Key files sealed under a passphrase.
//!
//! Layout: magic 8, Argon2id memory in KiB 4, passes 4, lanes 4 (little endian), salt 16, nonce 24, then the payload
//! under XChaCha20-Poly1305 with everything before it as associated data. Argon2id is RFC 9106; the costs travel with
//! the file and are capped when read, so that a hostile file cannot exhaust the machine.
//! Every failure to open reads the same, whatever its cause.

use crate::Error;
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use zeroize::Zeroizing;

const MAGIC: [u8; 8] = *b"UTNKEY\x00\x01";
const SALT_AT: usize = 20;
const NONCE_AT: usize = 36;
const HEADER_LEN: usize = 60;
const TAG_LEN: usize = 16;
/// Longest sealed file that is read.
const MAX_FILE: u64 = 64 << 20;

/// What opening a file costs an attacker, and the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Costs {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// The second recommendation of RFC 9106, section 4 (64 MiB, three passes, four lanes).
const COSTS: Costs = Costs { memory_kib: 64 << 10, passes: 3, lanes: 4 };
/// The most that a file may ask for.
const MAX_COSTS: Costs = Costs { memory_kib: 1 << 20, passes: 16, lanes: 16 };

/// Seals a payload under a passphrase; salt and nonce are fresh, so no two results are alike.
///
/// # Errors
/// `Key` for an empty passphrase or when the operating system gives no randomness or memory.
pub fn seal(payload: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, Error> {
    seal_with(payload, passphrase, COSTS)
}

fn seal_with(payload: &[u8], passphrase: &[u8], costs: Costs) -> Result<Vec<u8>, Error> {
    if passphrase.is_empty() {
        return Err(Error::Key);
    }
    let mut out = vec![0u8; HEADER_LEN];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&costs.memory_kib.to_le_bytes());
    out[12..16].copy_from_slice(&costs.passes.to_le_bytes());
    out[16..20].copy_from_slice(&costs.lanes.to_le_bytes());
    getrandom::fill(&mut out[SALT_AT..]).map_err(|_| Error::Key)?;
    let cipher = cipher(passphrase, &out, costs)?;
    let sealed = cipher.encrypt(&nonce(&out), Payload { msg: payload, aad: &out }).map_err(|_| Error::Key)?;
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// Opens what [`seal`] made.
///
/// # Errors
/// `Key` for a wrong passphrase and for damaged bytes alike.
pub fn open(sealed: &[u8], passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    if sealed.len() < HEADER_LEN + TAG_LEN || sealed[..8] != MAGIC || passphrase.is_empty() {
        return Err(Error::Key);
    }
    let (header, body) = sealed.split_at(HEADER_LEN);
    let costs = Costs { memory_kib: number(header, 8), passes: number(header, 12), lanes: number(header, 16) };
    let within =
        costs.memory_kib <= MAX_COSTS.memory_kib && costs.passes <= MAX_COSTS.passes && costs.lanes <= MAX_COSTS.lanes;
    if !within {
        return Err(Error::Key);
    }
    let payload = cipher(passphrase, header, costs)?
        .decrypt(&nonce(header), Payload { msg: body, aad: header })
        .map_err(|_| Error::Key)?;
    Ok(Zeroizing::new(payload))
}

/// Makes a file that only its owner can read, in one step: after a crash it is there whole or not at all. Of several
/// calls for one path, in any processes, exactly one succeeds; what exists is never touched.
///
/// # Errors
/// `File` when the folder or the file cannot be written, of kind `AlreadyExists` when there is a file.
pub fn create_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(std::io::Error::from(ErrorKind::InvalidInput))?;
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(|_| Error::Key)?;
    let temporary = folder.join(format!(".{}.{:016x}", name.to_string_lossy(), u64::from_le_bytes(random)));
    write_new(&temporary, bytes)?;
    let linked = std::fs::hard_link(&temporary, path);
    // Best effort: the temporary name is not needed whether the file has its own or not.
    let _ = std::fs::remove_file(&temporary);
    match linked {
        // Some file systems know no links; there the file is made under its name, which is as exclusive.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            write_new(path, bytes)?;
        }
        other => other?,
    }
    // The new name itself must survive a crash too; only Unix lets a folder be opened for that.
    #[cfg(unix)]
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// Reads a sealed file.
///
/// # Errors
/// `File` when it cannot be read, `Key` when it is too long to be one.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE { Err(Error::Key) } else { Ok(bytes) }
}

/// Makes a file; one that cannot be written whole is taken away again.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // Best effort: the error of the write is the one to report.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn cipher(passphrase: &[u8], header: &[u8], costs: Costs) -> Result<XChaCha20Poly1305, Error> {
    let mut key = Zeroizing::new([0u8; 32]);
    let params = Params::new(costs.memory_kib, costs.passes, costs.lanes, Some(32)).map_err(|_| Error::Key)?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, &header[SALT_AT..NONCE_AT], key.as_mut_slice())
        .map_err(|_| Error::Key)?;
    XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| Error::Key)
}

fn nonce(header: &[u8]) -> XNonce {
    let mut nonce = XNonce::default();
    nonce.copy_from_slice(&header[NONCE_AT..HEADER_LEN]);
    nonce
}

fn number(header: &[u8], at: usize) -> u32 {
    let mut bytes = [0u8; 4];
    bytes.copy_from_slice(&header[at..at + 4]);
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cheap enough to try many damaged files.
    const CHEAP: Costs = Costs { memory_kib: 16, passes: 1, lanes: 1 };

    #[test]
    fn seals_and_opens_at_the_shipped_costs() {
        let payload = b"not a key".repeat(1000);
        let sealed = seal(&payload, b"correct horse").unwrap();
        assert_eq!(*open(&sealed, b"correct horse").unwrap(), payload);
        assert!(matches!(open(&sealed, b"correct horsf"), Err(Error::Key)));
        assert!(!sealed.windows(9).any(|window| window == b"not a key"));
    }

    #[test]
    fn every_damaged_byte_and_every_truncation_is_refused_alike() {
        let sealed = seal_with(b"payload", b"pass", CHEAP).unwrap();
        assert_ne!(sealed, seal_with(b"payload", b"pass", CHEAP).unwrap());
        // The costs (8..20) are left out: some damage there asks for much memory, within the cap, before it fails.
        for at in (0..8).chain(20..sealed.len()) {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(matches!(open(&damaged, b"pass"), Err(Error::Key)), "byte {at}");
        }
        for len in 0..sealed.len() {
            assert!(matches!(open(&sealed[..len], b"pass"), Err(Error::Key)), "length {len}");
        }
    }

    #[test]
    fn costs_beyond_the_cap_are_refused_before_they_are_paid() {
        let sealed = seal_with(b"payload", b"pass", CHEAP).unwrap();
        for at in [11, 15, 19] {
            let mut greedy = sealed.clone();
            greedy[at] = 0x7f;
            assert!(matches!(open(&greedy, b"pass"), Err(Error::Key)));
        }
        assert!(seal(b"payload", b"").is_err());
    }

    #[test]
    fn files_are_private_and_made_once() {
        let folder = std::env::temp_dir().join(format!("undertone-sealed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.key");
        create_file(&path, b"one").unwrap();
        let refused = create_file(&path, b"two").unwrap_err();
        assert!(matches!(refused, Error::File(error) if error.kind() == ErrorKind::AlreadyExists));
        assert_eq!(read_file(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
