//! Keys on disk against the same keys in memory, and disks that fail. Needs no secret: any reduced polynomials make a key.

use super::*;
use crate::{
    Ciphertext, CkksEvaluator, CostEvaluator, EvaluationKeys, Evaluator, KeyMemory, KeyRequest, Parameters,
    ParametersLiteral, SeededKey, bootstrap_model, key_requests,
};
use std::path::PathBuf;
use undertone_ring::{Seed, expand_uniform};

const PERIODS: [usize; 2] = [8, 256];

/// A folder for one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("undertone-spool-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn entries(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }

    fn spooled(&self, held_bytes: u64) -> KeyMemory {
        KeyMemory::Spooled { folder: self.0.clone(), held_bytes }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn parameters() -> Parameters {
    Parameters::build_unchecked(ParametersLiteral { log_n: 9, secret_weight: 64, ..ParametersLiteral::n16_l16_d36() })
}

/// Every key of what [`results`] computes.
fn requests(parameters: &Parameters) -> Vec<KeyRequest> {
    let chain = parameters.chain();
    let cost = CostEvaluator::new(chain).with_bootstrap_model(bootstrap_model(parameters));
    let value = cost.value(chain.top_level);
    for period in PERIODS {
        cost.half_bootstrap(&value, Some(&value), period).unwrap();
    }
    cost.rotate_many(&value, &[1, -3]).unwrap();
    cost.mul(&value, &value).unwrap();
    key_requests(parameters, &cost.key_set())
}

fn key(parameters: &Parameters, request: &KeyRequest, seed: u8) -> SeededKey {
    let shape = KeyShape::of(parameters, *request).unwrap();
    let ring = match request.id {
        crate::KeyId::ToSparse => parameters.sparse_ring(),
        _ => parameters.ring(),
    };
    let uniform = |digit| expand_uniform(ring, &Seed([seed; 32]), digit as u64, shape.basis);
    let b = (0..shape.digits).map(|digit| ring.pack_briefly(&uniform(digit))).collect();
    SeededKey::from_parts(*request, b, Seed([seed + 1; 32]))
}

fn keys(parameters: &Parameters, memory: &KeyMemory) -> EvaluationKeys {
    let mut keys = EvaluationKeys::new(parameters, memory).unwrap();
    for (index, request) in requests(parameters).iter().enumerate() {
        keys.insert(key(parameters, request, index as u8)).unwrap();
    }
    keys
}

fn input(parameters: &Parameters, level: usize, counter: u64) -> Ciphertext {
    let uniform = |n| expand_uniform(parameters.ring(), &Seed([77; 32]), counter + n, parameters.basis(level));
    Ciphertext::from_parts(uniform(0), uniform(1), parameters.scale(level))
}

/// Bytes of everything that a key switch can be part of.
fn results(parameters: &Parameters, keys: EvaluationKeys) -> Result<Vec<Vec<u8>>, Error> {
    let ev = CkksEvaluator::new(parameters, Arc::new(keys));
    let (a, b) = (input(parameters, ev.chain().top_level, 0), input(parameters, ev.chain().top_level - 5, 2));
    let mut found = ev.rotate_many(&a, &[1, -3])?;
    found.extend([ev.mul(&a, &a)?, ev.mul(&a, &b)?, ev.rotate(&b, 1)?]);
    for period in PERIODS {
        let (low, high) = ev.half_bootstrap(&a, Some(&b), period)?;
        found.extend([Some(low), high].into_iter().flatten());
    }
    found.iter().map(|ciphertext| ciphertext.to_bytes(parameters)).collect()
}

#[test]
fn keys_on_disk_give_the_bits_of_keys_in_memory_and_leave_nothing() {
    let (parameters, folder) = (parameters(), Folder::new("bits"));
    let expected = results(&parameters, keys(&parameters, &KeyMemory::Expanded)).unwrap();
    let lengths =
        || requests(&parameters).into_iter().map(|request| SeededKey::digit_bytes(&parameters, request).unwrap());
    let total: u64 = lengths().sum();
    for held_bytes in [0, total / 3, total] {
        let memory = folder.spooled(held_bytes);
        let keys = keys(&parameters, &memory);
        let [held, spooled] = memory.bytes(lengths());
        assert!(held <= held_bytes && held + spooled == total && (spooled == 0) == (held_bytes == total));
        assert_eq!(keys.disk_bytes(), spooled);
        // Beside the halves that stay there is a digest for each limb of each digit, far larger here than at 2^16.
        let digests: usize = keys.size_bytes() - usize::try_from(held).unwrap();
        assert!((digests == 0) == (spooled == 0) && digests as u64 <= spooled / 4, "{digests} for {spooled}");
        assert_eq!(folder.entries(), 0, "an open file has no name");
        assert!(results(&parameters, keys).unwrap() == expected, "{held_bytes} of {total} bytes held");
    }
    assert_eq!(KeyMemory::Seeded.bytes(lengths()), [total, 0]);
    assert_eq!(KeyMemory::Expanded.bytes(lengths()), [2 * total, 0]);
    assert_eq!(folder.entries(), 0);
}

/// A writer whose file holds one key, and that key's half.
fn one_key(parameters: &Parameters, folder: &Folder) -> (SpoolWriter, SpooledHalf) {
    let request = requests(parameters)[0];
    let mut writer = SpoolWriter::create(&folder.0).unwrap();
    let half = writer.append(KeyShape::of(parameters, request).unwrap(), &key(parameters, &request, 1).b).unwrap();
    (writer, half)
}

#[test]
fn an_altered_byte_or_a_short_file_is_an_error_and_stays_one() {
    let (parameters, folder) = (parameters(), Folder::new("altered"));
    type Damage = (&'static str, fn(&SpoolWriter));
    let damages: [Damage; 2] = [
        ("not what was written", |writer| writer.damage(1)),
        ("fill whole buffer", |writer| writer.spool.file.file().set_len(5).unwrap()),
    ];
    for (cause, damage) in damages {
        let (writer, half) = one_key(&parameters, &folder);
        let mut limb = vec![1; half.limbs[0].len * half.digits];
        half.read(0, &mut limb);
        assert!(writer.intact().is_ok() && limb.iter().any(|&byte| byte > 1));
        damage(&writer);
        half.read(0, &mut limb);
        assert!(limb.iter().all(|&byte| byte == 0), "nothing of it is used");
        let said = writer.intact().unwrap_err().to_string();
        assert!(said.contains(cause) && said.contains("could not be read"), "{said}");
        half.read(half.limbs.len() - 1, &mut vec![0; half.limbs[0].len]);
        assert_eq!(writer.intact().unwrap_err().to_string(), said);
    }
}

#[test]
fn an_evaluator_refuses_results_of_keys_that_do_not_come_back() {
    let (parameters, folder) = (parameters(), Folder::new("refused"));
    // One flipped bit in one key after the other, in the middle of the file.
    for place in [0, 1, 3, 9] {
        let keys = keys(&parameters, &folder.spooled(0));
        let end = keys.disk_bytes();
        keys.damage(end * place / 10 + 5);
        let found = results(&parameters, keys);
        assert!(matches!(found, Err(Error::KeySpool { op: "read", .. })), "{place}");
    }
}

#[test]
fn disks_that_do_not_take_keys_are_named_by_their_fault() {
    let (parameters, folder) = (parameters(), Folder::new("faults"));
    let gone = folder.0.join("absent");
    let refused = EvaluationKeys::new(&parameters, &KeyMemory::Spooled { folder: gone.clone(), held_bytes: 0 });
    let said = refused.err().unwrap().to_string();
    assert!(said.contains("could not be made") && said.contains("No such file"), "{said}");
    assert!(check_key_folder(&gone).is_err() && check_key_folder(&folder.0).is_ok());
    assert_eq!(folder.entries(), 0);
    if cfg!(target_os = "linux") {
        let full = std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let request = requests(&parameters)[0];
        let shape = KeyShape::of(&parameters, request).unwrap();
        let refused = SpoolWriter::over(PrivateFile::over(full)).append(shape, &key(&parameters, &request, 1).b);
        let said = refused.err().unwrap().to_string();
        assert!(said.contains("could not be written: No space left"), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let folder = Folder::new("private");
    let file = PrivateFile::create(&folder.0).unwrap();
    let metadata = file.file().metadata().unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.nlink()), (0o600, 0));
}
