//! Writing results so that a reader sees the whole file or none, and scratch folders that vanish.

use crate::cleanup::Cleanup;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Names that are tried for what must be new.
const MAX_ATTEMPTS: usize = 64;

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
    let failed = |source| Error::file("writing", path, source);
    let name = partial_name(path)?;
    let (partial, mut file) = make_free(cleanup, name, |partial| create(partial, access)).map_err(failed)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(failed);
    if written.is_err() {
        // Nothing half-written stays.
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
    let failed = |source| Error::file("making", path, source);
    let (partial, ()) =
        make_free(cleanup, partial_name(path)?, |partial| std::fs::create_dir(partial)).map_err(failed)?;
    let filled = fill(&partial).and_then(|()| match std::fs::rename(&partial, path) {
        Err(_) if path.symlink_metadata().is_ok() => Err(taken(path)),
        renamed => renamed.map_err(failed),
    });
    if filled.is_err() {
        // Nothing half-written stays.
        let _ = std::fs::remove_dir_all(&partial);
    }
    cleanup.release(&partial);
    filled
}

/// Makes something under the first free one of several names and has it removed on interrupt.
///
/// A process that ended without cleaning up may have had the same number and left its files; those are not ours.
fn make_free<T>(
    cleanup: &Cleanup,
    name: impl Fn(usize) -> PathBuf,
    make: impl Fn(&Path) -> std::io::Result<T>,
) -> std::io::Result<(PathBuf, T)> {
    for attempt in 0..MAX_ATTEMPTS {
        let path = name(attempt);
        match cleanup.make(&path, &make) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => return made.map(|made| (path, made)),
        }
    }
    Err(std::io::ErrorKind::AlreadyExists.into())
}

/// Hidden siblings of `path`, by number, that no other process uses.
fn partial_name(path: &Path) -> Result<impl Fn(usize) -> PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::Usage(format!("{} names no file", path.display())))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    Ok(move |attempt| {
        let mut hidden = prefix.clone();
        hidden.push(format!(".{}-{attempt}.partial", std::process::id()));
        path.with_file_name(hidden)
    })
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
        let folder = std::env::temp_dir();
        let name = |attempt| folder.join(format!("undertone-{purpose}-{}-{attempt}", std::process::id()));
        let (path, ()) = make_free(cleanup, name, make_private_folder)
            .map_err(|source| Error::file("making a folder in", &folder, source))?;
        Ok(Self { path, cleanup: cleanup.clone() })
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
    fn what_another_process_left_stays() {
        let cleanup = Cleanup::default();
        let folder = ScratchFolder::new(&cleanup, "test-left").unwrap();
        let (model, file) = (folder.path().join("model"), folder.path().join("file"));
        let left = [partial_name(&model).unwrap()(0), partial_name(&file).unwrap()(0)];
        for path in &left {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("precious"), b"x").unwrap();
        }
        let fill = |into: &Path| write_whole(&cleanup, &into.join("inside"), b"x", Access::Ordinary);
        make_folder(&cleanup, &model, fill).unwrap();
        write_whole(&cleanup, &file, b"x", Access::Ordinary).unwrap();
        assert!(model.join("inside").exists() && file.exists());
        // No name is free: refused, and still nothing of the other process is touched, now or on interrupt.
        let other = folder.path().join("other");
        for attempt in 0..MAX_ATTEMPTS {
            std::fs::create_dir(partial_name(&other).unwrap()(attempt)).unwrap();
        }
        let refused = make_folder(&cleanup, &other, |_| panic!("nothing was made to fill"));
        assert!(matches!(refused, Err(Error::File { .. })) && !other.exists());
        assert!(write_whole(&cleanup, &other, b"x", Access::Ordinary).is_err());
        assert!((0..MAX_ATTEMPTS).all(|attempt| partial_name(&other).unwrap()(attempt).is_dir()));
        assert!(left.iter().all(|path| path.join("precious").exists()));
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
