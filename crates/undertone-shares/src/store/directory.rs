//! Bundles in a directory, one file each: `<step>.bundle`, and `<step>.taken` as the mark.
//!
//! A bundle is written under another name, synchronised and renamed, so that a crash leaves no half of it. Taking one
//! creates the mark, synchronises it and the directory, and only then returns the contents and removes the bundle.
//! A mark beside a bundle means a crash in between: the bundle is removed unread when the store is opened.
//! One process at a time opens a directory: a lock file holds others off.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{BundleStore, FolderLock};
use crate::error::{Error, Result};

/// Largest bundle that is read, in bytes.
const FILE_CAP: u64 = 1 << 34;

/// Bundles that survive the process.
pub struct DirectoryStore {
    directory: PathBuf,
    /// Holds the lock while the store is open.
    _lock: FolderLock,
}

impl DirectoryStore {
    /// Opens a directory, which is created if need be, and removes what a crash left behind.
    ///
    /// # Errors
    /// A directory that another process holds open or that cannot be read and written.
    pub fn open(directory: &Path) -> Result<Self> {
        create_private(directory).map_err(failed("create"))?;
        let lock = FolderLock::hold(directory, "lock")?;
        let store = Self { directory: directory.to_owned(), _lock: lock };
        for step in store.steps("taken").map_err(failed("read"))? {
            remove(&store.path(step, "bundle")).map_err(failed("clean"))?;
        }
        for step in store.steps("part").map_err(failed("read"))? {
            remove(&store.path(step, "part")).map_err(failed("clean"))?;
        }
        Ok(store)
    }

    fn path(&self, step: u64, ending: &str) -> PathBuf {
        self.directory.join(format!("{step:020}.{ending}"))
    }

    /// The steps that have a file of this ending.
    fn steps(&self, ending: &str) -> std::io::Result<Vec<u64>> {
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(ending)?.strip_suffix('.'));
            steps.extend(name.and_then(|step| step.parse::<u64>().ok()));
        }
        Ok(steps)
    }

    /// Makes names durable.
    fn synchronise(&self) -> std::io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// The durable mark. From here on no process returns this bundle again.
    fn mark(&self, step: u64) -> Result<()> {
        match create_new(&self.path(step, "taken")) {
            Ok(mark) => mark.sync_all().and_then(|()| self.synchronise()).map_err(failed("mark a bundle in")),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::AlreadyTaken { step }),
            Err(error) => Err(failed("mark a bundle in")(error)),
        }
    }
}

impl BundleStore for DirectoryStore {
    fn put(&mut self, step: u64, bundle: Zeroizing<Vec<u8>>) -> Result<()> {
        if self.path(step, "taken").exists() {
            return Err(Error::AlreadyTaken { step });
        }
        if self.path(step, "bundle").exists() {
            return Err(Error::Duplicate { step });
        }
        let (part, path) = (self.path(step, "part"), self.path(step, "bundle"));
        let written = remove(&part).and_then(|()| create_new(&part)).and_then(|mut file| {
            file.write_all(&bundle)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            self.synchronise()
        });
        if written.is_err() {
            // What did not become durable must not be there when it is stored once more. The first error is reported.
            let _ = remove(&part).and_then(|()| remove(&path));
        }
        written.map_err(failed("write"))
    }

    fn take(&mut self, step: u64) -> Result<Zeroizing<Vec<u8>>> {
        let path = self.path(step, "bundle");
        if self.path(step, "taken").exists() {
            return Err(Error::AlreadyTaken { step });
        }
        // Whatever can fail fails before the mark, so that a bundle is not lost for nothing.
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::NoBundle { step }),
            file => file.map_err(failed("read"))?,
        };
        let len = file.metadata().map_err(failed("read"))?.len();
        if len > FILE_CAP {
            return Err(Error::Malformed { what: "a stored bundle", cause: "it is larger than any bundle" });
        }
        let mut bundle = Zeroizing::new(Vec::with_capacity(len as usize));
        file.take(len).read_to_end(&mut bundle).map_err(failed("read"))?;
        self.mark(step)?;
        remove(&path).map_err(failed("clean"))?;
        Ok(bundle)
    }

    fn stock(&self) -> usize {
        self.steps("bundle").map_or(0, |steps| steps.len())
    }
}

pub(super) fn failed(op: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Store { op, source }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A directory that only its owner may enter, whose name is durable: marks in a directory that a crash removes would
/// be lost with it.
pub(super) fn create_private(directory: &Path) -> std::io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)?;
    // The directory's own name too, when an earlier opening may have ended before this line.
    let created = missing.into_iter().chain([directory]);
    created.filter_map(Path::parent).try_for_each(|parent| {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()
    })
}

/// A new file that only its owner may read.
fn create_new(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    #[test]
    fn it_conforms_and_remembers() {
        let folder = Scratch::new("store-conforms");
        crate::store::tests::conformance(&mut DirectoryStore::open(&folder.0).unwrap());
        let mut again = DirectoryStore::open(&folder.0).unwrap();
        assert!(matches!(again.take(2), Err(Error::AlreadyTaken { step: 2 })));
        assert!(matches!(again.put(0, vec![1].into()), Err(Error::AlreadyTaken { step: 0 })));
    }

    #[test]
    fn a_crash_between_mark_and_use_loses_the_bundle_and_never_repeats_it() {
        let folder = Scratch::new("store-between");
        let mut store = DirectoryStore::open(&folder.0).unwrap();
        store.put(4, vec![4; 100].into()).unwrap();
        store.put(5, vec![5; 100].into()).unwrap();
        // The process ends after the mark: neither returned nor removed.
        store.mark(4).unwrap();
        drop(store);
        let mut store = DirectoryStore::open(&folder.0).unwrap();
        assert_eq!(store.stock(), 1);
        assert!(matches!(store.take(4), Err(Error::AlreadyTaken { step: 4 })));
        assert_eq!(store.take(5).unwrap()[..], [5; 100]);
    }

    #[test]
    fn half_written_bundles_do_not_exist_and_a_second_process_is_held_off() {
        let folder = Scratch::new("store-half");
        let store = DirectoryStore::open(&folder.0).unwrap();
        fs::write(store.path(3, "part"), [1, 2, 3]).unwrap();
        assert!(DirectoryStore::open(&folder.0).is_err());
        drop(store);
        let mut store = DirectoryStore::open(&folder.0).unwrap();
        assert!(matches!(store.take(3), Err(Error::NoBundle { step: 3 })));
        store.put(3, vec![9].into()).unwrap();
        assert_eq!(store.take(3).unwrap()[..], [9]);
    }

    #[test]
    fn a_put_that_failed_can_be_repeated() {
        let folder = Scratch::new("store-repeated");
        let mut store = DirectoryStore::open(&folder.0.join("deep/er")).unwrap();
        // What a put leaves behind that failed where it could not clean up.
        fs::write(store.path(3, "part"), [1, 2, 3]).unwrap();
        store.put(3, vec![9].into()).unwrap();
        // A directory in the place of the part makes a put fail.
        fs::create_dir(store.path(4, "part")).unwrap();
        assert!(matches!(store.put(4, vec![8].into()), Err(Error::Store { .. })));
        assert_eq!(store.stock(), 1);
        fs::remove_dir(store.path(4, "part")).unwrap();
        store.put(4, vec![8].into()).unwrap();
        assert_eq!(store.take(4).unwrap()[..], [8]);
        assert_eq!(store.take(3).unwrap()[..], [9]);
    }
}
