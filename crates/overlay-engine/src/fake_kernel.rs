//! A kernel for tests and simulation: a map, and the few habits of the real
//! one that the planner relies on. `tests/kernel` holds the real one to the
//! same habits.
//!
//! - A link that goes takes along what stands on it, and what a bridge's FDB
//!   says of it as a port.
//! - An entry on a device that is not there is refused.
//! - A table of nftables that goes takes its elements along, in silence.
//! - A bridge that goes lets its ports go. A device that is not ours can be a
//!   port while it is there, under its index.
//! - A VXLAN device takes destinations of its own family only, and there is one
//!   of each family on a VNI and port.
//! - A link whose name exists is refused; putting and deleting entries repeats
//!   without error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use overlay_model::kernel::read_alias;
use overlay_model::{
    ApplyReport, IfName, KernelChange, KernelOp, KernelState, LinkKind, Object, ObjectKey,
    OpFailure, Refusal,
};

/// What it holds, ours and foreign.
#[derive(Debug, Clone, Default)]
pub struct FakeKernel {
    objects: BTreeMap<ObjectKey, Object>,
    /// Namespaces that can be found.
    pub netns: BTreeSet<PathBuf>,
    /// Devices that are not ours, with the index of each.
    pub devices: BTreeMap<IfName, u32>,
    /// Keys that it refuses to make, with the reason.
    pub refuse: BTreeMap<ObjectKey, Refusal>,
    /// Operations tried since the start.
    pub operations: usize,
}

impl FakeKernel {
    /// A kernel that holds `objects`.
    pub fn holding(objects: BTreeMap<ObjectKey, Object>) -> Self {
        Self { objects, ..Self::default() }
    }

    /// What it holds.
    pub fn objects(&self) -> &BTreeMap<ObjectKey, Object> {
        &self.objects
    }

    /// What reading it yields.
    pub fn read(&self) -> KernelState {
        let objects = self.objects.clone().into_iter().collect();
        KernelState { objects, ..KernelState::default() }
    }

    /// Performs all operations, and says what changed and what was refused.
    pub fn apply(&mut self, ops: &[KernelOp]) -> (Vec<KernelChange>, ApplyReport) {
        let mut changes = Vec::new();
        let mut report = ApplyReport::default();
        for op in ops {
            self.operations += 1;
            match self.perform(op, &mut changes) {
                Ok(()) => report.done += 1,
                Err(refusal) => report.failed.push(OpFailure {
                    op: op.clone(),
                    refusal,
                    errno: None,
                    text: format!("{refusal:?}"),
                }),
            }
        }
        (changes, report)
    }

    /// A device that is not ours goes, and what is ours of it.
    pub fn unplug(&mut self, device: &IfName) -> Vec<KernelChange> {
        self.devices.remove(device);
        self.meddle(ObjectKey::Port(device.clone()), None)
    }

    /// Somebody else sets or deletes an object.
    pub fn meddle(&mut self, key: ObjectKey, object: Option<Object>) -> Vec<KernelChange> {
        let mut changes = Vec::new();
        match object {
            Some(object) => self.set(key, object, &mut changes),
            None => self.unset(&key, &mut changes),
        }
        changes
    }

