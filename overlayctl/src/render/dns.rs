//! Names: where they are answered, and what.

use overlay_api::v1::{Dns, DnsAnswer, DnsHolder, Looked};

use super::{clean, count, fields, list, or_dash, table};

/// `dns`.
pub(crate) fn dns(dns: &Dns) -> String {
    if !dns.answering {
        return "no names are answered: this overlayd was started with dns off\n".to_owned();
    }
    let asked = dns.counters.get("queries").copied().unwrap_or_default();
    let mut text = fields(
        "",
        [
            ("names", format!("NAME.NET.{}, good for {} s", dns.domain, dns.ttl_s)),
            ("other names", format!("asked of {} ({})", list(&dns.resolvers), dns.resolv_conf)),
            ("search", list(&dns.search)),
            (
                "questions",
                format!("{asked}, {} sent on, {} under way", forwarded(dns), dns.under_way),
            ),
        ],
    );
    if !dns.networks.is_empty() {
        let rows = dns.networks.iter().map(|net| {
            let others = if net.forwards { "sent on" } else { "refused" };
            [net.net.clone(), net.names.to_string(), others.to_owned()]
        });
        text.push_str(&table(["NET", "NAMES", "OTHER-NAMES"], rows));
    }
    if !dns.doors.is_empty() {
        let rows = dns.doors.iter().map(|door| {
            let state = if door.open && door.problem.is_none() { "open" } else { "not open" };
            let problem = or_dash(door.problem.as_deref());
            [door.at.clone(), list(&door.nets), state.to_owned(), problem]
        });
        text.push_str(&table(["ASKED-AT", "NETS", "STATE", "PROBLEM"], rows));
    }
    text
}

fn forwarded(dns: &Dns) -> u64 {
    dns.counters.get("forwarded").copied().unwrap_or_default()
}

/// `dns NAME`.
pub(crate) fn looked(looked: &Looked) -> String {
    if looked.answers.is_empty() {
        return "no network has an endpoint on this host: nobody here asks for names\n".to_owned();
    }
    looked.answers.iter().map(|answer| on_network(&looked.name, answer)).collect()
}

fn on_network(name: &str, answer: &DnsAnswer) -> String {
    let said = match answer {
        DnsAnswer { forwarded: true, .. } => "not ours: the host's resolvers are asked".to_owned(),
        DnsAnswer { answers, .. } if answers.is_empty() => answer.code.clone(),
        DnsAnswer { answers, code, .. } => format!("{code} {}", list(answers)),
    };
    let mut text = format!("{} on {}: {}\n", clean(name), clean(&answer.net), clean(&said));
    if !answer.holders.is_empty() {
        let header = ["ENDPOINT", "NAME", "BY", "HOST", "HOST-STATE", "ANSWERED", "ADDRESS"];
        text.push_str(&table(header, answer.holders.iter().map(holder)));
        let out = answer.holders.iter().filter(|holder| !holder.answered).count();
        if out > 0 {
            text.push_str(&format!(
                "left out: {} on hosts that are down\n",
                count(out, "endpoint")
            ));
        }
    }
    text
}

fn holder(holder: &DnsHolder) -> [String; 7] {
    let last = holder.answered && holder.host_state == "suspect";
    let answered = if last {
        "last"
    } else if holder.answered {
        "yes"
    } else {
        "no"
    };
    [
        holder.endpoint.clone(),
        or_dash(holder.name.as_deref()),
        if holder.by_alias { "alias" } else { "name" }.to_owned(),
        holder.host.clone(),
        holder.host_state.clone(),
        answered.to_owned(),
        list(&holder.ips),
    ]
}
