//! `net create`, `net ls`, `net inspect`, `net set`, `net rm`.

use overlay_api::v1;

use super::{Session, asking};
use crate::args::{CreateArgs, NetCommand, SetArgs};
use crate::output::Failure;
use crate::render;

impl Session {
    pub(super) async fn net(&self, command: NetCommand) -> Result<(), Failure> {
        let client = &self.client;
        match command {
            NetCommand::Create(args) => {
                let doing = match &args.name {
                    Some(name) => format!("create network {name}"),
                    None => "create a network".to_owned(),
                };
                let request = request(*args)?;
                let network = asking(doing, client.create_network(&request)).await?;
                self.output.show(&network, render::created)
            }
            NetCommand::Ls => {
                let networks = asking("list networks", client.networks()).await?;
                let none = "no networks yet; make one with: overlayctl net create";
                self.output.show_list(&networks, none, render::networks)
            }
            NetCommand::Inspect(names) => {
                let doing = |net: &str| format!("show network {net}");
                let now = render::now_ms();
                let text = |all: &[v1::Network]| render::networks_in_full(all, now);
                self.each(&names.nets, doing, async |net| client.network(net).await, text).await
            }
            NetCommand::Set(args) => {
                let (net, request) = change(*args)?;
                let doing = format!("change network {net}");
                let network = asking(doing, client.change_network(&net, &request)).await?;
                self.output.show(&network, render::changed)
            }
            NetCommand::Rm(args) => {
                let doing = |net: &str| format!("delete network {net}");
                let delete = async |net: &str| client.delete_network(net, args.force).await;
                self.each(&args.names.nets, doing, delete, render::deleted).await
            }
        }
    }
}

fn change(args: SetArgs) -> Result<(String, v1::ChangeNetwork), Failure> {
    let text = |text: Option<String>| text.map(serde_json::Value::from);
    let internal = (args.internal || args.no_internal).then_some(args.internal);
    let request = v1::ChangeNetwork {
        labels: args.labels.into_map().map_err(Failure::Usage)?,
        unlabel: args.unlabel,
        exclude: args.exclude,
        include: args.include,
        internal,
        name: text(args.name),
        vni: text(args.vni),
        subnets: text(args.subnets),
        gateways: text(args.gateways),
        ip_ranges: text(args.ip_ranges),
        mtu: text(args.mtu),
        no_flood: args.no_flood.then_some(true.into()),
    };
    Ok((args.net, request))
}

fn request(args: CreateArgs) -> Result<v1::CreateNetwork, Failure> {
    Ok(v1::CreateNetwork {
        name: args.name.map(String::from),
        vni: args.vni.map(u32::from),
        subnets: args.subnets,
        gateways: args.gateways,
        mtu: args.mtu,
        internal: args.internal,
        no_flood: args.no_flood,
        labels: args.labels.into_map().map_err(Failure::Usage)?,
        exclude: args.exclude,
        ip_ranges: args.ip_ranges,
        once: args.once,
    })
}
