//! What the runtime sends on stdin: no more than [`MOST`], and not for ever.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::failure::{Code, Failure};

/// The longest configuration that is read, bytes. A GC names every container of
/// the host: room for ten thousand.
pub const MOST: usize = 2 << 20;

/// How long the runtime may take to send it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads stdin to its end.
///
/// # Errors
/// [`Code::Io`] if it is too long, takes too long, or cannot be read.
pub fn read() -> Result<Vec<u8>, Failure> {
    let failed = |err: io::Error| {
        Failure::new(Code::Io, format!("cannot read the configuration on stdin: {err}"))
    };
    let until = Instant::now() + PATIENCE;
    let mut stdin = io::stdin().lock();
    let mut bytes = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let ready = poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], timeout);
        if ready.map_err(|errno| failed(errno.into()))? == 0 {
            let s = PATIENCE.as_secs();
            return Err(Failure::new(
                Code::Io,
                format!("the configuration on stdin has no end after {s} s"),
            )
            .with("a runtime closes stdin when it has written the configuration"));
        }
        let mut buffer = [0; 16 << 10];
        match stdin.read(&mut buffer).map_err(failed)? {
            0 => return Ok(bytes),
            n => bytes.extend(&buffer[..n]),
        }
        if bytes.len() > MOST {
            let msg = format!("the configuration on stdin is longer than {} MiB", MOST >> 20);
            return Err(Failure::new(Code::Io, msg));
        }
    }
}
