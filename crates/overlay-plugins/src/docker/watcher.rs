//! What dockerd tells by its API, and not by the plugin protocol: how containers are
//! called, and which endpoints there are.
//!
//! All is looked at when dockerd begins to answer, and every ten seconds; in between
//! its events tell which container to look at. An endpoint that three looks in a row
//! have not found is left over, and is detached. While dockerd does not
//! answer nothing is: its containers may live on (`live-restore`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, EndpointSettings};
use bollard::query_parameters::{EventsOptions, ListContainersOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::StreamExt as _;
use overlay_api::{ClientError, v1};
use tokio::time::{Instant, timeout_at};

use super::{LABEL_ENDPOINT, OPT_ALIAS, OPT_NAME, Plugin, label_of, passage, split};

/// Between looks at all.
const LOOK: Duration = Duration::from_secs(10);

/// Between attempts to reach dockerd.
const RETRY: Duration = Duration::from_secs(2);

/// How long dockerd may take for an answer, seconds.
const PATIENCE: u64 = 30;

/// How often an endpoint was looked for in vain, by Docker's id.
type Missing = BTreeMap<String, u32>;

/// As often is enough.
const LEFT_OVER: u32 = 3;

/// Follows dockerd, whose API is at `socket`, for ever.
pub async fn follow(plugin: &Plugin, socket: &Path) {
    let mut told = false;
    let mut missing = BTreeMap::new();
    loop {
        match watch(plugin, socket, &mut missing).await {
            Ok(()) => told = false,
            // A host without Docker, or one that has not started it yet.
            Err(_) if !socket.exists() => {}
            Err(err) => {
                if !told {
                    tracing::warn!(
                        "dockerd does not answer at {}: {err}; containers have no names until it \
                         does",
                        socket.display()
                    );
                }
                told = true;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Until dockerd ends.
async fn watch(
    plugin: &Plugin,
    socket: &Path,
    missing: &mut Missing,
) -> Result<(), bollard::errors::Error> {
    let path = PathBuf::from(socket);
    let docker = Docker::connect_with_unix(&path.to_string_lossy(), PATIENCE, API_DEFAULT_VERSION)?
        .negotiate_version()
        .await?;
    // Before the look, so that nothing falls between.
    let kinds = |all: &[&str]| all.iter().map(ToString::to_string).collect();
    let filters = HashMap::from([
        ("type".to_owned(), kinds(&["network", "container"])),
        ("event".to_owned(), kinds(&["connect", "rename"])),
    ]);
    let options = EventsOptions { filters: Some(filters), ..EventsOptions::default() };
    let mut events = std::pin::pin!(docker.events(Some(options)));
    let mut next = Instant::now();
    loop {
        if next <= Instant::now() {
            look_at_all(plugin, &docker, missing).await?;
            next = Instant::now() + LOOK;
        }
        let event = match timeout_at(next, events.next()).await {
            Err(_) => continue,
            Ok(None) => return Ok(()),
            Ok(Some(event)) => event?,
        };
        let Some(actor) = event.actor else { continue };
        // A network's event names the container among its attributes.
        let container = actor.attributes.and_then(|mut all| all.remove("container")).or(actor.id);
        if let Some(container) = container {
            look_at(plugin, &docker, &container).await;
        }
    }
}

async fn look_at_all(
    plugin: &Plugin,
    docker: &Docker,
    missing: &mut Missing,
) -> Result<(), bollard::errors::Error> {
    passage::open().await;
    if plugin.bindings().networks().next().is_none() {
        return Ok(());
    }
    // One that takes its time to start has an endpoint and does not run yet.
    let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
    let containers = docker.list_containers(Some(options)).await?;
    let mut there = BTreeSet::new();
    for container in containers {
        let networks = container.network_settings.and_then(|settings| settings.networks);
        let networks = networks.unwrap_or_default();
        let ours = |settings: &&EndpointSettings| {
            settings.network_id.as_ref().is_some_and(|id| plugin.bindings().network(id).is_some())
        };
        let ids: Vec<String> =
            networks.values().filter(ours).filter_map(|s| s.endpoint_id.clone()).collect();
        // Those that are stopped have none.
        let ids: Vec<String> = ids.into_iter().filter(|id| !id.is_empty()).collect();
        if ids.is_empty() {
            continue;
        }
        there.extend(ids);
        if let Some(id) = container.id {
            look_at(plugin, docker, &id).await;
        }
    }
    let Ok(ours) = plugin.client.endpoints(None, true).await else { return Ok(()) };
    let ours: BTreeMap<String, v1::Endpoint> = ours
        .into_iter()
        .filter_map(|ep| Some((ep.labels.get(LABEL_ENDPOINT)?.clone(), ep)))
        .collect();
    // What is known of those that are gone is of no use.
    plugin.known().retain(|id, _| ours.contains_key(id));
    missing.retain(|id, _| ours.contains_key(id) && !there.contains(id));
    for (id, endpoint) in ours.into_iter().filter(|(id, _)| !there.contains(id)) {
        let times = missing.entry(id.clone()).or_default();
        *times += 1;
        if *times >= LEFT_OVER {
            let name = endpoint.name.clone().unwrap_or_else(|| endpoint.id.clone());
            match plugin.remove(&id, Some(endpoint)).await {
                Ok(()) => tracing::info!("endpoint {name} is left over from Docker: detached"),
                Err(why) => tracing::warn!("endpoint {name} is left over from Docker: {why}"),
            }
        }
    }
    Ok(())
}

/// Tells the cluster how a container is called.
async fn look_at(plugin: &Plugin, docker: &Docker, container: &str) {
    let Ok(found) = docker.inspect_container(container, None).await else { return };
    let ContainerInspectResponse { name, network_settings, .. } = found;
    let networks = network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    for settings in networks.into_values() {
        let Some(id) = settings.endpoint_id.clone().filter(|id| !id.is_empty()) else { continue };
        let ours = settings.network_id.as_ref();
        if ours.is_none_or(|network| plugin.bindings().network(network).is_none()) {
            continue;
        }
        if let Ok(Some(endpoint)) = plugin.endpoint(&id).await {
            call(plugin, &id, &endpoint, name.as_deref(), &settings).await;
        }
    }
}

/// The names that a container has on one network.
fn names(container: Option<&str>, settings: &EndpointSettings) -> (Option<String>, Vec<String>) {
    let said = |key: &str| settings.driver_opts.as_ref().and_then(|all| all.get(key));
    let name = said(OPT_NAME).cloned();
    let name = name.or_else(|| container.and_then(label_of).map(|name| name.to_string()));
    let given = said(OPT_ALIAS).into_iter().flat_map(|list| split(list));
    let aliases = settings.aliases.iter().chain(&settings.dns_names).flatten();
    let aliases = aliases.map(String::as_str).chain(given).filter_map(label_of);
    let aliases: BTreeSet<String> = aliases.map(|name| name.to_string()).collect();
    (name.clone(), aliases.into_iter().filter(|alias| Some(alias) != name.as_ref()).collect())
}

async fn call(
    plugin: &Plugin,
    id: &str,
    endpoint: &v1::Endpoint,
    container: Option<&str>,
    settings: &EndpointSettings,
) {
    let (name, mut aliases) = names(container, settings);
    let is_so = |name: &Option<String>, aliases: &[String]| {
        (name.is_none() || endpoint.name == *name) && endpoint.aliases == aliases
    };
    if is_so(&name, &aliases) {
        return;
    }
    let change = |name: Option<String>, aliases: Vec<String>| v1::ChangeEndpoint {
        name,
        aliases: Some(aliases),
        labels: None,
    };
    let wanted = change(name.clone(), aliases.clone());
    let result = match plugin.client.change_endpoint(&endpoint.id, None, &wanted).await {
        Err(ClientError::Api(error)) if error.code == v1::ErrorCode::Taken => {
            // Another host has a container of that name: both are answered under it as an alias.
            aliases.extend(name);
            aliases.sort();
            if is_so(&None, &aliases) {
                return;
            }
            tracing::warn!("{}: it is an alias of {container:?} then", error.message);
            plugin.client.change_endpoint(&endpoint.id, None, &change(None, aliases)).await
        }
        other => other,
    };
    match result {
        Ok(endpoint) => drop(plugin.known().insert(id.to_owned(), endpoint)),
        Err(ClientError::Api(error)) if error.code == v1::ErrorCode::NotFound => {
            plugin.known().remove(id);
        }
        Err(err) => tracing::warn!("cannot name the container {container:?}: {err}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_container_its_aliases_and_what_is_said() {
        let opts = HashMap::from([(OPT_ALIAS.to_owned(), "front,shop".to_owned())]);
        let settings = EndpointSettings {
            aliases: Some(vec!["web".into(), "0123456789ab".into(), "proj_web_1".into()]),
            driver_opts: Some(opts),
            ..EndpointSettings::default()
        };
        let (name, aliases) = names(Some("/proj_web_1"), &settings);
        assert_eq!(name.as_deref(), Some("proj-web-1"));
        assert_eq!(aliases, ["0123456789ab", "front", "shop", "web"]);
        let opts = HashMap::from([(OPT_NAME.to_owned(), "db".to_owned())]);
        let settings = EndpointSettings { driver_opts: Some(opts), ..settings };
        assert_eq!(names(Some("/x"), &settings).0.as_deref(), Some("db"));
    }
}
