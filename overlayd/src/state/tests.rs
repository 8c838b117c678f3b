use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use overlay_model::{Endpoint, IfName, Name, NetnsRef, Stamp, Subnet, Vni};
use tempfile::TempDir;

use super::*;

mod faults;

const HOST: HostId = HostId(Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888));

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(dir: &TempDir) -> (StateFile, Restored) {
    StateFile::open(dir.path()).unwrap()
}

fn refused(dir: &Path) -> StateError {
    match StateFile::open(dir) {
        Ok(_) => panic!("opened"),
        Err(err) => err,
    }
}

fn network(id: u64) -> Network {
    let stamp = Stamp { wall_ms: 1_700_000_000_000, counter: 1, host: HOST };
    Network {
        id: NetworkId(id),
        name: Name::new("demo").unwrap(),
        vni: Vni::new(4097).unwrap(),
        subnets: vec![Subnet {
            cidr: "10.0.9.0/24".parse().unwrap(),
            gateway: "10.0.9.1".parse().unwrap(),
        }],
        mtu: 1450,
        internal: false,
        flood: true,
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        exclude: vec![],
        ip_ranges: vec![],
        created: stamp,
        updated: stamp,
        deleted: false,
    }
}

fn endpoint(bits: u64) -> LocalEndpoint {
    LocalEndpoint {
        endpoint: Endpoint {
            id: EndpointId::from_bits(bits),
            network: NetworkId(7),
            name: Some(Name::new("web").unwrap()),
            aliases: BTreeSet::from([Name::new("www").unwrap()]),
            mac: "02:42:0a:00:09:05".parse().unwrap(),
            addresses: vec!["10.0.9.5".parse().unwrap()],
            labels: BTreeMap::new(),
            ports: Vec::new(),
            move_seq: 3,
            attached_ms: 1_700_000_000_002,
        },
        place: Place::Netns {
            netns: NetnsRef { path: "/run/netns/web1".into(), cookie: 42 },
            ifname: IfName::new("eth0").unwrap(),
            default_route: true,
            no_dns: false,
        },
        boot_id: "b".to_owned(),
        moved: None,
    }
}

fn ring(net: u64, offset: u128) -> StateChange {
    let token = RingToken { owner: HOST, version: 9, until: u128::MAX };
    StateChange::Ring(NetworkId(net), Family::V4, offset, token)
}

