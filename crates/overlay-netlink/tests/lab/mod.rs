//! A private host, containers, and short names for operations.
//!
//! ```text
//!   lab: thread with its own network and mount namespace (tmpfs on /run)
//!     ovb7 ── ove000000000001 ═══ eth1  Container: a parked thread's namespace
//!       └──── ovx7  VNI 7, local 192.0.2.1, remote VTEPs 192.0.2.2 and .3
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};
use overlay_model::kernel::is_ours;
use overlay_model::{
    ApplyReport, EndpointId, IfName, KernelChange, KernelOp, Link, LinkKind, MacAddr, NetnsRef,
    NetworkId, Object, ObjectKey, Objects, Outer, PortFlags, VethPeer, Vni,
};
use overlay_netlink::{Kernel, netns_of};
use tokio::sync::mpsc::UnboundedReceiver;

pub(crate) const MTU: u16 = 1450;

/// Runs `body` on a host of its own.
#[track_caller]
pub(crate) fn lab<T: Send + 'static>(body: impl Future<Output = T> + Send + 'static) -> T {
    let host = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap_or_else(|err| {
            panic!(
                "cannot make a network and mount namespace ({err}): \
                 run these tests as root, or in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN"
            )
        });
        run("mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body)
    });
    host.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a shell command in the namespaces of the calling thread.
#[track_caller]
pub(crate) fn run(script: &str) -> String {
    try_run(script).unwrap_or_else(|err| panic!("`{script}`: {err}"))
}

pub(crate) fn try_run(script: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", script]).output().map_err(|err| err.to_string())?;
    let err = String::from_utf8_lossy(&output.stderr);
    // The last command of several decides; `grep` without a match is no error.
    if err.trim().is_empty() || output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(err.into_owned())
    }
}

/// Asks until there is an answer, for ten seconds at most.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "not in 10 s: {what}");
        // Others on this thread (connections that close) must get on.
        tokio::task::yield_now().await;
    }
}

/// A network namespace that lives as long as this value.
pub(crate) struct Container {
    path: PathBuf,
    file: File,
    /// Dropped to let the thread go, and with it the namespace.
    park: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Container {
    pub(crate) fn new() -> Self {
        let (park, parked) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let tid = nix::unistd::gettid();
            tell.send(PathBuf::from(format!("/proc/{}/task/{tid}/ns/net", std::process::id())))
                .unwrap();
            let _ = parked.recv();
        });
        let path = told.recv().unwrap();
        let file = File::open(&path).unwrap();
        Self { path, file, park: Some(park), thread: Some(thread) }
    }

    pub(crate) fn netns(&self) -> NetnsRef {
        netns_of(&self.path).unwrap()
    }

    pub(crate) fn run(&self, script: &str) -> String {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
                    run(script)
                })
                .join()
                .unwrap()
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.park.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A kernel, and what its watch has told.
pub(crate) struct Host {
    pub(crate) kernel: Kernel,
    changes: UnboundedReceiver<KernelChange>,
    pub(crate) mirror: BTreeMap<ObjectKey, Object>,
    pub(crate) told: Vec<KernelChange>,
}

impl Host {
    pub(crate) async fn open() -> Self {
        let (kernel, changes) = Kernel::open().await.unwrap();
        let mirror = kernel.dump().await.unwrap().objects.iter().collect();
        Self { kernel, changes, mirror, told: Vec::new() }
    }

    /// All operations succeed, and their changes are told when it returns.
    #[track_caller]
    pub(crate) fn apply(&mut self, ops: Vec<KernelOp>) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let report = self.try_apply(ops).await;
            assert!(report.failed.is_empty(), "at {caller}: {:#?}", report.failed);
        }
    }

    pub(crate) async fn try_apply(&mut self, ops: Vec<KernelOp>) -> ApplyReport {
        let count = ops.len();
        let report = self.kernel.apply(ops).await;
        assert_eq!(report.done + report.failed.len(), count);
        self.drain();
        report
    }

    /// Takes in what has been told; waits for nothing.
    pub(crate) fn drain(&mut self) {
        while let Ok(change) = self.changes.try_recv() {
            match &change {
                KernelChange::Object(key, Some(object), _) => {
                    if let ObjectKey::Link(name) = key {
                        assert!(is_ours(name.as_str(), Some("overlayd:")), "{change:?}");
                    }
                    self.mirror.insert(key.clone(), object.clone());
                }
                KernelChange::Object(key, None, _) => {
                    self.mirror.remove(key);
                    if let ObjectKey::Link(name) = key {
                        self.mirror.retain(|key, _| key.stands_on() != Some(name));
                    }
                }
                KernelChange::Snapshot(state) => self.mirror = state.objects.iter().collect(),
                KernelChange::Overrun => {}
                KernelChange::Reading | KernelChange::Read(_) => {
                    panic!("the watch reads nothing beside what it tells: {change:?}")
                }
            }
            self.told.push(change);
        }
    }

    /// Waits until the mirror has `key` as `is` says.
    pub(crate) async fn tells(&mut self, key: &ObjectKey, is: impl Fn(Option<&Object>) -> bool) {
        let start = Instant::now();
        loop {
            self.drain();
            if is(self.mirror.get(key)) {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "not in 10 s: {:?}",
                self.mirror.get(key)
            );
            tokio::task::yield_now().await;
        }
    }

    /// The main property: what the watch told is what a dump reads.
    #[track_caller]
    pub(crate) fn mirror_equals_dump(&mut self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            self.drain();
            let dump: BTreeMap<_, _> = self.kernel.dump().await.unwrap().objects.iter().collect();
            let missing: Vec<_> =
                dump.iter().filter(|(key, object)| self.mirror.get(key) != Some(object)).collect();
            let surplus: Vec<_> =
                self.mirror.iter().filter(|(key, object)| dump.get(key) != Some(object)).collect();
            assert!(
                missing.is_empty() && surplus.is_empty(),
                "at {caller}:\nread by a dump: {missing:#?}\ntold by the watch: {surplus:#?}"
            );
        }
    }
}

