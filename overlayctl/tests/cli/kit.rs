//! A daemon for one test: it listens on a socket in a directory of its own,
//! answers from a list, and remembers what it was asked.
//!
//! Written by hand on the standard library, because it must be able to answer
//! as no HTTP library would: half a reply, no reply, no HTTP.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

/// A fake daemon; it ends with the process that runs the test.
pub(crate) struct Daemon {
    dir: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Sends these bytes, one reply a connection, then closes. After the last
    /// one it closes without a word.
    pub(crate) fn replying(replies: Vec<Vec<u8>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("overlayd.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            let mut replies = replies.into_iter();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                log.lock().unwrap().push(read_request(&mut stream));
                // The client may have heard enough: no failure of ours.
                let _ = stream.write_all(&replies.next().unwrap_or_default());
            }
        });
        Self { dir, asked }
    }

    /// Answers the first request so, and no other.
    pub(crate) fn answering(status: &str, body: &str) -> Self {
        Self::replying(vec![http(status, body)])
    }

    /// A directory with no daemon in it.
    pub(crate) fn absent() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), asked: Arc::default() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("overlayd.sock")
    }

    /// `overlayctl` as it would be typed, with this daemon's socket.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = overlayctl(line);
        command.env("OVERLAYD_SOCKET", self.socket());
        command
    }

    /// Runs it and tells everything about it as one text.
    pub(crate) fn run(&self, line: &str) -> String {
        self.told(&self.command(line).output().unwrap())
    }

    /// What was asked, what was said, and the exit code, without what differs
    /// from run to run.
    pub(crate) fn told(&self, output: &Output) -> String {
        let mut text = String::new();
        for request in self.asked.lock().unwrap().iter() {
            text += &format!("> {request}\n");
        }
        text += &String::from_utf8_lossy(&output.stdout);
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            text += &format!("! {line}\n");
        }
        text += &format!("exit {}\n", output.status.code().expect("it was not killed"));
        text.replace(self.dir.path().to_str().unwrap(), "DIR")
    }
}

/// `overlayctl` with the words of `line`, and no environment that matters.
pub(crate) fn overlayctl(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlayctl"));
    command.args(line.split_whitespace()).env_remove("OVERLAYD_SOCKET").stdin(Stdio::null());
    command
}

/// A reply in good order.
pub(crate) fn http(status: &str, body: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n");
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Method, path and body of one request.
fn read_request(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
                return format!("{line} {body}").trim_end().to_owned();
            }
        }
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).unwrap();
        assert_ne!(read, 0, "half a request: {text}");
        bytes.extend_from_slice(&chunk[..read]);
    }
}
