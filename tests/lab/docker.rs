//! Containers of real engines on several hosts, by our network and IPAM driver.
//!
//! ```text
//!   outside 192.0.2.200 ──┬── host a 192.0.2.1 ─────┬── host b 192.0.2.2
//!                         │    overlayd, dockerd    │    overlayd, dockerd
//!                         │    container web        │    container client
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_api::v1;
use overlay_tests::docker::{Engine, driver};
use overlay_tests::talk::{Outside, ask_tcp};
use overlay_tests::wait::eventually_within;
use overlay_tests::{DaemonOptions, Host, Lab, NetSpec, eventually};
use serde_json::json;

const DEMO: NetSpec<'_> =
    NetSpec { vni: 4097, subnets: &["10.9.0.0/24", "fd00:9::/64"], mtu: 0, extra: &[] };

/// Two hosts that form a cluster, each the driver of its dockerd to be.
fn hosts(lab: &Lab) -> Result<[Host; 2]> {
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    a.start_with(&driver(&a, DaemonOptions::default()))?;
    let options = DaemonOptions { join: vec![a.address().to_string()], ..DaemonOptions::default() };
    b.start_with(&driver(&b, options))?;
    lab.all_up(&[a.clone(), b.clone()])?;
    Ok([a, b])
}

/// Two hosts with an engine each, and a network of the cluster that both are bound to.
fn engines(lab: &Lab, more: &str) -> Result<[(Host, Engine); 2]> {
    let [a, b] = hosts(lab)?;
    a.net_create("demo", DEMO)?;
    eventually("b knows the network", || b.knows_net("demo"))?;
    let engines = std::thread::scope(|scope| {
        [&a, &b]
            .map(|host| {
                scope.spawn(move || -> Result<Engine> {
                    let engine = Engine::on(host, false)?;
                    engine.network("demo", more)?;
                    Ok(engine)
                })
            })
            .map(|started| started.join().expect("no panic"))
    });
    let [of_a, of_b] = engines;
    Ok([(a, of_a?), (b, of_b?)])
}

fn named(host: &Host, name: &str) -> Result<v1::Endpoint> {
    let all = host.endpoints()?;
    let found = all.iter().find(|ep| ep.name.as_deref() == Some(name)).cloned();
    found.with_context(|| format!("no endpoint {name} among {all:?}"))
}

/// Every pair that the driver has made is gone.
fn no_pair_is_left(host: &Host) -> Result<()> {
    let links = host.exec("ip -br link")?;
    ensure!(!links.contains("ovd") && !links.contains("ovc"), "{links}");
    Ok(())
}

/// A web server of busybox that says its name.
fn serve(engine: &Engine, container: &str) -> Result<()> {
    let script = format!(
        "mkdir -p /www && echo {container} > /www/index.html && httpd -p 80 -h /www && \
         wget -qO- http://127.0.0.1/"
    );
    engine.exec(container, &script).map(drop)
}