#[test]
fn a_first_start_makes_everything_and_keeps_it_from_other_users() {
    let parent = dir();
    let dir = parent.path().join("a/b");
    let (_file, restored) = StateFile::open(&dir).unwrap();
    assert_eq!(restored.damaged, None);
    assert!(restored.networks.is_empty() && restored.endpoints.is_empty() && !restored.left);
    assert!(!restored.boot_id.is_empty());
    assert_eq!(fs::read_to_string(dir.join(HOST_ID_FILE)).unwrap(), format!("{}\n", restored.host));
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    for file in [FILE, HOST_ID_FILE, LOCK_FILE, "state.copy"] {
        assert_eq!(fs::metadata(dir.join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 4, "nothing is left lying about");
}

#[test]
fn everything_survives_being_closed_and_opened_again() {
    let dir = dir();
    let (file, first) = open(&dir);
    let peers = vec!["192.0.2.1:7946".parse().unwrap(), "[2001:db8::1]:7946".parse().unwrap()];
    let mut gone = network(8);
    gone.deleted = true;
    file.commit(&[
        StateChange::Network(network(7)),
        StateChange::Network(gone.clone()),
        StateChange::Network(network(9)),
        StateChange::Endpoint(Box::new(endpoint(5))),
        StateChange::Endpoint(Box::new(endpoint(6))),
        ring(7, 0),
        ring(7, u128::MAX),
        ring(8, 1),
        StateChange::Peers(peers.clone()),
        StateChange::Left(true),
    ])
    .unwrap();
    file.commit(&[
        StateChange::DropNetwork(NetworkId(9)),
        StateChange::DropEndpoint(EndpointId::from_bits(6)),
        StateChange::DropRing(NetworkId(7)),
        StateChange::DropNetwork(NetworkId(99)),
    ])
    .unwrap();
    drop(file);
    let (_file, second) = open(&dir);
    assert_eq!(second.host, first.host);
    assert!(second.incarnation > first.incarnation);
    assert_eq!(second.networks, [network(7), gone]);
    assert_eq!(second.endpoints, [endpoint(5)]);
    let token = RingToken { owner: HOST, version: 9, until: u128::MAX };
    assert_eq!(second.ring, [((NetworkId(8), Family::V4, 1), token)]);
    assert_eq!((second.peers, second.left, second.damaged), (peers, true, None));
}

#[test]
fn a_daemon_that_is_killed_loses_nothing_that_was_committed() {
    let dir = dir();
    let (file, _) = open(&dir);
    file.commit(&[StateChange::Network(network(7))]).unwrap();
    // The files as they are on the disk at this moment, never closed.
    let copy = self::dir();
    for name in [FILE, HOST_ID_FILE] {
        fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let (_, restored) = open(&copy);
    assert_eq!((restored.networks, restored.damaged), (vec![network(7)], None));
}

#[test]
fn incarnations_grow_whatever_the_clock_says() {
    let dir = dir();
    let (file, restored) = open(&dir);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    assert!(now - restored.incarnation < 60_000_000, "microseconds since 1970");
    let next = file.next_incarnation().unwrap();
    assert!(next > restored.incarnation);
    // The clock was an age ahead when this was written.
    let future = now * 2;
    file.write("test", |txn| {
        txn.open_table(META)?.insert("incarnation", &*value(&future))?;
        Ok(())
    })
    .unwrap();
    assert_eq!(file.next_incarnation().unwrap(), future + ROOM);
    drop(file);
    assert_eq!(open(&dir).1.incarnation, future + 2 * ROOM);
}

/// Damages the file of a host that had state, and opens it again: with a copy
/// beside it, and without.
#[track_caller]
fn damaged_by(damage: impl Fn(&mut Vec<u8>)) {
    damaged_beside_a_copy(&damage);
    damaged_alone(&damage);
}

#[track_caller]
fn damaged_beside_a_copy(damage: impl Fn(&mut Vec<u8>)) {
    let dir = dir();
    let (file, first) = open(&dir);
    for id in 0..200 {
        let endpoint = StateChange::Endpoint(Box::new(endpoint(id)));
        file.commit(&[StateChange::Network(network(id)), ring(id, 0), endpoint]).unwrap();
    }
    file.commit(&[StateChange::DropEndpoint(EndpointId::from_bits(3))]).unwrap();
    drop(file);
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, &bytes).unwrap();
    let (file, second) = open(&dir);
    assert!(second.damaged.is_some() && second.rebuilt);
    assert!(second.host == first.host && second.incarnation > first.incarnation);
    let sums = (second.networks.len(), second.endpoints.len(), second.ring.len());
    assert_eq!(sums, (200, 199, 200));
    drop(file);
    // It is in the new file, not in the copy alone.
    fs::remove_file(dir.path().join("state.copy")).unwrap();
    let (_, third) = open(&dir);
    assert!(!third.rebuilt && third.damaged.is_none());
    let of = |r: Restored| (r.networks, r.endpoints, r.ring);
    assert_eq!(of(third), of(second));
}

#[track_caller]
fn damaged_alone(damage: impl Fn(&mut Vec<u8>)) {
    let dir = dir();
    let (file, first) = open(&dir);
    for id in 0..200 {
        file.commit(&[StateChange::Network(network(id)), ring(id, 0)]).unwrap();
    }
    drop(file);
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, &bytes).unwrap();
    fs::remove_file(dir.path().join("state.copy")).unwrap();

    let (file, second) = open(&dir);
    assert!(!second.rebuilt);
    let aside = second.damaged.expect("damage not noticed");
    assert!(aside.to_string_lossy().contains("state.redb.damaged-"), "{aside:?}");
    assert_eq!(fs::read(&aside).unwrap(), bytes, "the damaged file is kept as it was");
    assert_eq!(second.host, first.host);
    assert!(second.incarnation > first.incarnation);
    assert!(second.networks.is_empty() && second.lost_ms.is_some());
    // The fresh one works and is not damaged.
    file.commit(&[StateChange::Network(network(7))]).unwrap();
    drop(file);
    let (_, third) = open(&dir);
    assert_eq!((third.networks, third.damaged), (vec![network(7)], None));
}

#[test]
fn garbage_is_moved_aside_and_the_host_keeps_its_identity() {
    damaged_by(|bytes| bytes.fill(b'x'));
}

#[test]
fn an_emptied_file_is_moved_aside() {
    damaged_by(Vec::clear);
}

#[test]
fn a_truncated_file_is_moved_aside() {
    damaged_by(|bytes| bytes.truncate(bytes.len() / 3));
    damaged_by(|bytes| bytes.truncate(100));
}

#[test]
fn a_file_with_flipped_bytes_is_moved_aside() {
    damaged_by(|bytes| {
        let len = bytes.len();
        for byte in bytes.iter_mut().skip(4096).take(len / 2) {
            *byte ^= 0x55;
        }
    });
}

#[test]
fn a_file_of_another_program_is_moved_aside() {
    let dir = dir();
    let (_, first) = open(&dir);
    let path = dir.path().join(FILE);
    fs::remove_file(&path).unwrap();
    let db = Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(TableDefinition::<u64, u64>::new("meta")).unwrap().insert(1, 1).unwrap();
    txn.commit().unwrap();
    drop(db);
    let (_, second) = open(&dir);
    assert!(second.damaged.is_some());
    assert_eq!(second.host, first.host);
}

#[test]
fn every_damaged_file_is_kept() {
    let dir = dir();
    let mut kept = BTreeSet::new();
    for _ in 0..3 {
        drop(open(&dir));
        fs::write(dir.path().join(FILE), "x").unwrap();
        kept.insert(open(&dir).1.damaged.unwrap());
    }
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|path| path.exists()));
}

