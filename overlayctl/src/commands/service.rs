//! `service create`, `service ls`, `service rm`.

use overlay_api::v1;

use super::{Session, asking, of_net};
use crate::args::{CreateServiceArgs, ServiceCommand, Vip};
use crate::output::Failure;
use crate::render;

impl Session {
    pub(super) async fn service(&self, command: ServiceCommand) -> Result<(), Failure> {
        match command {
            ServiceCommand::Create(args) => {
                let request = request(*args);
                let doing = format!("create service {}", request.name);
                let service = asking(doing, self.client.create_service(&request)).await?;
                self.output.show(&service, render::service_created)
            }
            ServiceCommand::Ls(args) => {
                let net = args.net.as_deref();
                let services =
                    asking(of_net("list services", net), self.client.services(net)).await?;
                let none = "no services; make one with: overlayctl service create";
                self.output.show_list(&services, none, render::services)
            }
            ServiceCommand::Rm(args) => {
                let doing = format!("remove service {}", args.name);
                let reply = self.client.remove_service(&args.name, args.net.as_deref());
                let service = asking(doing, reply).await?;
                self.output.show(&service, render::service_removed)
            }
        }
    }
}

fn request(args: CreateServiceArgs) -> v1::CreateService {
    let vip = |vip: Vip| match vip {
        Vip::Auto => None,
        Vip::Ip(ip) => Some(ip),
    };
    v1::CreateService {
        name: args.name.into(),
        net: args.net,
        alias: args.alias.map(String::from),
        ports: args.ports.iter().map(ToString::to_string).collect(),
        vips: args.vips.into_iter().filter_map(vip).collect(),
    }
}
