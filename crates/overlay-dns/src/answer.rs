//! What is answered, and why.
//!
//! | asked | answered |
//! |---|---|
//! | `NAME.NET.overlay.internal` | the addresses of all that are called so on that network, by name or alias |
//! | `NAME` | the same, on the first of the asker's networks that has it |
//! | `_PORT._tcp.NAME.NET.overlay.internal` | SRV: who of them has that port |
//! | an address of the asker's networks, backwards | its name |
//! | a name of ours that has no record of the type asked for | nothing, NOERROR: it exists |
//! | another name under `overlay.internal` | NXDOMAIN, of another network's too |
//! | anything else | the host's resolvers are asked, if one of the asker's networks is not internal |
//! | anything else, from internal networks only | REFUSED; a single label NXDOMAIN |
//!
//! REFUSED, since we do not know whether `example.com` exists, and NXDOMAIN would say that it does
//! not: nobody remembers a refusal, and a program says "cannot look up" and not "no such host". A
//! single label means something on the asker's networks or nothing.
//!
//! Of several holders the ones on suspect hosts come last, and those on hosts that are down are
//! left out, as if they were not there. The others take turns to be first.

use std::net::IpAddr;

use hickory_proto::rr::{DNSClass, Name};
use overlay_model::{NetworkId, Placed, Protocol, Publish};

use crate::DOMAIN;
use crate::wire::{self, Message, Query, RecordType, Reply, ResponseCode};
use crate::zone::{Book, Standing, Zone};

/// Addresses that an answer is made of at most: no more fit a reply by TCP.
const MOST: usize = 4096;

/// From how many addresses on a repetition is looked for by sorting.
const FEW: usize = 64;

/// Types that only zones have: of a single label, a top level domain is meant.
const OF_ZONES: [RecordType; 4] =
    [RecordType::NS, RecordType::SOA, RecordType::DS, RecordType::DNSKEY];

/// What becomes of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The reply is written.
    Answered(ResponseCode),
    /// It is for the host's resolvers. The reply that refuses it is written, for when they are not
    /// to be asked.
    Forward,
}

/// Answers; kept from query to query for its buffers.
#[derive(Debug, Default)]
pub struct Answerer {
    turn: u64,
    addresses: Vec<IpAddr>,
    suspects: Vec<IpAddr>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The networks whose names he may see, the one he was attached to first before the others.
    pub networks: &'a [NetworkId],
    /// Names that are not ours may be looked up for him, as far as his networks allow that.
    pub forwards: bool,
}

/// A port of endpoints that others may look for by SRV: one that they have published.
#[derive(Debug, Clone, Copy)]
struct Service {
    protocol: Protocol,
    /// As the container listens at it.
    port: u16,
}

impl Service {
    fn is_of(self, placed: &Placed) -> bool {
        let is_it = |ports: &Publish| ports.protocol == self.protocol && ports.leads_to(self.port);
        placed.endpoint.ports.iter().any(is_it)
    }
}

/// What there is of a name.
enum Found<'a> {
    /// Those who have it, in a zone.
    Holders(&'a Zone, &'a str),
    /// A name of the zone's own, without addresses.
    Apex,
    /// Only names below it.
    Between,
    /// A service of those who have it.
    Service(&'a Zone, &'a str, Service),
    /// Whoever has an address.
    Address(&'a Zone, IpAddr),
    /// No such name; where it could be is the zone of so many labels.
    Nothing(usize),
    /// Not ours.
    Elsewhere,
}

