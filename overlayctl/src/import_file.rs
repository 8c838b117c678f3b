//! The file of `endpoint import`, in any of its three forms: lines of text, lines
//! of JSON, one array of JSON. So the daemon has one to understand; what is wrong
//! is said with the number of its line.

use overlay_api::v1;
use serde_json::value::RawValue;

/// How many wrong lines are named.
const NAMED: usize = 20;

/// Lines that cannot be read.
#[derive(Debug, Default)]
pub struct Wrong {
    /// How many.
    pub count: usize,
    /// The first of them, each with its number and the reason.
    pub details: Vec<v1::Detail>,
}

impl Wrong {
    fn push(&mut self, line: usize, why: impl std::fmt::Display) {
        self.count += 1;
        if self.details.len() < NAMED {
            let message = format!("line {line}: {why}");
            self.details.push(v1::Detail { index: line - 1, also: None, message });
        }
    }

    /// What is said of the file `from` above all of them.
    pub fn summary(&self, from: &str) -> String {
        match self.count {
            1 => format!("{from} has a line that is wrong, so nothing was imported"),
            n => format!("{from} has {n} lines that are wrong, so nothing was imported"),
        }
    }
}

/// The endpoints of a file, with the line that each begins in.
///
/// # Errors
/// [`Wrong`], if any line is.
pub fn parse(text: &str) -> Result<(Vec<v1::StaticEndpoint>, Vec<usize>), Wrong> {
    let mut wrong = Wrong::default();
    let mut found = Vec::new();
    let mut at = Vec::new();
    let mut take = |line: usize, item: Result<v1::StaticEndpoint, String>| match item {
        Ok(item) => {
            found.push(item);
            at.push(line);
        }
        Err(why) => wrong.push(line, why),
    };
    if text.trim_start().starts_with('[') {
        match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(items) => {
                // Each is a part of the text: where it stands tells its line.
                let (mut line, mut counted) = (1, 0);
                for item in items {
                    let start = item.get().as_ptr() as usize - text.as_ptr() as usize;
                    line += text.as_bytes()[counted..start].iter().filter(|b| **b == b'\n').count();
                    counted = start;
                    take(line, json(item.get()));
                }
            }
            Err(err) => wrong.push(err.line().max(1), cause(&err)),
        }
    } else {
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim_start().starts_with('{') {
                take(line, json(text));
            } else if let Some(item) = plain(text) {
                take(line, item);
            }
        }
    }
    if wrong.count > 0 { Err(wrong) } else { Ok((found, at)) }
}

fn json(text: &str) -> Result<v1::StaticEndpoint, String> {
    let item: v1::StaticEndpoint = serde_json::from_str(text).map_err(|err| cause(&err))?;
    if item.mac.is_empty() {
        return Err("it has no \"mac\"".to_owned());
    }
    check(item)
}

/// The parser's words without its own idea of the place.
fn cause(err: &serde_json::Error) -> String {
    let text = err.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(why, _)| why.to_owned())
}

/// `MAC IP[,IP] [NAME]`; nothing of an empty line or a remark.
fn plain(text: &str) -> Option<Result<v1::StaticEndpoint, String>> {
    let text = text.split('#').next().unwrap_or_default();
    let mut words = text.split_whitespace();
    let mac = words.next()?;
    let (ips, name, more) = (words.next(), words.next(), words.next());
    Some((|| {
        let ips = ips.ok_or("there is no address; write MAC IP[,IP] [NAME]")?;
        if let Some(more) = more {
            return Err(format!("`{more}` is too much; write MAC IP[,IP] [NAME]"));
        }
        let addresses: Result<_, String> = ips
            .split(',')
            .map(|ip| ip.parse().map_err(|_| format!("`{ip}` is not an IP address")))
            .collect();
        check(v1::StaticEndpoint {
            mac: mac.to_owned(),
            addresses: addresses?,
            name: name.map(str::to_owned),
            ..v1::StaticEndpoint::default()
        })
    })())
}

/// What can be said without a daemon.
fn check(item: v1::StaticEndpoint) -> Result<v1::StaticEndpoint, String> {
    item.mac.parse::<overlay_model::MacAddr>().map_err(|err| err.to_string())?;
    for name in item.name.iter().chain(&item.aliases) {
        overlay_model::Name::new(name).map_err(|err| err.to_string())?;
    }
    if item.addresses.is_empty() {
        return Err(format!("{} has no address", item.mac));
    }
    Ok(item)
}

#[cfg(test)]
mod tests;
