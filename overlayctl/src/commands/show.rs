//! `endpoints`, `hosts`, `status`, `fdb`, `neigh`, `plan`: they change nothing.

use super::{Session, asking, of_net};
use crate::args::{EndpointsArgs, EntriesArgs};
use crate::output::{Failure, say};
use crate::render;

impl Session {
    pub(super) async fn endpoints(&self, args: EndpointsArgs) -> Result<(), Failure> {
        let net = args.net.as_deref();
        let reply = self.client.endpoints(net, args.local);
        let endpoints = asking(of_net("list endpoints", net), reply).await?;
        let now = render::now_ms();
        self.output.show_list(&endpoints, "no endpoints", |all| match args.local {
            true => render::local_endpoints(all, now),
            false => render::endpoints(all, now),
        })
    }

    pub(super) async fn hosts(&self) -> Result<(), Failure> {
        let hosts = asking("list hosts", self.client.hosts()).await?;
        self.output.show_list(&hosts, "no hosts", render::hosts)
    }

    pub(super) async fn status(&self) -> Result<(), Failure> {
        let status = asking("read the status", self.client.status()).await?;
        self.output.show(&status, render::status)
    }

    pub(super) async fn fdb(&self, args: EntriesArgs) -> Result<(), Failure> {
        let net = args.net.as_deref();
        let entries = asking(of_net("list FDB entries", net), self.client.fdb(net)).await?;
        self.output.show_list(&entries, "no FDB entries", render::entries)
    }

    pub(super) async fn neigh(&self, args: EntriesArgs) -> Result<(), Failure> {
        let net = args.net.as_deref();
        let reply = self.client.neigh(net);
        let entries = asking(of_net("list ARP and ND entries", net), reply).await?;
        self.output.show_list(&entries, "no ARP or ND entries", render::entries)
    }

    pub(super) async fn plan(&self) -> Result<(), Failure> {
        let plan = asking("read the plan", self.client.plan()).await?;
        // Beside the commands, not among them: they may be piped into a file.
        if !plan.view_complete && !self.output.json {
            say("# too little is known yet to delete anything that another run left behind");
        }
        self.output.show(&plan, render::plan)
    }
}