impl Answerer {
    /// Answers `query` in at most `limit` bytes; records are good for `ttl` seconds.
    pub fn answer(
        &mut self,
        book: &Book,
        asker: Asker<'_>,
        query: &Query<'_>,
        (limit, ttl): (usize, u32),
        out: &mut Vec<u8>,
    ) -> Outcome {
        let mut reply = Reply::new(query, limit, ttl, out);
        if query.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            reply.end(ResponseCode::BADVERS, false);
            return Outcome::Answered(ResponseCode::BADVERS);
        }
        let kind = query.asked.query_type;
        let found = find(book, asker.networks, &query.name, kind);
        let is_ours = !matches!(found, Found::Elsewhere);
        if !matches!(query.asked.query_class, DNSClass::IN | DNSClass::ANY) && is_ours {
            reply.end(ResponseCode::Refused, false);
            return Outcome::Answered(ResponseCode::Refused);
        }
        let code = match found {
            Found::Elsewhere => {
                let forwards = asker.forwards && forwards(book, asker.networks);
                if !forwards && count(&query.name) == 1 {
                    reply.nothing(0);
                    reply.end(ResponseCode::NXDomain, true);
                    return Outcome::Answered(ResponseCode::NXDomain);
                }
                reply.end(ResponseCode::Refused, false);
                return if forwards {
                    Outcome::Forward
                } else {
                    Outcome::Answered(ResponseCode::Refused)
                };
            }
            Found::Nothing(labels) => {
                reply.nothing(labels);
                ResponseCode::NXDomain
            }
            Found::Between => ResponseCode::NoError,
            Found::Apex => {
                match kind {
                    RecordType::SOA => reply.start_of_authority(),
                    RecordType::NS => reply.name_server(),
                    _ => true,
                };
                ResponseCode::NoError
            }
            Found::Holders(zone, name) => {
                self.addresses(book, zone, name, kind);
                // What has no room leaves room for nothing behind it.
                let _ = self.addresses.iter().all(|ip| reply.address(*ip));
                if self.addresses.is_empty() && !is_there(book, zone, name) {
                    reply.nothing(labels_of_zone(&query.name));
                    ResponseCode::NXDomain
                } else {
                    ResponseCode::NoError
                }
            }
            Found::Service(zone, name, service) => {
                match service_of(book, zone, name, service, kind, &mut reply) {
                    true => ResponseCode::NoError,
                    false => {
                        reply.nothing(labels_of_zone(&query.name));
                        ResponseCode::NXDomain
                    }
                }
            }
            Found::Address(zone, ip) => {
                let mut there = false;
                for placed in zone.at(ip).filter(|placed| is_in(book, placed)) {
                    let Some(name) = own_name(placed) else { continue };
                    there = true;
                    if [RecordType::PTR, RecordType::ANY].contains(&kind) {
                        reply.pointer(&[name, zone.network().name.as_str(), DOMAIN]);
                    }
                }
                if there {
                    ResponseCode::NoError
                } else {
                    reply.nothing(labels_of_zone(&query.name));
                    ResponseCode::NXDomain
                }
            }
        };
        if code == ResponseCode::NoError && reply.answers() == 0 && !reply.is_truncated() {
            reply.nothing(labels_of_zone(&query.name));
        }
        reply.end(code, true);
        Outcome::Answered(code)
    }

    /// One that takes turns from somewhere else than others do.
    pub fn starting_at(turn: u64) -> Self {
        Self { turn, ..Self::default() }
    }

    /// Whose turn it is. Not one after the other: programs ask for both families, and everybody's
    /// second question would get the same.
    fn next_turn(&mut self) -> usize {
        // Knuth's MMIX generator; its high bits are the random ones.
        self.turn = self
            .turn
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.turn >> 33) as usize
    }

    /// Gathers the addresses of all that are called `name`, in the order in which they are
    /// answered.
    fn addresses(&mut self, book: &Book, zone: &Zone, name: &str, kind: RecordType) {
        self.addresses.clear();
        self.suspects.clear();
        let wanted = |ip: &IpAddr| match kind {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        };
        let holders = zone.named(name);
        let count = holders.len();
        let first = if count > 1 { self.next_turn() % count } else { 0 };
        // From whose turn it is to the end, then from the beginning.
        for placed in holders.skip(first).chain(zone.named(name).take(first)) {
            let list = match book.standing(placed.host) {
                Standing::Up => &mut self.addresses,
                Standing::Suspect => &mut self.suspects,
                Standing::Out => continue,
            };
            list.extend(placed.endpoint.addresses.iter().filter(|ip| wanted(ip)));
            if self.addresses.len() >= MOST {
                break;
            }
        }
        self.addresses.append(&mut self.suspects);
        self.addresses.truncate(MOST);
        if count > 1 {
            once_each(&mut self.addresses);
        }
    }
}

/// Leaves of each address the first: one that moves is on two hosts for a moment.
fn once_each(addresses: &mut Vec<IpAddr>) {
    if addresses.len() > FEW {
        let mut seen = std::collections::HashSet::with_capacity(addresses.len());
        addresses.retain(|ip| seen.insert(*ip));
        return;
    }
    let mut kept = 0;
    for n in 0..addresses.len() {
        if !addresses[..kept].contains(&addresses[n]) {
            addresses[kept] = addresses[n];
            kept += 1;
        }
    }
    addresses.truncate(kept);
}

