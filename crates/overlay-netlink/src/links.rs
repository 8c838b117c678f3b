//! Links: made whole or not at all, changed, deleted.
//!
//! A link is made, marked and set up by one batch in one system call, so that
//! a crash of ours cannot leave a link that nobody knows to be ours. The later
//! messages of the batch must not hit a stranger's link of that name when the
//! first one fails: they address the link by an index that we choose
//! ourselves, far above those that the kernel gives.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoKind, LinkAttribute,
    LinkMessage, VxlanDf,
};
use nix::errno::Errno;
use overlay_model::kernel::alias_of;
use overlay_model::outer::{Df, SourcePorts, Ttl};
use overlay_model::{IfName, Link, LinkChange, LinkKind, Outer, PortFlags, Refusal, Setting, Vni};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVxlan};

use crate::error::{Failure, NlError};
use crate::kernel::Writer;
use crate::read::{self, LinkRow, RowKind, VxlanRow};
use crate::wire::Request;
use crate::{holder, veth};

/// How often another index is chosen when one turns out to be taken.
const INDEX_TRIES: u32 = 3;

impl Writer {
    /// Makes a link with everything that it has, or makes nothing. One of ours
    /// that is there already becomes what is wanted, if it can.
    pub(crate) async fn add_link(&mut self, name: &IfName, link: &Link) -> Result<(), Failure> {
        let master = match &link.master {
            Some(master) => Some(self.bridge_index(master).await?),
            None => None,
        };
        match &link.kind {
            LinkKind::Bridge | LinkKind::Vxlan { .. } => self.add_device(name, link, master).await,
            LinkKind::Veth { peer: Some(peer) } => veth::add(self, name, link, peer, master).await,
            LinkKind::Veth { peer: None } => Err(Failure::new(
                Refusal::Other,
                "a veth pair cannot be made without knowing its peer",
            )),
        }
    }

    async fn add_device(
        &mut self,
        name: &IfName,
        link: &Link,
        master: Option<u32>,
    ) -> Result<(), Failure> {
        for _ in 0..INDEX_TRIES {
            let index = self.free_index().await?;
            let mut requests = vec![create(device_message(name, link, index))];
            requests.extend(marking(index, link));
            if matches!(link.kind, LinkKind::Bridge) {
                // Set in the create message, an MTU does not stick: a bridge
                // takes the smallest of its ports', and 1500 when the last one
                // leaves, unless the MTU was *set* (BROPT_MTU_SET_BY_USER).
                requests.push(change(at(index).mtu(link.mtu.into())));
            }
            requests.extend(joining(index, link, master));
            let results = self.conn.send(requests).await;
            match &results[0] {
                Ok(()) => return self.finish(name, link, index, &results).await,
                Err(err) if err.is(Errno::EEXIST) || err.is(Errno::EBUSY) => {
                    if let Some(row) = read::link_by_name(&mut self.conn, name).await? {
                        return self.adopt(name, link, &row).await;
                    }
                    if let LinkKind::Vxlan { vni, port, local, .. } = &link.kind
                        && says_vni_is_taken(err)
                    {
                        return Err(self.taken(*vni, *port, *local).await);
                    }
                    // Our index was taken since we looked; try another.
                }
                Err(err) => return Err(err.clone().into()),
            }
        }
        Err(Failure::new(Refusal::Busy, format!("no free interface index for {name}")))
    }

    /// Judges the rest of the batch that made a link; deletes it if any of it
    /// was refused.
    async fn finish(
        &mut self,
        name: &IfName,
        link: &Link,
        index: u32,
        results: &[Result<(), NlError>],
    ) -> Result<(), Failure> {
        match results.iter().filter_map(|result| result.as_ref().err()).find(|e| !no_ipv6(e)) {
            None => {
                self.remember(name, index);
                if matches!(link.kind, LinkKind::Vxlan { .. }) {
                    self.offload(name)?;
                }
                Ok(())
            }
            Some(err) => {
                self.undo(index).await;
                match &link.kind {
                    // An external device, or a program, has the UDP port.
                    LinkKind::Vxlan { vni, port, local, .. } if err.is(Errno::EADDRINUSE) => {
                        Err(self.taken(*vni, *port, *local).await)
                    }
                    _ => Err(err.clone().into()),
                }
            }
        }
    }

