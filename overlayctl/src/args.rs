//! What was typed: the lower of the two layers of arguments.
//!
//! Here each value is checked by itself, so that a typing error is found
//! without a daemon. What depends on more than one value, or on where
//! overlayctl was started, is settled by the functions `request` in
//! [`crate::commands`]; what depends on the cluster, by the daemon.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgGroup, Args as ClapArgs, Parser, Subcommand};
use overlay_api::v1::WantedSubnet;
use overlay_model::mtu::MIN_INNER_MTU;
use overlay_model::{AddressRange, IfName, KeyId, MacAddr, Name, Publish, ServicePort, Vni};

const EXAMPLES_AND_EXIT_CODES: &str = "\
Examples:
  overlayctl net create demo --vni 4097 --subnet 10.0.9.0/24
  overlayctl attach --net demo --netns web1 --name web
  overlayctl attach --net demo --pid \"$(docker inspect -f '{{.State.Pid}}' db)\" --name db
  overlayctl attach --net demo --device tap0 --mac 52:54:00:12:34:56 --name vm
  overlayctl endpoint import --net demo stations.txt
  overlayctl endpoints --net demo
  overlayctl status
  overlayctl endpoints --json | jq -r '.[] | select(.local) | .ips[0]'

Exit codes:
  0  done
  1  overlayd refused or could not be reached; if several things were named, for at least one
  2  wrong usage: nothing was asked of overlayd

With --json the reply of overlayd goes to standard output, and an error as
{\"code\", \"message\", \"hint\"} to standard error. The HTTP API below it is in docs/api.md.";

/// Attaches network namespaces to overlay networks, and shows how they are
///
/// Talks to the overlayd of this host over its Unix socket.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES_AND_EXIT_CODES)]
pub(crate) struct Args {
    /// Where overlayd listens
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "OVERLAYD_SOCKET",
        default_value = overlay_api::DEFAULT_SOCKET
    )]
    pub(crate) socket: PathBuf,

    /// Print the reply of overlayd as JSON; an error too
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, list, show and delete networks
    #[command(subcommand)]
    Net(NetCommand),
    /// Attach a network namespace, or a device of this host, to a network
    Attach(Box<AttachArgs>),
    /// Detach endpoints of this host
    Detach(DetachArgs),
    /// Lead ports of this host, or of every host, to an endpoint of this host
    Publish(PublishArgs),
    /// Lead ports to an endpoint of this host no longer
    Unpublish(UnpublishArgs),
    /// Create, list and remove services: one address for all endpoints that share an alias
    #[command(subcommand)]
    Service(ServiceCommand),
    /// List the ports that this host takes, and where they lead
    Ports,
    /// Show what the rules of the kernel have sent elsewhere and dropped
    Fw,
    /// Add, import and remove static endpoints: stations behind this host that
    /// are reached by ways that are not overlayd's
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// List endpoints, on all hosts
    #[command(visible_alias = "ep")]
    Endpoints(EndpointsArgs),
    /// Show who owns, gives and has which address; audit it; give back what is leaked
    #[command(subcommand)]
    Ipam(IpamCommand),
    /// Show where containers are answered names; or what they would be answered, and why
    Dns(DnsArgs),
    /// List the hosts of the cluster
    Hosts,
    /// Forget a host that is gone for good
    #[command(subcommand)]
    Host(HostCommand),
    /// Take no new endpoint on this host; those that are attached stay
    Drain(DrainArgs),
    /// Tell how the overlayd of this host is: a verdict, then why
    Status,
    /// Print what happens, as it happens, until interrupted
    #[command(after_help = EVENT_KINDS)]
    Watch(WatchArgs),
    /// List FDB entries: what the kernel should hold, beside what it holds
    #[command(after_help = ENTRY_STATES)]
    Fdb(EntriesArgs),
    /// List ARP and ND entries: what the kernel should hold, beside what it holds
    #[command(after_help = ENTRY_STATES)]
    Neigh(EntriesArgs),
    /// Print what overlayd would change in the kernel now, as commands
    Plan,
    /// List, add, use and remove the keys that gossip is sealed with
    #[command(subcommand)]
    Key(KeyCommand),
    /// Leave the cluster for good; overlayd then ends
    ///
    /// The other hosts forget this one at once. To stop overlayd for a while,
    /// stop its service instead: forwarding stays in place then.
    Leave(LeaveArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
bash:  overlayctl completions bash > /usr/share/bash-completion/completions/overlayctl
zsh:   overlayctl completions zsh > /usr/share/zsh/vendor-completions/_overlayctl
fish:  overlayctl completions fish > /usr/share/fish/vendor_completions.d/overlayctl.fish")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one a command, into a directory
    #[command(hide = true)]
    Man {
        /// Where to; it must be there
        dir: PathBuf,
    },
}

