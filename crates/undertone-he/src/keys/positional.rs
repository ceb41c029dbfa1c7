//! A private file that several threads read at places of their own.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Names that are tried for a file that must be new.
const MAX_ATTEMPTS: usize = 64;

/// An open file that only its owner may read, and that is gone when this is.
pub(super) struct PrivateFile {
    file: File,
    /// Where it still has a name.
    named: Option<PathBuf>,
    /// Held between going to a place and reading there, where that is not one call.
    #[cfg(not(unix))]
    turn: std::sync::Mutex<()>,
}

impl PrivateFile {
    /// A new file in `folder`; where an open file can do without a name it has none from here on, so that it ends with the
    /// process however that one ends.
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        for attempt in 0..MAX_ATTEMPTS {
            // Another session may be making its file, or a process that had this number may have left one: not ours.
            let path = folder.join(format!("undertone-keys-{}-{attempt}.tmp", std::process::id()));
            match options.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    let mut made = Self::over(file);
                    made.named = Some(path);
                    made.forget_name()?;
                    return Ok(made);
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// A file that was opened elsewhere.
    pub(super) fn over(file: File) -> Self {
        Self {
            file,
            named: None,
            #[cfg(not(unix))]
            turn: std::sync::Mutex::new(()),
        }
    }

    #[cfg(unix)]
    fn forget_name(&mut self) -> io::Result<()> {
        self.named.as_ref().map_or(Ok(()), std::fs::remove_file)?;
        self.named = None;
        Ok(())
    }

    #[cfg(not(unix))]
    fn forget_name(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Fills `out` from `offset` on.
    #[cfg(unix)]
    pub(super) fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    /// Puts all of `bytes` at `offset`.
    #[cfg(unix)]
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
    }

    /// Fills `out` from `offset` on.
    #[cfg(not(unix))]
    pub(super) fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
        io::Read::read_exact(&mut file, out)
    }

    /// Puts all of `bytes` at `offset`.
    #[cfg(not(unix))]
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
        io::Write::write_all(&mut file, bytes)
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if let Some(path) = &self.named {
            // Nobody is left to tell.
            let _ = std::fs::remove_file(path);
        }
    }
}
