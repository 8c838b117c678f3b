//! Which network of the cluster is meant by a network of Docker's.
//!
//! dockerd tells neither driver what it has told the other, and says nothing again
//! after a restart: what is known here is in a file beside the daemon's state.
//! Written before dockerd is answered; a file that cannot be read is moved aside,
//! and what was bound is bound anew by `docker network rm` and `create`.
//!
//! A pool is asked for before its network is: all that is known then is what
//! `--ipam-opt` and `--subnet` say. If that does not tell which network it is, a
//! pool of 240.0.0.0/4 or 100::/64 (RFC 1112, RFC 6666: nobody's) stands for it
//! until the network driver is told with `-o`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A pool's network, by id, and which of its families.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    /// Id of the network in the cluster.
    pub(super) net: String,
    pub(super) v6: bool,
}

/// A network of Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Network {
    /// Id of the network in the cluster.
    pub(super) net: String,
    /// Containers get no way out.
    pub(super) internal: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    /// By Docker's NetworkID.
    networks: BTreeMap<String, Network>,
    /// By PoolID: pools that stand for a network that was not known then.
    pools: BTreeMap<String, Standing>,
}

/// A pool that stands for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    pool: IpNet,
    bound: Option<Bound>,
}

/// Pools that stand for another, of both families.
const MAX_STANDING: usize = 4096;

#[derive(Debug)]
pub(super) struct Bindings {
    file: PathBuf,
    content: Content,
}

impl Bindings {
    /// What the file has. One that makes no sense is moved aside.
    pub(super) fn read(file: &Path) -> io::Result<Self> {
        let content = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).or_else(|err| {
                let aside = file.with_extension("json.damaged");
                std::fs::rename(file, &aside)?;
                tracing::error!(
                    "{} cannot be read ({err}) and is {} now: networks of Docker must be removed \
                     and created anew",
                    file.display(),
                    aside.display()
                );
                io::Result::Ok(Content::default())
            })?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(err) => return Err(err),
        };
        Ok(Self { file: file.to_owned(), content })
    }

    pub(super) fn network(&self, network_id: &str) -> Option<&Network> {
        self.content.networks.get(network_id)
    }

    /// Networks of Docker's, by their id there.
    pub(super) fn networks(&self) -> impl Iterator<Item = &String> {
        self.content.networks.keys()
    }

    /// Another pool that stands for a network that is not known yet: its id and itself.
    pub(super) fn stand_in(&mut self, random: u64, v6: bool) -> io::Result<(String, IpNet)> {
        self.change(|content| {
            while content.pools.len() >= MAX_STANDING {
                // Whoever made so many has never created a network with them.
                let unbound = content.pools.iter().find(|(_, of)| of.bound.is_none());
                let Some(first) = unbound.map(|(id, _)| id.clone()) else {
                    return Err(io::Error::other("too many networks"));
                };
                content.pools.remove(&first);
            }
            let taken = |pool: &IpNet| content.pools.values().any(|of| of.pool == *pool);
            let pool = (0..=u64::try_from(MAX_STANDING).unwrap_or(u64::MAX))
                .map(|n| stand_in_of(random.wrapping_add(n), v6))
                .find(|pool| !taken(pool))
                .ok_or_else(|| io::Error::other("no pool is left"))?;
            let id = format!("overlayd/stand-in/{}", pool.addr());
            content.pools.insert(id.clone(), Standing { pool, bound: None });
            Ok((id, pool))
        })
    }

    /// What a pool that stands for a network is bound to; the outer `None`: there is no such.
    pub(super) fn standing(&self, pool_id: &str) -> Option<Option<&Bound>> {
        self.content.pools.get(pool_id).map(|standing| standing.bound.as_ref())
    }

    pub(super) fn is_stand_in(&self, pool: IpNet) -> bool {
        self.content.pools.values().any(|standing| standing.pool == pool)
    }

    /// A network of Docker's is there: pools that stood for it are bound.
    pub(super) fn bind(
        &mut self,
        network_id: &str,
        network: Network,
        pools: &[IpNet],
    ) -> io::Result<()> {
        self.change(|content| {
            for standing in content.pools.values_mut().filter(|of| pools.contains(&of.pool)) {
                let v6 = standing.pool.addr().is_ipv6();
                standing.bound = Some(Bound { net: network.net.clone(), v6 });
            }
            content.networks.insert(network_id.to_owned(), network);
            Ok(())
        })
    }

    pub(super) fn unbind(&mut self, network_id: &str) -> io::Result<()> {
        self.change(|content| {
            content.networks.remove(network_id);
            Ok(())
        })
    }

    pub(super) fn release_pool(&mut self, pool_id: &str) -> io::Result<()> {
        if !self.content.pools.contains_key(pool_id) {
            return Ok(());
        }
        self.change(|content| {
            content.pools.remove(pool_id);
            Ok(())
        })
    }

    /// On the disk or not at all.
    fn change<T>(&mut self, change: impl FnOnce(&mut Content) -> io::Result<T>) -> io::Result<T> {
        let mut next = self.content.clone();
        let result = change(&mut next)?;
        if next != self.content {
            let fresh = self.file.with_extension("json.new");
            let mut file = std::fs::File::create(&fresh)?;
            serde_json::to_writer_pretty(&mut file, &next)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.file)?;
            if let Some(dir) = self.file.parent() {
                std::fs::File::open(dir)?.sync_all()?;
            }
            self.content = next;
        }
        Ok(result)
    }
}