#[test]
fn containers_of_two_engines_are_in_one_network_with_names_and_ports() -> Result<()> {
    Lab::run(|lab| {
        let [(a, of_a), (b, of_b)] = engines(lab, "")?;
        let outside = Outside::new(lab)?;
        of_a.run_idle("web", "--network demo -p 8080:80 --dns 10.9.0.1")?;
        of_b.run_idle("client", "--network demo --dns 10.9.0.1")?;
        serve(&of_a, "web")?;
        let web = eventually("b knows web by its name", || named(&b, "web"))?;
        let client = eventually("a knows client by its name", || named(&a, "client"))?;
        ensure!(web.ips != client.ips && web.ips.len() == 1, "{web:?} {client:?}");
        let shown = of_a.docker("inspect -f {{.NetworkSettings.Networks.demo.IPAddress}} web")?;
        ensure!(shown == web.ips[0].addr().to_string(), "docker says {shown}");
        let link = of_b.exec("client", "ip -o link show eth0 && ip route")?;
        ensure!(link.contains("mtu 1450") && link.contains("default via 10.9.0.1"), "{link}");
        eventually("client pings web", || of_b.exec("client", &format!("ping -c 1 -W 1 {shown}")))?;
        // Through Docker's own resolver at 127.0.0.11, whose upstream is ours.
        eventually("client finds web by its name", || {
            for name in ["web", "web.demo.overlay.internal"] {
                let found = of_b.exec("client", &format!("nslookup {name} 127.0.0.11"))?;
                ensure!(found.contains(&shown), "{found}");
            }
            Ok(())
        })?;
        let page = of_b.exec("client", &format!("timeout 5 wget -qO- http://{shown}/"))?;
        ensure!(page == "web", "{page}");
        let of_port = SocketAddr::new(a.address().into(), 8080);
        ensure!(a.ctl_json::<Vec<v1::Port>>(&["ports"])?.len() == 1);
        let page = overlay_tests::shell::run_in(
            outside.netns(),
            &format!("curl -sS --max-time 5 http://{of_port}/"),
        )?;
        ensure!(page.trim() == "web", "{page}");
        // Nobody else gets it, another container neither.
        let taken =
            of_a.refused("run -d --network demo -p 8080:80 busybox:lab tail -f /dev/null")?;
        ensure!(taken.contains("8080") && taken.contains("web"), "{taken}");
        of_a.docker("rm -f web")?;
        eventually("web is gone everywhere", || {
            ensure!(named(&b, "web").is_err());
            ensure!(ask_tcp(outside.netns(), of_port).is_err(), "the port is open");
            Ok(())
        })?;
        of_b.docker("rm -f client")?;
        ensure!(a.status()?.warnings.is_empty(), "{:?}", a.status()?.warnings);
        // The refused one is not running: its endpoint went at once.
        eventually("nothing is left", || {
            ensure!(a.endpoints()?.is_empty(), "{:?}", a.endpoints()?);
            no_pair_is_left(&a).and_then(|()| no_pair_is_left(&b))
        })?;
        of_a.docker("network rm demo")?;
        // What teardown is for: a container is still there, and Docker's chain.
        of_b.run_idle("left", "--network demo")?;
        b.stop()?;
        let torn = b.overlayd(&["teardown", "--socket", &b.socket().display().to_string()])?;
        ensure!(torn.code == 0 && torn.stdout.contains("OVERLAYD"), "{torn:?}");
        no_pair_is_left(&b)?;
        ensure!(!b.exec("iptables-save")?.contains("OVERLAYD"), "a chain is left");
        ensure!(a.ctl(&["ipam", "check"])?.code == 0);
        Ok(())
    })
}

#[test]
fn what_docker_says_of_an_endpoint_is_so() -> Result<()> {
    Lab::run(|lab| {
        let [(a, of_a), (b, of_b)] =
            engines(lab, "--subnet 10.9.0.0/24 --ipv6 --subnet fd00:9::/64")?;
        let mac = "02:00:00:00:00:07";
        of_a.run_idle("fixed", &format!("--network demo --ip 10.9.0.77 --mac-address {mac}"))?;
        let fixed = eventually("its name", || named(&b, "fixed"))?;
        ensure!(fixed.mac == mac && fixed.ips[0].to_string() == "10.9.0.77/24", "{fixed:?}");
        ensure!(fixed.ips.len() == 2, "an address of each family: {fixed:?}");
        let six = fixed.ips[1].addr();
        // What one engine has given the other does not give.
        let taken =
            of_b.refused("run -d --network demo --ip 10.9.0.77 busybox:lab tail -f /dev/null")?;
        ensure!(taken.contains("10.9.0.77"), "{taken}");
        // Live, with an alias, and away again.
        of_b.run_idle("late", "--network none")?;
        of_b.docker("network disconnect none late")?;
        of_b.docker(
            "network connect --alias shop --driver-opt overlayd.alias=front;back demo late",
        )?;
        eventually("it has its names", || {
            let late = named(&a, "late")?;
            for alias in ["shop", "front", "back"] {
                ensure!(late.aliases.iter().any(|a| a == alias), "{late:?}");
            }
            Ok(())
        })?;
        eventually("it pings by both families", || {
            of_b.exec("late", &format!("ping -c 1 -W 1 10.9.0.77 && ping -6 -c 1 -W 1 {six}"))
        })?;
        of_b.docker("rename late later")?;
        eventually("it is called so everywhere", || named(&a, "later"))?;
        of_b.docker("network disconnect demo later")?;
        eventually("it is gone", || {
            ensure!(named(&a, "later").is_err());
            no_pair_is_left(&b)
        })?;
        // A name that is taken on another host is an alias here.
        of_b.run_idle("fixed", "--network demo")?;
        eventually("both are answered", || {
            let both = a.endpoints()?;
            let alias = |ep: &&v1::Endpoint| ep.aliases.iter().any(|alias| alias == "fixed");
            ensure!(both.iter().filter(alias).count() == 1, "{both:?}");
            Ok(())
        })?;
        Ok(())
    })
}