    /// Deletes a link that we have just made.
    pub(crate) async fn undo(&mut self, index: u32) {
        let result = self.conn.one(0, RouteNetlinkMessage::DelLink(at(index).build())).await;
        if let Err(err) = result
            && !err.is(Errno::ENODEV)
        {
            tracing::warn!(index, %err, "cannot delete a half-made link");
        }
    }

    /// Makes a link that is there what is wanted, if it is ours and differs in
    /// nothing that is fixed at creation.
    async fn adopt(&mut self, name: &IfName, link: &Link, row: &LinkRow) -> Result<(), Failure> {
        let same = match (&row.kind, &link.kind) {
            (RowKind::Bridge, LinkKind::Bridge) => true,
            (RowKind::Vxlan(is), LinkKind::Vxlan { vni, port, local, outer }) => {
                let family = |ip: IpAddr| ip.is_ipv4();
                is.vni == vni.get()
                    && is.port == *port
                    && is.outer.can_become(outer)
                    && is.local.map(family) == Some(family(*local))
            }
            _ => false,
        };
        if !row.ours() {
            return Err(stranger(name));
        }
        if !same || row.network() != Some(link.network) {
            return Err(Failure::new(
                Refusal::Taken,
                format!("{name} exists with other attributes, which are fixed: delete it first"),
            ));
        }
        self.change_to(name, link, row).await
    }

    /// Sets whatever of `link` differs in `row`.
    pub(crate) async fn change_to(
        &mut self,
        name: &IfName,
        link: &Link,
        row: &LinkRow,
    ) -> Result<(), Failure> {
        let master = match &link.master {
            Some(master) => Some(self.bridge_index(master).await?),
            None => None,
        };
        let (local, outer) = match (&row.kind, &link.kind) {
            (RowKind::Vxlan(is), LinkKind::Vxlan { local, outer, .. }) => (
                Some(*local).filter(|local| is.local != Some(*local)),
                Some(*outer).filter(|outer| is.outer != *outer),
            ),
            _ => (None, None),
        };
        let alias = alias_of(link.network, link.host);
        let change = LinkChange {
            alias: Some(alias).filter(|alias| row.alias.as_ref() != Some(alias)),
            local,
            outer,
            mtu: (row.mtu != u32::from(link.mtu)).then_some(link.mtu),
            mac: (row.mac != Some(link.mac)).then_some(link.mac),
            up: (row.up != link.up).then_some(link.up),
            master: link.master.clone().filter(|_| row.master != master),
            port: link.port.filter(|_| row.port != link.port || row.master != master),
            restore: row.altered.clone(),
        };
        self.remember(name, row.index);
        self.set_row(name, row.index, &change).await
    }

    /// Changes a link of ours.
    pub(crate) async fn set_link(
        &mut self,
        name: &IfName,
        change: &LinkChange,
    ) -> Result<(), Failure> {
        let row = read::link_by_name(&mut self.conn, name)
            .await?
            .ok_or_else(|| Failure::new(Refusal::NoDevice, format!("there is no link {name}")))?;
        if !row.ours() {
            return Err(stranger(name));
        }
        self.remember(name, row.index);
        self.set_row(name, row.index, change).await
    }

