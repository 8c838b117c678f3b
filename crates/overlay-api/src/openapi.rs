//! The contract as an OpenAPI 3.1 document: what `GET /v1/openapi.json` answers.
//!
//! The operations stand here, as empty functions that only their annotations
//! matter of, and not in the daemon: the contract can then be read, and tested
//! against the table in the crate's header, without a daemon.

use utoipa::OpenApi as _;

/// The document, made afresh at each call.
pub fn document() -> utoipa::openapi::OpenApi {
    Contract::openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "overlayd",
        description = "The local contract of overlayd: HTTP/1.1 over a Unix socket. Fields may be \
                       added to replies; none is removed or changes its meaning within v1.",
    ),
    servers((url = "http://overlayd", description = "The Unix socket, /run/overlayd/overlayd.sock unless told otherwise")),
    tags(
        (name = "networks", description = "Ethernet segments across hosts"),
        (name = "endpoints", description = "Attached network namespaces and devices, and static endpoints"),
        (name = "addresses", description = "Who owns, gives and has which address"),
        (name = "keys", description = "What gossip is sealed with; keys are shown by id only"),
        (name = "host", description = "This daemon, its kernel, and the cluster it sees"),
    ),
    // Replies that succeed bring their schemas along; those that fail do not.
    components(schemas(crate::v1::Error)),
    paths(
        operations::create_network,
        operations::list_networks,
        operations::get_network,
        operations::change_network,
        operations::delete_network,
        operations::forget_ip,
        operations::attach,
        operations::import,
        operations::list_endpoints,
        operations::detach,
        operations::change_endpoint,
        operations::publish,
        operations::unpublish,
        operations::list_ports,
        operations::create_service,
        operations::list_services,
        operations::remove_service,
        operations::get_firewall,
        operations::thaw,
        operations::get_dns,
        operations::look_name_up,
        operations::list_ipam,
        operations::get_ipam,
        operations::reserve_address,
        operations::unreserve_address,
        operations::release_address,
        operations::check_ipam,
        operations::list_hosts,
        operations::get_status,
        operations::watch_events,
        operations::list_fdb,
        operations::list_neigh,
        operations::get_plan,
        operations::list_keys,
        operations::add_key,
        operations::use_key,
        operations::remove_key,
        operations::forget,
        operations::drain,
        operations::leave,
        operations::get_openapi,
        operations::get_metrics,
    ),
)]
struct Contract;

/// The ways to fail, one a status, so that each operation lists those that it has.
mod failures {
    use utoipa::IntoResponses;

    use crate::v1::Error;

    macro_rules! failure {
        ($name:ident, $status:literal, $description:literal) => {
            #[derive(IntoResponses)]
            #[response(status = $status, description = $description)]
            #[expect(dead_code, reason = "only its description is used")]
            pub(super) struct $name(Error);
        };
    }
    failure!(Invalid, 400, "`invalid_request`: the request makes no sense as it stands");
    failure!(Forbidden, 403, "`forbidden`: the caller may not do this");
    failure!(NotFound, 404, "`not_found`: no such network, endpoint or namespace");
    failure!(
        Conflict,
        409,
        "`taken`, `in_use`, `exhausted` or `locks_out`: something else has or needs it"
    );
    failure!(Unsupported, 422, "`unsupported`: the underlay or the kernel of this host cannot");
    failure!(Failed, 500, "`kernel_refused`, or `internal`: a bug of ours");
    failure!(Unavailable, 503, "`unavailable`: try again soon");
}

/// One empty function an operation.
#[expect(dead_code, reason = "only their annotations are used")]
mod operations {
    use super::failures::*;
    use crate::v1::*;

