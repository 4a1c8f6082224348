//! Every input that the fuzzer keeps goes through the function that it was found with.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use e2e::fuzzing::TARGETS;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The names in a folder, each without its suffix.
fn stems(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_function_has_a_fuzz_target_and_a_corpus() {
    let functions: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(functions.len(), TARGETS.len());
    assert_eq!(stems(&fuzz_folder().join("src/bin")), functions);
    assert_eq!(stems(&fuzz_folder().join("corpus")), functions);
    for name in functions {
        let target = fs::read_to_string(fuzz_folder().join(format!("src/bin/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("e2e::fuzzing::{name}(bytes)")), "{target}");
    }
}

#[test]
fn no_input_of_the_corpus_breaks_a_promise() {
    let mut broken = Vec::new();
    for (name, target) in TARGETS {
        let inputs = fs::read_dir(fuzz_folder().join("corpus").join(name)).unwrap();
        let mut count = 0;
        for path in inputs.map(|entry| entry.unwrap().path()) {
            let bytes = fs::read(&path).unwrap();
            count += 1;
            if catch_unwind(|| target(&bytes)).is_err() {
                broken.push(path);
            }
        }
        assert!(count > 0, "{name} has an empty corpus");
    }
    assert!(broken.is_empty(), "a promise is broken by {broken:?}");
}
