//! What a user needs of a model: its public part, the masked weights, and the digests that both parties compare.
//!
//! The masked weights are kept in a folder under their name, which changes with the weights and with the dealer's
//! masks. A file is the words of all matrices and their BLAKE3 hash; it appears whole or not at all.

use crate::Error;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use undertone_protocol::Dial;
use undertone_protocol::modes::permuted::{Digests, SetupLink, masked_digest};
use undertone_ring::WordKernels;
use undertone_shares::{MaskedModel, PublicModel, UserModel};

/// The user's side of a model.
pub struct UserSide {
    /// The masked model, shared by sessions.
    pub model: Arc<UserModel>,
    /// What the provider must share.
    pub digests: Digests,
    /// What the dealer must share: the public model and the name of the masked weights.
    pub masked_digest: [u8; 32],
    /// Bytes that the set-up took: 0 for masked weights that were there.
    pub fetched_bytes: u64,
}

/// Where masked weights are kept.
pub struct MaskedFolder {
    /// The folder of whole files.
    pub path: PathBuf,
    /// A folder on the same disk for a file that is not whole yet; whoever named it removes what stays there.
    pub partial: PathBuf,
}

/// Asks the provider for its model, and fetches the masked weights unless `folder` has them. `follow` hears of bytes
/// done and due. Without a folder they are fetched into memory every time.
///
/// # Errors
/// A provider that cannot be reached, a public model that contradicts itself, a folder that cannot be used.
pub fn setup(
    provider: &Dial,
    folder: Option<&MaskedFolder>,
    tokenizer: Option<&[u8]>,
    kernels: Arc<dyn WordKernels>,
    follow: &mut dyn FnMut(u64, u64),
) -> Result<UserSide, Error> {
    let mut link = SetupLink::open(dialled(provider)?)?;
    let public = PublicModel::decode(&link.public)?;
    let need = MaskedModel::size_bytes(&public.shape());
    if link.masked_len != need {
        let (have, field) = (link.masked_len, "masked weights length");
        return Err(undertone_protocol::Error::Unexpected { field, have, need }.into());
    }
    let name: String = link.name.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = folder.map(|folder| (folder.path.join(format!("{name}.masked")), folder));
    let stored = path.as_ref().map(|(path, _)| read(path, &public)).transpose()?.flatten();
    let (masked, fetched_bytes) = match (stored, &path) {
        (Some(masked), _) => (masked, 0),
        (None, Some((path, folder))) => {
            fetch(&mut link, path, folder, follow)?;
            let masked = read(path, &public)?.ok_or_else(|| failed("reading", path, damaged()))?;
            (masked, need)
        }
        (None, None) => {
            let mut bytes = Vec::new();
            link.fetch(|piece, done| {
                bytes.extend_from_slice(piece);
                follow(done + piece.len() as u64, need);
                Ok(())
            })?;
            (MaskedModel::decode(&bytes, &public.shape())?, need)
        }
    };
    let masked_name = link.name;
    link.close();
    let positions = public.config.max_position_embeddings;
    let masked_digest = masked_digest(&public, &masked_name);
    let model = Arc::new(UserModel::new(public, masked, positions, kernels)?);
    let digests = Digests::new(model.public(), &masked_name, model.rotary(), tokenizer);
    Ok(UserSide { model, digests, masked_digest, fetched_bytes })
}

/// A fresh stream to a peer.
pub(super) fn dialled(dial: &Dial) -> Result<Box<dyn undertone_protocol::Duplex>, Error> {
    Ok(dial().map_err(|error| undertone_protocol::Error::of_io(&error))?)
}

fn failed(op: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { op, path: path.to_owned(), source }
}

fn damaged() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "the masked weights do not match their hash")
}

/// The masked weights in a file; none when there is no file, or one that is damaged, which is removed.
fn read(path: &Path, public: &PublicModel) -> Result<Option<MaskedModel>, Error> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| failed("reading", path, error))?,
    };
    let shape = public.shape();
    let len = file.metadata().map_err(|error| failed("reading", path, error))?.len();
    if len == MaskedModel::size_bytes(&shape) + 32 {
        let mut hashing = Hashing { inner: BufReader::with_capacity(1 << 20, file), hasher: blake3::Hasher::new() };
        let masked = MaskedModel::read(&mut hashing, &shape).map_err(|error| failed("reading", path, error))?;
        let mut hash = [0u8; 32];
        hashing.inner.read_exact(&mut hash).map_err(|error| failed("reading", path, error))?;
        if hashing.hasher.finalize() == blake3::Hash::from_bytes(hash) {
            return Ok(Some(masked));
        }
    }
    std::fs::remove_file(path).map_err(|error| failed("removing", path, error))?;
    Ok(None)
}

/// Hashes what is read.
struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(out)?;
        self.hasher.update(&out[..len]);
        Ok(len)
    }
}

/// Fetches the masked weights into a file that appears when it is whole.
fn fetch(
    link: &mut SetupLink<Box<dyn undertone_protocol::Duplex>>,
    path: &Path,
    folder: &MaskedFolder,
    follow: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    for folder in [&folder.path, &folder.partial] {
        create_private(folder).map_err(|error| failed("making", folder, error))?;
    }
    let part = folder.partial.join("masked.part");
    let fetched = write(link, &part, follow)
        .and_then(|()| std::fs::rename(&part, path).map_err(|error| failed("writing", path, error)));
    if fetched.is_err() {
        // Nothing half-written stays.
        let _ = std::fs::remove_file(&part);
    }
    fetched
}

fn write(
    link: &mut SetupLink<Box<dyn undertone_protocol::Duplex>>,
    part: &Path,
    follow: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let failed = |error| failed("writing", part, error);
    let (mut file, mut hasher) = (create_new(part).map_err(failed)?, blake3::Hasher::new());
    let (total, mut broken) = (link.masked_len, None);
    let fetched = link.fetch(|piece, done| {
        hasher.update(piece);
        follow(done + piece.len() as u64, total);
        file.write_all(piece).map_err(|error| {
            let kind = error.kind();
            broken = Some(error);
            undertone_protocol::Error::Connection { kind }
        })
    });
    if let Some(error) = broken {
        return Err(failed(error));
    }
    fetched?;
    file.write_all(hasher.finalize().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn create_private(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

/// A new file that only its owner may read.
fn create_new(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create_new(true).open(path)
}
