//! `attach` and `detach`; `publish`, `unpublish`, `ports` and `fw`.

use std::io;
use std::path::{Path, PathBuf};

use overlay_api::v1;

use super::{Session, asking};
use crate::args::{AttachArgs, DetachArgs, PublishArgs, UnpublishArgs};
use crate::output::Failure;
use crate::render;

impl Session {
    pub(super) async fn attach(&self, args: AttachArgs) -> Result<(), Failure> {
        let file = args.write_resolv_conf.clone();
        let request = request(args, std::env::current_dir)?;
        let doing = format!("attach {} to {}", subject(&request), request.net);
        let endpoint = asking(doing, self.client.attach(&request)).await?;
        self.output.show(&endpoint, render::attached)?;
        match file {
            Some(file) => write_resolv_conf(&file, endpoint.resolv_conf.as_deref()),
            None => Ok(()),
        }
    }

    pub(super) async fn detach(&self, args: DetachArgs) -> Result<(), Failure> {
        let net = args.net.as_deref();
        let doing = |endpoint: &str| match net {
            Some(net) => format!("detach {endpoint} from {net}"),
            None => format!("detach {endpoint}"),
        };
        let detach = async |endpoint: &str| self.client.detach(endpoint, net).await;
        self.each(&args.endpoints, doing, detach, render::detached).await
    }
}

impl Session {
    pub(super) async fn publish(&self, args: PublishArgs) -> Result<(), Failure> {
        let request = v1::Publish { ports: args.ports.iter().map(ToString::to_string).collect() };
        let doing = format!("publish ports of {}", args.endpoint);
        let reply = self.client.publish(&args.endpoint, args.net.as_deref(), &request);
        let endpoint = asking(doing, reply).await?;
        self.output.show(&endpoint, render::published)
    }

    pub(super) async fn unpublish(&self, args: UnpublishArgs) -> Result<(), Failure> {
        let doing = format!("withdraw ports of {}", args.endpoint);
        let ports = Some(args.ports.join(",")).filter(|ports| !ports.is_empty());
        let net = args.net.as_deref();
        let reply = self.client.unpublish(&args.endpoint, net, ports.as_deref());
        let endpoint = asking(doing, reply).await?;
        self.output.show(&endpoint, render::published)
    }

    pub(super) async fn ports(&self) -> Result<(), Failure> {
        let ports = asking("list ports", self.client.ports()).await?;
        let none = "no published ports; publish one with: overlayctl publish ENDPOINT 8080:80";
        self.output.show_list(&ports, none, render::ports)
    }

    pub(super) async fn fw(&self) -> Result<(), Failure> {
        let firewall = asking("read the rules", self.client.firewall()).await?;
        self.output.show(&firewall, render::firewall)
    }
}

/// It is attached by now, and stays so.
fn write_resolv_conf(file: &Path, text: Option<&str>) -> Result<(), Failure> {
    let failed = |why: String| {
        Failure::AfterAll(format!("it is attached, but {} is not written: {why}", file.display()))
    };
    let text = text.ok_or_else(|| {
        failed("no names are answered there; see overlayctl dns, and docs/dns.md".to_owned())
    })?;
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).map_err(|err| failed(err.to_string()))?;
    }
    std::fs::write(file, text).map_err(|err| failed(err.to_string()))
}

/// What people would call the thing that they attach.
fn subject(request: &v1::Attach) -> String {
    match (&request.name, request.netns.as_ref().or(request.device.as_ref()), request.pid) {
        (Some(name), _, _) => name.clone(),
        (None, Some(place), _) => place.clone(),
        (None, None, Some(pid)) => format!("process {pid}"),
        (None, None, None) => "nothing".to_owned(),
    }
}

fn request(
    args: AttachArgs,
    cwd: impl FnOnce() -> io::Result<PathBuf>,
) -> Result<v1::Attach, Failure> {
    Ok(v1::Attach {
        net: args.net,
        netns: args.netns.map(|text| netns(text, cwd)).transpose()?,
        pid: args.pid,
        device: args.device.map(String::from),
        is_static: false,
        ips: args.ips,
        mac: args.mac.map(String::from),
        name: args.called.name.map(String::from),
        aliases: args.called.aliases.into_iter().map(String::from).collect(),
        labels: args.called.labels.into_map().map_err(Failure::Usage)?,
        ifname: args.ifname.map(String::from),
        no_default_route: args.no_default_route,
        no_dns: args.no_dns,
        take_over: args.take_over,
        publish: args.publish.iter().map(ToString::to_string).collect(),
        keep_ip: args.keep_ip,
        reserved: false,
    })
}