    async fn set_row(
        &mut self,
        name: &IfName,
        index: u32,
        wanted: &LinkChange,
    ) -> Result<(), Failure> {
        let LinkChange { alias, mtu, mac, up, local, outer, master, port, restore } = wanted;
        let mut requests = Vec::new();
        if let Some(alias) = alias {
            requests.push(change(at(index).alias(alias.clone())));
        }
        if let Some(mac) = mac {
            requests.push(change(at(index).address(mac.0.to_vec())));
        }
        if let Some(mtu) = mtu {
            requests.push(change(at(index).mtu((*mtu).into())));
        }
        // By index alone: a name in the message is a renaming, which an older
        // kernel refuses of a link that is up.
        let vxlan = || LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan);
        requests.extend(local.map(|local| match local {
            IpAddr::V4(local) => change(vxlan().index(index).local(local)),
            IpAddr::V6(local) => change(vxlan().index(index).local6(local)),
        }));
        requests.extend(outer.map(|outer| change(changeable(vxlan().index(index), &outer))));
        if let Some(master) = master {
            let master = self.bridge_index(master).await?;
            requests.push(change(at(index).controller(master)));
        }
        requests.extend(port.map(|port| port_request(index, port, Some(port.isolated))));
        requests.extend(restore.iter().filter_map(|setting| restore_request(index, *setting)));
        requests.extend(up.map(|up| change(if up { at(index).up() } else { at(index).down() })));
        for result in self.conn.send(requests).await {
            result?;
        }
        if restore.contains(&Setting::TxChecksum) {
            self.offload(name)?;
        }
        Ok(())
    }

    /// Who writes checksums, as the kernel was opened for.
    fn offload(&self, name: &IfName) -> Result<(), Failure> {
        let Some(offload) = &self.conn.offload else { return Ok(()) };
        offload.set(name).map_err(|err| {
            let text = format!("cannot set tx-checksum-ip-generic of {name}: {err}");
            Failure::new(Refusal::Other, text)
        })
    }

    /// Deletes a link of ours, if it is there.
    pub(crate) async fn del_link(&mut self, name: &IfName) -> Result<(), Failure> {
        let Some(row) = read::link_by_name(&mut self.conn, name).await? else {
            self.forget(name);
            return Ok(());
        };
        if !row.ours() {
            return Err(stranger(name));
        }
        self.forget(name);
        match self.conn.one(0, RouteNetlinkMessage::DelLink(at(row.index).build())).await {
            Err(err) if !err.is(Errno::ENODEV) => Err(err.into()),
            _ => Ok(()),
        }
    }

    async fn bridge_index(&mut self, name: &IfName) -> Result<u32, Failure> {
        self.index_of(name, false).await?.ok_or_else(|| {
            Failure::new(Refusal::NoDevice, format!("there is no bridge {name} of ours"))
        })
    }

    async fn taken(&mut self, vni: Vni, port: u16, local: IpAddr) -> Failure {
        let text = match holder::find(&mut self.conn, &self.own_netns, vni, port, local).await {
            Some(holder) => format!("VNI {vni} on UDP port {port} is held by {holder}"),
            None => format!(
                "VNI {vni} on UDP port {port} is held by a device in another network namespace, \
                 or the port by another program"
            ),
        };
        Failure::new(Refusal::Taken, text)
    }

    /// An index for a new link that no link has.
    pub(crate) async fn free_index(&mut self) -> Result<u32, NlError> {
        loop {
            let index = self.next_index();
            if read::link_by_index(&mut self.conn, index).await?.is_none() {
                return Ok(index);
            }
        }
    }
}

/// The refusal that names a link that is not ours.
pub(crate) fn stranger(name: &IfName) -> Failure {
    let text = format!("a link {name} exists that is not overlayd's; remove or rename it");
    Failure::new(Refusal::Taken, text)
}

/// True if a VXLAN device was refused for its VNI. A kernel that does not say
/// so (before 4.14) refuses a name or an index with the same number.
fn says_vni_is_taken(err: &NlError) -> bool {
    matches!(err, NlError::Refused { text: Some(text), .. } if text.contains("VNI"))
}

/// IPv6 is switched off altogether: then there is no address to be generated.
fn no_ipv6(err: &NlError) -> bool {
    err.is(Errno::EAFNOSUPPORT)
}