#[test]
fn a_host_id_that_is_lost_or_garbled_is_written_anew_from_the_state_file() {
    let dir = dir();
    let (_, first) = open(&dir);
    let side = dir.path().join(HOST_ID_FILE);
    fs::remove_file(&side).unwrap();
    assert_eq!(open(&dir).1.host, first.host);
    fs::write(&side, [0xff; 40]).unwrap();
    assert_eq!(open(&dir).1.host, first.host);
    assert_eq!(fs::read_to_string(&side).unwrap().trim(), first.host.to_string());
}

#[test]
fn a_state_file_that_is_deleted_is_written_anew_from_its_copy() {
    let dir = dir();
    let (file, first) = open(&dir);
    file.commit(&[StateChange::Network(network(7)), StateChange::Left(true)]).unwrap();
    drop(file);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    let (_, second) = open(&dir);
    assert!(second.rebuilt && second.damaged.is_none());
    assert_eq!((second.host, second.networks, second.left), (first.host, vec![network(7)], true));
}

/// What a copy with `damage` to it is worth when the state file is gone.
fn copied(damage: impl FnOnce(&mut Vec<u8>)) -> Restored {
    let dir = dir();
    let (file, _) = open(&dir);
    for id in [7, 8] {
        file.commit(&[StateChange::Network(network(id))]).unwrap();
    }
    drop(file);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    let path = dir.path().join("state.copy");
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    open(&dir).1
}

