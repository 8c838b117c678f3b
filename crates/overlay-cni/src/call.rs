//! What the environment says: which verb, for which container.

use std::collections::BTreeMap;

use crate::failure::Failure;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Is it as it was attached?
    Check,
    /// Detach what is not there any more.
    Gc,
    /// Would an ADD work?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Verb {
    fn of(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// As the specification writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// An interface of a container on a network: what CNI calls an attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// The key of the label that says whose an endpoint is.
pub const LABEL: &str = "cni";

impl Attachment {
    /// The label's value: network, container and interface. None of the three
    /// can hold a `/`.
    pub fn label(&self, network: &str) -> String {
        format!("{network}/{}/{}", self.container, self.ifname)
    }

    /// The attachment that a label of `network` names.
    pub fn of_label(network: &str, label: &str) -> Option<Self> {
        let rest = label.strip_prefix(network)?.strip_prefix('/')?;
        let (container, ifname) = rest.split_once('/')?;
        Some(Self { container: container.to_owned(), ifname: ifname.to_owned() })
    }
}

/// What the environment says of ADD, DEL and CHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Which interface of which container.
    pub attachment: Attachment,
    /// `CNI_NETNS`; a DEL may lack it.
    pub netns: Option<String>,
    /// `CNI_NETNS_OVERRIDE`: the namespace may be the plugin's own.
    pub netns_override: bool,
    /// `CNI_ARGS`.
    pub args: BTreeMap<String, String>,
}

/// Which verb the environment names; `None`: none, somebody has typed the name
/// of the program.
///
/// # Errors
/// If it is no verb.
pub fn verb(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Verb>, Failure> {
    let Some(text) = variable("CNI_COMMAND").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match Verb::of(&text) {
        Some(verb) => Ok(Some(verb)),
        None => Err(Failure::environment(format!(
            "CNI_COMMAND is `{}`, not one of ADD, DEL, CHECK, GC, STATUS, VERSION",
            shortened(&text)
        ))),
    }
}

impl Container {
    /// Reads what `verb`, one of ADD, DEL and CHECK, needs.
    ///
    /// # Errors
    /// If a variable is missing, or breaks a rule of the specification.
    pub fn read(verb: Verb, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let given = |key: &str| variable(key).filter(|text| !text.is_empty());
        let needed = |key: &str| {
            let missing = || format!("{key} is not set; {} needs it", verb.as_str());
            given(key).ok_or_else(|| Failure::environment(missing()))
        };
        let container = needed("CNI_CONTAINERID")?;
        if !is_name(&container) {
            let id = shortened(&container);
            return Err(Failure::environment(format!(
                "CNI_CONTAINERID `{id}` must begin with a letter or digit, and have letters, \
                 digits, `_`, `.` and `-` only"
            )));
        }
        let ifname = needed("CNI_IFNAME")?;
        if overlay_model::IfName::new(&ifname).is_err() {
            let name = shortened(&ifname);
            return Err(Failure::environment(format!(
                "CNI_IFNAME `{name}` cannot name an interface; use 1 to 15 printable ASCII \
                 characters without `/` and `:`"
            )));
        }
        let netns = match verb {
            Verb::Del => given("CNI_NETNS"),
            _ => Some(needed("CNI_NETNS")?),
        };
        let netns_override = given("CNI_NETNS_OVERRIDE").is_some_and(|text| is_true(&text));
        let args = match verb {
            // Whatever they were, it is to go.
            Verb::Del => BTreeMap::new(),
            _ => args(&given("CNI_ARGS").unwrap_or_default())?,
        };
        Ok(Self { attachment: Attachment { container, ifname }, netns, netns_override, args })
    }
}

/// Whether `text` may name a container or a network.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn is_true(text: &str) -> bool {
    ["1", "true", "yes"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Keys of `CNI_ARGS` that we read; Kubernetes and its like set the latter four.
const ARGS: [&str; 7] = [
    "IP",
    "MAC",
    "IgnoreUnknown",
    "K8S_POD_NAMESPACE",
    "K8S_POD_NAME",
    "K8S_POD_UID",
    "K8S_POD_INFRA_CONTAINER_ID",
];

fn args(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut args = BTreeMap::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Failure::environment(format!(
                "CNI_ARGS has `{}`, which is no KEY=VALUE; pairs have `;` between them",
                shortened(pair)
            )));
        };
        args.insert(key.to_owned(), value.to_owned());
    }
    let unknown = args.keys().find(|key| !ARGS.contains(&key.as_str()));
    match (unknown, args.get("IgnoreUnknown")) {
        (Some(key), ignore) if !ignore.is_some_and(|text| is_true(text)) => {
            Err(Failure::environment(format!(
                "CNI_ARGS has `{}`, which means nothing here; say IgnoreUnknown=1 with it",
                shortened(key)
            )))
        }
        _ => Ok(args),
    }
}

/// What an error repeats of what came in.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