/// A pool that is nobody's: one of 2^20, or of 2^32.
fn stand_in_of(random: u64, v6: bool) -> IpNet {
    let ip = if v6 {
        IpAddr::from(Ipv6Addr::from_bits(0x0100 << 112 | u128::from(random as u32) << 16))
    } else {
        let bits = 0xf000_0000 | (random as u32 & 0x000f_ffff) << 8;
        IpAddr::from(Ipv4Addr::from_bits(bits))
    };
    IpNet::new_assert(ip, if v6 { 112 } else { 24 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_is_there_after_a_restart_and_a_damaged_file_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("docker.json");
        let mut bindings = Bindings::read(&file).unwrap();
        let (id, pool) = bindings.stand_in(7, false).unwrap();
        let (other, _) = bindings.stand_in(7, false).unwrap();
        assert_ne!(id, other);
        assert_eq!(pool.to_string(), "240.0.7.0/24");
        assert_eq!(bindings.standing(&id), Some(None));
        let network = Network { net: "0a".into(), internal: false };
        bindings.bind("d1", network.clone(), &[pool]).unwrap();
        let bindings = Bindings::read(&file).unwrap();
        assert_eq!(bindings.network("d1"), Some(&network));
        let bound = Bound { net: "0a".into(), v6: false };
        assert_eq!(bindings.standing(&id), Some(Some(&bound)));
        assert_eq!(bindings.standing(&other), Some(None));
        std::fs::write(&file, "{").unwrap();
        let mut bindings = Bindings::read(&file).unwrap();
        assert_eq!(bindings.network("d1"), None);
        assert!(dir.path().join("docker.json.damaged").exists());
        bindings.bind("d1", network, &[]).unwrap();
        bindings.unbind("d1").unwrap();
        assert_eq!(Bindings::read(&file).unwrap().network("d1"), None);
    }

    #[test]
    fn what_cannot_be_written_is_not_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("none/docker.json");
        let mut bindings = Bindings::read(&file).unwrap();
        let network = Network { net: "0a".into(), internal: false };
        assert!(bindings.bind("d1", network, &[]).is_err());
        assert_eq!(bindings.network("d1"), None);
    }

    #[test]
    fn pools_that_never_became_networks_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut bindings = Bindings::read(&dir.path().join("docker.json")).unwrap();
        bindings.content.pools = (0..MAX_STANDING as u64)
            .map(|n| {
                let pool = stand_in_of(n, true);
                (format!("p{n}"), Standing { pool, bound: None })
            })
            .collect();
        let (_, pool) = bindings.stand_in(0, true).unwrap();
        assert!(pool.addr().is_ipv6());
        assert_eq!(bindings.content.pools.len(), MAX_STANDING);
    }
}