const ENTRY_STATES: &str = "\
States:
  ok       the kernel holds what it should
  missing  it should hold this, and does not
  differs  it holds something else under this key
  extra    it holds this, and should not";

const EVENT_KINDS: &str = "\
Kinds:
  host               a host is up, suspect, stopped, down, or has left
  entries            the entries of a host went out of use, or are in use again
  attached detached  endpoints of this host
  gone               the namespace of an endpoint of this host is gone; it is kept for a while
  moved              an endpoint has come here from another host, or has gone there
  frozen             a MAC or address moves too often: it stays where it is
  imported           static endpoints of this host, many at once
  device             something about an attached device
  ports              other ports lead to an endpoint of this host
  renamed            an endpoint of this host has another name, other aliases or labels
  service_created service_removed
  no_own_address     this host passes nothing on to endpoints of others
  seen withdrawn     endpoints of other hosts; shown with --all, or when asked for
  network_created network_changed network_removed
  network_conflict   two networks claim one VNI or name, or do so no longer
  cut_off            an endpoint of this host whose network is not programmed, or is again
  endpoint_conflict  two endpoints claim one MAC or address
  repaired           something that another hand had changed was put back
  fight              another hand changes an object each time it is put back
  addresses          a network runs out of addresses, or does so no longer
  released           an address was given back that no endpoint had
  overrun            the kernel dropped notifications: everything was read again
  kernel_refused donated view_complete not_persisted
  same_name same_identity underlay underlay_lost apart
  missed             so many events came faster than they were read; always shown

Times are UTC. The stream ends, with exit code 1, when overlayd stops.";

#[derive(Debug, ClapArgs)]
pub(crate) struct WatchArgs {
    /// Show the endpoints of other hosts as they come and go, too
    #[arg(long)]
    pub(crate) all: bool,

    /// Show events of this kind only; repeatable
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', conflicts_with = "all",
        value_parser = NonEmptyStringValueParser::new())]
    pub(crate) kinds: Vec<String>,

    /// First show the events after this number, as far as overlayd remembers; 0 for all of them
    #[arg(long, value_name = "SEQ")]
    pub(crate) since: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Create a network; what is left out is chosen
    Create(Box<CreateArgs>),
    /// List the networks
    Ls,
    /// Show networks in full
    Inspect(NetNames),
    /// Change a network, on all hosts
    #[command(after_help = CHANGES)]
    Set(Box<SetArgs>),
    /// Delete networks that have no endpoints
    Rm(NetRmArgs),
}

const CHANGES: &str = "\
Name, VNI, subnets, gateways, range, MTU and flooding cannot change: create
another network, attach there, then remove this one.

Containers keep the routes that they were attached with: whether they have a
default route does not change with --internal.";

