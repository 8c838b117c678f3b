//! A veth pair whose both ends are on the host: one for a bridge, one for somebody
//! who moves it into a container himself, as Docker does.
//!
//! The near end bears an alias that says that we have made it. What does not bear
//! it is not touched.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use nix::errno::Errno;
use overlay_model::{IfName, MacAddr};
use rtnetlink::{LinkUnspec, LinkVeth};

use crate::error::{KernelError, NlError};
use crate::links::{at, change, create};
use crate::read;
use crate::wire::Conn;

/// The alias of a near end (`ip link show`).
const ALIAS: &str = "overlayd-pair";

/// A pair could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The links could not be listed.
    #[error("cannot look for veth pairs")]
    Read(#[source] KernelError),
    /// Another hand has made a device of that name.
    #[error("there is a device {0} already, which overlayd has not made: delete it first")]
    Stranger(IfName),
    /// The kernel refused.
    #[error("cannot {doing} the veth pair {near}")]
    Refused {
        /// `make`, `remove`, `look for`.
        doing: &'static str,
        /// Its near end.
        near: IfName,
        /// Why.
        #[source]
        err: NlError,
    },
}

/// Makes a pair, both ends down, both of `mtu` bytes; the far end has `mac`. A pair of ours that
/// has that name goes first.
///
/// # Errors
/// [`PairError`].
pub async fn make_pair(
    near: &IfName,
    far: &IfName,
    mtu: u16,
    mac: MacAddr,
) -> Result<(), PairError> {
    remove_pair(near).await?;
    let mut conn = Conn::open().map_err(PairError::Open)?;
    let other =
        LinkUnspec::new_with_name(far.as_str()).address(mac.0.to_vec()).mtu(mtu.into()).build();
    let pair = LinkVeth::new(near.as_str(), far.as_str())
        .append_extra_attribute(LinkAttribute::Mtu(mtu.into()))
        .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
        .build();
    // The kernel takes no alias in the message that makes a link.
    let mark = LinkUnspec::new_with_name(near.as_str())
        .append_extra_attribute(LinkAttribute::IfAlias(ALIAS.to_owned()));
    let results = conn.send(vec![create(pair), change(mark)]).await;
    let refused = |err| PairError::Refused { doing: "make", near: near.clone(), err };
    results.into_iter().collect::<Result<(), NlError>>().map_err(refused)
}

/// Removes all pairs that were made here; how many.
///
/// # Errors
/// [`PairError`], with those that come after it left in place.
pub async fn remove_all_pairs() -> Result<usize, PairError> {
    let mut conn = Conn::open().map_err(PairError::Open)?;
    let links = read::links(&mut conn).await.map_err(PairError::Read)?;
    let ours = links.values().filter(|row| row.alias.as_deref() == Some(ALIAS));
    let names: Vec<IfName> = ours.filter_map(|row| IfName::new(&row.name).ok()).collect();
    for name in &names {
        remove_pair(name).await?;
    }
    Ok(names.len())
}

/// Removes the pair with that near end, wherever the far end is. There need be none.
///
/// # Errors
/// [`PairError`].
pub async fn remove_pair(near: &IfName) -> Result<(), PairError> {
    let mut conn = Conn::open().map_err(PairError::Open)?;
    let refused = |doing| move |err| PairError::Refused { doing, near: near.clone(), err };
    let row = read::link_by_name(&mut conn, near).await.map_err(refused("look for"))?;
    let Some(row) = row else { return Ok(()) };
    if row.alias.as_deref() != Some(ALIAS) {
        return Err(PairError::Stranger(near.clone()));
    }
    match conn.one(0, RouteNetlinkMessage::DelLink(at(row.index).build())).await {
        Err(err) if !err.is(Errno::ENODEV) => Err(refused("remove")(err)),
        _ => Ok(()),
    }
}
