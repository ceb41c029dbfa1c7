//! Named secret keys, each in a file sealed under a passphrase, in a folder that only its owner can enter.

use crate::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use undertone_he::Parameters;
use undertone_secret::{SecretKey, SecretRng, sealed};
use zeroize::Zeroizing;

const SUFFIX: &str = "key";
const DIGEST_LEN: usize = 32;

/// A folder of sealed keys.
#[derive(Debug, Clone)]
pub struct KeyStore {
    folder: PathBuf,
}

/// What is known of a key without its passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// The name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// When it was written, where the file system tells.
    pub modified: Option<SystemTime>,
}

impl KeyStore {
    /// The store in the user's configuration folder (`$XDG_CONFIG_HOME` or `~/.config`, then `undertone/keys`).
    ///
    /// # Errors
    /// `NoConfigFolder` or `KeyFolder`.
    pub fn of_user() -> Result<Self, Error> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        Self::at(&config.ok_or(Error::NoConfigFolder)?.join("undertone").join("keys"))
    }

    /// The store in a folder, which is made if need be.
    ///
    /// # Errors
    /// `KeyFolder`.
    pub fn at(folder: &Path) -> Result<Self, Error> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(Error::KeyFolder)?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// Draws a key and stores it; of several processes that ask for one name, exactly one gets it.
    ///
    /// # Errors
    /// `KeyName`, `KeyExists`, or what writing reports.
    pub fn create(&self, name: &str, parameters: &Parameters, passphrase: &[u8]) -> Result<SecretKey, Error> {
        let path = self.path(name)?;
        if path.exists() {
            return Err(Error::KeyExists { name: name.to_owned() });
        }
        let mut rng = SecretRng::from_os().map_err(undertone_secret::Error::from)?;
        let key = SecretKey::generate(parameters, &mut rng);
        // The digest binds the key to its parameters: the same coefficients must not serve two sets.
        let payload = key.to_payload();
        let mut bytes = Zeroizing::new(Vec::with_capacity(DIGEST_LEN + payload.len()));
        bytes.extend_from_slice(&parameters.digest());
        bytes.extend_from_slice(&payload);
        match sealed::create_file(&path, &sealed::seal(&bytes, passphrase)?) {
            Ok(()) => Ok(key),
            // Another process was faster since the look above, which only saves the work.
            Err(undertone_secret::Error::File(error)) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Error::KeyExists { name: name.to_owned() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a key.
    ///
    /// # Errors
    /// `KeyName`, `KeyMissing`, or `Secret(Key)` for a wrong passphrase, a damaged file and other parameters alike.
    pub fn open(&self, name: &str, parameters: &Parameters, passphrase: &[u8]) -> Result<SecretKey, Error> {
        Ok(self.open_any(name, std::slice::from_ref(parameters), passphrase)?.1)
    }

    /// Opens a key of any of these parameter sets, and says of which.
    ///
    /// # Errors
    /// As [`KeyStore::open`], when it is of none of them.
    pub fn open_any(
        &self,
        name: &str,
        sets: &[Parameters],
        passphrase: &[u8],
    ) -> Result<(Parameters, SecretKey), Error> {
        let path = self.existing(name)?;
        let payload = sealed::open(&sealed::read_file(&path)?, passphrase)?;
        let (digest, secret) = payload.split_at_checked(DIGEST_LEN).ok_or(undertone_secret::Error::Key)?;
        let set = sets.iter().find(|set| set.digest() == digest).ok_or(undertone_secret::Error::Key)?;
        Ok((set.clone(), SecretKey::from_payload(set, secret)?))
    }

    /// All keys, by name.
    ///
    /// # Errors
    /// `KeyFolder`.
    pub fn list(&self) -> Result<Vec<KeyEntry>, Error> {
        let mut entries = Vec::new();
        for file in std::fs::read_dir(&self.folder).map_err(Error::KeyFolder)? {
            let path = file.map_err(Error::KeyFolder)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| usable(stem));
            let (Some(stem), Some(SUFFIX)) = (stem, path.extension().and_then(|e| e.to_str())) else { continue };
            entries.push(entry(stem, &path)?);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// One key without opening it.
    ///
    /// # Errors
    /// `KeyName`, `KeyMissing` or `KeyFolder`.
    pub fn show(&self, name: &str) -> Result<KeyEntry, Error> {
        entry(name, &self.existing(name)?)
    }

    /// Removes a key; what was encrypted under it can never be opened again.
    ///
    /// # Errors
    /// `KeyName`, `KeyMissing` or `KeyFolder`.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        std::fs::remove_file(self.existing(name)?).map_err(Error::KeyFolder)
    }

    fn path(&self, name: &str) -> Result<PathBuf, Error> {
        if usable(name) {
            Ok(self.folder.join(format!("{name}.{SUFFIX}")))
        } else {
            Err(Error::KeyName { name: name.chars().take(64).flat_map(char::escape_debug).collect() })
        }
    }

    fn existing(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path(name)?;
        if path.is_file() { Ok(path) } else { Err(Error::KeyMissing { name: name.to_owned() }) }
    }
}

fn entry(name: &str, path: &Path) -> Result<KeyEntry, Error> {
    let metadata = std::fs::metadata(path).map_err(Error::KeyFolder)?;
    Ok(KeyEntry {
        name: name.to_owned(),
        path: path.to_path_buf(),
        size_bytes: metadata.len(),
        modified: metadata.modified().ok(),
    })
}

fn usable(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