#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args([
    "labels", "unlabel", "exclude", "include", "internal", "no_internal", "name", "vni", "subnets",
    "gateways", "ip_ranges", "mtu", "no_flood",
]))]
pub(crate) struct SetArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: String,

    #[command(flatten)]
    pub(crate) labels: Labels,

    /// Remove the label of this key; repeatable
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) unlabel: Vec<String>,

    /// Never lease these addresses any more; repeatable
    #[arg(long, value_name = "IP|FIRST-LAST|CIDR", value_parser = range)]
    pub(crate) exclude: Vec<AddressRange>,

    /// Lease these addresses again; repeatable
    #[arg(long, value_name = "IP|FIRST-LAST|CIDR", value_parser = range)]
    pub(crate) include: Vec<AddressRange>,

    /// No gateway and no way out from now on
    #[arg(long, conflicts_with = "no_internal")]
    pub(crate) internal: bool,

    /// A gateway from now on
    #[arg(long)]
    pub(crate) no_internal: bool,

    // Known so that overlayd can say why they cannot change.
    #[arg(long, hide = true)]
    pub(crate) name: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) vni: Option<String>,
    #[arg(long = "subnet", hide = true)]
    pub(crate) subnets: Option<String>,
    #[arg(long = "gateway", hide = true)]
    pub(crate) gateways: Option<String>,
    #[arg(long = "ip-range", hide = true)]
    pub(crate) ip_ranges: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) mtu: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) no_flood: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NetRmArgs {
    #[command(flatten)]
    pub(crate) names: NetNames,

    /// Although they have endpoints: these are detached, on all hosts
    #[arg(long)]
    pub(crate) force: bool,
}

const CHECKS: &str = "\
Checked are, as far as this host knows:
  that each address that it has leased has an endpoint here, and the other way round
  that the kernel holds what each endpoint here needs
  that no two endpoints have one address, on any host
  that every address of a subnet has one owner, who is there
  that each endpoint is on the host that owns its addresses

--repair gives back what is leaked, notes what is leased, lets the range of an
address follow an endpoint that has moved, and has the kernel put right. What
would take something from somebody is left to you.

Exit code 1 if anything is wrong and has not been repaired.";

#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Say how much of each subnet is used
    Ls,
    /// Show who owns which addresses of networks
    Show(NetNames),
    /// Audit addresses
    #[command(after_help = CHECKS)]
    Check(CheckArgs),
    /// Give an address back that is leased on this host and that no endpoint has
    Release(ReleaseArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    /// Name or id of a network [default: all]
    #[arg(value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,

    /// Do what is safe about what is found
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ReleaseArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: String,

    /// The address
    #[arg(value_name = "IP", value_parser = ip)]
    pub(crate) address: IpAddr,
}

const ROTATION: &str = "\
To change the key of a running cluster, on every host before the next step:
  1. overlayctl key add < NEWKEY
  2. overlayctl key use ID
  3. overlayctl key remove OLD-ID