#[test]
fn restarts_of_any_kind_lose_nothing_and_leave_nothing() -> Result<()> {
    Lab::run(|lab| {
        let [a, b] = hosts(lab)?;
        a.net_create("demo", DEMO)?;
        let far = b.container("far")?;
        let mut far = far;
        eventually("b knows the network", || b.knows_net("demo"))?;
        far.attach_with("demo", &[])?;
        let mut engine = Engine::on(&a, true)?;
        engine.network("demo", "")?;
        engine.run_idle("web", "--network demo --restart always -p 8080:80")?;
        let web = eventually("its name", || named(&b, "web"))?;
        let ip: IpAddr = web.ips[0].addr();
        let pings = || eventually("it is reached", || far.ping_once(ip));
        pings()?;
        // overlayd goes and comes while dockerd runs.
        let stream = far.ping_stream(ip)?;
        a.stop()?;
        a.start_with(&driver(&a, DaemonOptions::default()))?;
        // dockerd is killed; its container lives on.
        engine.kill()?;
        engine.start()?;
        let summary = stream.stop()?;
        ensure!(summary.lost() <= 1, "{summary:?}");
        pings()?;
        ensure!(named(&a, "web")?.id == web.id, "it is another endpoint");
        // Both at once, and the container restarts in between.
        engine.kill()?;
        a.kill()?;
        a.start_with(&driver(&a, DaemonOptions::default()))?;
        engine.start()?;
        engine.docker("restart -t 0 web")?;
        let again = eventually("its name", || named(&b, "web"))?;
        let ip: IpAddr = again.ips[0].addr();
        eventually("it is reached", || far.ping_once(ip))?;
        // A network of Docker's outlives both: another container in it.
        engine.run_idle("second", "--network demo")?;
        eventually("its name", || named(&b, "second"))?;
        // Killed with its containers: what dockerd does not know any more goes.
        engine.docker("rm -f second")?;
        for _ in 0..5 {
            engine.docker("restart -t 0 web")?;
        }
        eventually("one endpoint, one pair", || {
            let here: Vec<v1::Endpoint> =
                a.endpoints()?.into_iter().filter(|ep| ep.host == "a").collect();
            ensure!(here.len() == 1, "{here:?}");
            let links = a.exec("ip -br link")?;
            ensure!(links.matches("ovd").count() == 1, "{links}");
            Ok(())
        })?;
        ensure!(a.ctl(&["ipam", "check"])?.code == 0);
        Ok(())
    })
}