    fn perform(&mut self, op: &KernelOp, changes: &mut Vec<KernelChange>) -> Result<(), Refusal> {
        if let Some(refusal) = self.refuse.get(&op.key()) {
            return Err(*refusal);
        }
        match op {
            KernelOp::AddLink(name, link) => {
                let key = ObjectKey::Link(name.clone());
                if self.objects.contains_key(&key) {
                    return Err(Refusal::Taken);
                }
                let mut link = link.clone();
                if let LinkKind::Veth { peer } = &mut link.kind
                    && let Some(peer) = peer.take()
                    && !self.netns.contains(&peer.netns.path)
                {
                    return Err(Refusal::NetnsGone);
                }
                if let Some(master) = &link.master {
                    self.expect_link(master)?;
                }
                if let LinkKind::Vxlan { vni, port, local, .. } = &link.kind {
                    let holds = |object: &Object| match object {
                        Object::Link(other) => matches!(
                            &other.kind,
                            LinkKind::Vxlan { vni: v, port: p, local: l, .. }
                                if (v, p, l.is_ipv4()) == (vni, port, local.is_ipv4())
                        ),
                        _ => false,
                    };
                    if self.objects.values().any(holds) {
                        return Err(Refusal::Taken);
                    }
                }
                self.set(key, Object::Link(link), changes);
            }
            KernelOp::SetLink(name, change) => {
                let key = ObjectKey::Link(name.clone());
                let Some(Object::Link(link)) = self.objects.get(&key) else {
                    return Err(Refusal::NoDevice);
                };
                let mut link = link.clone();
                if let Some((_, host)) = change.alias.as_deref().and_then(read_alias) {
                    link.host = host;
                }
                link.mtu = change.mtu.unwrap_or(link.mtu);
                link.mac = change.mac.unwrap_or(link.mac);
                link.up = change.up.unwrap_or(link.up);
                if let (LinkKind::Vxlan { local, .. }, Some(to)) = (&mut link.kind, change.local) {
                    *local = to;
                }
                link.master = change.master.clone().or(link.master);
                link.port = change.port.or(link.port);
                link.altered.retain(|setting| !change.restore.contains(setting));
                self.set(key, Object::Link(link), changes);
            }
            KernelOp::DelLink(name) => self.unset(&ObjectKey::Link(name.clone()), changes),
            KernelOp::Put(key, object) => {
                if let Some(dev) = key.stands_on() {
                    self.expect_link(dev)?;
                }
                if let Object::BridgeFdb { port, .. } = object {
                    self.expect_port(port)?;
                }
                match (key, object) {
                    (ObjectKey::Flood(dev, dst), _)
                    | (ObjectKey::VxlanFdb(dev, _), Object::VxlanFdb { dst }) => {
                        self.expect_family(dev, dst)?;
                    }
                    _ => {}
                }
                if let (ObjectKey::Port(name), Object::Port(port)) = (key, object) {
                    if self.devices.get(name) != Some(&port.index) {
                        return Err(Refusal::DeviceGone);
                    }
                    if let Some(Object::Port(now)) = self.objects.get(key)
                        && now.endpoint != port.endpoint
                    {
                        return Err(Refusal::Busy);
                    }
                    self.expect_link(port.bridge.as_ref().ok_or(Refusal::Other)?)?;
                }
                self.set(key.clone(), object.clone(), changes);
            }
            KernelOp::Del(key, _) => self.unset(key, changes),
        }
        Ok(())
    }

    fn expect_link(&self, name: &IfName) -> Result<(), Refusal> {
        if self.objects.contains_key(&ObjectKey::Link(name.clone())) {
            Ok(())
        } else {
            Err(Refusal::NoDevice)
        }
    }

    fn expect_family(&self, dev: &IfName, dst: &IpAddr) -> Result<(), Refusal> {
        match self.objects.get(&ObjectKey::Link(dev.clone())) {
            Some(Object::Link(link)) => match &link.kind {
                LinkKind::Vxlan { local, .. } if local.is_ipv4() != dst.is_ipv4() => {
                    Err(Refusal::Other)
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn expect_port(&self, name: &IfName) -> Result<(), Refusal> {
        match self.objects.get(&ObjectKey::Port(name.clone())) {
            Some(Object::Port(port)) if port.bridge.is_some() => Ok(()),
            _ => self.expect_link(name),
        }
    }

    fn set(&mut self, key: ObjectKey, object: Object, changes: &mut Vec<KernelChange>) {
        changes.push(KernelChange::Object(key.clone(), Some(object.clone()), None));
        self.objects.insert(key, object);
    }

    fn unset(&mut self, key: &ObjectKey, changes: &mut Vec<KernelChange>) {
        if self.objects.remove(key).is_none() {
            return;
        }
        changes.push(KernelChange::Object(key.clone(), None, None));
        if *key == ObjectKey::PortRules {
            let elements = |key: &ObjectKey| matches!(key, ObjectKey::Guard(_));
            self.objects.retain(|key, _| !elements(key));
        }
        let (ObjectKey::Link(gone) | ObjectKey::Port(gone)) = key else { return };
        let fallen: Vec<ObjectKey> = self
            .objects
            .iter()
            .filter(|(key, object)| {
                key.stands_on() == Some(gone)
                    || matches!(object, Object::BridgeFdb { port, .. } if port == gone)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in fallen {
            self.objects.remove(&key);
            changes.push(KernelChange::Object(key, None, None));
        }
        let lent: Vec<(ObjectKey, overlay_model::Port)> = self
            .objects
            .iter()
            .filter_map(|(key, object)| match object {
                Object::Port(port) if port.bridge.as_ref() == Some(gone) => {
                    Some((key.clone(), port.clone()))
                }
                _ => None,
            })
            .collect();
        for (key, port) in lent {
            let out = overlay_model::Port { bridge: None, flags: None, ..port };
            self.set(key, Object::Port(out), changes);
        }
        let ports: Vec<ObjectKey> = self
            .objects
            .iter()
            .filter(|(_, o)| matches!(o, Object::Link(l) if l.master.as_ref() == Some(gone)))
            .map(|(key, _)| key.clone())
            .collect();
        for key in ports {
            if let Some(Object::Link(link)) = self.objects.get(&key) {
                let mut orphan = link.clone();
                (orphan.master, orphan.port) = (None, None);
                self.set(key, Object::Link(orphan), changes);
            }
        }
    }
}