/// A name as it is; a path so that it means the same to the daemon, which runs
/// elsewhere.
fn netns(text: String, cwd: impl FnOnce() -> io::Result<PathBuf>) -> Result<String, Failure> {
    let is_path = text.contains('/') || text == "." || text == "..";
    if !is_path {
        return Ok(text);
    }
    let mut path = PathBuf::from(&text);
    if path.is_relative() {
        let cwd = cwd().map_err(|err| {
            Failure::Usage(format!(
                "--netns: `{text}` is relative to the working directory, which is gone ({err}); \
                 write it from the root"
            ))
        })?;
        // Through `components`, so that no `./` stays in the middle.
        path = cwd.join(path).components().collect();
    }
    // The daemon would open its own namespace, and the host would be attached
    // to itself.
    if ["/proc/self", "/proc/thread-self"].iter().any(|own| path.starts_with(Path::new(own))) {
        return Err(Failure::Usage(format!(
            "--netns: `{text}` means another namespace to overlayd than to you; use --pid with the \
             id of a process that stays in it"
        )));
    }
    path.into_os_string().into_string().map_err(|path| {
        Failure::Usage(format!(
            "--netns: the path {path:?} is not UTF-8; move or bind-mount the namespace elsewhere"
        ))
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(text: &str, result: Expect) {
        result.assert_eq(&match netns(text.to_owned(), || Ok("/home/me".into())) {
            Ok(netns) => netns,
            Err(Failure::Usage(why)) => format!("usage: {why}"),
            Err(other) => panic!("{other:?}"),
        });
    }

    #[test]
    fn a_name_stays_a_name() {
        check("web1", expect![[r#"web1"#]]);
        check("web.1", expect![[r#"web.1"#]]);
    }

    #[test]
    fn a_path_is_sent_from_the_root() {
        check("/run/netns/web1", expect![[r#"/run/netns/web1"#]]);
        check("./web1", expect![[r#"/home/me/web1"#]]);
        check("ns/./web1", expect![[r#"/home/me/ns/web1"#]]);
        check("../web1", expect![[r#"/home/me/../web1"#]]);
        check(".", expect![[r#"/home/me"#]]);
    }

    #[test]
    fn a_path_that_means_something_else_to_the_daemon_is_refused() {
        check(
            "/proc/self/ns/net",
            expect![[
                r#"usage: --netns: `/proc/self/ns/net` means another namespace to overlayd than to you; use --pid with the id of a process that stays in it"#
            ]],
        );
        assert!(matches!(
            netns("/proc/thread-self/ns/net".into(), || unreachable!("it is absolute")),
            Err(Failure::Usage(_))
        ));
        check("/proc/4711/ns/net", expect![[r#"/proc/4711/ns/net"#]]);
    }

    #[test]
    fn a_relative_path_without_a_working_directory_is_refused() {
        let gone = || Err(io::Error::from(io::ErrorKind::NotFound));
        let Err(Failure::Usage(why)) = netns("./x".into(), gone) else { panic!("it was taken") };
        expect![[r#"--netns: `./x` is relative to the working directory, which is gone (entity not found); write it from the root"#]]
            .assert_eq(&why);
    }

    #[test]
    fn complaints_call_the_thing_what_people_call_it() {
        let mut request = v1::Attach { pid: Some(7), ..v1::Attach::default() };
        assert_eq!(subject(&request), "process 7");
        request = v1::Attach { netns: Some("web1".into()), ..v1::Attach::default() };
        assert_eq!(subject(&request), "web1");
        request = v1::Attach { device: Some("tap0".into()), ..v1::Attach::default() };
        assert_eq!(subject(&request), "tap0");
        request.name = Some("web".into());
        assert_eq!(subject(&request), "web");
    }
}
