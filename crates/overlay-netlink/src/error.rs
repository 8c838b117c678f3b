//! What can go wrong between us and the kernel.

use std::io;

use nix::errno::Errno;
use overlay_model::Refusal;

/// Why the kernel could not be read, or not be listened to.
///
/// Nothing was changed by the call that failed with it; the same call may
/// succeed later.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),

    /// A table could not be read.
    #[error("cannot read the {table} table of the kernel")]
    Read {
        /// Which.
        table: &'static str,
        /// The kernel's answer.
        #[source]
        err: NlError,
    },

    /// The table changed during each attempt to read it (`NLM_F_DUMP_INTR`).
    #[error("no stable read of the {table} table in {tries} tries")]
    UnstableDump {
        /// Which.
        table: &'static str,
        /// How often it was tried.
        tries: u32,
    },
}

/// The kernel's answer to one netlink request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NlError {
    /// It refused; the text is its own explanation (`NLMSGERR_ATTR_MSG`), if
    /// it gave one, or the meaning of the error number.
    #[error("{} ({errno:?})", text.as_deref().unwrap_or(errno.desc()))]
    Refused {
        /// Error number.
        errno: Errno,
        /// Explanation.
        text: Option<String>,
    },
    /// The netlink socket closed before it answered.
    #[error("the netlink socket closed before the kernel answered")]
    Closed,
}

impl NlError {
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Closed => None,
        }
    }

    pub(crate) fn is(&self, wanted: Errno) -> bool {
        self.errno() == Some(wanted)
    }
}

/// An operation that took no effect: what becomes an `OpFailure`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) refusal: Refusal,
    /// By its name, if the kernel refused.
    pub(crate) errno: Option<String>,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(refusal: Refusal, text: impl Into<String>) -> Self {
        Self { refusal, errno: None, text: text.into() }
    }

    /// The same failure, with what was attempted before it.
    pub(crate) fn during(mut self, what: &str) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }
}

impl From<NlError> for Failure {
    fn from(err: NlError) -> Self {
        let refusal = match err.errno() {
            Some(Errno::ENODEV | Errno::ENXIO) => Refusal::NoDevice,
            Some(Errno::EPERM | Errno::EACCES) => Refusal::Permission,
            Some(Errno::EBUSY | Errno::ENOBUFS | Errno::EAGAIN | Errno::ENOMEM) => Refusal::Busy,
            _ => Refusal::Other,
        };
        let errno = err.errno().map(|errno| format!("{errno:?}"));
        Self { refusal, errno, text: err.to_string() }
    }
}
