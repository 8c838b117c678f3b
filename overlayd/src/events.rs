//! What happened, for whoever watches: the stream behind `GET /v1/events`.
//!
//! ```text
//!   Effect::Notice ─► Hub::tell ─┬─► the last 1000, for `since`
//!                                └─► a broadcast channel ─► up to 64 watchers
//! ```
//!
//! Promises:
//!
//! 1. **Nobody holds the daemon up.** Telling takes a lock for a moment and
//!    waits for nobody.
//! 2. **Memory is bounded**: 1000 events for all, and one cursor a watcher. A
//!    watcher that falls behind by more is told how many it missed, in their
//!    place.
//! 3. **Numbers grow for ever**: they begin at the incarnation, so those of a
//!    later life of the daemon are larger, and `since` works over a restart.
//! 4. Whoever watches gets each event once and in order, `since` or not: the
//!    replay ends where the stream begins.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use overlay_api::v1;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

/// So many events are remembered.
const REMEMBERED: usize = 1000;

/// So many may watch at a time.
pub const MAX_WATCHERS: usize = 64;

/// Where events are told and watched. Clones are the same.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    sender: broadcast::Sender<Arc<v1::Event>>,
    places: Arc<Semaphore>,
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    first: u64,
    next: u64,
    last: VecDeque<Arc<v1::Event>>,
}

impl Hub {
    /// A hub whose first event has the number `first`.
    pub fn new(first: u64) -> Self {
        let (sender, _) = broadcast::channel(REMEMBERED);
        Self(Arc::new(Inner {
            state: Mutex::new(State { first, next: first, last: VecDeque::new() }),
            sender,
            places: Arc::new(Semaphore::new(MAX_WATCHERS)),
            ended: watch::channel(false).0,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody; number and time are filled in.
    pub fn tell(&self, event: v1::Event) {
        let mut state = self.state();
        let event = Arc::new(v1::Event { seq: Some(state.next), time: now(), ..event });
        state.next += 1;
        if state.last.len() == REMEMBERED {
            state.last.pop_front();
        }
        state.last.push_back(Arc::clone(&event));
        // Under the lock, or a watcher that begins now would get it twice.
        let _ = self.0.sender.send(event);
    }

    /// Begins to watch; `None` if too many do already.
    ///
    /// With `since`, what is remembered of the events after that number comes
    /// first. What is not remembered any more is told as missed, unless it was
    /// of a former life of the daemon.
    pub fn watch(&self, since: Option<u64>) -> Option<Watcher> {
        let place = Arc::clone(&self.0.places).try_acquire_owned().ok()?;
        let state = self.state();
        let live = self.0.sender.subscribe();
        let mut replay = VecDeque::new();
        if let Some(since) = since {
            let wanted = since.saturating_add(1).max(state.first);
            let oldest = state.next - state.last.len() as u64;
            if wanted < oldest && since != 0 {
                replay.push_back(Arc::new(missed(oldest - wanted)));
            }
            let after = state.last.iter().filter(|event| event.seq > Some(since));
            replay.extend(after.cloned());
        }
        Some(Watcher { replay, live, ended: self.0.ended.subscribe(), _place: place })
    }

    /// The daemon stops: watchers get what has been told, and then the end.
    pub fn end(&self) {
        self.0.ended.send_replace(true);
    }
}

/// One who watches.
#[derive(Debug)]
pub struct Watcher {
    replay: VecDeque<Arc<v1::Event>>,
    live: broadcast::Receiver<Arc<v1::Event>>,
    ended: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Arc<v1::Event>> {
        if let Some(event) = self.replay.pop_front() {
            return Some(event);
        }
        let told = tokio::select! {
            biased;
            told = self.live.recv() => told,
            _ = self.ended.wait_for(|ended| *ended) => match self.live.try_recv() {
                Ok(event) => Ok(event),
                Err(TryRecvError::Lagged(n)) => Err(RecvError::Lagged(n)),
                Err(TryRecvError::Empty | TryRecvError::Closed) => Err(RecvError::Closed),
            },
        };
        match told {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(n)) => Some(Arc::new(missed(n))),
            Err(RecvError::Closed) => None,
        }
    }
}

fn missed(count: u64) -> v1::Event {
    v1::Event {
        time: now(),
        kind: "missed".into(),
        level: "warning".into(),
        text: format!("{count} events were missed: they came faster than they were read"),
        count: Some(count),
        ..v1::Event::default()
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> v1::Event {
        v1::Event { kind: "host".into(), count: Some(n), ..v1::Event::default() }
    }

    /// All that is there for `watcher` now, as kind and count.
    async fn drain(watcher: &mut Watcher) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        while let Some(event) = watcher.next().await {
            all.push((event.kind.clone(), event.count.unwrap()));
        }
        all
    }

    fn numbers(from: u64, to: u64) -> Vec<(String, u64)> {
        (from..=to).map(|n| ("host".to_owned(), n)).collect()
    }

    #[tokio::test]
    async fn events_come_once_and_in_order_and_end_with_the_daemon() {
        let hub = Hub::new(100);
        (0..5).for_each(|n| hub.tell(event(n)));
        let mut plain = hub.watch(None).unwrap();
        let mut since = hub.watch(Some(101)).unwrap();
        let mut all = hub.watch(Some(0)).unwrap();
        let mut former = hub.watch(Some(7)).unwrap();
        let mut later = hub.watch(Some(5000)).unwrap();
        (5..8).for_each(|n| hub.tell(event(n)));
        hub.end();
        assert_eq!(drain(&mut plain).await, numbers(5, 7));
        assert_eq!(drain(&mut since).await, numbers(2, 7));
        assert_eq!(drain(&mut all).await, numbers(0, 7));
        assert_eq!(drain(&mut former).await, numbers(0, 7), "a number of a former life");
        assert_eq!(drain(&mut later).await, numbers(5, 7), "a number that is yet to come");
    }

    #[tokio::test]
    async fn one_who_reads_too_slowly_is_told_how_many_it_missed() {
        let hub = Hub::new(1);
        let mut slow = hub.watch(None).unwrap();
        (1..=3000).for_each(|n| hub.tell(event(n)));
        let mut late = hub.watch(Some(10)).unwrap();
        let mut all = hub.watch(Some(0)).unwrap();
        hub.end();
        let told = drain(&mut slow).await;
        let (kind, missed) = told[0].clone();
        assert_eq!(kind, "missed");
        assert_eq!(told[1..], numbers(missed + 1, 3000), "all others, in order");
        assert!(missed <= 2000, "{missed} were dropped of which 1000 are remembered");
        let told = drain(&mut late).await;
        assert_eq!(told[0], ("missed".to_owned(), 1990));
        assert_eq!(told[1..], numbers(2001, 3000));
        assert_eq!(drain(&mut all).await, numbers(2001, 3000), "0 asks for what is remembered");
    }

    #[tokio::test]
    async fn the_next_watcher_after_sixty_four_is_refused_until_one_goes() {
        let hub = Hub::new(1);
        let mut watchers: Vec<_> = (0..MAX_WATCHERS).map(|_| hub.watch(None).unwrap()).collect();
        assert!(hub.watch(None).is_none());
        watchers.pop();
        assert!(hub.watch(None).is_some());
    }
}