fn is_in(book: &Book, placed: &Placed) -> bool {
    book.standing(placed.host) != Standing::Out
}

fn is_there(book: &Book, zone: &Zone, name: &str) -> bool {
    zone.named(name).any(|placed| is_in(book, placed))
}

/// True if names that are not ours may be looked up for who is on `networks`.
pub fn forwards(book: &Book, networks: &[NetworkId]) -> bool {
    networks.iter().filter_map(|id| book.zone(*id)).any(|zone| !zone.network().internal)
}

/// What would be answered, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// How.
    pub code: ResponseCode,
    /// The host's resolvers would be asked.
    pub forward: bool,
    /// The addresses in an order that they may have, or the names of an address.
    pub answers: Vec<String>,
    /// Who has the name or the address, answered or not.
    pub holders: Vec<Holder>,
}

/// Somebody who has a name or an address that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub endpoint: overlay_model::EndpointId,
    /// What it is called, if it has a name of its own.
    pub name: Option<overlay_model::Name>,
    /// It has what was asked for as an alias.
    pub by_alias: bool,
    /// The name of its host.
    pub host: String,
    /// How that stands.
    pub standing: Standing,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Says what somebody on `network` would be answered who asks for `name`, which may be short,
/// whole, or an address. `None` if this is no name, or this host does not use the network.
pub fn explain(book: &Book, network: NetworkId, name: &str) -> Option<Explanation> {
    book.zone(network)?;
    let asked = match name.parse::<IpAddr>() {
        Ok(ip) => (Name::from(ip).to_ascii(), RecordType::PTR),
        Err(_) => (name.to_owned(), RecordType::ANY),
    };
    let bytes = wire::question(0, &asked.0, asked.1)?;
    let Message::Query(query) = Query::read(&bytes) else { return None };
    let networks = [network];
    let asker = Asker { networks: &networks, forwards: true };
    let (mut answerer, mut out) = (Answerer::default(), Vec::new());
    let limits = (wire::TCP_LIMIT, 0);
    let outcome = answerer.answer(book, asker, &query, limits, &mut out);
    let (code, forward) = match outcome {
        Outcome::Answered(code) => (code, false),
        Outcome::Forward => (ResponseCode::NoError, true),
    };
    let mut told = Explanation { code, forward, answers: Vec::new(), holders: Vec::new() };
    let holder = |placed: &Placed, by_alias| Holder {
        endpoint: placed.endpoint.id,
        name: placed.endpoint.name.clone(),
        by_alias,
        host: book.host_name(placed.host),
        standing: book.standing(placed.host),
        addresses: placed.endpoint.addresses.clone(),
    };
    match find(book, &networks, &query.name, asked.1) {
        Found::Holders(zone, label) => {
            told.answers = answerer.addresses.iter().map(IpAddr::to_string).collect();
            told.holders.extend(zone.named(label).map(|placed| {
                let own = placed.endpoint.name.as_ref();
                holder(placed, own.is_none_or(|own| own.as_str() != label))
            }));
        }
        Found::Address(zone, ip) => {
            told.holders.extend(zone.at(ip).map(|placed| holder(placed, false)));
            let net = &zone.network().name;
            let names = zone.at(ip).filter(|placed| is_in(book, placed)).filter_map(own_name);
            told.answers = names.map(|name| format!("{name}.{net}.{DOMAIN}")).collect();
        }
        Found::Service(zone, label, service) => {
            let has = |placed: &&Placed| service.is_of(placed);
            told.holders.extend(zone.named(label).filter(has).map(|placed| holder(placed, false)));
        }
        // Only a name whose holders are all out is looked for and not found.
        Found::Apex | Found::Between | Found::Nothing(_) | Found::Elsewhere => {
            let zone = book.zone(network)?;
            if count(&query.name) == 1 {
                let label = text(&query.name, 0);
                told.holders.extend(zone.named(label).map(|placed| holder(placed, false)));
            }
        }
    }
    Some(told)
}

/// What an endpoint is called when it is looked for by something else.
fn own_name(placed: &Placed) -> Option<&str> {
    let endpoint = &placed.endpoint;
    endpoint.name.iter().chain(&endpoint.aliases).next().map(|name| name.as_str())
}

/// How many labels a name has.
fn count(name: &Name) -> usize {
    // Not `num_labels`, which leaves out an asterisk.
    name.iter().len()
}