#[test]
fn a_copy_counts_whole_or_not_at_all_but_for_a_last_line_that_was_being_written() {
    assert_eq!(copied(|_| {}).networks, [network(7), network(8)]);
    let torn = copied(|bytes| bytes.truncate(bytes.len() - 5));
    assert_eq!((torn.networks, torn.rebuilt), (vec![network(7)], true));
    let flipped = copied(|bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    assert_eq!((flipped.networks, flipped.rebuilt), (vec![], false));
    let boot_of_another_day = copied(|bytes| {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        bytes.drain(..=end);
    });
    assert_eq!((boot_of_another_day.networks, boot_of_another_day.rebuilt), (vec![], false));
    let emptied = copied(Vec::clear);
    assert_eq!((emptied.networks, emptied.rebuilt), (vec![], false));
}

#[test]
fn a_copy_of_another_host_or_boot_is_not_used() {
    let dir = dir();
    let (file, restored) = open(&dir);
    file.commit(&[StateChange::Network(network(7))]).unwrap();
    drop(file);
    assert!(copy::read(dir.path(), Some(restored.host), &restored.boot_id).is_some());
    assert!(copy::read(dir.path(), Some(HOST), &restored.boot_id).is_none());
    assert!(copy::read(dir.path(), Some(restored.host), "another").is_none());
    let whoever = copy::read(dir.path(), None, &restored.boot_id).unwrap();
    assert_eq!(whoever.host, Some(restored.host));
}

#[test]
fn a_copy_does_not_grow_without_end_and_one_that_cannot_be_written_is_removed() {
    let dir = dir();
    let (file, _) = open(&dir);
    let copy = dir.path().join("state.copy");
    let many: Vec<StateChange> = (0..500).map(|id| StateChange::Network(network(id))).collect();
    for _ in 0..60 {
        file.commit(&many).unwrap();
    }
    let size = fs::metadata(&copy).unwrap().len();
    assert!((100_000..5 << 20).contains(&size), "{size} bytes");
    // Somebody has put a directory where it is written anew.
    fs::create_dir(copy.with_extension("copy.new")).unwrap();
    while copy.exists() {
        file.commit(&many).unwrap();
    }
    fs::remove_dir(copy.with_extension("copy.new")).unwrap();
    for _ in 0..64 {
        file.commit(&[StateChange::Left(true)]).unwrap();
    }
    drop(file);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    let (_, restored) = open(&dir);
    assert!(restored.rebuilt && restored.left);
    assert_eq!(restored.networks.len(), 500);
}

#[test]
fn a_state_file_that_is_deleted_does_not_change_who_the_host_is() {
    let dir = dir();
    let (_, first) = open(&dir);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    let (_, second) = open(&dir);
    assert_eq!((second.host, second.damaged), (first.host, None));
}

#[test]
fn who_the_host_is_says_the_copy_where_all_else_is_gone() {
    let dir = dir();
    let (file, first) = open(&dir);
    file.commit(&[StateChange::Network(network(7))]).unwrap();
    drop(file);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    fs::remove_file(dir.path().join(HOST_ID_FILE)).unwrap();
    assert!(StateFile::lacks_host_id(dir.path()));
    // The kernel may have been told otherwise since; the copy is the later word.
    let (_, second) = StateFile::open_as(dir.path(), Some(HOST)).unwrap();
    assert_eq!((second.host, second.rebuilt, second.lost_ms), (first.host, true, None));
    assert_eq!(second.networks, [network(7)]);
    assert!(!StateFile::lacks_host_id(dir.path()));
}

#[test]
fn a_host_that_has_lost_everything_is_who_the_kernel_says_and_knows_of_its_loss() {
    let dir = dir();
    let (file, first) = StateFile::open_as(dir.path(), Some(HOST)).unwrap();
    assert_eq!((first.host, first.rebuilt), (HOST, false));
    let lost = first.lost_ms.expect("there was a state of this host before");
    drop(file);
    // Until it says that it has found it all again.
    let (file, second) = open(&dir);
    assert_eq!((second.host, second.lost_ms), (HOST, Some(lost)));
    drop(file);
    fs::remove_file(dir.path().join(FILE)).unwrap();
    let (file, third) = open(&dir);
    assert_eq!((third.rebuilt, third.lost_ms), (true, Some(lost)), "from the copy");
    file.commit(&[StateChange::Lost(None)]).unwrap();
    drop(file);
    let (_, fourth) = open(&dir);
    assert_eq!(fourth.lost_ms, None);
}

#[test]
fn a_first_start_has_lost_nothing() {
    let dir = dir();
    assert_eq!(open(&dir).1.lost_ms, None);
    assert_eq!(open(&dir).1.lost_ms, None);
}

#[test]
fn a_loss_is_known_though_the_daemon_died_while_it_began_a_file_anew() {
    let dir = dir();
    drop(open(&dir));
    fs::remove_file(dir.path().join(FILE)).unwrap();
    fs::remove_file(dir.path().join("state.copy")).unwrap();
    drop(create(&dir.path().join(FILE)).unwrap());
    assert!(open(&dir).1.lost_ms.is_some());
}

/// Opens a file that has `key` in `meta` set to `bytes`.
fn with_meta(key: &str, bytes: &[u8]) -> (TempDir, Vec<u8>) {
    let dir = dir();
    let (file, _) = open(&dir);
    file.write("test", |txn| {
        txn.open_table(META)?.insert(key, bytes)?;
        Ok(())
    })
    .unwrap();
    drop(file);
    let bytes = fs::read(dir.path().join(FILE)).unwrap();
    (dir, bytes)
}

#[test]
fn a_file_of_a_newer_version_is_refused_by_name_and_left_where_it_is() {
    for (key, bytes) in [("format", &[2u8][..]), ("left", b"\x02whatever")] {
        let (dir, _) = with_meta(key, bytes);
        let err = refused(dir.path());
        let text = err.to_string();
        assert!(matches!(err, StateError::Newer { found: 2, .. }), "{err:?}");
        assert!(text.contains("newer overlayd (format 2, this one reads up to 1)"), "{text}");
        assert!(text.contains("install that version"), "{text}");
        assert!(dir.path().join(FILE).exists());
        let aside = fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("damaged"));
        assert_eq!(aside.count(), 0);
    }
}

