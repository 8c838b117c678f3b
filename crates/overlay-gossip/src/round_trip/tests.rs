use super::*;

const PEER: ([u8; 4], u16) = ([192, 0, 2, 2], 7946);

/// What is left after these, milliseconds since the start: a positive figure is
/// a question, a negative one an answer.
#[track_caller]
fn check(story: &[i64], smoothed_us: Option<u128>) {
    let start = Instant::now();
    let mut trips = RoundTrips::default();
    let mut last = start;
    for ms in story {
        last = start + Duration::from_millis(ms.unsigned_abs());
        if *ms < 0 {
            trips.answered(PEER.into(), last);
        } else {
            trips.asked(PEER.into(), last);
        }
    }
    let trip = trips.of(PEER.into(), last);
    assert_eq!(trip.map(|trip| trip.smoothed.as_micros()), smoothed_us, "{story:?}");
}

#[test]
fn a_question_and_its_answer_are_a_round_trip() {
    check(&[100], None);
    check(&[100, -107], Some(7_000));
    check(&[-107], None);
    check(&[100, -107, -110], Some(7_000));
}

#[test]
fn the_second_replaces_the_first_and_later_ones_count_an_eighth() {
    check(&[100, -190, 600, -608], Some(8_000));
    check(&[100, -190, 600, -608, 1100, -1116], Some(9_000));
    check(&[100, -190, 600, -608, 1100, -1116, 1600, -1609], Some(9_000));
}

#[test]
fn a_lost_datagram_makes_no_sample() {
    // Of the first question or of its answer: nobody can tell.
    check(&[0, 500, -510], None);
    check(&[0, 500, -510, 1000, -1010], None);
    check(&[0, 500, -510, 1001, -1011], Some(10_000));
    // Half of them lost, for ever.
    check(&[0, -10, 500, 1000, -1010, 1500, 2000, -2010, 2500, 3000, -3010], Some(10_000));
}

#[test]
fn questions_that_overlap_make_no_sample_and_the_next_one_alone_does() {
    check(&[0, 25, -40, -65], None);
    check(&[0, 25, -40, 50, -65, -90], None);
    check(&[0, 25, -40, 50, -65, -90, 500, -540], Some(40_000));
}

#[test]
fn an_answer_that_is_too_late_is_to_nothing() {
    check(&[0, -1000], Some(1_000_000));
    check(&[0, -1001], None);
}

#[test]
fn who_is_gone_is_forgotten_and_who_does_not_answer_takes_no_memory() {
    let start = Instant::now();
    let addr = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
    let mut trips = RoundTrips::default();
    for n in 0..1000 {
        trips.asked(addr(n), start);
        trips.answered(addr(n), start + Duration::from_millis(1));
    }
    trips.answered(addr(5000), start);
    assert_eq!(trips.0.len(), 1000, "an answer alone is nobody");
    let peers = HashSet::from([addr(7), addr(2000)]);
    trips.keep(&peers, start + Duration::from_secs(1));
    assert_eq!(trips.0.len(), 1000, "answers may come");
    let later = start + Duration::from_secs(3);
    trips.keep(&peers, later);
    assert_eq!(trips.0.keys().copied().collect::<Vec<_>>(), [addr(7)]);
    let age = Duration::from_millis(2999);
    let smoothed = Duration::from_millis(1);
    assert_eq!(trips.of(addr(7), later), Some(RoundTrip { smoothed, age }));
    for _ in 0..10_000 {
        trips.asked(addr(7), later);
    }
    assert_eq!(trips.0[&addr(7)].asked.len(), ASKED);
}
