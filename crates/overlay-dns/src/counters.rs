//! What was asked, and how it was answered, since the start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::ResponseCode;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// Counters, by what each is of.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Counters {
            /// All of them, by name.
            pub fn all(&self) -> BTreeMap<&'static str, u64> {
                [$((stringify!($name), self.$name.load(Ordering::Relaxed))),*].into()
            }
        }
    };
}

counters! {
    /// Questions that came, whatever became of them.
    queries
    /// Of these, by TCP.
    tcp
    /// Answered: there is such a name, maybe without an address of the family asked for.
    noerror
    /// Answered: there is no such name.
    nxdomain
    /// No answer could be had for these.
    servfail
    /// Not answered here.
    refused
    /// Could not be read, or were no question.
    formerr
    /// Answered in part, as the whole has no room: asked again by TCP.
    truncated
    /// Sent on to the host's resolvers.
    forwarded
    /// Of these, so many got no answer in time.
    timeouts
    /// Not sent on, since too many were under way.
    overloaded
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a reply by its code.
    pub(crate) fn answered(&self, code: ResponseCode) {
        Self::add(match code {
            ResponseCode::NoError => &self.noerror,
            ResponseCode::ServFail => &self.servfail,
            ResponseCode::NXDomain => &self.nxdomain,
            ResponseCode::Refused => &self.refused,
            _ => &self.formerr,
        });
    }
}
