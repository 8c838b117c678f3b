//! `key ls`, `key add`, `key use`, `key remove`.

use std::io::{self, Read};

use overlay_api::v1;

use super::{Session, asking};
use crate::args::KeyCommand;
use crate::output::Failure;
use crate::render;

/// More than a key file ever holds.
const LONGEST: u64 = 16 * 1024;

impl Session {
    pub(super) async fn key(&self, command: KeyCommand) -> Result<(), Failure> {
        let client = &self.client;
        match command {
            KeyCommand::Ls => {
                let keys = asking("list keys", client.keys()).await?;
                self.output.show_list(&keys, "no keys", render::keys)
            }
            KeyCommand::Add { key } => {
                let key = if key == "-" { read_key(io::stdin().lock())? } else { key };
                let key = asking("add a key", client.add_key(&v1::AddKey { key })).await?;
                self.output.show(&key, render::key_added)
            }
            KeyCommand::Use(args) => {
                let (id, request) = (args.id.to_string(), v1::UseKey { force: args.force });
                let key = asking(format!("use key {id}"), client.use_key(&id, &request)).await?;
                self.output.show(&key, render::key_used)
            }
            KeyCommand::Remove(args) => {
                let id = args.id.to_string();
                let reply = client.remove_key(&id, args.force);
                let key = asking(format!("remove key {id}"), reply).await?;
                self.output.show(&key, render::key_removed)
            }
        }
    }
}

/// The one key in what is read: a line of its own, remarks beside it allowed.
fn read_key(from: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|err| Failure::Usage(format!("cannot read a key from standard input: {err}")))?;
    let mut keys = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty());
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key.to_owned()),
        (None, _) => Err(Failure::Usage(
            "there is no key on standard input; make one with: overlayd keygen".to_owned(),
        )),
        (Some(_), Some(_)) => Err(Failure::Usage(
            "there is more than one key on standard input; add one at a time".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_without_the_remarks_beside_it() {
        let read = |text: &str| read_key(text.as_bytes()).map_err(|err| format!("{err:?}"));
        assert_eq!(read("# ours\n\n  abc=  # 5f6f1c09\n").unwrap(), "abc=");
        assert!(read("# nothing\n").unwrap_err().contains("overlayd keygen"));
        let two = read("secret1\nsecret2\n").unwrap_err();
        assert!(two.contains("one at a time") && !two.contains("secret"), "{two}");
    }
}