Each step is refused while it would lock out a host that is up. Hosts that are
down must be given the new key file before they are started again.";

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Let this host take over the addresses of one that is gone for good
    ///
    /// All other hosts vote, and must be more than half of the cluster: those
    /// that are away are waited for, or forgotten as well. A forgotten host that
    /// comes back is one of the cluster again; it keeps its endpoints, and has lost
    /// the addresses that it had not given out.
    Forget(ForgetArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForgetArgs {
    /// Name or id of the host
    pub(crate) host: String,
    /// Its machine is off for good, and not only cut off: you vouch for that
    #[arg(long)]
    pub(crate) dead: bool,
    /// Do without the votes of the others: when most of the cluster is lost. Safe
    /// if nobody else does the same elsewhere
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DrainArgs {
    /// Take new endpoints again
    #[arg(long)]
    pub(crate) undo: bool,
}

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// List the keys of this host and of all live ones, by id
    Ls,
    /// Give this host a further key; it is not used yet
    #[command(after_help = ROTATION)]
    Add {
        /// The key as `overlayd keygen` prints it; `-` reads it from standard input, where
        /// nobody sees it in `ps`
        #[arg(default_value = "-", hide_default_value = true, value_name = "KEY|-")]
        key: String,
    },
    /// Seal with this key from now on
    #[command(after_help = ROTATION)]
    Use(KeyArgs),
    /// Forget a key that is not used any more
    #[command(after_help = ROTATION)]
    Remove(KeyArgs),
}

impl std::fmt::Debug for KeyCommand {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ls => f.write_str("Ls"),
            Self::Add { .. } => f.write_str("Add(<secret>)"),
            Self::Use(args) => write!(f, "Use({args:?})"),
            Self::Remove(args) => write!(f, "Remove({args:?})"),
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KeyArgs {
    /// Id of the key, 8 hex digits
    #[arg(value_parser = key_id)]
    pub(crate) id: KeyId,

    /// Even if that locks out a live host
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NetNames {
    /// Name or id of the network
    #[arg(required = true, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) nets: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CreateArgs {
    /// A DNS label [default: net-<VNI>]
    #[arg(value_parser = name)]
    pub(crate) name: Option<Name>,

    /// VXLAN Network Identifier, 1 to 16777215 [default: a free one from 4097]
    #[arg(long, value_name = "N", value_parser = vni)]
    pub(crate) vni: Option<Vni>,

    /// Subnet, at most one IPv4 and one IPv6; `ipv4` stands for a free 10.x.y.0/24, `ipv6` for a
    /// free fd…::/64 [default: ipv4]
    #[arg(long = "subnet", value_name = "CIDR|ipv4|ipv6", value_parser = subnet)]
    pub(crate) subnets: Vec<WantedSubnet>,

    /// Gateway in one of the subnets [default: the first address of each]
    #[arg(long = "gateway", value_name = "IP", value_parser = ip)]
    pub(crate) gateways: Vec<IpAddr>,

    /// Bytes of IP packet inside the network [default: 1450, or 1430 if a host has an IPv6 VTEP
    /// address only]
    #[arg(long, value_name = "N", value_parser = mtu)]
    pub(crate) mtu: Option<u16>,

    /// No gateway and no way out
    #[arg(long)]
    pub(crate) internal: bool,

    /// Do not replicate broadcast and multicast to other hosts
    #[arg(long)]
    pub(crate) no_flood: bool,

    /// Addresses that are never leased, not even when they are asked for; repeatable
    #[arg(long, value_name = "IP|FIRST-LAST|CIDR", value_parser = range)]
    pub(crate) exclude: Vec<AddressRange>,

    /// Where addresses are chosen from; one that is asked for may be outside. At most one
    /// IPv4 and one IPv6 [default: anywhere in the subnet]
    #[arg(long = "ip-range", value_name = "CIDR|FIRST-LAST", value_parser = range)]
    pub(crate) ip_ranges: Vec<AddressRange>,

    /// Only if the cluster has none of that name: the one that is there is shown. Of hosts that
    /// ask at the same time, one creates it
    #[arg(long, requires = "name")]
    pub(crate) once: bool,

    #[command(flatten)]
    pub(crate) labels: Labels,
}

const IMPORT_FORMATS: &str = "\
The file has one of three forms; its first character says which:
  text        a line each: MAC IP[,IP] [NAME]; what follows a # is a remark
  JSON lines  a line each: {\"mac\": …, \"addresses\": […], \"name\": …, \"aliases\": […], \"labels\": {…}}
  JSON        an array of these

Every line that is wrong is named, twenty of them at most, and nothing is imported if any is.";

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// Add one
    Add(Box<AddArgs>),
    /// Add many, all or none
    #[command(after_help = IMPORT_FORMATS)]
    Import(ImportArgs),
    /// Remove endpoints of this host
    Rm(RmArgs),
    /// Give an endpoint of this host another name, other aliases or labels
    Set(Box<SetEndpointArgs>),
    /// Let a MAC or address move again that this host has frozen, because it
    /// moved too often
    Thaw(ThawArgs),
    /// Let the addresses go that this host keeps for a name: see attach --keep-ip
    ForgetIp(ForgetIpArgs),
}

#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("what").required(true).multiple(true)
    .args(["name", "aliases", "labels", "no_aliases", "no_labels"]))]
pub(crate) struct SetEndpointArgs {
    /// Its name, id or MAC
    #[arg(value_name = "ENDPOINT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) endpoint: String,

    /// Its network, by name or id, when endpoints of two networks have the name
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,

    #[command(flatten)]
    pub(crate) called: Called,

    /// Take all aliases away
    #[arg(long, conflicts_with = "aliases")]
    pub(crate) no_aliases: bool,

    /// Take all labels away
    #[arg(long, conflicts_with = "labels")]
    pub(crate) no_labels: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ForgetIpArgs {
    /// For whom they are kept
    #[arg(required = true, value_name = "NAME", value_parser = name)]
    pub(crate) names: Vec<Name>,

    /// Its network, by name or id
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ThawArgs {
    /// As `overlayctl status` shows it
    #[arg(required = true, value_name = "MAC|IP", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) what: Vec<String>,

    /// Its network [default: all]
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AddArgs {
    /// The network, by name or id
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: String,

    /// Ethernet address of the station
    #[arg(long, value_parser = mac)]
    pub(crate) mac: MacAddr,

    /// Address; at most one IPv4 and one IPv6 [default: free ones]
    #[arg(long = "ip", value_name = "IP", value_parser = ip)]
    pub(crate) ips: Vec<IpAddr>,

    #[command(flatten)]
    pub(crate) called: Called,

    /// Take it over from the host that has it, which may be down: what is left
    /// out is as it was there
    #[arg(long)]
    pub(crate) take_over: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ImportArgs {
    /// The network, by name or id
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: String,

    /// Make these all static endpoints of this host on the network: change those
    /// that differ, remove those that are not in the file
    #[arg(long)]
    pub(crate) replace: bool,

    /// Take over what other hosts have of these, which may be down
    #[arg(long)]
    pub(crate) take_over: bool,

    /// A file, or - for standard input
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmArgs {
    /// Name, id or MAC of the endpoint
    #[arg(required = true, value_name = "NAME|ID|MAC", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) endpoints: Vec<String>,

    /// Its network; needed when endpoints of two networks have the name or MAC
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Create a service: an address, and a name for it
    Create(Box<CreateServiceArgs>),
    /// List services
    Ls(ServiceLsArgs),
    /// Remove a service
    Rm(ServiceRmArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CreateServiceArgs {
    /// A DNS label, unique among services and endpoints of the network
    #[arg(value_name = "NAME", value_parser = name)]
    pub(crate) name: Name,

    /// The network, by name or id
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: String,

    /// A port, and where it leads if that is another: PORT[:TARGET][/tcp|udp|sctp]
    #[arg(long = "port", value_name = "PORT", required = true, value_parser = service_port)]
    pub(crate) ports: Vec<ServicePort>,

    /// Connections go to all endpoints that have this alias [default: its name]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) alias: Option<Name>,

    /// Its address; at most one IPv4 and one IPv6, of those that this host owns [default: auto]
    #[arg(long = "vip", value_name = "IP|auto", value_parser = vip)]
    pub(crate) vips: Vec<Vip>,
}

/// An address of a service, or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vip {
    /// Chosen.
    Auto,
    /// This one.
    Ip(IpAddr),
}

fn vip(text: &str) -> Result<Vip, String> {
    if text == "auto" { Ok(Vip::Auto) } else { ip(text).map(Vip::Ip) }
}

fn service_port(text: &str) -> Result<ServicePort, overlay_model::InvalidPublish> {
    text.parse()
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServiceLsArgs {
    /// Of this network only
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServiceRmArgs {
    /// Its name
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,

    /// Its network; needed when two networks have a service of that name
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PublishArgs {
    /// The endpoint: its name, id or MAC
    #[arg(value_name = "NAME|ID|MAC", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) endpoint: String,

    /// [IP:]HOSTPORT:PORT[/tcp|udp|sctp][,mode=cluster], as for attach
    #[arg(value_name = "PORTS", required = true, value_parser = publish)]
    pub(crate) ports: Vec<Publish>,

    /// Its network; needed when endpoints of two networks have the name or MAC
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,
}

#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("which").required(true).args(["ports", "all"]))]
pub(crate) struct UnpublishArgs {
    /// The endpoint: its name, id or MAC
    #[arg(value_name = "NAME|ID|MAC", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) endpoint: String,

    /// Ports of the host, as 8080 or 53/udp; of a range any one
    #[arg(value_name = "HOSTPORT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) ports: Vec<String>,

    /// All that it publishes
    #[arg(long)]
    pub(crate) all: bool,

    /// Its network; needed when endpoints of two networks have the name or MAC
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,
}

#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("where").required(true).args(["netns", "pid", "device"]))]
pub(crate) struct AttachArgs {
    /// The network, by name or id
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: String,

    /// The namespace: a path (with a `/`), or a name as `ip netns` knows it
    #[arg(long, value_name = "PATH|NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) netns: Option<String>,

    /// The namespace of this process
    #[arg(long, value_parser = pid)]
    pub(crate) pid: Option<u32>,

    /// A device of this host, such as a VM's tap: it becomes a port of the
    /// network's bridge until it is detached; needs --mac
    #[arg(long, value_name = "IF", value_parser = ifname, requires = "mac")]
    pub(crate) device: Option<IfName>,

    /// Address; at most one IPv4 and one IPv6 [default: free ones]
    #[arg(long = "ip", value_name = "IP", value_parser = ip)]
    pub(crate) ips: Vec<IpAddr>,

    /// Ethernet address; with --device that of the station behind it [default:
    /// made from the IPv4 address]
    #[arg(long, value_parser = mac)]
    pub(crate) mac: Option<MacAddr>,

    #[command(flatten)]
    pub(crate) called: Called,

    /// The interface inside the namespace [default: the first free eth<N>]
    #[arg(long, value_name = "IF", value_parser = ifname, conflicts_with = "device")]
    pub(crate) ifname: Option<IfName>,

    /// Set no default route
    #[arg(long, conflicts_with = "device")]
    pub(crate) no_default_route: bool,

    /// A port of this host that leads to it: [IP:]HOSTPORT:PORT[/tcp|udp|sctp], ranges as
    /// 8000-8009, host port 0 for any free one; with ,mode=cluster a port of every host, for all
    /// endpoints that share an alias with it
    #[arg(long, short = 'p', value_name = "PORTS", value_parser = publish)]
    pub(crate) publish: Vec<Publish>,
    /// Answer no names at 127.0.0.11 in the namespace: it has a resolver of its own
    #[arg(long, conflicts_with_all = ["device", "write_resolv_conf"])]
    pub(crate) no_dns: bool,

    /// Write what belongs into the container's /etc/resolv.conf to this file, such as
    /// /etc/netns/NAME/resolv.conf
    #[arg(long, value_name = "FILE")]
    pub(crate) write_resolv_conf: Option<PathBuf>,

    /// Keep its addresses and its MAC for its name on this host when it is detached, until
    /// `overlayctl endpoint forget-ip`
    #[arg(long, requires = "name")]
    pub(crate) keep_ip: bool,

    /// Take it over from the host that has it, which may be down: what is left
    /// out is as it was there
    #[arg(long)]
    pub(crate) take_over: bool,
}

/// `dns`.
#[derive(Debug, ClapArgs)]
pub(crate) struct DnsArgs {
    /// A short name, a whole one, or an address
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) asked: Option<String>,

    /// As asked on this network only
    #[arg(long, value_name = "NAME|ID", requires = "asked",
          value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,
}

/// What people call an endpoint.
#[derive(Debug, ClapArgs)]
pub(crate) struct Called {
    /// A DNS label, unique in the network
    #[arg(long, value_parser = name)]
    pub(crate) name: Option<Name>,

    /// A further DNS label, which other endpoints may share
    #[arg(long = "alias", value_name = "NAME", value_parser = name)]
    pub(crate) aliases: Vec<Name>,

    #[command(flatten)]
    pub(crate) labels: Labels,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Labels {
    /// Free text for people and tools
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

impl Labels {
    /// As a map, or the key that is given twice: one of the values would be
    /// lost silently.
    pub(crate) fn into_map(self) -> Result<BTreeMap<String, String>, String> {
        let mut map = BTreeMap::new();
        for (key, value) in self.labels {
            if map.contains_key(&key) {
                return Err(format!("the label {key} is given twice; give each key once"));
            }
            map.insert(key, value);
        }
        Ok(map)
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DetachArgs {
    /// Name or id of the endpoint
    #[arg(required = true, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) endpoints: Vec<String>,

    /// Its network; needed when endpoints of two networks have the name
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EndpointsArgs {
    /// Only those of this network, by name or id
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,

    /// Only those on this host, with their interfaces
    #[arg(long)]
    pub(crate) local: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EntriesArgs {
    /// Only those of this network, by name or id
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) net: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LeaveArgs {
    /// Leave although endpoints are attached here: they lose the other hosts
    #[arg(long)]
    pub(crate) force: bool,
}

impl Args {
    /// What was typed on the command line.
    pub(crate) fn from_command_line() -> Result<Self, Stop> {
        Self::try_parse().map_err(Stop)
    }
}

/// Why there is nothing to do: wrong usage, `--help`, or `--version`.
#[derive(Debug)]
pub(crate) struct Stop(clap::Error);

impl Stop {
    /// Says it, and gives the exit code.
    pub(crate) fn tell(self) -> ExitCode {
        match self.one_line() {
            Some(line) => crate::output::say(&line),
            // A closed pipe is no reason to fail: `overlayctl --help | head -1`.
            None => drop(self.0.print()),
        }
        ExitCode::from(if self.0.use_stderr() { 2 } else { 0 })
    }

    /// For a wrong value the text says what to write instead; what clap would
    /// add to it is noise. For anything else clap knows better than we do.
    fn one_line(&self) -> Option<String> {
        if self.0.kind() != ErrorKind::ValueValidation {
            return None;
        }
        let Some(ContextValue::String(arg)) = self.0.get(ContextKind::InvalidArg) else {
            return None;
        };
        let arg = arg.split(' ').next().unwrap_or(arg).trim_matches(['[', ']', '<', '>', '.']);
        self.0.source().map(|why| format!("overlayctl: {arg}: {why}"))
    }
}

fn name(text: &str) -> Result<Name, overlay_model::InvalidName> {
    text.parse()
}

fn key_id(text: &str) -> Result<KeyId, overlay_model::InvalidId> {
    text.parse()
}

fn vni(text: &str) -> Result<Vni, overlay_model::InvalidVni> {
    text.parse()
}

fn mac(text: &str) -> Result<MacAddr, overlay_model::InvalidMac> {
    text.parse()
}

fn publish(text: &str) -> Result<Publish, overlay_model::InvalidPublish> {
    text.parse()
}

fn ifname(text: &str) -> Result<IfName, overlay_model::InvalidIfName> {
    text.parse()
}

fn subnet(text: &str) -> Result<WantedSubnet, overlay_api::v1::InvalidSubnet> {
    text.parse()
}

fn range(text: &str) -> Result<AddressRange, overlay_model::InvalidRange> {
    text.parse()
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        let example = "write it like 10.0.9.5 or fd00::5, without a prefix length";
        format!("`{text}` is not an IP address; {example}")
    })
}

fn mtu(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(mtu) if mtu >= MIN_INNER_MTU => Ok(mtu),
        _ => Err(format!(
            "`{text}` is not an MTU; write bytes of IP packet, {MIN_INNER_MTU} (what IPv6 needs) \
             or more"
        )),
    }
}

fn pid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(format!("`{text}` is not a process id; write a number like 4711")),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not a label; write it like tier=front")),
    }
}

#[cfg(test)]
mod tests;
