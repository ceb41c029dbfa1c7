//! Writing results so that a reader sees the whole file or none, and scratch folders that vanish.

use crate::cleanup::Cleanup;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The usual permissions.
    Ordinary,
    /// The owner only (0600), for keys.
    OwnerOnly,
}

/// Writes `bytes` to `path` through a temporary file in the same folder and a rename.
///
/// # Errors
/// `File` when any step fails; `path` is then as it was.
pub fn write_whole(cleanup: &Cleanup, path: &Path, bytes: &[u8], access: Access) -> Result<()> {
    let partial = partial_name(path)?;
    cleanup.watch(&partial);
    let written = write_new(&partial, bytes, access)
        .and_then(|()| std::fs::rename(&partial, path).map_err(|source| Error::file("writing", path, source)));
    if written.is_err() {
        // Nothing half-written stays; when the file was never made, there is nothing to remove.
        let _ = std::fs::remove_file(&partial);
    }
    cleanup.release(&partial);
    written
}

/// Makes a folder at `path` that appears whole: `fill` writes into a hidden sibling, which is then renamed.
///
/// # Errors
/// `Usage` when something is at `path` already; `File` when a step fails, and what `fill` returns. Nothing stays then.
pub fn make_folder(cleanup: &Cleanup, path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let taken =
        |path: &Path| Error::Usage(format!("{} exists already; choose another folder or remove it", path.display()));
    if path.symlink_metadata().is_ok() {
        return Err(taken(path));
    }
    let partial = partial_name(path)?;
    cleanup.watch(&partial);
    let filled = std::fs::create_dir(&partial)
        .map_err(|source| Error::file("making", &partial, source))
        .and_then(|()| fill(&partial))
        .and_then(|()| match std::fs::rename(&partial, path) {
            Err(_) if path.symlink_metadata().is_ok() => Err(taken(path)),
            renamed => renamed.map_err(|source| Error::file("making", path, source)),
        });
    if filled.is_err() {
        // Nothing half-written stays; when the folder was never made, there is nothing to remove.
        let _ = std::fs::remove_dir_all(&partial);
    }
    cleanup.release(&partial);
    filled
}

/// A hidden sibling of `path` that no other process uses.
fn partial_name(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::Usage(format!("{} names no file", path.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.partial", std::process::id()));
    Ok(path.with_file_name(hidden))
}

fn write_new(path: &Path, bytes: &[u8], access: Access) -> Result<()> {
    let failed = |source| Error::file("writing", path, source);
    let mut file = create(path, access).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(unix)]
fn create(path: &Path, access: Access) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mode = if access == Access::OwnerOnly { 0o600 } else { 0o644 };
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

#[cfg(not(unix))]
fn create(path: &Path, _: Access) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// A folder under the system's temporary one, removed when dropped or interrupted.
pub struct ScratchFolder {
    path: PathBuf,
    cleanup: Cleanup,
}

impl ScratchFolder {
    /// Makes a new, empty folder that only the owner can enter.
    ///
    /// # Errors
    /// `File` when it cannot be made.
    pub fn new(cleanup: &Cleanup, purpose: &str) -> Result<Self> {
        let mut path = PathBuf::new();
        // An old folder of a process with the same number may be left over, so a few names are tried.
        for attempt in 0..64 {
            path = std::env::temp_dir().join(format!("undertone-{purpose}-{}-{attempt}", std::process::id()));
            cleanup.watch(&path);
            match make_private_folder(&path) {
                Ok(()) => return Ok(Self { path, cleanup: cleanup.clone() }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => cleanup.release(&path),
                Err(error) => {
                    cleanup.release(&path);
                    return Err(Error::file("making", &path, error));
                }
            }
        }
        Err(Error::file("making", &path, std::io::Error::from(std::io::ErrorKind::AlreadyExists)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(unix)]
fn make_private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
fn make_private_folder(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir(path)
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // A folder that cannot be removed is not worth an error at the end of a job that succeeded.
        let _ = std::fs::remove_dir_all(&self.path);
        self.cleanup.release(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_and_leaves_nothing_beside_it() {
        let cleanup = Cleanup::default();
        let folder = ScratchFolder::new(&cleanup, "test-files").unwrap();
        let path = folder.path().join("result.json");
        write_whole(&cleanup, &path, b"one", Access::OwnerOnly).unwrap();
        write_whole(&cleanup, &path, b"two", Access::OwnerOnly).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let cleanup = Cleanup::default();
        let folder = ScratchFolder::new(&cleanup, "test-failed").unwrap();
        let target = folder.path().join("a-folder");
        std::fs::create_dir(&target).unwrap();
        assert!(write_whole(&cleanup, &target, b"x", Access::Ordinary).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_whole(&cleanup, &folder.path().join("none/x"), b"x", Access::Ordinary).is_err());
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let cleanup = Cleanup::default();
        let folder = ScratchFolder::new(&cleanup, "test-folder").unwrap();
        let path = folder.path().join("model");
        let write = |into: &Path| write_whole(&cleanup, &into.join("file"), b"x", Access::Ordinary);
        let failed = make_folder(&cleanup, &path, |into| write(into).and(Err(Error::Usage("no".to_owned()))));
        assert!(failed.is_err() && std::fs::read_dir(folder.path()).unwrap().count() == 0);
        make_folder(&cleanup, &path, write).unwrap();
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"x");
        assert!(matches!(make_folder(&cleanup, &path, write), Err(Error::Usage(_))));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn cleanup_removes_what_is_watched() {
        let cleanup = Cleanup::default();
        let folder = ScratchFolder::new(&cleanup, "test-cleanup").unwrap();
        let path = folder.path().to_path_buf();
        cleanup.run();
        assert!(!path.exists());
    }
}