#[test]
fn a_value_that_is_no_json_is_damage() {
    let (dir, _) = with_meta("peers", b"\x01[\"nonsense\"]");
    assert!(open(&dir).1.damaged.is_some());
}

#[test]
fn a_second_daemon_is_told_which_process_has_the_directory() {
    let dir = dir();
    let (file, _) = open(&dir);
    let text = refused(dir.path()).to_string();
    let pid = std::process::id();
    assert!(text.contains(&format!("another overlayd (pid {pid}) uses")), "{text}");
    assert!(text.contains("--state-dir"), "{text}");
    drop(file);
    open(&dir);
}

#[test]
fn a_directory_that_cannot_be_had_is_named_with_what_to_do() {
    let dir = dir();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // Nobody, root included, makes directories in /sys/kernel.
    for (path, advice) in [
        (file.clone(), "something else stands there"),
        (file.join("below"), "something else stands there"),
        ("/sys/kernel/overlayd".into(), "run overlayd as root, or choose a directory"),
    ] {
        let text = refused(&path).to_string();
        assert!(text.contains(&format!("cannot create the state directory {}", path.display())));
        assert!(text.contains(advice) && text.contains("--state-dir"), "{text}");
    }
}

#[test]
fn a_directory_or_file_of_somebody_else_is_refused_with_what_to_do() {
    if !nix::unistd::geteuid().is_root() {
        // Who is not root can give nothing away; what it says is the same.
        let path = Path::new("/x/state.redb").to_owned();
        let foreign = StateError::Foreign { path, owner: 7, us: 8, dir: "/x".into() };
        assert!(foreign.to_string().contains("/x/state.redb belongs to uid 7"), "{foreign}");
        return;
    }
    let dir = dir();
    drop(open(&dir));
    for path in [dir.path().to_owned(), dir.path().join(FILE), dir.path().join(HOST_ID_FILE)] {
        let before = fs::read(dir.path().join(FILE)).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        let text = refused(dir.path()).to_string();
        assert!(text.contains(&format!("{} belongs to uid 65534", path.display())), "{text}");
        assert!(text.contains(&format!("chown -R 0 {}", dir.path().display())), "{text}");
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), before, "it was touched");
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    open(&dir);
}

