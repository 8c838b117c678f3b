//! Devices that are not ours as ports of bridges of ours: taken in, given back.
//!
//! Such a device keeps its name and its alias. That it is a port by our doing
//! says an alternative name ([`port_mark`]), set before anything else changes
//! and removed after all else is as it was: a crash of ours in between leaves
//! a device that the next run knows how to give back. A device that another
//! hand puts on a bridge of ours bears no mark, and is nobody's business here.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, Prop};
use nix::errno::Errno;
use overlay_model::kernel::port_mark;
use overlay_model::{IfName, Port, Refusal};

use crate::error::Failure;
use crate::kernel::Writer;
use crate::links::{at, change, port_request};
use crate::read;
use crate::wire::Request;

impl Writer {
    /// Makes the device a port, with everything that is wanted of it, or gives
    /// it back.
    pub(crate) async fn put_port(&mut self, name: &IfName, port: &Port) -> Result<(), Failure> {
        let Some(bridge) = &port.bridge else {
            return Err(Failure::new(Refusal::Other, format!("no bridge is named for {name}")));
        };
        let row = read::link_by_name(&mut self.conn, name)
            .await?
            .filter(|row| row.index == port.index && row.name == name.as_str())
            .ok_or_else(|| {
                Failure::new(
                    Refusal::DeviceGone,
                    format!("the device {name} is not there any more"),
                )
            })?;
        if row.ours() {
            let text = format!("{name} is a link of overlayd's own");
            return Err(Failure::new(Refusal::Taken, text));
        }
        if row.mark.is_some_and(|(endpoint, _)| endpoint != port.endpoint) {
            let text = format!("{name} is the port of another endpoint; detach that one first");
            return Err(Failure::new(Refusal::Busy, text));
        }
        let master = self.index_of(bridge, false).await?.ok_or_else(|| {
            Failure::new(Refusal::NoDevice, format!("there is no bridge {bridge} of ours"))
        })?;
        if let Some(other) = row.master.filter(|index| *index != master) {
            let other = read::link_by_index(&mut self.conn, other).await?;
            let other = other.map_or_else(|| "another link".to_owned(), |row| row.name);
            let text =
                format!("{name} belongs to {other}; take it out with: ip link set {name} nomaster");
            return Err(Failure::new(Refusal::Taken, text));
        }
        let fresh = row.mark.is_none();
        let mut requests = Vec::new();
        if fresh {
            requests.push(mark(port, true));
        }
        if row.master != Some(master) {
            requests.push(change(at(port.index).controller(master)));
        }
        requests.extend(port.flags.map(|flags| port_request(port.index, flags, None)));
        if port.up {
            requests.push(change(at(port.index).up()));
        }
        let results = self.conn.send(requests).await;
        self.remember(name, port.index);
        let failed = results.into_iter().find_map(Result::err);
        let Some(err) = failed else { return Ok(()) };
        if fresh {
            // Whatever of it took effect: back to how it was.
            if let Err(left) = self.release_port(name, port).await {
                tracing::warn!(%name, why = left.text, "cannot give a device back");
            }
        }
        Err(err.into())
    }

    /// Gives the device back as it was, if it is still there.
    pub(crate) async fn release_port(&mut self, name: &IfName, port: &Port) -> Result<(), Failure> {
        let row = read::link_by_index(&mut self.conn, port.index).await?;
        let Some(row) = row.filter(|row| row.mark.is_some_and(|(id, _)| id == port.endpoint))
        else {
            self.forget(name);
            return Ok(());
        };
        let mut requests = Vec::new();
        if let Some(index) = row.master {
            let master = read::link_by_index(&mut self.conn, index).await?;
            // Where another hand has put it since, it stays.
            if master.is_some_and(|row| row.ours()) {
                requests.push(change(at(port.index).nocontroller()));
            }
        }
        if !port.was_up && row.up {
            requests.push(change(at(port.index).down()));
        }
        requests.push(mark(port, false));
        for result in self.conn.send(requests).await {
            match result {
                Err(err) if !err.is(Errno::ENODEV) => return Err(err.into()),
                _ => {}
            }
        }
        self.forget(name);
        Ok(())
    }
}

/// Sets or removes our mark.
fn mark(port: &Port, put: bool) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = port.index;
    let name = Prop::AltIfName(port_mark(port.endpoint, port.was_up));
    message.attributes.push(LinkAttribute::PropList(vec![name]));
    if put {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        Request { flags, message: RouteNetlinkMessage::NewLinkProp(message) }
    } else {
        Request { flags: 0, message: RouteNetlinkMessage::DelLinkProp(message) }
    }
}
