//! A lock on a folder: one process at a time, until it drops the lock or ends, however that happens.
//!
//! A file in the folder is what is locked. Stores of bundles and the folder of a dealer use it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use super::directory::failed;
use crate::error::{Error, Result};

/// The lock on a folder.
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Locks the file `name` of a folder, which is made if need be, readable by its owner only.
    ///
    /// # Errors
    /// `FolderInUse` for a folder that another process holds, `ForeignFolder` where something else than a file has this name,
    /// a file that cannot be opened.
    pub fn hold(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        match fs::symlink_metadata(&path) {
            // A link may lead to somebody else's file.
            Ok(found) if !found.is_file() => return Err(Error::ForeignFolder { path: folder.to_owned() }),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("read")(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let opened = options.create(true).truncate(false).read(true).write(true).open(&path);
        let file = opened.map_err(failed("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(Error::FolderInUse { path: folder.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed("lock")(error)),
        }
    }

    /// The locked file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}
