//! The flags that say where a server, or a benchmark, keeps evaluation keys.

use crate::error::{Error, Result};
use crate::mode::Mode;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use undertone_he::KeyMemory;

/// Keys on disk instead of in memory.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyPlaceArguments {
    /// Keep evaluation keys in a private file in this folder instead of in memory: less memory, more time
    #[arg(long, value_name = "DIR")]
    pub key_folder: Option<PathBuf>,

    /// Memory for the first of these keys all the same, in MiB [default: 256]
    #[arg(long, value_name = "MIB", requires = "key_folder")]
    pub key_held_mib: Option<u64>,
}

impl KeyPlaceArguments {
    /// Whether any flag is given.
    pub fn any(&self) -> bool {
        self.key_folder.is_some()
    }

    /// Refuses these flags where there are no evaluation keys.
    ///
    /// # Errors
    /// `Usage` in another mode than `fhe`.
    pub fn check_mode(&self, mode: Mode) -> Result<()> {
        if self.any() && mode != Mode::Fhe {
            let name = mode.name();
            return Err(Error::Usage(format!("--key-folder belongs to mode fhe; mode {name} has no evaluation keys")));
        }
        Ok(())
    }

    /// How keys wait: on disk, or as `otherwise` says where no folder is named.
    ///
    /// # Errors
    /// `File` for a folder that takes no file.
    pub fn memory(&self, otherwise: KeyMemory) -> Result<KeyMemory> {
        let Some(folder) = &self.key_folder else { return Ok(otherwise) };
        let spooled = KeyMemory::spooled(folder, self.key_held_mib);
        spooled.map_err(|source| Error::file("making a key file in", folder, source))
    }

    /// The flags as `undertone-server` takes them.
    pub fn flags(&self) -> Vec<OsString> {
        let folder = self.key_folder.iter().flat_map(|folder| [OsString::from("--key-folder"), folder.clone().into()]);
        let held = self.key_held_mib.iter().flat_map(|mib| ["--key-held-mib".into(), mib.to_string().into()]);
        folder.chain(held).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_takes_no_file_is_refused_and_flags_are_passed_on() {
        let absent = PathBuf::from("absent-folder-of-keys");
        let place = KeyPlaceArguments { key_folder: Some(absent), key_held_mib: Some(7) };
        let said = place.memory(KeyMemory::Seeded).unwrap_err().to_string();
        assert!(said.contains("absent-folder-of-keys"), "{said}");
        assert_eq!(place.flags(), ["--key-folder", "absent-folder-of-keys", "--key-held-mib", "7"]);
        assert!(place.check_mode(Mode::Fhe).is_ok() && place.check_mode(Mode::Permuted).is_err());
        let nothing = KeyPlaceArguments::default();
        assert!(nothing.flags().is_empty() && !nothing.any());
        assert_eq!(nothing.memory(KeyMemory::Seeded).unwrap(), KeyMemory::Seeded);
        let folder = std::env::temp_dir();
        let place = KeyPlaceArguments { key_folder: Some(folder.clone()), key_held_mib: None };
        let expected = KeyMemory::Spooled { folder, held_bytes: KeyMemory::HELD_MIB << 20 };
        assert_eq!(place.memory(KeyMemory::Expanded).unwrap(), expected);
    }
}
