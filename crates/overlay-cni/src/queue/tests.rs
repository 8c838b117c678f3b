use super::*;

fn queue() -> (Queue, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Queue::new(&dir.path().join("cni"), Path::new("/run/a.sock")), dir)
}

fn tried(queue: &Queue, outcome: impl Fn(&str) -> Tried) -> (Vec<String>, Vec<String>) {
    let mut asked = Vec::new();
    let left = queue.replay(|label| {
        asked.push(label.to_owned());
        outcome(label)
    });
    (asked, left.unwrap())
}

#[test]
fn what_waits_is_done_once_and_in_order() {
    let (queue, _dir) = queue();
    for label in ["demo/c2/eth0", "demo/c1/eth0", "demo/c3/eth0", "demo/c2/eth0"] {
        queue.put(label).unwrap();
    }
    let (asked, left) = tried(&queue, |_| Tried::Done);
    assert_eq!(asked, ["demo/c2/eth0", "demo/c1/eth0", "demo/c3/eth0"]);
    assert!(left.is_empty());
    assert!(tried(&queue, |_| Tried::Done).0.is_empty());
}

#[test]
fn one_that_is_refused_does_not_keep_others_back_and_a_silent_daemon_does() {
    let (queue, _dir) = queue();
    for label in ["demo/c1/eth0", "demo/c2/eth0", "demo/c3/eth0"] {
        queue.put(label).unwrap();
    }
    let (asked, left) = tried(&queue, |_| Tried::NotNow);
    assert_eq!((asked.len(), left.len()), (1, 3));
    let refuse = |label: &str| if label.contains("c1") { Tried::Refused } else { Tried::Done };
    let (asked, left) = tried(&queue, refuse);
    assert_eq!((asked.len(), left), (3, vec!["demo/c1/eth0".to_owned()]));
    queue.forget("demo/c1/eth0").unwrap();
    assert!(tried(&queue, |_| Tried::Done).0.is_empty());
}

#[test]
fn it_is_bounded_and_asks_the_runtime_to_come_again() {
    let (queue, _dir) = queue();
    for n in 0..MOST {
        queue.put(&format!("demo/c{n}/eth0")).unwrap();
    }
    let failure = queue.put("demo/more/eth0").unwrap_err();
    assert_eq!(failure.code, Code::TryAgainLater);
    queue.put("demo/c0/eth0").expect("it is there already");
}

#[test]
fn what_is_another_daemons_stays_and_garbage_goes() {
    let (queue, dir) = queue();
    let other = Queue::new(&dir.path().join("cni"), Path::new("/run/b.sock"));
    other.put("demo/c1/eth0").unwrap();
    let garbage = dir.path().join("cni/1.json");
    fs::write(&garbage, "{").unwrap();
    assert!(tried(&queue, |_| Tried::Done).0.is_empty());
    assert!(!garbage.exists());
    assert_eq!(tried(&other, |_| Tried::Done).0, ["demo/c1/eth0"]);
}
