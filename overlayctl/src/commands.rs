//! One module a group of commands: arguments in, a request to the daemon, its
//! reply out.
//!
//! Each `request` function is the upper layer of arguments: what was typed
//! becomes what is asked, with nothing left that depends on where overlayctl
//! runs. They are pure, and tested here; the rest is tested from outside, in
//! `tests/`.

mod attach;
mod dns;
mod endpoint;
mod ipam;
mod key;
mod net;
mod service;
mod show;
mod watch;

use std::future::Future;
use std::path::Path;

use overlay_api::{Client, ClientError, v1};

use crate::args::{Args, Command, DrainArgs, ForgetArgs, HostCommand, LeaveArgs};
use crate::output::{Failure, Output, write};
use crate::render;

/// A daemon to ask, and a way to show what it says.
struct Session {
    client: Client,
    output: Output,
}

/// Does what was typed.
pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    if let Command::Completions { shell } = args.command {
        return completions(shell);
    }
    if let Command::Man { dir } = &args.command {
        return man(dir);
    }
    let session = Session { client: Client::new(&args.socket), output };
    // One thread, because there is one request at a time; starting more is a
    // good part of what a short command would cost.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Starting)?
        .block_on(session.run(args.command))
}

impl Session {
    async fn run(&self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Net(command) => self.net(command).await,
            Command::Attach(args) => self.attach(*args).await,
            Command::Detach(args) => self.detach(args).await,
            Command::Publish(args) => self.publish(args).await,
            Command::Unpublish(args) => self.unpublish(args).await,
            Command::Service(command) => self.service(command).await,
            Command::Ports => self.ports().await,
            Command::Fw => self.fw().await,
            Command::Endpoint(command) => self.endpoint(command).await,
            Command::Endpoints(args) => self.endpoints(args).await,
            Command::Ipam(command) => self.ipam(command).await,
            Command::Dns(args) => self.dns(args).await,
            Command::Hosts => self.hosts().await,
            Command::Host(HostCommand::Forget(args)) => self.forget(args).await,
            Command::Drain(args) => self.drain(args).await,
            Command::Status => self.status().await,
            Command::Watch(args) => self.watch(args).await,
            Command::Fdb(args) => self.fdb(args).await,
            Command::Neigh(args) => self.neigh(args).await,
            Command::Plan => self.plan().await,
            Command::Key(command) => self.key(command).await,
            Command::Leave(args) => self.leave(args).await,
            Command::Completions { shell } => completions(shell),
            Command::Man { dir } => man(&dir),
        }
    }

    async fn forget(&self, args: ForgetArgs) -> Result<(), Failure> {
        let ForgetArgs { host, dead, force } = args;
        let doing = format!("forget host {host}");
        let forgotten =
            asking(doing, self.client.forget(&host, &v1::Forget { dead, force })).await?;
        self.output.show(&forgotten, render::host_forgotten)
    }

    async fn drain(&self, args: DrainArgs) -> Result<(), Failure> {
        let request = v1::Drain { undo: args.undo };
        let drained = asking("drain this host", self.client.drain(&request)).await?;
        self.output.show(&drained, render::drained)
    }

    async fn leave(&self, args: LeaveArgs) -> Result<(), Failure> {
        let request = v1::Leave { force: args.force };
        let left = asking("leave the cluster", self.client.leave(&request)).await?;
        self.output.show(&left, render::left)
    }

    /// Does one thing to each of `names`, one after the other, and shows what
    /// came of those that worked. One that is refused does not keep the others
    /// from their turn; a daemon that cannot be reached does.
    async fn each<T: serde::Serialize>(
        &self,
        names: &[String],
        doing: impl Fn(&str) -> String,
        ask: impl AsyncFn(&str) -> Result<T, ClientError>,
        text: impl FnOnce(&[T]) -> String,
    ) -> Result<(), Failure> {
        let mut done = Vec::new();
        let mut all = Ok(());
        for name in names {
            match ask(name).await {
                Ok(reply) => done.push(reply),
                Err(error) => {
                    self.output.complain(&doing(name), &error);
                    all = Err(Failure::SaidAlready);
                    if !matches!(error, ClientError::Api(_)) {
                        break;
                    }
                }
            }
        }
        // A refusal goes before a closed pipe: that one would exit with 0.
        if !done.is_empty() || self.output.json {
            let shown = self.output.show(done.as_slice(), text);
            all = all.and(shown);
        }
        all
    }
}

/// Waits for a reply; `doing` follows "cannot" should it fail.
async fn asking<T>(
    doing: impl Into<String>,
    reply: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, Failure> {
    reply.await.map_err(|error| Failure::Asking { doing: doing.into(), error })
}

/// "list endpoints", or "list endpoints of demo".
fn of_net(doing: &str, net: Option<&str>) -> String {
    match net {
        Some(net) => format!("{doing} of {net}"),
        None => doing.to_owned(),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = <Args as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "overlayctl", &mut script);
    write(&String::from_utf8_lossy(&script))
}

fn man(dir: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(<Args as clap::CommandFactory>::command(), dir).map_err(|err| {
        let dir = dir.display();
        Failure::Usage(format!("cannot write to {dir}: {err}; name a directory that is there"))
    })
}