#[test]
fn a_directory_that_others_could_write_to_is_closed_to_them() {
    let dir = dir();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
    let (_file, _) = open(&dir);
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn a_disk_error_is_told_with_what_to_do_about_it() {
    let full = io::Error::from(io::ErrorKind::StorageFull);
    let text = database_error("write to", Path::new("/x/state.redb"), redb::Error::Io(full));
    assert_eq!(
        text.to_string(),
        "cannot write to /x/state.redb: no storage space; the disk is full: free some space; \
         nothing was changed"
    );
    assert!(advice(&io::ErrorKind::ReadOnlyFilesystem.into()).contains("read-only"));
}

#[test]
fn after_an_error_of_the_disk_the_file_is_opened_again() {
    let dir = dir();
    let (file, _) = open(&dir);
    let fail = |_: &WriteTransaction| Err(redb::Error::Io(io::ErrorKind::StorageFull.into()));
    assert!(matches!(file.write("test", fail), Err(StateError::Io { .. })));
    assert!(file.db().is_none());
    file.commit(&[StateChange::Network(network(7))]).unwrap();
    drop(file);
    assert_eq!(open(&dir).1.networks, [network(7)]);
}

#[test]
fn a_path_that_is_not_text_is_refused_and_nothing_of_the_commit_is_written() {
    use std::os::unix::ffi::OsStringExt;
    let dir = dir();
    let (file, _) = open(&dir);
    let mut odd = endpoint(5);
    let Place::Netns { netns, .. } = &mut odd.place else { panic!("it is in a namespace") };
    netns.path = std::ffi::OsString::from_vec(vec![b'/', 0xff]).into();
    let changes = [StateChange::Network(network(7)), StateChange::Endpoint(Box::new(odd))];
    let text = file.commit(&changes).unwrap_err().to_string();
    assert!(text.starts_with("cannot remember an endpoint"), "{text}");
    drop(file);
    assert!(open(&dir).1.networks.is_empty());
}

/// What released software wrote. If this fails, the model's JSON has changed:
/// raise [`FORMAT`] and keep reading the old one.
#[test]
fn values_of_format_1_stay_readable() {
    let json = r#"{"id":"0000000000000007","name":"demo","vni":4097,"subnets":[{"cidr":"10.0.9.0/24","gateway":"10.0.9.1"}],"mtu":1450,"internal":false,"flood":true,"labels":{"team":"a"},"created":{"wall_ms":1700000000000,"counter":1,"host":"11112222-3333-4444-5555-666677778888"},"updated":{"wall_ms":1700000000000,"counter":1,"host":"11112222-3333-4444-5555-666677778888"},"deleted":false}"#;
    frozen(&network(7), json);
    let json = r#"{"endpoint":{"id":"000000000005","network":"0000000000000007","name":"web","aliases":["www"],"mac":"02:42:0a:00:09:05","addresses":["10.0.9.5"],"labels":{},"move_seq":3,"attached_ms":1700000000002},"netns":{"path":"/run/netns/web1","cookie":42},"ifname":"eth0","default_route":true,"boot_id":"b"}"#;
    frozen(&endpoint(5), json);
    let json = r#"{"owner":"11112222-3333-4444-5555-666677778888","version":9,"until":340282366920938463463374607431768211455}"#;
    frozen(&RingToken { owner: HOST, version: 9, until: u128::MAX }, json);
}

/// As above, for the values that there is one of, with their names.
#[test]
fn singular_values_and_tables_of_format_1_stay_readable() {
    let dir = dir();
    make_dir(dir.path()).unwrap();
    let rows: [(&str, &[u8]); 5] = [
        ("format", &[1]),
        ("host", b"\x01\"11112222-3333-4444-5555-666677778888\""),
        ("incarnation", b"\x017000000000000000"),
        ("peers", b"\x01[\"192.0.2.1:7946\",\"[2001:db8::1]:7946\"]"),
        ("left", b"\x01true"),
    ];
    let network_json = [&[1], &serde_json::to_vec(&network(7)).unwrap()[..]].concat();
    let endpoint_json = [&[1], &serde_json::to_vec(&endpoint(5)).unwrap()[..]].concat();
    let token = br#"{"owner":"11112222-3333-4444-5555-666677778888","version":9,"until":256}"#;
    let token = [&[1], &token[..]].concat();
    let db = Database::create(dir.path().join("state.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    for (name, bytes) in rows {
        let meta = TableDefinition::<&str, &[u8]>::new("meta");
        txn.open_table(meta).unwrap().insert(name, bytes).unwrap();
    }
    let by_id = |table| TableDefinition::<u64, &[u8]>::new(table);
    txn.open_table(by_id("networks")).unwrap().insert(7, &*network_json).unwrap();
    txn.open_table(by_id("endpoints")).unwrap().insert(5, &*endpoint_json).unwrap();
    let ring = TableDefinition::<(u64, u8, u128), &[u8]>::new("ring");
    txn.open_table(ring).unwrap().insert((7, 6, 1 << 64), &*token).unwrap();
    txn.commit().unwrap();
    drop(db);
    let (_file, restored) = open(&dir);
    assert_eq!((restored.host, restored.left, restored.damaged), (HOST, true, None));
    assert!(restored.incarnation > 7_000_000_000_000_000);
    let peers = ["192.0.2.1:7946", "[2001:db8::1]:7946"].map(|peer| peer.parse().unwrap());
    assert_eq!(restored.peers, peers);
    assert_eq!((restored.networks, restored.endpoints), (vec![network(7)], vec![endpoint(5)]));
    let token = RingToken { owner: HOST, version: 9, until: 256 };
    assert_eq!(restored.ring, [((NetworkId(7), Family::V6, 1 << 64), token)]);
}

/// What is written for them is what is read above.
#[test]
fn singular_values_are_written_so_for_ever() {
    assert_eq!(value(&HOST), b"\x01\"11112222-3333-4444-5555-666677778888\"");
    assert_eq!(value(&7_000_000_000_000_000_u64), b"\x017000000000000000");
    assert_eq!(value(&true), b"\x01true");
    let peers: Vec<std::net::SocketAddr> = vec!["[2001:db8::1]:7946".parse().unwrap()];
    assert_eq!(value(&peers), b"\x01[\"[2001:db8::1]:7946\"]");
}

/// As above, for endpoints that are in no namespace.
#[test]
fn endpoints_of_format_2_stay_readable() {
    let json = |more: &str| {
        r#"{"endpoint":{"id":"000000000005","network":"0000000000000007","name":"web","aliases":["www"],"mac":"02:42:0a:00:09:05","addresses":["10.0.9.5"],"labels":{},"move_seq":3,"attached_ms":1700000000002},"default_route":false,"#.to_owned() + more + r#""boot_id":"b"}"#
    };
    let ifname = IfName::new("tap0").unwrap();
    let device = Place::Device { ifname, index: 7, was_up: true };
    let cases = [
        (device, json(r#""device":{"ifname":"tap0","index":7,"was_up":true},"#)),
        (Place::Static, json("")),
    ];
    for (place, json) in cases {
        let is = LocalEndpoint { place, ..endpoint(5) };
        let bytes = [&[2u8][..], json.as_bytes()].concat();
        assert_eq!(String::from_utf8(endpoint_value(&is)), String::from_utf8(bytes.clone()));
        assert_eq!(read_either::<LocalEndpoint>(PLACES, &bytes).ok().unwrap(), is);
        // Software that knows only of namespaces says that it is too old.
        assert!(matches!(read::<LocalEndpoint>(&bytes), Err(Unread::Newer(2))));
    }
    assert_eq!(endpoint_value(&endpoint(5))[0], 1, "nothing changes for those");
}

/// As above, for networks that say which addresses may be leased.
#[test]
fn networks_of_format_2_stay_readable() {
    let range = |text: &str| vec![text.parse().unwrap()];
    let is = Network { exclude: range("10.0.9.5"), ip_ranges: range("10.0.9.64/27"), ..network(7) };
    let stamp =
        r#"{"wall_ms":1700000000000,"counter":1,"host":"11112222-3333-4444-5555-666677778888"}"#;
    let json = format!(
        r#"{{"id":"0000000000000007","name":"demo","vni":4097,"subnets":[{{"cidr":"10.0.9.0/24","gateway":"10.0.9.1"}}],"mtu":1450,"internal":false,"flood":true,"labels":{{"team":"a"}},"exclude":["10.0.9.5"],"ip_ranges":["10.0.9.64/27"],"created":{stamp},"updated":{stamp},"deleted":false}}"#
    );
    let bytes = [&[2u8][..], json.as_bytes()].concat();
    assert_eq!(String::from_utf8(network_value(&is)), String::from_utf8(bytes.clone()));
    assert_eq!(read_either::<Network>(RANGES, &bytes).ok().unwrap(), is);
    // Software that would lease what is excluded says that it is too old.
    assert!(matches!(read::<Network>(&bytes), Err(Unread::Newer(2))));
    assert_eq!(network_value(&network(7))[0], 1, "nothing changes for the others");
}

#[track_caller]
fn frozen<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(is: &T, json: &str) {
    let bytes = [&[1u8][..], json.as_bytes()].concat();
    assert_eq!(String::from_utf8(value(is)).unwrap(), String::from_utf8(bytes.clone()).unwrap());
    assert_eq!(&read::<T>(&bytes).ok().unwrap(), is);
}