    /// Creates a network.
    ///
    /// Everything may be left out: a name, a VNI and a subnet are then chosen.
    #[utoipa::path(post, path = "/v1/networks", tag = "networks",
        request_body = CreateNetwork,
        responses((status = 200, description = "As created", body = Network),
            Invalid, Forbidden, Conflict, Unsupported, Failed, Unavailable))]
    fn create_network() {}

    /// Lists the networks known here.
    #[utoipa::path(get, path = "/v1/networks", tag = "networks",
        responses((status = 200, description = "All of them", body = Vec<Network>),
            Forbidden, Failed, Unavailable))]
    fn list_networks() {}

    /// Shows one network.
    #[utoipa::path(get, path = "/v1/networks/{net}", tag = "networks",
        params(("net" = String, Path, description = "Its name or id")),
        responses((status = 200, description = "The network", body = Network),
            Forbidden, NotFound, Failed, Unavailable))]
    fn get_network() {}

    /// Changes a network, on all hosts.
    ///
    /// Of two changes at the same time the later one counts, whole.
    #[utoipa::path(patch, path = "/v1/networks/{net}", tag = "networks",
        params(("net" = String, Path, description = "Its name or id")),
        request_body = ChangeNetwork,
        responses((status = 200, description = "As it is now", body = Network),
            Invalid, Forbidden, NotFound, Conflict, Failed, Unavailable))]
    fn change_network() {}

    /// Deletes a network that has no endpoints, or by force with all that it has.
    #[utoipa::path(delete, path = "/v1/networks/{net}", tag = "networks",
        params(
            ("net" = String, Path, description = "Its name or id"),
            ("force" = Option<bool>, Query, description = "Detach its endpoints, on all hosts"),
        ),
        responses((status = 200, description = "As it was", body = Deleted),
            Invalid, Forbidden, NotFound, Conflict, Failed, Unavailable))]
    fn delete_network() {}

    /// Lets the addresses go that this host keeps for a name.
    ///
    /// While an endpoint has them, that is when it is detached.
    #[utoipa::path(delete, path = "/v1/networks/{net}/kept/{name}", tag = "networks",
        params(
            ("net" = String, Path, description = "Name or id of the network"),
            ("name" = String, Path, description = "For whom they are kept"),
        ),
        responses((status = 200, description = "As it was", body = Kept),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn forget_ip() {}

    /// Attaches a network namespace or a device to a network, or takes a static
    /// endpoint in.
    ///
    /// When this answers, the interface is up and, in a namespace, addressed.
    #[utoipa::path(post, path = "/v1/endpoints", tag = "endpoints",
        request_body = Attach,
        responses((status = 200, description = "As attached", body = Endpoint),
            Invalid, Forbidden, NotFound, Conflict, Unsupported, Failed, Unavailable))]
    fn attach() {}

    /// Takes many static endpoints in, all or none.
    ///
    /// The body may have 64 MiB. An error names what is wrong with single items.
    #[utoipa::path(post, path = "/v1/endpoints/import", tag = "endpoints",
        request_body = Import,
        responses((status = 200, description = "What came of it", body = Imported),
            Invalid, Forbidden, NotFound, Conflict, Unsupported, Failed, Unavailable))]
    fn import() {}

    /// Lists the endpoints known here, on all hosts.
    #[utoipa::path(get, path = "/v1/endpoints", tag = "endpoints",
        params(
            ("net" = Option<String>, Query, description = "Only those of this network, by name or id"),
            ("local" = Option<bool>, Query, description = "Only those on this host"),
            ("label" = Option<String>, Query, description = "Only those with this label: KEY, or KEY=VALUE"),
        ),
        responses((status = 200, description = "Those asked for", body = Vec<Endpoint>),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn list_endpoints() {}

    /// Detaches an endpoint of this host.
    #[utoipa::path(delete, path = "/v1/endpoints/{endpoint}", tag = "endpoints",
        params(
            ("endpoint" = String, Path, description = "Its name, id or MAC"),
            ("net" = Option<String>, Query, description = "Its network, by name or id: needed when endpoints of two networks have the name"),
            ("wait" = Option<bool>, Query, description = "False: answer when it is given up for good; its interface goes a moment later"),
        ),
        responses((status = 200, description = "As it was", body = Endpoint),
            Invalid, Forbidden, NotFound, Conflict, Failed, Unavailable))]
    fn detach() {}

    /// Changes the name, aliases or labels of an endpoint of this host.
    #[utoipa::path(patch, path = "/v1/endpoints/{endpoint}", tag = "endpoints",
        params(
            ("endpoint" = String, Path, description = "Its name, id or MAC"),
            ("net" = Option<String>, Query, description = "Its network, by name or id: needed when endpoints of two networks have the name"),
        ),
        request_body = ChangeEndpoint,
        responses((status = 200, description = "As it is now", body = Endpoint),
            Invalid, Forbidden, NotFound, Conflict, Failed, Unavailable))]
    fn change_endpoint() {}

    /// Leads more ports to an endpoint of this host.
    #[utoipa::path(post, path = "/v1/endpoints/{endpoint}/ports", tag = "endpoints",
        params(
            ("endpoint" = String, Path, description = "Its name, id or MAC"),
            ("net" = Option<String>, Query, description = "Its network, by name or id: needed when endpoints of two networks have the name"),
        ),
        request_body = Publish,
        responses((status = 200, description = "As it is now", body = Endpoint),
            Invalid, Forbidden, NotFound, Conflict, Failed, Unavailable))]
    fn publish() {}

    /// Leads ports to an endpoint of this host no longer.
    #[utoipa::path(delete, path = "/v1/endpoints/{endpoint}/ports", tag = "endpoints",
        params(
            ("endpoint" = String, Path, description = "Its name, id or MAC"),
            ("net" = Option<String>, Query, description = "Its network, by name or id: needed when endpoints of two networks have the name"),
            ("ports" = Option<String>, Query, description = "Ports of the host, as 8080/tcp, with commas between; all when left out"),
        ),
        responses((status = 200, description = "As it is now", body = Endpoint),
            Invalid, Forbidden, NotFound, Conflict, Failed, Unavailable))]
    fn unpublish() {}

    /// Creates a service: an address whose connections are spread over endpoints.
    #[utoipa::path(post, path = "/v1/services", tag = "endpoints",
        request_body = CreateService,
        responses((status = 200, description = "As created", body = Service),
            Invalid, Forbidden, NotFound, Conflict, Unsupported, Failed, Unavailable))]
    fn create_service() {}

    /// Lists services.
    #[utoipa::path(get, path = "/v1/services", tag = "endpoints",
        params(("net" = Option<String>, Query, description = "Only those of this network, by name or id")),
        responses((status = 200, description = "By network and name", body = Vec<Service>),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn list_services() {}

    /// Removes a service.
    #[utoipa::path(delete, path = "/v1/services/{name}", tag = "endpoints",
        params(
            ("name" = String, Path, description = "Its name"),
            ("net" = Option<String>, Query, description = "Its network, by name or id: needed when two networks have one"),
        ),
        responses((status = 200, description = "As it was", body = Service),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn remove_service() {}

    /// Lists the ports that this host takes, and where they lead.
    #[utoipa::path(get, path = "/v1/ports", tag = "endpoints",
        responses((status = 200, description = "By number", body = Vec<Port>),
            Forbidden, Failed, Unavailable))]
    fn list_ports() {}

    /// Tells what the rules of the kernel have done so far.
    #[utoipa::path(get, path = "/v1/firewall", tag = "host",
        responses((status = 200, description = "Counts", body = Firewall),
            Forbidden, Failed, Unavailable))]
    fn get_firewall() {}

    /// Lifts what this host has frozen because it moved too often.
    ///
    /// What was frozen with it, of the same endpoint, is lifted too.
    #[utoipa::path(delete, path = "/v1/frozen/{what}", tag = "endpoints",
        params(
            ("what" = String, Path, description = "A MAC or an address"),
            ("net" = Option<String>, Query, description = "Only on this network, by name or id"),
        ),
        responses((status = 200, description = "As it was", body = Vec<Frozen>),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn thaw() {}

    /// Shows where names are answered, from what, and who is asked for others.
    #[utoipa::path(get, path = "/v1/dns", tag = "names",
        responses((status = 200, description = "What is known", body = Dns),
            Forbidden, Failed, Unavailable))]
    fn get_dns() {}

    /// Says what would be answered, and why.
    #[utoipa::path(get, path = "/v1/dns/{name}", tag = "names",
        params(
            ("name" = String, Path, description = "A short or a whole name, or an address"),
            ("net" = Option<String>, Query, description = "Asked on this network only"),
        ),
        responses((status = 200, description = "To those on each network", body = Looked),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn look_name_up() {}

    /// Says how much of each subnet is used.
    #[utoipa::path(get, path = "/v1/ipam", tag = "addresses",
        responses((status = 200, description = "All of them", body = Vec<IpamSubnet>),
            Forbidden, Failed, Unavailable))]
    fn list_ipam() {}

    /// Shows who owns which addresses of a network.
    #[utoipa::path(get, path = "/v1/ipam/{net}", tag = "addresses",
        params(("net" = String, Path, description = "Its name or id")),
        responses((status = 200, description = "Its subnets", body = Vec<IpamRanges>),
            Forbidden, NotFound, Failed, Unavailable))]
    fn get_ipam() {}

    /// Holds an address for an attach that comes for it, for two minutes.
    #[utoipa::path(post, path = "/v1/ipam/{net}/reserve", tag = "addresses",
        params(("net" = String, Path, description = "Its name or id")),
        request_body = ReserveAddress,
        responses((status = 200, description = "Which", body = ReservedAddress),
            Invalid, Forbidden, NotFound, Conflict, Failed, Unavailable))]
    fn reserve_address() {}

    /// Lets an address go that is held for an attach.
    #[utoipa::path(delete, path = "/v1/ipam/{net}/reserve/{address}", tag = "addresses",
        params(
            ("net" = String, Path, description = "Its name or id"),
            ("address" = String, Path, description = "Which"),
        ),
        responses((status = 200, description = "Which", body = ReleasedAddress),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn unreserve_address() {}

    /// Gives an address back that is leased on this host and that no endpoint has.
    #[utoipa::path(post, path = "/v1/ipam/{net}/release", tag = "addresses",
        params(("net" = String, Path, description = "Its name or id")),
        request_body = ReleaseAddress,
        responses((status = 200, description = "Which", body = ReleasedAddress),
            Invalid, Forbidden, NotFound, Conflict, Failed, Unavailable))]
    fn release_address() {}

    /// Audits addresses; with `repair`, does what is safe about what it finds.
    #[utoipa::path(post, path = "/v1/ipam/check", tag = "addresses",
        request_body = CheckIpam,
        responses((status = 200, description = "What it has found", body = IpamAudit),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn check_ipam() {}

    /// Lists the hosts of the cluster.
    #[utoipa::path(get, path = "/v1/hosts", tag = "host",
        responses((status = 200, description = "All that are known here", body = Vec<Host>),
            Forbidden, Failed, Unavailable))]
    fn list_hosts() {}

    /// Tells how this daemon is.
    #[utoipa::path(get, path = "/v1/status", tag = "host",
        responses((status = 200, description = "How it is", body = Status),
            Forbidden, Failed, Unavailable))]
    fn get_status() {}

    /// Streams what happens, one JSON object a line, until the daemon stops.
    ///
    /// A reader that is too slow is told how many events it missed. At most 64
    /// may watch at a time.
    #[utoipa::path(get, path = "/v1/events", tag = "host",
        params(("since" = Option<u64>, Query, description = "First those of the last 1000 events whose `seq` is greater; 0 for all of them")),
        responses((status = 200, description = "Without end", body = Event, content_type = "application/x-ndjson"),
            Invalid, Forbidden, Failed, Unavailable))]
    fn watch_events() {}

    /// Lists FDB entries: as they should be, beside as they are.
    #[utoipa::path(get, path = "/v1/fdb", tag = "host",
        params(("net" = Option<String>, Query, description = "Only those of this network, by name or id")),
        responses((status = 200, description = "Those asked for", body = Vec<Entry>),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn list_fdb() {}

    /// Lists ARP and ND entries: as they should be, beside as they are.
    #[utoipa::path(get, path = "/v1/neigh", tag = "host",
        params(("net" = Option<String>, Query, description = "Only those of this network, by name or id")),
        responses((status = 200, description = "Those asked for", body = Vec<Entry>),
            Invalid, Forbidden, NotFound, Failed, Unavailable))]
    fn list_neigh() {}

    /// Tells what the reconciler would do now, without doing it.
    #[utoipa::path(get, path = "/v1/plan", tag = "host",
        responses((status = 200, description = "The commands, in order", body = Plan),
            Forbidden, Failed, Unavailable))]
    fn get_plan() {}

    /// Lists the cluster keys of this host and of all live ones, by id.
    #[utoipa::path(get, path = "/v1/keys", tag = "keys",
        responses((status = 200, description = "All that anybody has", body = Vec<Key>),
            Forbidden, Unsupported, Failed, Unavailable))]
    fn list_keys() {}

    /// Gives this host a further key, which is not used yet.
    #[utoipa::path(post, path = "/v1/keys", tag = "keys",
        request_body = AddKey,
        responses((status = 200, description = "Who has it now", body = Key),
            Invalid, Forbidden, Conflict, Unsupported, Failed, Unavailable))]
    fn add_key() {}

    /// Seals with another key from now on.
    #[utoipa::path(post, path = "/v1/keys/{id}/use", tag = "keys",
        params(("id" = String, Path, description = "8 hex digits")),
        request_body = UseKey,
        responses((status = 200, description = "Who has it", body = Key),
            Invalid, Forbidden, NotFound, Conflict, Unsupported, Failed, Unavailable))]
    fn use_key() {}

    /// Forgets a key.
    #[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys",
        params(
            ("id" = String, Path, description = "8 hex digits"),
            ("force" = Option<bool>, Query, description = "Although a live host uses it"),
        ),
        responses((status = 200, description = "As it was", body = Key),
            Invalid, Forbidden, NotFound, Conflict, Unsupported, Failed, Unavailable))]
    fn remove_key() {}

    /// Lets another host take over what one that is gone for good owned.
    #[utoipa::path(post, path = "/v1/hosts/{host}/forget", tag = "host",
        params(("host" = String, Path, description = "Name or id")),
        request_body = Forget,
        responses((status = 200, description = "How far that is", body = Forgotten),
            Invalid, Forbidden, NotFound, Conflict, Failed, Unavailable))]
    fn forget() {}

    /// Takes no new endpoint on this host, or does so again.
    #[utoipa::path(post, path = "/v1/drain", tag = "host",
        request_body = Drain,
        responses((status = 200, description = "What holds now", body = Drained),
            Invalid, Forbidden, Failed, Unavailable))]
    fn drain() {}

    /// Leaves the cluster; the daemon then ends.
    #[utoipa::path(post, path = "/v1/leave", tag = "host",
        request_body = Leave,
        responses((status = 200, description = "Whom it told", body = Left),
            Invalid, Forbidden, Conflict, Failed, Unavailable))]
    fn leave() {}

    /// This document.
    #[utoipa::path(get, path = "/v1/openapi.json", tag = "host",
        responses((status = 200, description = "OpenAPI 3.1", body = Object),
            Forbidden, Failed, Unavailable))]
    fn get_openapi() {}

    /// Figures for Prometheus.
    #[utoipa::path(get, path = "/metrics", tag = "host",
        responses((status = 200, description = "Its text format 0.0.4", body = String, content_type = "text/plain"),
            Forbidden, Failed, Unavailable))]
    fn get_metrics() {}
}

#[cfg(test)]
mod tests;
