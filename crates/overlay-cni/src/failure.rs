//! What a runtime is told when something does not work: a code of the
//! specification, and a text that says what to do.

use overlay_api::{ClientError, v1};
use serde::Serialize;

use crate::Version;

/// The codes of the specification, and ours from 100 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The configuration has a version that we do not speak, or that does not know the verb.
    IncompatibleVersion = 1,
    /// A field of the configuration that we do not serve.
    UnsupportedField = 2,
    /// There is no such container: nothing needs cleaning up.
    UnknownContainer = 3,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading, writing, or the kernel failed.
    Io = 5,
    /// Something is no JSON, or not of the right shape.
    Decode = 6,
    /// The configuration makes no sense.
    InvalidConfig = 7,
    /// The path is no network namespace, or not one for a container.
    InvalidNetns = 8,
    /// Soon it may work.
    TryAgainLater = 11,
    /// STATUS: no ADD would succeed.
    NotAvailable = 50,
    /// STATUS: and containers that are there may have lost their connections.
    LimitedConnectivity = 51,
    /// Something that was asked for is taken: an address, a port, an interface.
    Taken = 100,
    /// No address is free.
    Exhausted = 101,
    /// This host cannot do it: its underlay, its kernel, or how overlayd is set up.
    Unsupported = 102,
    /// CHECK: something is not as it was made.
    NotAsMade = 103,
    /// GC: some could not be removed.
    Incomplete = 104,
    /// A bug of ours.
    Internal = 999,
}

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For code.
    pub code: Code,
    /// For people: what was attempted, and why not.
    pub msg: String,
    /// What to do about it; may be empty.
    pub details: String,
}

impl Failure {
    /// Without details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same, with what to do about it.
    pub fn with(self, details: impl Into<String>) -> Self {
        Self { details: details.into(), ..self }
    }

    /// A variable of the environment is missing or wrong.
    pub(crate) fn environment(msg: impl Into<String>) -> Self {
        Self::new(Code::InvalidEnvironment, msg)
    }

    /// The configuration makes no sense.
    pub(crate) fn config(msg: impl Into<String>) -> Self {
        Self::new(Code::InvalidConfig, msg)
    }

    /// The daemon refused, or did not answer, while we tried `doing`.
    pub fn of_daemon(doing: &str, error: &ClientError) -> Self {
        let (code, hint) = match error {
            ClientError::Api(error) => (code_of(error.code), error.hint.clone()),
            ClientError::NotRunning { .. } | ClientError::Timeout { .. } => {
                (Code::TryAgainLater, None)
            }
            ClientError::Permission { .. } | ClientError::Protocol(_) => (Code::Io, None),
            ClientError::TooLarge { .. } => (Code::InvalidConfig, None),
        };
        let msg = format!("cannot {doing}: {error}");
        Self { code, msg, details: hint.unwrap_or_default() }
    }

    /// The daemon could not be asked at all, or only says that it will be able to
    /// answer soon.
    pub fn is_for_later(error: &ClientError) -> bool {
        match error {
            ClientError::NotRunning { .. } | ClientError::Timeout { .. } => true,
            // It ended while it answered, or is being started.
            ClientError::Protocol(_) => true,
            ClientError::Api(error) => error.code == v1::ErrorCode::Unavailable,
            ClientError::Permission { .. } | ClientError::TooLarge { .. } => false,
        }
    }

    /// As the specification wants it on stdout.
    pub fn to_json(&self, version: Version) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Shown<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let shown = Shown {
            cni_version: version.as_str(),
            code: self.code as u32,
            msg: &self.msg,
            details: &self.details,
        };
        serde_json::to_string_pretty(&shown).expect("text and numbers are JSON")
    }
}

fn code_of(code: v1::ErrorCode) -> Code {
    match code {
        v1::ErrorCode::InvalidRequest | v1::ErrorCode::NotFound => Code::InvalidConfig,
        v1::ErrorCode::Forbidden | v1::ErrorCode::KernelRefused => Code::Io,
        v1::ErrorCode::Taken | v1::ErrorCode::InUse | v1::ErrorCode::LocksOut => Code::Taken,
        v1::ErrorCode::Exhausted => Code::Exhausted,
        v1::ErrorCode::Unsupported => Code::Unsupported,
        v1::ErrorCode::Unavailable => Code::TryAgainLater,
        v1::ErrorCode::Internal => Code::Internal,
    }
}
