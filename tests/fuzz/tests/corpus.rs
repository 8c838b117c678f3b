//! Every file of the corpus once, on any compiler and without libFuzzer: what
//! was found stays found, and no target rots.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use overlay_fuzz::{TARGETS, seeds, target};

/// Targets measure memory and swap the panic hook: one at a time.
static TURN: Mutex<()> = Mutex::new(());

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|err| panic!("{}: {err}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[track_caller]
fn holds(name: &str) {
    static STARTED: Once = Once::new();
    STARTED.call_once(overlay_fuzz::start);
    let target = target(name).expect("it is in TARGETS");
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let files = files(&corpus().join(name));
    assert!(!files.is_empty());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let result = std::panic::catch_unwind(|| (target.run)(&bytes));
        assert!(result.is_ok(), "{name} fails on {}", file.display());
    }
}

macro_rules! each_target {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*

        #[test]
        fn every_target_has_its_corpus_and_its_test() {
            let tests = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            let targets: BTreeSet<_> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
            let folders = files(&corpus());
            let folders: BTreeSet<_> = folders
                .iter()
                .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
                .collect();
            assert_eq!(tests, targets);
            assert_eq!(folders, targets);
        }
    };
}

each_target! {
    sealed_datagram tcp_frames push record gossip_message cluster_records state_file journal
    key_file api_request import_list dns_query dns_reply resolv_conf cni engines
}

/// `UPDATE_EXPECT=1` writes them.
#[test]
fn the_corpus_has_what_real_messages_look_like() {
    for seed in seeds::all() {
        let path = corpus().join(seed.target).join(format!("seed-{}", seed.name));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &seed.bytes).unwrap();
        }
        let kept = fs::read(&path).unwrap_or_default();
        assert!(kept == seed.bytes, "{} is another; UPDATE_EXPECT=1 writes it", path.display());
    }
}

#[test]
fn the_corpus_stays_small() {
    let folders = files(&corpus());
    let sizes =
        folders.iter().flat_map(|dir| files(dir)).map(|file| fs::metadata(file).unwrap().len());
    let total: u64 = sizes.sum();
    assert!(total < 600_000, "{total} bytes; make fuzz-minimize");
}