/// A message about the link of this index.
pub(crate) fn at(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

pub(crate) fn create(message: LinkMessage) -> Request {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Request { flags, message: RouteNetlinkMessage::NewLink(message) }
}

/// A change by RTM_NEWLINK; RTM_SETLINK takes port flags and ignores them.
pub(crate) fn change<T>(message: LinkMessageBuilder<T>) -> Request {
    Request { flags: 0, message: RouteNetlinkMessage::NewLink(message.build()) }
}

fn device_message(name: &IfName, link: &Link, index: u32) -> LinkMessage {
    let mac = link.mac.0.to_vec();
    match &link.kind {
        LinkKind::Vxlan { vni, port, local, outer } => {
            let mut message = LinkVxlan::new(name.as_str(), vni.get())
                .index(index)
                .address(mac)
                .mtu(link.mtu.into())
                .port(*port)
                .learning(false)
                .udp_csum(outer.checksum);
            if let Some(SourcePorts { first, last }) = outer.source_ports {
                message = message.port_range(first, last);
            }
            if outer.ttl == Ttl::Inherit {
                message = message.ttl_inherit();
            }
            let message = changeable(message, outer);
            match local {
                IpAddr::V4(local) => message.local(*local).build(),
                IpAddr::V6(local) => message.local6(*local).build(),
            }
        }
        // LinkBridge::new would bring it up before it is marked.
        _ => LinkMessageBuilder::<LinkBridge>::new(name.as_str())
            .index(index)
            .address(mac)
            .mcast_snooping(false)
            .build(),
    }
}

/// What of the outer headers a device that is there can be given, too.
fn changeable(
    message: LinkMessageBuilder<LinkVxlan>,
    outer: &Outer,
) -> LinkMessageBuilder<LinkVxlan> {
    let df = match outer.df {
        Df::Unset => VxlanDf::Unset,
        Df::Set => VxlanDf::Set,
        Df::Inherit => VxlanDf::Inherit,
    };
    let hops = if let Ttl::Hops(hops) = outer.ttl { hops } else { 0 };
    message.df(df).ttl(hops).tos(outer.dscp.tos())
}

/// What says whose a link is. The kernel ignores an alias in the create
/// message. The address generation mode goes apart: it is refused where IPv6
/// is off.
pub(crate) fn marking(index: u32, link: &Link) -> [Request; 2] {
    [change(at(index).alias(alias_of(link.network, link.host))), no_link_local(index)]
}

/// No link-local address, so that no duplicate detection and no multicast
/// reports of it leave.
pub(crate) fn no_link_local(index: u32) -> Request {
    let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    change(at(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode])))
}

/// What makes a link take part: master, port flags, up, in this order.
pub(crate) fn joining(index: u32, link: &Link, master: Option<u32>) -> Vec<Request> {
    let mut requests = Vec::new();
    if let Some(master) = master {
        requests.push(change(at(index).controller(master)));
        // It is off on a port that is new.
        let isolated = |port: PortFlags| port.isolated.then_some(true);
        requests.extend(link.port.map(|port| port_request(index, port, isolated(port))));
    }
    if link.up {
        requests.push(change(at(index).up()));
    }
    requests
}

/// Makes a setting what we make it.
fn restore_request(index: u32, setting: Setting) -> Option<Request> {
    let bridge =
        || LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge).index(index);
    let vxlan =
        || LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan).index(index);
    let port = || LinkBridgePort::new(index);
    Some(match setting {
        // Not by netlink.
        Setting::TxChecksum => return None,
        Setting::AddrGenMode => no_link_local(index),
        Setting::McastSnooping => change(bridge().mcast_snooping(false)),
        Setting::VlanFiltering => change(bridge().vlan_filtering(false)),
        Setting::Stp => change(bridge().stp_state(BridgeStpState::Disabled)),
        Setting::Learning => change(vxlan().learning(false)),
        Setting::Flood => change(port().flood(true)),
        Setting::McastFlood => change(port().mcast_flood(true)),
        Setting::BcastFlood => change(port().bcast_flood(true)),
        Setting::Locked => change(port().locked(false)),
    })
}

/// Flags of a port. It is kept apart from others or not where that is said.
pub(crate) fn port_request(index: u32, port: PortFlags, isolated: Option<bool>) -> Request {
    let message = LinkBridgePort::new(index)
        .learning(port.learning)
        .neigh_suppress(port.neigh_suppress)
        .hairpin(port.hairpin);
    change(match isolated {
        Some(isolated) => message.isolated(isolated),
        None => message,
    })
}

/// True if a device that is there keeps us from having `vni` on `port`, in the
/// family of `local`: there may be a device in each (drivers/net/vxlan
/// `vxlan_config_validate`). One that says no address is of IPv4.
pub(crate) fn clashes(row: &VxlanRow, vni: Vni, port: u16, local: IpAddr) -> bool {
    let v6 = row.local.is_some_and(|ip| ip.is_ipv6());
    row.port == port && (row.external || (row.vni == vni.get() && v6 == local.is_ipv6()))
}
