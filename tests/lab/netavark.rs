//! The plugin of netavark, driven as netavark drives it (`plugin-API.md`): Debian's
//! Podman is of before there were plugins.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::shell::command_in;
use overlay_tests::talk::{Outside, Server, ask_tcp, expect};
use overlay_tests::{Host, Lab, NetSpec, binaries, eventually};
use serde_json::{Value, json};

const DEMO: NetSpec<'_> = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };

/// Exit code and what was on stdout.
fn call(host: &Host, args: &[&str], stdin: &Value) -> Result<(i32, String)> {
    let program = binaries::plugin("overlay-netavark")?;
    let mut command = command_in(host.netns(), program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start overlay-netavark")?;
    // A call that is refused by its arguments is not read.
    let _ = child.stdin.take().context("a pipe")?.write_all(stdin.to_string().as_bytes());
    let output = child.wait_with_output()?;
    Ok((output.status.code().unwrap_or(-1), String::from_utf8(output.stdout)?))
}

fn created(host: &Host) -> Result<Value> {
    let asked = json!({
        "name": "demo", "id": "2f259bab93aa", "driver": "overlay-netavark", "internal": false,
        "dns_enabled": true, "ipv6_enabled": false,
        "options": { "socket": host.socket().display().to_string() },
    });
    let (code, text) = call(host, &["create"], &asked)?;
    ensure!(code == 0, "{text}");
    Ok(serde_json::from_str(&text)?)
}

fn of_container(network: &Value, id: &str, name: &str, port: u16) -> Value {
    json!({
        "container_id": id, "container_name": name, "network": network,
        "port_mappings": [{
            "container_port": 80, "host_port": port, "host_ip": "", "protocol": "tcp", "range": 1,
        }],
        "network_options": { "interface_name": "eth0", "aliases": ["web"], "static_ips": null },
    })
}

#[test]
fn containers_of_two_hosts_are_set_up_reached_by_ports_and_torn_down() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = lab.hosts(["a", "b"])?;
        let outside = Outside::new(lab)?;
        a.net_create("demo", DEMO)?;
        eventually("b knows the network", || b.knows_net("demo"))?;
        let network = created(&a)?;
        ensure!(network["subnets"][0]["subnet"] == "10.9.0.0/24", "{network}");
        ensure!(network["dns_enabled"] == false, "{network}");
        let (web, other) = (a.container("web")?, b.container("other")?);
        let exec = of_container(&network, "aa11", "web1", 8080);
        let set_up = |exec: &Value| -> Result<Value> {
            let (code, text) = call(&a, &["setup", &web.netns_path()], exec)?;
            ensure!(code == 0, "{text}");
            Ok(serde_json::from_str(&text)?)
        };
        let status = set_up(&exec)?;
        let of_eth0 = &status["interfaces"]["eth0"];
        let ip = of_eth0["subnets"][0]["ipnet"].as_str().context("an address")?;
        ensure!(of_eth0["subnets"][0]["gateway"] == "10.9.0.1", "{status}");
        ensure!(status["dns_server_ips"][0] == "127.0.0.11", "{status}");
        let _server = Server::tcp(web.netns(), "web", 80)?;
        expect(&ask_tcp(outside.netns(), (a.address(), 8080).into())?, "web", outside.ip())?;
        // On the other host, found by the alias, reached across.
        let far = created(&b)?;
        let far_exec = of_container(&far, "bb22", "web2", 8081);
        let (code, text) = call(&b, &["setup", &other.netns_path()], &far_exec)?;
        ensure!(code == 0, "{text}");
        other.ping(ip.split('/').next().context("an address")?.parse()?)?;
        eventually("both have the alias", || {
            let both = a.endpoints()?;
            ensure!(both.iter().filter(|ep| ep.aliases == ["web"]).count() == 2, "{both:?}");
            Ok(())
        })?;
        // A port that is taken: its words, and nothing is left.
        let third = a.container("third")?;
        let taken = of_container(&network, "cc33", "web3", 8080);
        let (code, text) = call(&a, &["setup", &third.netns_path()], &taken)?;
        let error: Value = serde_json::from_str(&text)?;
        let error = error["error"].as_str().context("an error")?;
        ensure!(code == 1 && error.contains("8080") && error.contains("web1"), "{text}");
        ensure!(a.endpoints()?.len() == 2, "{:?}", a.endpoints()?);
        for _ in 0..2 {
            let (code, text) = call(&a, &["teardown", &web.netns_path()], &exec)?;
            ensure!(code == 0 && text.is_empty(), "{text}");
        }
        eventually("it is gone", || {
            ensure!(a.endpoints()?.len() == 1 && web.link("eth0").is_err());
            Ok(())
        })?;
        // Again, and torn down while no daemon answers.
        set_up(&exec)?;
        a.stop()?;
        let (code, text) = call(&a, &["teardown", &web.netns_path()], &exec)?;
        ensure!(code == 0 && text.is_empty(), "{text}");
        let (code, text) = call(&a, &["setup", &web.netns_path()], &exec)?;
        ensure!(code == 1 && text.contains("is it running"), "{text}");
        Ok(())
    })
}

#[test]
fn what_makes_no_sense_is_an_error_in_json() -> Result<()> {
    Lab::run(|lab| {
        let [a] = lab.hosts(["a"])?;
        let refused = |args: &[&str], stdin: Value, why: &str| -> Result<()> {
            let (code, text) = call(&a, args, &stdin)?;
            let error: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
            let error = error["error"].as_str().context("an error")?;
            ensure!(code == 1 && error.contains(why), "{text}");
            Ok(())
        };
        let socket = json!({ "socket": a.socket().display().to_string() });
        refused(&["create"], json!({ "name": "none", "options": socket }), "none")?;
        refused(&["create"], json!([]), "cannot understand")?;
        refused(&["setup"], json!({}), "started by podman")?;
        refused(&["setup", "/x"], json!({ "container_id": "../.." }), "hex digits")?;
        let (code, text) = call(&a, &["info"], &json!({}))?;
        let info: Value = serde_json::from_str(&text)?;
        ensure!(code == 0 && info["api_version"] == "1.0.0", "{text}");
        Ok(())
    })
}
