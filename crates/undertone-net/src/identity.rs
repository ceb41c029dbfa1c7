//! What a side shows of itself: a certificate, and the private key that proves it is its own.

use crate::pin::MAX_FILE;
use crate::{Error, Pin};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// A certificate with its private key. The bytes of the key are wiped once the TLS library has read them; the library
/// keeps its own form of it until the identity is dropped.
pub struct Identity {
    pub(crate) key: Arc<CertifiedKey>,
    pin: Pin,
}

impl Identity {
    /// Reads a certificate and its private key, both in PEM form.
    ///
    /// # Errors
    /// `File`, `TooLong`, `Certificate`, `Key`, and `KeyExposed` where other users can read the key.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let found = single_certificate(certificate)?;
        let file = open(key)?;
        refuse_exposed(&file, key)?;
        Self::of(found, &read(file, key)?, key)
    }

    /// The identity of a certificate and a key file's content; `path` names the key in errors.
    pub(crate) fn of(certificate: CertificateDer<'static>, key: &[u8], path: &Path) -> Result<Self, Error> {
        let refused = |cause| Error::Key { path: path.to_path_buf(), cause };
        let mut key = PrivateKeyDer::from_pem_slice(key).map_err(|_| refused("no private key in PEM form"))?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&key);
        key.zeroize();
        let signing = signing.map_err(|_| refused("a kind of key that is not supported"))?;
        let pin = Pin::of(&certificate);
        let certified = CertifiedKey::new(vec![certificate], signing);
        certified.keys_match().map_err(|_| refused("the two do not belong together"))?;
        Ok(Self { key: Arc::new(certified), pin })
    }

    /// The pin of the certificate, for the other side.
    pub fn pin(&self) -> Pin {
        self.pin
    }
}

/// The only certificate in a file.
fn single_certificate(path: &Path) -> Result<CertificateDer<'static>, Error> {
    let refused = |cause: String| Error::Certificate { path: path.to_path_buf(), cause };
    let text = read_file(path)?;
    let mut found = CertificateDer::pem_slice_iter(&text);
    let first = found.next().ok_or_else(|| refused("there is none".into()))?;
    let first = first.map_err(|error| refused(error.to_string()))?;
    match found.next() {
        None => Ok(first),
        Some(_) => Err(refused("there are several; keep the one of this side only".into())),
    }
}

/// Reads a file of bounded length; what was read is wiped when dropped.
pub(crate) fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    read(open(path)?, path)
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::File { path: path.to_path_buf(), source })
}

fn read(file: File, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |source| Error::File { path: path.to_path_buf(), source };
    let have = file.metadata().map_err(failed)?.len();
    if have > MAX_FILE {
        return Err(Error::TooLong { path: path.to_path_buf(), have, need: MAX_FILE });
    }
    // Room for all of it, so that no half-read copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(have as usize + 1));
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Looks at the open file, which nobody can exchange in between.
#[cfg(unix)]
fn refuse_exposed(file: &File, path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| Error::File { path: path.to_path_buf(), source };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(Error::KeyExposed { path: path.to_path_buf(), mode }) }
}

#[cfg(not(unix))]
fn refuse_exposed(_: &File, _: &Path) -> Result<(), Error> {
    Ok(())
}
