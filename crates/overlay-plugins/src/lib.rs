//! What container engines ask, translated to `overlay-api`. Nothing about networks
//! is decided here.
//!
//! | module | who asks |
//! |---|---|
//! | [`docker`] | dockerd: its network and IPAM drivers |

pub mod docker;
