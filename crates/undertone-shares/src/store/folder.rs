//! Where the stores of one party's sessions are: a folder with a name of its own inside one that a person chose.
//!
//! A marker file says that the folder is ours, and one process at a time holds a lock on it. Sessions do not outlive their
//! process, so what an earlier one left is removed when the folder is opened: folders named like a session, nothing else,
//! and nothing at all where the marker is missing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::directory::{create_private, failed};
use super::{DirectoryStore, FolderLock};
use crate::bundle::SessionId;
use crate::error::{Error, Result};

/// The marker, which is also what is locked.
const MARKER: &str = "undertone-bundles";
/// Its content.
const CONTENT: &[u8] = b"bundles of running sessions, version 1; removed when a session ends\n";

/// The folder of a party's sessions, held by this process.
pub struct StoreFolder {
    path: PathBuf,
    /// Holds the folder while it is in use.
    _marker: FolderLock,
}

impl StoreFolder {
    /// Opens the folder of `party` inside `parent`; both are created if need be. Sessions that an earlier process left
    /// are removed.
    ///
    /// # Errors
    /// A folder that another process holds, one of this name that is not ours, one that cannot be read and written.
    pub fn open(parent: &Path, party: &str) -> Result<Self> {
        let path = parent.join(format!("undertone-{party}-bundles"));
        create_private(parent).map_err(failed("create"))?;
        match fs::symlink_metadata(&path) {
            // A link may lead to somebody else's files.
            Ok(found) if !found.is_dir() => return Err(Error::ForeignFolder { path }),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("create")(error)),
            _ => create_private(&path).map_err(failed("create"))?,
        }
        let marker = hold(&path)?;
        let folder = Self { path, _marker: marker };
        folder.sweep().map_err(failed("clean"))?;
        Ok(folder)
    }

    /// The store of a session, and where it is: whoever ends the session removes that.
    ///
    /// # Errors
    /// Those of [`DirectoryStore::open`].
    pub fn session(&self, session: &SessionId) -> Result<(DirectoryStore, PathBuf)> {
        let path = self.session_path(session);
        Ok((DirectoryStore::open(&path)?, path))
    }

    /// Where the store of a session is, or will be.
    pub fn session_path(&self, session: &SessionId) -> PathBuf {
        self.path.join(session.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// Removes the folders of sessions that are over.
    fn sweep(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let ours = |name: &str| name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if entry.file_type()?.is_dir() && entry.file_name().to_str().is_some_and(ours) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Locks the marker of a folder, which is written where the folder is empty.
fn hold(path: &Path) -> Result<FolderLock> {
    let foreign = || Error::ForeignFolder { path: path.to_owned() };
    let marker = path.join(MARKER);
    let found = match fs::symlink_metadata(&marker) {
        Ok(found) if !found.is_file() => return Err(foreign()),
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(failed("read")(error)),
    };
    if !found && fs::read_dir(path).map_err(failed("read"))?.next().is_some() {
        return Err(foreign());
    }
    let lock = FolderLock::hold(path, MARKER)?;
    let mut file = lock.file();
    let mut content = Vec::with_capacity(CONTENT.len() + 1);
    file.take(CONTENT.len() as u64 + 1).read_to_end(&mut content).map_err(failed("read"))?;
    // A crash may come between making the marker and writing it.
    if content.is_empty() && fs::read_dir(path).map_err(failed("read"))?.count() == 1 {
        file.write_all(CONTENT).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    } else if content != CONTENT {
        return Err(foreign());
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BundleStore;
    use crate::store::tests::Scratch;

    fn open(scratch: &Scratch) -> Result<StoreFolder> {
        StoreFolder::open(&scratch.0, "user")
    }

    #[test]
    fn sessions_that_a_process_left_are_removed_and_nothing_else() {
        let scratch = Scratch::new("folder-left");
        let folder = open(&scratch).unwrap();
        let (mut store, session) = folder.session(&[7; 16]).unwrap();
        store.put(0, vec![1; 10].into()).unwrap();
        // The process is killed here; somebody keeps a note and a copy beside its sessions.
        let note = folder.path.join("note");
        fs::write(&note, "mine").unwrap();
        let copy = folder.path.join("copy");
        fs::create_dir(&copy).unwrap();
        // What used to be removed, whoever it belonged to.
        fs::create_dir_all(scratch.0.join("sessions/precious")).unwrap();
        drop((store, folder));
        assert!(session.join(format!("{:020}.bundle", 0)).is_file());
        let folder = open(&scratch).unwrap();
        assert!(!session.exists() && note.is_file() && copy.is_dir() && scratch.0.join("sessions/precious").is_dir());
        assert_eq!(folder.session(&[7; 16]).unwrap().0.stock(), 0);
    }

    #[test]
    fn a_second_process_and_folders_that_are_not_ours_are_refused() {
        let scratch = Scratch::new("folder-refused");
        let folder = open(&scratch).unwrap();
        let error = open(&scratch).err().unwrap();
        assert!(matches!(error, Error::FolderInUse { .. }) && error.to_string().contains("another process"), "{error}");
        // The other party has a folder of its own.
        let other = StoreFolder::open(&scratch.0, "provider").unwrap();
        drop((folder, other));
        assert!(open(&scratch).is_ok());

        let path = scratch.0.join("undertone-user-bundles");
        let refused = |what: &str| {
            let error = open(&scratch).err().unwrap();
            assert!(matches!(error, Error::ForeignFolder { .. }), "{what}: {error}");
        };
        fs::write(path.join(MARKER), "something else").unwrap();
        refused("a marker of something else");
        fs::remove_file(path.join(MARKER)).unwrap();
        fs::create_dir(path.join("0".repeat(32))).unwrap();
        refused("no marker");
        assert!(path.join("0".repeat(32)).is_dir() && !path.join(MARKER).exists());
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        refused("a file");
        fs::remove_file(&path).unwrap();
        #[cfg(unix)]
        {
            let elsewhere = scratch.0.join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
            refused("a link");
            fs::remove_file(&path).unwrap();
        }
        // A crash between making the marker and writing it.
        fs::create_dir(&path).unwrap();
        fs::write(path.join(MARKER), "").unwrap();
        assert!(open(&scratch).is_ok());
    }
}
