//! TEMPORARY
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use clap::Parser;
use overlay_model::{IfName, Name};
/// s
#[derive(Debug, Clone, Parser)]
#[allow(missing_docs)]
pub struct Settings {
    #[arg(long)] pub join: Vec<String>,
    #[arg(long, default_value = "x")] pub name: Name,
    #[arg(long)] pub advertise: Option<IpAddr>,
    #[arg(long)] pub vtep_ip: Option<IpAddr>,
    #[arg(long)] pub underlay_dev: Option<IfName>,
    #[arg(long, default_value_t = 7946)] pub gossip_port: u16,
    #[arg(long)] pub gossip_bind: Option<IpAddr>,
    #[arg(long, default_value_t = 4789)] pub vxlan_port: u16,
    #[arg(long, default_value = "/var/lib/overlayd")] pub state_dir: PathBuf,
    #[arg(long, default_value = "/run/overlayd/overlayd.sock")] pub socket: PathBuf,
    #[arg(long, default_value = "text")] pub log: String,
    #[arg(long, default_value = "info")] pub log_level: String,
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)] pub suspect_after: Duration,
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)] pub down_grace: Duration,
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)] pub stop_grace: Duration,
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)] pub alone_after: Duration,
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)] pub gossip_interval: Duration,
    pub cmd: Option<String>,
}
impl Settings {
    /// s
    pub fn advertise_or(&self, addr: IpAddr) -> SocketAddr { SocketAddr::new(self.advertise.unwrap_or(addr), self.gossip_port) }
}
