//! Whether the network card is to write the checksums of what VXLAN devices
//! carry (`ethtool -K ovx4097 tx-checksum-ip-generic on|off`).
//!
//! A VXLAN device leaves the inner checksum to the card at the end of the way.
//! Some cards, and kernels before 5.7 with NAT on the way, write a wrong one:
//! pings pass and TCP does not. Without offload the kernel writes it before
//! the packet is wrapped.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use overlay_model::{IfName, Setting};

use crate::read::{LinkRow, RowKind};

/// Drivers that write wrong checksums into VXLAN packets, on hosts that were
/// not updated (VMware KB 2107393; flannel issue 1279, moby issue 41775).
const BROKEN_DRIVERS: [&str; 1] = ["vmxnet3"];
/// `ETHTOOL_GTXCSUM` and `ETHTOOL_STXCSUM` of `linux/ethtool.h`.
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;

/// The kernel has been right since (commit ea64d8d6c675).
const RIGHT_SINCE: (u32, u32) = (5, 7);
/// Devices may stand on devices: a VLAN on a bond on two cards.
const DEPTH: usize = 5;

/// How VXLAN devices are to have it.
#[derive(Debug)]
pub(crate) struct Offload {
    wanted: bool,
    /// Of the namespace in which the kernel was opened.
    socket: std::net::UdpSocket,
}

impl Offload {
    pub(crate) fn new(wanted: bool) -> io::Result<Self> {
        // Of any family: it only says which namespace is meant.
        let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))
            .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)))?;
        Ok(Self { wanted, socket })
    }

    /// Notes in a row that the device has it otherwise.
    pub(crate) fn note(&self, row: &mut LinkRow) {
        if !matches!(row.kind, RowKind::Vxlan(_)) || !row.looks_like_ours() {
            return;
        }
        let Some(name) = row.ifname() else { return };
        match self.ask(&name, GET_TX_CHECKSUM, 0) {
            Ok(is) if (is != 0) != self.wanted => drop(row.altered.insert(Setting::TxChecksum)),
            Ok(_) => {}
            // It has gone meanwhile.
            Err(Errno::ENODEV) => {}
            Err(err) => tracing::debug!(%name, %err, "cannot read the checksum offload"),
        }
    }

    /// Makes a device have it as wanted.
    pub(crate) fn set(&self, name: &IfName) -> Result<(), Errno> {
        self.ask(name, SET_TX_CHECKSUM, self.wanted.into()).map(drop)
    }

    /// `SIOCETHTOOL` with a `struct ethtool_value`; returns the value after it.
    fn ask(&self, name: &IfName, command: u32, value: u32) -> Result<u32, Errno> {
        #[repr(C)]
        struct EthtoolValue {
            command: u32,
            data: u32,
        }
        let mut argument = EthtoolValue { command, data: value };
        // SAFETY: all zeroes is a valid ifreq: an empty name and a null pointer.
        #[allow(unsafe_code)]
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // A name has at most 15 bytes: the last of 16 stays zero.
        for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut argument).cast();
        // SAFETY: the descriptor is open, and both structures live until the
        // call returns; these two commands read and write 8 bytes of the second.
        #[allow(unsafe_code)]
        let result = unsafe {
            libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request)
        };
        Errno::result(result)?;
        Ok(argument.data)
    }
}

/// Why VXLAN packets that leave by `dev` get wrong checksums from the card, if
/// that is known of its driver or of this kernel.
pub fn broken_tx_checksum(dev: &IfName) -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    broken(&release, Path::new("/sys/class/net"), dev)
}

fn broken(release: &str, sys: &Path, dev: &IfName) -> Option<String> {
    if let Some(version) = version_of(release)
        && version < RIGHT_SINCE
    {
        let release = release.trim();
        return Some(format!("kernel {release} is older than 5.7, which first gets them right"));
    }
    let mut below = vec![dev.as_str().to_owned()];
    for _ in 0..DEPTH {
        for name in &below {
            let driver = fs::read_link(sys.join(name).join("device/driver")).ok();
            let driver = driver.as_deref().and_then(Path::file_name).and_then(|n| n.to_str());
            if let Some(driver) = driver.filter(|driver| BROKEN_DRIVERS.contains(driver)) {
                return Some(format!("{name} has the driver {driver}, which may get them wrong"));
            }
        }
        below = below
            .iter()
            .filter_map(|name| fs::read_dir(sys.join(name)).ok())
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.strip_prefix("lower_").map(str::to_owned))
            .collect();
    }
    None
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_or_a_driver_that_gets_checksums_wrong_is_known() {
        let sys = tempfile::tempdir().unwrap();
        let dev = |name: &str, driver: Option<&str>, lower: &[&str]| {
            let dir = sys.path().join(name);
            fs::create_dir_all(dir.join("device")).unwrap();
            if let Some(driver) = driver {
                let to = Path::new("../../../bus/pci/drivers").join(driver);
                std::os::unix::fs::symlink(to, dir.join("device/driver")).unwrap();
            }
            for name in lower {
                std::os::unix::fs::symlink(format!("../{name}"), dir.join(format!("lower_{name}")))
                    .unwrap();
            }
            IfName::new(name).unwrap()
        };
        let good = dev("eth0", Some("ixgbe"), &[]);
        let bad = dev("eth1", Some("vmxnet3"), &[]);
        dev("bond0", None, &["eth0", "eth1"]);
        let vlan = dev("bond0.5", None, &["bond0"]);
        let nowhere = IfName::new("eth9").unwrap();
        let is_broken = |release: &str, dev: &IfName| broken(release, sys.path(), dev);
        for dev in [&good, &nowhere] {
            assert_eq!(is_broken("6.1.0-18-amd64\n", dev), None);
            assert_eq!(is_broken("what", dev), None);
        }
        for dev in [&bad, &vlan] {
            let why = is_broken("6.1.0-18-amd64", dev).unwrap();
            assert_eq!(why, "eth1 has the driver vmxnet3, which may get them wrong");
        }
        let why = is_broken("5.4.0-26-generic\n", &good).unwrap();
        assert_eq!(why, "kernel 5.4.0-26-generic is older than 5.7, which first gets them right");
        for release in ["5.7.0", "5.10.0-8", "6.0"] {
            assert_eq!(is_broken(release, &good), None, "{release}");
        }
    }
}
