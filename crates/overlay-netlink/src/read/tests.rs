use netlink_packet_route::link::LinkMessage;
use overlay_model::kernel::alias_of;

use super::*;

/// An entry of a VXLAN device of ours, in the kernel's bytes, with these attributes.
fn entry_of_ovx(attributes: &[(u16, &[u8])]) -> Option<(ObjectKey, Option<Object>)> {
    let mut link = LinkMessage::default();
    link.header.index = 7;
    link.attributes.push(LinkAttribute::IfName("ovx7".into()));
    let network = "0000000000000007".parse().unwrap();
    link.attributes.push(LinkAttribute::IfAlias(alias_of(network, None)));
    let mut row = LinkRow::parse(&link).unwrap();
    row.kind = RowKind::Vxlan(VxlanRow { vni: 7, port: 4789, ..VxlanRow::default() });
    let links = Links::from([(7, row)]);

    let mut body = vec![libc::AF_BRIDGE as u8, 0, 0, 0];
    body.extend(7_u32.to_ne_bytes());
    body.extend(NUD_PERMANENT.to_ne_bytes());
    body.extend([NeighbourFlags::Own.bits(), 0]);
    for (kind, value) in attributes {
        body.extend((4 + value.len() as u16).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    neighbour(&Entry::parse(&body).unwrap(), &links)
}

const MAC: (u16, &[u8]) = (2, &[2, 0, 0, 0, 0, 5]);
const DST: (u16, &[u8]) = (1, &[192, 0, 2, 2]);
const TIMES: (u16, &[u8]) = (3, &[0; 16]);

#[test]
fn what_older_kernels_tell_twice_of_an_fdb_entry_is_read_once() {
    let dst = "192.0.2.2".parse().unwrap();
    let (key, object) = entry_of_ovx(&[MAC, DST, TIMES]).expect("the driver's words");
    assert_eq!(object, Some(Object::VxlanFdb { dst }));
    // Linux 6.1, after each change: the same entry in rtnetlink's words.
    assert_eq!(entry_of_ovx(&[MAC]), None);
    // By another hand: `bridge fdb replace MAC dev ovx7 self`, to nowhere.
    assert_eq!(entry_of_ovx(&[MAC, TIMES]), Some((key, None)));
}