/// What a kernel holds after `ops`, if they do what they say.
pub(crate) fn after(ops: &[KernelOp]) -> Objects {
    let mut objects = Objects::new();
    for op in ops {
        match op.clone() {
            KernelOp::AddLink(name, mut link) => {
                if let LinkKind::Veth { peer } = &mut link.kind {
                    *peer = None;
                }
                objects.insert(ObjectKey::Link(name), Object::Link(link));
            }
            KernelOp::Put(key, object) => drop(objects.insert(key, object)),
            other => panic!("{other} only builds nothing"),
        }
    }
    objects
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn mac(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([0x02, 0x42, a, b, c, d])
}

fn dev(vni: u32) -> (IfName, IfName) {
    let vni = Vni::new(vni).unwrap();
    (vni.bridge(), vni.vxlan())
}

pub(crate) fn veth_name(n: u32) -> IfName {
    EndpointId::from_bits(n.into()).ifname()
}

fn link(vni: u32, n: u32, kind: LinkKind) -> Link {
    Link {
        network: NetworkId(vni.into()),
        host: None,
        mtu: MTU,
        mac: mac(n),
        up: true,
        master: None,
        port: None,
        altered: BTreeSet::new(),
        kind,
    }
}

pub(crate) fn bridge(vni: u32) -> KernelOp {
    KernelOp::AddLink(dev(vni).0, link(vni, 0xb0_0000 + vni, LinkKind::Bridge).into())
}

pub(crate) fn vxlan(vni: u32, port: u16, local: &str) -> KernelOp {
    vxlan_with(vni, port, local, Outer::default())
}

pub(crate) fn vxlan_with(vni: u32, port: u16, local: &str, outer: Outer) -> KernelOp {
    let local = local.parse().unwrap();
    let kind = LinkKind::Vxlan { vni: Vni::new(vni).unwrap(), port, local, outer };
    let link = Link {
        master: Some(dev(vni).0),
        port: Some(PortFlags { neigh_suppress: true, ..PortFlags::default() }),
        ..link(vni, 0xc0_0000 + vni, kind)
    };
    KernelOp::AddLink(dev(vni).1, link.into())
}

/// Endpoint `n`: `ove…n` here, `eth<n>` in the container, MAC `mac(n + 4)`.
pub(crate) fn veth(
    vni: u32,
    n: u32,
    container: &Container,
    addresses: &[&str],
    gateways: &[&str],
) -> KernelOp {
    let peer = VethPeer {
        netns: container.netns(),
        ifname: IfName::new(&format!("eth{n}")).unwrap(),
        mac: mac(n + 4),
        mtu: MTU,
        addresses: addresses.iter().map(|a| net(a)).collect(),
        gateways: gateways.iter().map(|g| g.parse().unwrap()).collect(),
    };
    let link = Link {
        master: Some(dev(vni).0),
        port: Some(PortFlags {
            learning: true,
            neigh_suppress: false,
            isolated: false,
            hairpin: false,
        }),
        ..link(vni, 0xe0_0000 + n, LinkKind::Veth { peer: Some(Box::new(peer)) })
    };
    KernelOp::AddLink(veth_name(n), link.into())
}

pub(crate) fn fdb(vni: u32, n: u32, vtep: &str) -> (ObjectKey, Object) {
    let dst = vtep.parse().unwrap();
    (ObjectKey::VxlanFdb(dev(vni).1, mac(n)), Object::VxlanFdb { dst })
}

pub(crate) fn flood(vni: u32, vtep: &str) -> (ObjectKey, Object) {
    (ObjectKey::Flood(dev(vni).1, vtep.parse().unwrap()), Object::Flood)
}

pub(crate) fn neigh(vni: u32, ip: &str, n: u32) -> (ObjectKey, Object) {
    (ObjectKey::Neigh(dev(vni).0, ip.parse().unwrap()), Object::Neigh { mac: mac(n) })
}

/// The MAC of endpoint `n`, behind veth `port`.
pub(crate) fn local_fdb(vni: u32, port: u32, n: u32) -> (ObjectKey, Object) {
    let object = Object::BridgeFdb { port: veth_name(port), extern_learn: false };
    (ObjectKey::BridgeFdb(dev(vni).0, mac(n)), object)
}

/// The three entries of endpoint `n` on another host.
pub(crate) fn remote(vni: u32, n: u32, vtep: &str) -> Vec<(ObjectKey, Object)> {
    let port = dev(vni).1;
    let ip = IpAddr::from((0x0a09_0000 + n).to_be_bytes());
    vec![
        fdb(vni, n, vtep),
        (ObjectKey::BridgeFdb(dev(vni).0, mac(n)), Object::BridgeFdb { port, extern_learn: true }),
        neigh(vni, &ip.to_string(), n),
    ]
}
