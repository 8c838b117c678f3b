//! What a command says: its result on standard output, as text or as JSON, and
//! its failure on standard error.
//!
//! A reader that has seen enough and closes the pipe is no failure.

use std::io::{self, Write as _};
use std::process::ExitCode;

use overlay_api::{ClientError, v1};
use serde::Serialize;

use crate::render::clean;

/// Why a command did not do all that it was told.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The daemon refused or could not be reached.
    Asking {
        /// What was attempted, to follow "cannot".
        doing: String,
        /// Why not.
        error: ClientError,
    },
    /// Wrong usage that only became clear from several arguments together.
    Usage(String),
    /// A file that is wrong in these lines: nothing was asked of the daemon.
    Lines {
        /// What was attempted, and how many lines are wrong.
        what: String,
        /// Each with its number.
        lines: Vec<v1::Detail>,
    },
    /// Some of the things named failed, and have been said to.
    SaidAlready,
    /// What the daemon has done is done; a file that was to tell of it was not written.
    AfterAll(String),
    /// Standard output did not take it.
    Writing(io::Error),
    /// This process lacks something that has nothing to do with the daemon.
    Starting(io::Error),
}

/// How to say it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// For code, not for people.
    pub(crate) json: bool,
}

impl Output {
    /// Prints `value`: one struct, two outputs.
    pub(crate) fn show<T: Serialize + ?Sized>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if !self.json {
            return write(&text(value));
        }
        let mut json = serde_json::to_string_pretty(value)
            .expect("the types of v1 have string keys and no failing serialiser");
        json.push('\n');
        write(&json)
    }

    /// As [`Output::show`] for a list. An empty one has no table, only a remark
    /// beside it that says so, for people.
    pub(crate) fn show_list<T: Serialize>(
        self,
        list: &[T],
        empty: &str,
        text: impl FnOnce(&[T]) -> String,
    ) -> Result<(), Failure> {
        if list.is_empty() && !self.json {
            say(empty);
            return Ok(());
        }
        self.show(list, text)
    }

    /// Says why something failed.
    pub(crate) fn complain(self, doing: &str, error: &ClientError) {
        let error = error.to_v1();
        if self.json {
            say(&serde_json::to_string(&error).expect("three strings can be serialised"));
        } else {
            say(&complaint(doing, &error));
        }
    }

    /// Says what is left to say, and gives the exit code.
    pub(crate) fn exit_code(self, result: Result<(), Failure>) -> ExitCode {
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Writing(err)) if err.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Err(Failure::Asking { doing, error }) => {
                self.complain(&doing, &error);
                ExitCode::from(1)
            }
            Err(Failure::SaidAlready) => ExitCode::from(1),
            Err(Failure::Usage(text)) => {
                if self.json {
                    let error = v1::Error::new(v1::ErrorCode::InvalidRequest, text);
                    self.complain("", &ClientError::Api(error));
                } else {
                    say(&format!("overlayctl: {}", clean(&text)));
                }
                ExitCode::from(2)
            }
            Err(Failure::Lines { what, lines }) => {
                let code = v1::ErrorCode::InvalidRequest;
                let error = v1::Error { details: lines, ..v1::Error::new(code, what) };
                if self.json {
                    self.complain("", &ClientError::Api(error));
                } else {
                    say(&format!("overlayctl: {}{}", clean(&error.message), more(&error)));
                }
                ExitCode::from(2)
            }
            Err(Failure::AfterAll(text)) => {
                say(&format!("overlayctl: {text}"));
                ExitCode::from(1)
            }
            Err(Failure::Writing(err)) => {
                say(&format!("overlayctl: cannot write to standard output: {err}"));
                ExitCode::from(1)
            }
            Err(Failure::Starting(err)) => {
                say(&format!("overlayctl: cannot start: {err}"));
                ExitCode::from(1)
            }
        }
    }
}

/// One line, and a second one with the hint if there is one; what is wrong with
/// single items of a list stands in between.
fn complaint(doing: &str, error: &v1::Error) -> String {
    format!("overlayctl: cannot {}: {}{}", clean(doing), clean(&error.message), more(error))
}

fn more(error: &v1::Error) -> String {
    let details = error.details.iter().map(|detail| &detail.message);
    details.chain(&error.hint).map(|line| format!("\n            {}", clean(line))).collect()
}

/// A line on standard error. If that is closed there is nobody to tell.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes it all at once: a reader that closes the pipe is noticed here and
/// nowhere else.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Writing)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_complaint_is_a_line_and_its_hint_another() {
        let mut error = v1::Error::new(
            v1::ErrorCode::Exhausted,
            "no free address in 10.9.0.0/24 (253 of 253 leased)",
        )
        .with_hint("detach one of: overlayctl endpoints --net net-7");
        expect![[r#"
            overlayctl: cannot attach c1 to net-7: no free address in 10.9.0.0/24 (253 of 253 leased)
                        detach one of: overlayctl endpoints --net net-7"#]]
        .assert_eq(&complaint("attach c1 to net-7", &error));

        error.hint = None;
        error.message = "two\nlines \x1b[2J".into();
        expect![[r#"overlayctl: cannot attach c1 to net-7: two\nlines \u{1b}[2J"#]]
            .assert_eq(&complaint("attach c1 to net-7", &error));
    }
}
