//! `endpoint add`, `endpoint import`, `endpoint rm`: static endpoints; and
//! `endpoint thaw` and `endpoint forget-ip`.
//!
//! What is wrong with a file is said with the numbers of its lines, whether it
//! was found here (see `import_file`) or by the daemon.

use std::io::Read as _;
use std::path::Path;

use overlay_api::{ClientError, v1};
use overlayctl::import_file::{self, Wrong};

use super::{Session, asking};
use crate::args::{
    AddArgs, EndpointCommand, ForgetIpArgs, ImportArgs, RmArgs, SetEndpointArgs, ThawArgs,
};
use crate::output::Failure;
use crate::render;

impl Session {
    pub(super) async fn endpoint(&self, command: EndpointCommand) -> Result<(), Failure> {
        match command {
            EndpointCommand::Add(args) => self.add(*args).await,
            EndpointCommand::Import(args) => self.import(args).await,
            EndpointCommand::Rm(args) => self.rm(args).await,
            EndpointCommand::Set(args) => self.set_endpoint(*args).await,
            EndpointCommand::Thaw(args) => self.thaw(args).await,
            EndpointCommand::ForgetIp(args) => self.forget_ip(args).await,
        }
    }

    async fn add(&self, args: AddArgs) -> Result<(), Failure> {
        let doing = format!("add {} to {}", args.mac, args.net);
        let request = v1::Attach {
            net: args.net,
            is_static: true,
            ips: args.ips,
            mac: Some(args.mac.to_string()),
            name: args.called.name.map(String::from),
            aliases: args.called.aliases.into_iter().map(String::from).collect(),
            labels: args.called.labels.into_map().map_err(Failure::Usage)?,
            take_over: args.take_over,
            ..v1::Attach::default()
        };
        let endpoint = asking(doing, self.client.attach(&request)).await?;
        self.output.show(&endpoint, render::attached)
    }

    async fn import(&self, args: ImportArgs) -> Result<(), Failure> {
        let ImportArgs { net, replace, take_over, file } = args;
        let from = if file == Path::new("-") {
            "standard input".to_owned()
        } else {
            file.display().to_string()
        };
        let text =
            read(&file).map_err(|err| Failure::Usage(format!("cannot read {from}: {err}")))?;
        let (endpoints, lines) =
            import_file::parse(&text).map_err(|wrong| failure(wrong, &from))?;
        let request = v1::Import { net, replace, take_over, endpoints };
        let reply = self.client.import(&request).await.map_err(|error| named(error, &lines));
        let doing = format!("import {from} into {}", request.net);
        let done = asking(doing, async { reply }).await?;
        self.output.show(&done, render::imported)
    }

    async fn rm(&self, args: RmArgs) -> Result<(), Failure> {
        let net = args.net.as_deref();
        let doing = |endpoint: &str| format!("remove {endpoint}");
        let remove = async |endpoint: &str| self.client.detach(endpoint, net).await;
        self.each(&args.endpoints, doing, remove, render::detached).await
    }

    async fn set_endpoint(&self, args: SetEndpointArgs) -> Result<(), Failure> {
        let doing = format!("change {}", args.endpoint);
        let said = |none: bool, some: bool| none || some;
        let aliases: Vec<String> = args.called.aliases.into_iter().map(String::from).collect();
        let labels = args.called.labels.into_map().map_err(Failure::Usage)?;
        let request = v1::ChangeEndpoint {
            name: args.called.name.map(String::from),
            aliases: said(args.no_aliases, !aliases.is_empty()).then_some(aliases),
            labels: said(args.no_labels, !labels.is_empty()).then_some(labels),
        };
        let changed = self.client.change_endpoint(&args.endpoint, args.net.as_deref(), &request);
        let endpoint = asking(doing, changed).await?;
        self.output.show(&endpoint, render::attached)
    }

    async fn thaw(&self, args: ThawArgs) -> Result<(), Failure> {
        let net = args.net.as_deref();
        let doing = |what: &str| format!("thaw {what}");
        let thaw = async |what: &str| self.client.thaw(what, net).await;
        self.each(&args.what, doing, thaw, render::thawed).await
    }

    async fn forget_ip(&self, args: ForgetIpArgs) -> Result<(), Failure> {
        let net = args.net.as_str();
        let names: Vec<String> = args.names.into_iter().map(String::from).collect();
        let doing = |name: &str| format!("let the addresses of {name} on {net} go");
        let forget = async |name: &str| self.client.forget_ip(net, name).await;
        self.each(&names, doing, forget, render::forgotten).await
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

/// What the daemon says of items, with the lines that they came from.
fn named(error: ClientError, lines: &[usize]) -> ClientError {
    let ClientError::Api(mut error) = error else { return error };
    for detail in &mut error.details {
        let line = |index: usize| lines.get(index).copied();
        if let Some(at) = line(detail.index) {
            let also = detail.also.and_then(line);
            let also = also.map(|also| format!(", as in line {also}")).unwrap_or_default();
            detail.message = format!("line {at}: {}{also}", detail.message);
        }
    }
    ClientError::Api(error)
}

fn failure(wrong: Wrong, from: &str) -> Failure {
    Failure::Lines { what: wrong.summary(from), lines: wrong.details }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_of_items_is_said_of_lines() {
        let detail =
            |index, also, message: &str| v1::Detail { index, also, message: message.into() };
        let error = ClientError::Api(v1::Error {
            code: v1::ErrorCode::Taken,
            message: "2 are wrong".into(),
            hint: None,
            details: vec![detail(0, None, "it is taken"), detail(2, Some(1), "it is given twice")],
        });
        let ClientError::Api(error) = named(error, &[2, 4, 5]) else { panic!("another error") };
        let lines: Vec<_> = error.details.into_iter().map(|d| d.message).collect();
        assert_eq!(lines, ["line 2: it is taken", "line 5: it is given twice, as in line 4"]);
    }
}
