//! A connection, as its bytes come.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use overlay_gossip::fuzz::{Frames, Letter, serve};
use overlay_gossip::{GossipStats, Keyring};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;

use crate::input::Input;
use crate::samples::key;
use crate::within;

/// The longest body that is sent.
const MAX_BODY: usize = 64 * 1024;

thread_local! {
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// The other end of a connection. It knows what to say when it has heard the
/// challenge, and says it in pieces.
struct Stream<'a> {
    data: &'a [u8],
    sealed: bool,
    /// How long each piece is; then all the rest.
    pieces: &'a [u8],
    heard: Vec<u8>,
    script: Option<Script>,
    at: usize,
}

/// What a connection says, and what of it is to be let in.
struct Script {
    bytes: Vec<u8>,
    /// `None`: nobody can tell, for nothing is sealed.
    expected: Option<Vec<Letter>>,
}

impl AsyncWrite for Stream<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.heard.extend_from_slice(bytes);
        if let (None, Some(challenge)) = (&self.script, self.heard.first_chunk::<16>()) {
            self.script = Some(script(self.data, self.sealed, *challenge));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { script: Some(script), at, pieces, .. } = &mut *self else {
            panic!("asked before it has said anything");
        };
        let rest = &script.bytes[*at..];
        let piece = match pieces.split_first() {
            Some((piece, more)) => {
                *pieces = more;
                usize::from(*piece).max(1)
            }
            None => rest.len(),
        };
        let len = piece.min(rest.len()).min(buf.remaining());
        buf.put_slice(&rest[..len]);
        *at += len;
        Poll::Ready(Ok(()))
    }
}

fn sender(n: u8) -> SocketAddr {
    let v4 = SocketAddr::from(([192, 0, 2, n], 7946));
    if n.is_multiple_of(2) {
        v4
    } else {
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()], 7946))
    }
}

/// A short body, or a short one many times over.
fn letter(input: &mut Input<'_>) -> Letter {
    let (from, kind, part) = (sender(input.byte()), input.byte(), input.chunk());
    let times = 1 + usize::from(input.u16());
    (from, kind, part.repeat(times.min(MAX_BODY / part.len().max(1))))
}

fn script(data: &[u8], sealed: bool, challenge: [u8; 16]) -> Script {
    let mut frames = Frames { challenge, key: sealed.then(|| key(1)), association: [7; 16] };
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    let (mut number, mut intact) = (0, true);
    let mut input = Input(data);
    while !input.is_empty() && bytes.len() < 1 << 17 {
        let what = input.byte() % 8;
        match what {
            0..=2 => {
                let letter = letter(&mut input);
                bytes.extend(frames.frame(number, &letter));
                number += 1;
                if intact {
                    expected.push(letter);
                }
            }
            3 => {
                let letter = letter(&mut input);
                let mut frame = frames.frame(number, &letter);
                let at = input.u32() as usize % frame.len();
                let by = input.byte();
                frame[at] ^= by;
                bytes.extend(frame);
                number += 1;
                intact &= by == 0;
                if intact {
                    expected.push(letter);
                }
            }
            4 => {
                let raw = input.long_chunk();
                bytes.extend_from_slice(raw);
                intact &= raw.is_empty();
            }
            // A length that is not what follows.
            5 => {
                let frame = frames.frame(number, &letter(&mut input));
                let claim = input.u32();
                intact &= claim.to_be_bytes() == frame[..4];
                bytes.extend(claim.to_be_bytes());
                bytes.extend_from_slice(&frame[4..]);
                // Were it the right one, the letter would count; nobody draws that.
                if intact {
                    return Script { bytes, expected: None };
                }
            }
            // In a place that is not its own, of this connection or of another.
            6 => {
                let letter = letter(&mut input);
                let elsewhere = input.u64();
                bytes.extend(frames.frame(elsewhere, &letter));
                intact &= elsewhere == number;
                number += 1;
                if intact {
                    expected.push(letter);
                }
            }
            _ => {
                frames.challenge[0] ^= 1;
                bytes.extend(frames.frame(number, &letter(&mut input)));
                frames.challenge[0] ^= 1;
                intact = false;
            }
        }
    }
    Script { bytes, expected: sealed.then_some(expected) }
}

/// The bytes that were said, what was to be let in, what was, and the counters.
type Served = (usize, Option<Vec<Letter>>, Vec<Letter>, GossipStats);

fn serve_in(data: &[u8], sealed: bool, pieces: &[u8]) -> Served {
    let keys = sealed.then(|| Arc::new(Keyring::new(vec![key(1)]).expect("one key")));
    let mut stream = Stream { data, sealed, pieces, heard: Vec::new(), script: None, at: 0 };
    let (came, stats) = RUNTIME.with_borrow_mut(|runtime| {
        let runtime = runtime.get_or_insert_with(|| {
            let builder = &mut tokio::runtime::Builder::new_current_thread();
            builder.enable_time().build().expect("a runtime of one thread")
        });
        runtime.block_on(serve(keys, &mut stream))
    });
    let Script { bytes, expected } = stream.script.expect("a challenge comes first");
    (bytes.len(), expected, came, stats)
}

/// 1. All good frames up to the first bad one are let in, in order, and nothing
///    else is, however the bytes are cut.
/// 2. Memory is taken as bytes come, not as lengths say.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let sealed = input.byte() % 4 != 0;
    let pieces = input.chunk();
    let rest = input.0;
    let (said, expected, whole, counted) = serve_in(rest, sealed, &[]);
    if let Some(expected) = expected {
        assert_eq!(whole, expected, "{counted:?}");
    }
    // The script and its letters, too, are ours and not the acceptor's.
    let most = 32 * 1024 + 12 * (said + rest.len());
    let (_, _, in_pieces, counted_in_pieces) = within(most, || serve_in(rest, sealed, pieces));
    assert_eq!((in_pieces, counted_in_pieces), (whole, counted));
}
