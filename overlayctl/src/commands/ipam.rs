//! `ipam ls`, `ipam show`, `ipam check`, `ipam release`.

use overlay_api::v1;

use super::{Session, asking, of_net};
use crate::args::{IpamCommand, ReleaseArgs};
use crate::output::Failure;
use crate::render;

impl Session {
    pub(super) async fn ipam(&self, command: IpamCommand) -> Result<(), Failure> {
        let client = &self.client;
        match command {
            IpamCommand::Ls => {
                let subnets = asking("list addresses", client.ipam()).await?;
                let none = "no networks yet; make one with: overlayctl net create";
                self.output.show_list(&subnets, none, render::subnets)
            }
            IpamCommand::Show(names) => {
                let doing = |net: &str| format!("show the addresses of {net}");
                let show = async |net: &str| client.ipam_of(net).await;
                self.each(&names.nets, doing, show, render::ranges).await
            }
            IpamCommand::Check(args) => {
                let doing = of_net("check the addresses", args.net.as_deref());
                let request = v1::CheckIpam { net: args.net, repair: args.repair };
                let audit = asking(doing, client.check_ipam(&request)).await?;
                let wrong = audit.findings.iter().any(|finding| finding.repaired.is_none());
                // What is found goes before a closed pipe: that one would exit with 0.
                let shown = self.output.show(&audit, render::audit);
                if wrong { Err(Failure::SaidAlready) } else { shown }
            }
            IpamCommand::Release(ReleaseArgs { net, address }) => {
                let doing = format!("release {address} of {net}");
                let request = v1::ReleaseAddress { address: Some(address) };
                let released = asking(doing, client.release_address(&net, &request)).await?;
                self.output.show(&released, render::released)
            }
        }
    }
}