/// The `n`th label of a name, the leftmost first; empty if there is none.
fn label(name: &Name, n: usize) -> &[u8] {
    name.iter().nth(n).unwrap_or_default()
}

/// The same; empty if it can be no name of ours.
fn text(name: &Name, n: usize) -> &str {
    std::str::from_utf8(label(name, n)).unwrap_or_default()
}

/// How many labels the zone of a name has that is ours.
fn labels_of_zone(name: &Name) -> usize {
    if count(name) == 1 || is_short_service(name) { 0 } else { 2 }
}

/// `_80._tcp.web`: a service of a short name.
fn is_short_service(name: &Name) -> bool {
    count(name) == 3 && label(name, 0).starts_with(b"_") && protocol(label(name, 1)).is_some()
}

fn protocol(label: &[u8]) -> Option<Protocol> {
    let text = std::str::from_utf8(label.strip_prefix(b"_")?).ok()?;
    text.parse().ok()
}

fn service(name: &Name) -> Option<Service> {
    let digits = text(name, 0).strip_prefix('_')?;
    let port = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
    Some(Service { protocol: protocol(label(name, 1))?, port })
}

fn find<'a>(book: &'a Book, networks: &[NetworkId], name: &'a Name, kind: RecordType) -> Found<'a> {
    let zones = || networks.iter().filter_map(|id| book.zone(*id));
    let has = |zone: &Zone, n: usize| is_there(book, zone, text(name, n));
    if wire::DOMAIN.zone_of_case(name) {
        let Some(last) = count(name).checked_sub(3) else { return Found::Apex };
        let zone = zones().find(|zone| zone.network().name.as_str() == text(name, last));
        let Some(zone) = zone else { return Found::Nothing(2) };
        return match last {
            0 => Found::Between,
            1 => Found::Holders(zone, text(name, 0)),
            2 if protocol(label(name, 0)).is_some() && has(zone, 1) => Found::Between,
            3 => match service(name) {
                Some(service) => Found::Service(zone, text(name, 2), service),
                None => Found::Nothing(2),
            },
            _ => Found::Nothing(2),
        };
    }
    if let Some(ip) = backwards(name) {
        return match zones().find(|zone| zone.contains(ip)) {
            Some(zone) => Found::Address(zone, ip),
            None => Found::Elsewhere,
        };
    }
    if count(name) == 1
        && !OF_ZONES.contains(&kind)
        && let Some(zone) = zones().find(|zone| has(zone, 0))
    {
        return Found::Holders(zone, text(name, 0));
    }
    if is_short_service(name)
        && let (Some(service), Some(zone)) = (service(name), zones().find(|zone| has(zone, 2)))
    {
        return Found::Service(zone, text(name, 2), service);
    }
    Found::Elsewhere
}

/// The address of which a name is the reverse.
fn backwards(name: &Name) -> Option<IpAddr> {
    // Of a whole address: what is shorter is a range of them.
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// Answers who of those called `name` has `service`; false if nobody.
fn service_of(
    book: &Book,
    zone: &Zone,
    name: &str,
    service: Service,
    asked: RecordType,
    reply: &mut Reply<'_, '_>,
) -> bool {
    let net = zone.network().name.as_str();
    let has = |placed: &&Placed| service.is_of(placed);
    let of = |standing| {
        zone.named(name).filter(has).filter(move |placed| book.standing(placed.host) == standing)
    };
    let mut targets: Vec<(&str, &Placed)> = Vec::new();
    for placed in of(Standing::Up).chain(of(Standing::Suspect)).take(MOST) {
        // Who has no name of his own is reached by the one that was asked for.
        targets.push((placed.endpoint.name.as_ref().map_or(name, |own| own.as_str()), placed));
    }
    if [RecordType::SRV, RecordType::ANY].contains(&asked) {
        let mut told: Vec<&str> = Vec::new();
        // What has no room leaves room for nothing behind it.
        let has_room = targets.iter().all(|(target, _)| {
            told.contains(target) || {
                told.push(target);
                reply.service(service.port, &[target, net, DOMAIN])
            }
        });
        let mut addresses = targets.iter().flat_map(|(target, placed)| {
            placed.endpoint.addresses.iter().map(move |ip| (target, *ip))
        });
        let _ =
            has_room && addresses.all(|(target, ip)| reply.additional(&[target, net, DOMAIN], ip));
    }
    !targets.is_empty()
}

#[cfg(test)]
mod tests;
