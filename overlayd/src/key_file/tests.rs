use std::os::unix::fs::symlink;

use overlay_gossip::Key;
use tempfile::TempDir;

use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn file(text: &str, mode: u32) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

#[track_caller]
fn refused(path: &Path, says: &str) {
    let said = KeyFile::open(path).map(drop).unwrap_err().to_string();
    assert!(said.contains(says), "{said}");
    assert!(said.contains(path.to_str().unwrap()), "{said}");
    assert!(!said.contains(&KEY[..20]), "{said}");
}

#[test]
fn a_file_that_only_its_owner_can_get_at_is_read() {
    for mode in [0o600, 0o400] {
        let (_dir, path) = file(&format!("# ours\n{KEY}\n"), mode);
        assert_eq!(KeyFile::open(&path).unwrap().1.ids().ids.len(), 1);
    }
}

#[test]
fn a_file_that_others_can_get_at_is_refused() {
    for mode in [0o640, 0o604, 0o620, 0o602, 0o666, 0o610] {
        let (_dir, path) = file(KEY, mode);
        refused(&path, &format!("has mode {mode:04o}"));
        refused(&path, "chmod 0600");
    }
}

#[test]
fn what_holds_no_keys_is_refused_without_being_repeated() {
    let (dir, path) = file(&format!("{KEY}{KEY}"), 0o600);
    refused(&path, "line 1: that is no key");
    let (_dir, empty) = file("# nothing\n", 0o600);
    refused(&empty, "overlayd keygen");
    let (_dir, binary) = file("", 0o600);
    std::fs::write(&binary, [0xff; 40]).unwrap();
    refused(&binary, "that is no key");
    let (_dir, long) = file(&"#\n".repeat(20_000), 0o600);
    refused(&long, "is longer than");
    refused(&dir.path().join("nope"), "overlayd keygen");
    refused(dir.path(), "is not a regular file");
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    refused(&fifo, "is not a regular file");
}

#[test]
fn what_is_written_is_read_again_and_keeps_its_permissions() {
    let (dir, path) = file(KEY, 0o400);
    let (file, ring) = KeyFile::open(&path).unwrap();
    let key = Key::generate().unwrap();
    let ring = ring.with(key.clone()).unwrap().using(key.id()).unwrap();
    // What a crash has left is in nobody's way.
    std::fs::write(dir.path().join("key.new"), "half").unwrap();
    file.write(&ring).unwrap();
    let (_, again) = KeyFile::open(&path).unwrap();
    assert_eq!(again.ids(), ring.ids());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_link_is_followed_and_stays_one() {
    let (dir, path) = file(KEY, 0o600);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let (file, ring) = KeyFile::open(&link).unwrap();
    file.write(&ring.with(Key::generate().unwrap()).unwrap()).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(KeyFile::open(&path).unwrap().1.ids().ids.len(), 2);
}

#[test]
fn what_cannot_be_written_leaves_the_file_as_it_was() {
    let (dir, path) = file(KEY, 0o600);
    let (file, ring) = KeyFile::open(&path).unwrap();
    std::fs::create_dir(dir.path().join("key.new")).unwrap();
    let err = file.write(&ring.with(Key::generate().unwrap()).unwrap()).unwrap_err();
    assert!(err.to_string().contains("cannot write the key file"), "{err}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), KEY);
}
