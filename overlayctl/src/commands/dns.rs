//! `dns`: it changes nothing.

use super::{Session, asking};
use crate::args::DnsArgs;
use crate::output::Failure;
use crate::render;

impl Session {
    pub(super) async fn dns(&self, args: DnsArgs) -> Result<(), Failure> {
        let Some(name) = &args.asked else {
            let dns = asking("read what is known of names", self.client.dns()).await?;
            return self.output.show(&dns, render::dns);
        };
        let doing = format!("look {name} up");
        let looked = asking(doing, self.client.look_up(name, args.net.as_deref())).await?;
        self.output.show(&looked, render::looked)
    }
}
