//! What outlives a dealer: the ticket that its provider shows, and the seed of the weight masks of every model.
//!
//! Both are 32 secret bytes in hexadecimal digits, one file each, readable by the owner only. Seeds of sessions are
//! never written. One process at a time holds the folder.

use crate::Error;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use undertone_server::read_ticket;
use undertone_shares::FolderLock;
use zeroize::Zeroizing;

/// 32 secret bytes.
type Secret = Zeroizing<[u8; 32]>;

/// The folder of a dealer.
pub struct StateFolder {
    path: Option<PathBuf>,
    /// Holds the folder while it is in use.
    _lock: Option<FolderLock>,
}

/// What is locked.
const LOCK: &str = "undertone-dealer.lock";

impl StateFolder {
    /// A folder, made if need be; without one everything is forgotten at the end.
    ///
    /// # Errors
    /// A folder that cannot be made, one that another process holds.
    pub fn open(path: Option<&Path>) -> Result<Self, Error> {
        if let Some(path) = path {
            let mut builder = std::fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            let made = builder.recursive(true).create(path);
            made.map_err(|source| Error::File { op: "making", path: path.to_owned(), source })?;
        }
        let lock = path.map(|path| FolderLock::hold(path, LOCK)).transpose()?;
        Ok(Self { path: path.map(Path::to_owned), _lock: lock })
    }

    /// The ticket of the provider, made when there is none yet.
    ///
    /// # Errors
    /// A file that cannot be used, no randomness.
    pub fn ticket(&self) -> Result<Secret, Error> {
        self.secret("provider.ticket", "ticket")
    }

    /// The seed of the masks of these weights, made when there is none yet.
    ///
    /// # Errors
    /// A file that cannot be used, no randomness.
    pub fn weight_seed(&self, fingerprint: &[u8; 32]) -> Result<Secret, Error> {
        let name: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        self.secret(&format!("weights-{name}.seed"), "seed")
    }

    fn secret(&self, name: &str, what: &'static str) -> Result<Secret, Error> {
        let Some(folder) = &self.path else { return random() };
        let path = folder.join(name);
        match read(&path, what) {
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        let secret = random()?;
        let failed = |source| Error::File { op: "writing", path: path.clone(), source };
        // Under another name first, so that a crash leaves no half of it. What an earlier crash left was never used.
        let part = folder.join(format!("{name}.part"));
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file = create(&part).map_err(failed)?;
        let text: Zeroizing<String> = Zeroizing::new(secret.iter().map(|byte| format!("{byte:02x}")).collect());
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&part, &path).and_then(|()| File::open(folder)?.sync_all()).map_err(failed)?;
        Ok(secret)
    }
}

fn random() -> Result<Secret, Error> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).map_err(|_| undertone_shares::Error::NoEntropy)?;
    Ok(secret)
}

fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create_new(true).open(path)
}

fn read(path: &Path, what: &'static str) -> Result<Secret, Error> {
    read_ticket(path).map_err(|source| match source.kind() {
        ErrorKind::InvalidData => Error::Content { what, path: path.to_owned() },
        _ => Error::File { op: "reading", path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_and_damage_is_named() {
        let path = std::env::temp_dir().join(format!("undertone-dealer-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let folder = StateFolder::open(Some(&path)).unwrap();
        let ticket = folder.ticket().unwrap();
        assert_eq!(*ticket, *folder.ticket().unwrap());
        // A second dealer would make masks of its own and have the ticket of this one.
        let error = StateFolder::open(Some(&path)).err().unwrap().to_string();
        assert!(error.contains("another process uses") && error.contains("name another folder"), "{error}");
        assert_eq!(*ticket, *read_ticket(&path.join("provider.ticket")).unwrap());
        let seeds = [[1; 32], [2; 32], [1; 32]].map(|fingerprint| folder.weight_seed(&fingerprint).unwrap());
        assert!(*seeds[0] == *seeds[2] && *seeds[0] != *seeds[1] && *seeds[0] != *ticket);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(path.join("provider.ticket")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            // A crash before the name, and a part that others could read.
            let left = path.join(format!("weights-{}.seed.part", "03".repeat(32)));
            std::fs::write(&left, "half").unwrap();
            std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o644)).unwrap();
            folder.weight_seed(&[3; 32]).unwrap();
            assert!(!left.exists());
            for exposed in [0o644, 0o640, 0o602, 0o610] {
                let allow = |mode| std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(path.join("provider.ticket"), allow(exposed)).unwrap();
                let said = folder.ticket().unwrap_err().to_string();
                assert!(said.contains(&format!("{exposed:04o}")), "{said}");
                assert!(read_ticket(&path.join("provider.ticket")).is_err());
                std::fs::set_permissions(path.join("provider.ticket"), allow(0o600)).unwrap();
            }
            assert_eq!(*ticket, *folder.ticket().unwrap());
        }
        for wrong in ["", "12", &"g".repeat(64), &"1".repeat(66)] {
            std::fs::write(path.join("provider.ticket"), wrong).unwrap();
            assert!(matches!(folder.ticket(), Err(Error::Content { what: "ticket", .. })), "{wrong}");
        }
        drop(folder);
        assert!(StateFolder::open(Some(&path)).is_ok(), "it is free again");
        std::fs::remove_dir_all(&path).unwrap();
        let (first, second) = (StateFolder::open(None).unwrap().ticket(), StateFolder::open(None).unwrap().ticket());
        assert!(*first.unwrap() != *second.unwrap());
    }
}
