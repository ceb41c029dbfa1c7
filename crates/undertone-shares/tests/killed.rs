//! A process that takes bundles is killed at arbitrary moments; no bundle is ever given out twice.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use undertone_shares::{BundleStore, DirectoryStore, Error};

const CHILD: &str = "UNDERTONE_TEST_STORE";
const BUNDLES: u64 = 400;

/// The child: takes bundles in order and says which, after it has them.
fn child(directory: PathBuf) -> ! {
    let mut store = DirectoryStore::open(&directory).unwrap();
    for step in 0..BUNDLES {
        match store.take(step) {
            Ok(bundle) => println!("taken {step} {}", u64::from_le_bytes(bundle[..8].try_into().unwrap())),
            Err(Error::AlreadyTaken { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    std::process::exit(0);
}

#[test]
fn no_bundle_is_given_out_twice_whenever_the_process_is_killed() {
    if let Some(directory) = std::env::var_os(CHILD) {
        child(directory.into());
    }
    let directory = std::env::temp_dir().join(format!("undertone-killed-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    let mut store = DirectoryStore::open(&directory).unwrap();
    (0..BUNDLES).for_each(|step| store.put(step, step.to_le_bytes().to_vec().into()).unwrap());
    drop(store);

    let mut given = BTreeSet::new();
    // Each child is killed after another number of lines, while it is busy with the bundles that follow.
    for lines in [1, 7, 2, 30, 11, 3, 50, 19, 5, 1000] {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "no_bundle_is_given_out_twice_whenever_the_process_is_killed", "--nocapture"])
            .env(CHILD, &directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = 0;
        let mut reader = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut note = |line: String| {
            // The harness may print before the first line of the child.
            let Some((_, words)) = line.split_once("taken ") else { return 0 };
            let (step, held) = words.split_once(' ').unwrap();
            assert_eq!(step, held);
            assert!(given.insert(step.parse::<u64>().unwrap()), "bundle {step} was given out twice");
            1
        };
        while seen < lines {
            let Some(line) = reader.next() else { break };
            seen += note(line);
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // What the child said before the signal reached it.
        reader.for_each(|line| _ = note(line));
    }
    let store = DirectoryStore::open(&directory).unwrap();
    assert_eq!(store.stock(), 0);
    // Every kill loses a bundle at most: the one between its mark and its line.
    assert!(given.len() as u64 >= BUNDLES - 10, "{} of {BUNDLES}", given.len());
    drop(store);
    std::fs::remove_dir_all(&directory).unwrap();
}