#[test]
fn an_endpoint_that_dockerd_does_not_know_is_let_go() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        a.start_with(&driver(&a, DaemonOptions::default()))?;
        a.net_create("demo", DEMO)?;
        let engine = Engine::on(&a, false)?;
        let id = engine.network("demo", "")?;
        engine.run_idle("web", "--network demo")?;
        eventually("its name", || named(&a, "web"))?;
        // As if dockerd had died after it asked for an endpoint.
        let ours = "ab".repeat(32);
        let pool = Engine::call(&a, "IpamDriver.RequestPool", r#"{"AddressSpace":"overlayd"}"#)?;
        let asked = json!({ "PoolID": pool["PoolID"], "Address": "", "Options": null });
        let got = Engine::call(&a, "IpamDriver.RequestAddress", &asked.to_string())?;
        let endpoint = json!({
            "NetworkID": id, "EndpointID": ours, "Interface": { "Address": got["Address"] },
            "Options": {},
        });
        for _ in 0..2 {
            let made = Engine::call(&a, "NetworkDriver.CreateEndpoint", &endpoint.to_string())?;
            ensure!(made["Interface"]["MacAddress"].is_string(), "{made}");
        }
        ensure!(a.endpoints()?.len() == 2);
        // Three looks, ten seconds apart.
        eventually_within(Duration::from_secs(40), "it is gone", || {
            ensure!(a.endpoints()?.len() == 1, "{:?}", a.endpoints()?);
            let links = a.exec("ip -br link")?;
            ensure!(links.matches("ovd").count() == 1, "{links}");
            Ok(())
        })
    })
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() -> Result<()> {
    Lab::run(|lab| {
        let a = lab.host("a")?;
        a.start_with(&driver(&a, DaemonOptions::default()))?;
        let refused = |method: &str, body: &str, why: &str| -> Result<()> {
            let answer = Engine::call(&a, method, body)?;
            let field = if method.starts_with("Ipam") { "Error" } else { "Err" };
            let text = answer[field].as_str().with_context(|| format!("{method}: {answer}"))?;
            ensure!(text.contains(why), "{method}: {text}");
            Ok(())
        };
        let pool = "IpamDriver.RequestPool";
        refused(pool, "{}", "the cluster has no network with a subnet of IPv4: create one")?;
        let four = NetSpec { vni: 4097, subnets: &["10.9.0.0/24"], mtu: 0, extra: &[] };
        a.net_create("demo", four)?;
        let got = Engine::call(&a, pool, "{}")?;
        ensure!(got["Pool"] == "10.9.0.0/24", "{got}");
        ensure!(got["Data"]["com.docker.network.gateway"] == "10.9.0.1/24", "{got}");
        refused(pool, r#"{"V6":true}"#, "no network with a subnet of IPv6")?;
        refused(pool, r#"{"SubPool":"10.9.0.128/25"}"#, "overlayctl net create --ip-range")?;
        refused(pool, r#"{"Pool":"10.1.0.0/24"}"#, "no network of the cluster has the subnet")?;
        refused(pool, r#"{"Pool":"x"}"#, "`x` is no subnet")?;
        let opts = r#"{"Options":{"overlayd.network":"none"}}"#;
        refused(pool, opts, "no network")?;
        refused(pool, r#"{"Options":{"overlayd.net":"x"}}"#, "use overlayd.network")?;
        refused(pool, "[", "dockerd has sent what overlayd does not read")?;
        let create = |opts: serde_json::Value, data: serde_json::Value| {
            json!({
                "NetworkID": "d1",
                "Options": { "com.docker.network.generic": opts },
                "IPv4Data": [data],
            })
            .to_string()
        };
        let ours = json!({ "AddressSpace": "overlayd", "Pool": "10.9.0.0/24" });
        let network = "NetworkDriver.CreateNetwork";
        let theirs = json!({ "AddressSpace": "LocalDefault", "Pool": "172.18.0.0/16" });
        refused(network, &create(json!({}), theirs), "say --ipam-driver overlayd")?;
        let named = json!({ "overlayd.network": "none" });
        refused(network, &create(named, ours.clone()), "overlayctl net create none")?;
        let aux = json!({
            "AddressSpace": "overlayd", "Pool": "10.9.0.0/24", "AuxAddresses": { "r": "10.9.0.9/24" },
        });
        refused(network, &create(json!({}), aux), "--exclude")?;
        let other = json!({ "AddressSpace": "overlayd", "Pool": "10.1.0.0/24" });
        let named = json!({ "overlayd.network": "demo" });
        refused(network, &create(named.clone(), other), "is not a subnet of network demo")?;
        let internal = json!({
            "NetworkID": "d1", "IPv4Data": [ours.clone()],
            "Options": { "com.docker.network.internal": true, "com.docker.network.generic": named },
        });
        refused(network, &internal.to_string(), "overlayctl net set demo --internal")?;
        let endpoint = json!({
            "NetworkID": "d1", "EndpointID": "ab".repeat(32),
            "Interface": { "Address": "10.9.0.5/24" },
        });
        let endpoint = endpoint.to_string();
        refused("NetworkDriver.CreateEndpoint", &endpoint, "does not know Docker's network d1")?;
        refused("NetworkDriver.AllocateNetwork", "{}", "scope local")?;
        let address = r#"{"PoolID":"x"}"#;
        refused("IpamDriver.RequestAddress", address, "is not one of overlayd's")?;
        let pool_id = &got["PoolID"];
        let gateway = json!({
            "PoolID": pool_id, "Address": "10.9.0.2",
            "Options": { "RequestAddressType": "com.docker.network.gateway" },
        });
        refused("IpamDriver.RequestAddress", &gateway.to_string(), "leave --gateway out")?;
        // Two networks: which is meant is not known before -o says it.
        a.net_create("more", NetSpec { vni: 4098, subnets: &["10.8.0.0/24"], ..four })?;
        let stand_in = Engine::call(&a, pool, "{}")?;
        let data = json!({ "AddressSpace": "overlayd", "Pool": stand_in["Pool"] });
        let of_pool = json!({ "PoolID": stand_in["PoolID"], "Address": "" }).to_string();
        refused("IpamDriver.RequestAddress", &of_pool, "-o overlayd.network=NAME")?;
        refused(network, &create(json!({}), data.clone()), "-o overlayd.network=NAME")?;
        let named = json!({ "overlayd.network": "more" });
        ensure!(Engine::call(&a, network, &create(named, data))? == json!({}));
        // It is known after a restart, too.
        a.stop()?;
        a.start_with(&driver(&a, DaemonOptions::default()))?;
        let address = Engine::call(&a, "IpamDriver.RequestAddress", &of_pool)?;
        ensure!(address["Address"] == "10.8.0.2/24", "{address}");
        let back = json!({ "PoolID": stand_in["PoolID"], "Address": "10.8.0.2" }).to_string();
        for _ in 0..2 {
            ensure!(Engine::call(&a, "IpamDriver.ReleaseAddress", &back)? == json!({}));
        }
        ensure!(Engine::call(&a, "NetworkDriver.GwAllocCheck", "{}").is_err(), "it is 404");
        Ok(())
    })
}

#[test]
fn compose_brings_services_up_that_are_found_from_the_other_host() -> Result<()> {
    Lab::run(|lab| {
        let [(a, of_a), (_, of_b)] = engines(lab, "")?;
        let file = a.dir().join("docker-compose.yml");
        std::fs::write(
            &file,
            "version: '3.5'\n\
             services:\n\
             \x20 web:\n\
             \x20   image: busybox:lab\n\
             \x20   init: true\n\
             \x20   command: tail -f /dev/null\n\
             \x20   networks: {mesh: {aliases: [shop]}}\n\
             networks:\n\
             \x20 mesh:\n\
             \x20   driver: overlayd\n\
             \x20   driver_opts: {overlayd.network: demo}\n\
             \x20   ipam: {driver: overlayd}\n",
        )?;
        let file = file.to_str().context("a path")?;
        let compose = |args: &[&str]| {
            of_a.run("docker-compose", &[&["-f", file, "-p", "proj"][..], args].concat())
        };
        compose(&["up", "-d", "--scale", "web=2"])?;
        of_b.run_idle("client", "--network demo --dns 10.9.0.1")?;
        eventually("both are found by the service's name and by the alias", || {
            for name in ["web", "shop"] {
                let found =
                    of_b.exec("client", &format!("nslookup {name}.demo.overlay.internal"))?;
                let count = found.lines().filter(|line| line.contains("10.9.0.")).count();
                ensure!(count >= 2, "{found}");
            }
            Ok(())
        })?;
        compose(&["down", "-t", "0"])?;
        eventually("they are gone", || {
            ensure!(a.endpoints()?.len() == 1, "{:?}", a.endpoints()?);
            no_pair_is_left(&a)
        })
    })
}
