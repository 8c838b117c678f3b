//! CNI plugins, started as libcni starts them: a variable for each word, the
//! configuration on stdin, the result of one plugin for the next one.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::binaries::plugin;
use crate::host::Host;
use crate::shell::{command_in, netns_path};

/// Where Debian's containernetworking-plugins are.
pub const REFERENCE: &str = "/usr/lib/cni";

/// What a plugin left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// stdout.
    pub stdout: String,
    /// stderr.
    pub stderr: String,
}

impl Said {
    /// stdout of a success, as JSON; null if nothing was said.
    ///
    /// # Errors
    /// If it was none.
    pub fn ok(&self) -> Result<Value> {
        ensure!(self.code == 0, "exit code {}: {} {}", self.code, self.stdout, self.stderr);
        if self.stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {}", self.stdout))
    }

    /// The code of the specification in the error, and its text.
    ///
    /// # Errors
    /// If it was a success, or what was said is no error of the specification.
    pub fn error(&self) -> Result<(u64, String)> {
        ensure!(self.code != 0, "that was a success: {}", self.stdout);
        let said: Value = serde_json::from_str(&self.stdout)
            .with_context(|| format!("no JSON: {} {}", self.stdout, self.stderr))?;
        let code = said["code"].as_u64().context("an error has a code")?;
        ensure!(said["cniVersion"].is_string(), "an error has a version: {said}");
        Ok((code, said["msg"].as_str().context("an error has a text")?.to_owned()))
    }

    /// Fails unless the error has this code, and its text has `text` in it.
    ///
    /// # Errors
    /// If not.
    pub fn refused(&self, code: u64, text: &str) -> Result<()> {
        let (is, msg) = self.error()?;
        ensure!(is == code && msg.contains(text), "{is} {msg}, not {code} … {text} …");
        Ok(())
    }
}

/// A list of plugins for one network on one host, as a conflist has it.
#[derive(Debug, Clone)]
pub struct Cni {
    host: Host,
    version: String,
    name: String,
    plugins: Vec<Value>,
    runtime_config: Map<String, Value>,
    args: String,
    ifname: String,
}

impl Cni {
    /// Our plugin alone: network `demo` of CNI, and `overlay` in its configuration.
    pub fn new(host: &Host, version: &str, overlay: Value) -> Self {
        let ours = json!({
            "type": "overlay-cni",
            "socket": host.socket(),
            "stateDir": host.dir().join("cni"),
            "overlay": overlay,
            "capabilities": {
                "portMappings": true, "ips": true, "mac": true, "dns": true, "aliases": true
            },
        });
        Self {
            host: host.clone(),
            version: version.to_owned(),
            name: "demo".to_owned(),
            plugins: vec![ours],
            runtime_config: Map::new(),
            args: String::new(),
            ifname: "eth0".to_owned(),
        }
    }

    /// The same, under another name of CNI.
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// The same, for another interface of the containers.
    pub fn ifname(self, ifname: &str) -> Self {
        Self { ifname: ifname.to_owned(), ..self }
    }

    /// The same, with `CNI_ARGS`.
    pub fn with_args(self, args: &str) -> Self {
        Self { args: args.to_owned(), ..self }
    }

    /// The same, with another plugin behind ours.
    pub fn chain(mut self, plugin: Value) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// The same, with a key in the configuration of our plugin.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.plugins[0][key] = value;
        self
    }

    /// The same, with what the runtime says of a container; plugins get of it what
    /// their capabilities name.
    pub fn runtime(mut self, key: &str, value: Value) -> Self {
        self.runtime_config.insert(key.to_owned(), value);
        self
    }

    /// Where a DEL is written down.
    pub fn state_dir(&self) -> PathBuf {
        self.host.dir().join("cni")
    }

    /// What plugin `n` gets on stdin.
    pub fn conf(&self, n: usize, prev: Option<&Value>) -> Value {
        let mut conf = self.plugins[n].clone();
        let fields = conf.as_object_mut().expect("a plugin's configuration is an object");
        fields.insert("cniVersion".into(), json!(self.version));
        fields.insert("name".into(), json!(self.name));
        if let Some(prev) = prev {
            fields.insert("prevResult".into(), prev.clone());
        }
        let capabilities = fields.get("capabilities").and_then(Value::as_object).cloned();
        let mut runtime = self.runtime_config.clone();
        runtime.retain(|key, _| capabilities.as_ref().is_some_and(|can| can.contains_key(key)));
        if !runtime.is_empty() {
            fields.insert("runtimeConfig".into(), Value::Object(runtime));
        }
        conf
    }

    /// Starts plugin `n` with these variables besides `CNI_PATH`.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn start(&self, n: usize, env: &[(&str, &str)], stdin: &str) -> Result<Said> {
        self.start_to(n, env, stdin, Stdio::piped())
    }

    /// The same, with stdout elsewhere.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn start_to(
        &self,
        n: usize,
        env: &[(&str, &str)],
        stdin: &str,
        stdout: Stdio,
    ) -> Result<Said> {
        let kind = self.plugins[n]["type"].as_str().context("a plugin has a type")?;
        let program = match kind {
            "overlay-cni" => plugin(kind)?,
            other => PathBuf::from(REFERENCE).join(other),
        };
        let mut command = command_in(self.host.netns(), program);
        command.env("CNI_PATH", REFERENCE).envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {kind}"))?;
        // One that refuses early does not read.
        let _ = child.stdin.take().context("it is piped")?.write_all(stdin.as_bytes());
        let output = child.wait_with_output()?;
        Ok(Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// One verb of plugin `n` for a container, whose namespace may be told or not.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn one(
        &self,
        n: usize,
        verb: &str,
        id: &str,
        netns: Option<&str>,
        prev: Option<&Value>,
    ) -> Result<Said> {
        let path = netns.map(|netns| netns_path(netns).display().to_string());
        let mut env =
            vec![("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_IFNAME", &self.ifname)];
        env.extend(path.as_deref().map(|path| ("CNI_NETNS", path)));
        if !self.args.is_empty() {
            env.push(("CNI_ARGS", &self.args));
        }
        self.start(n, &env, &self.conf(n, prev).to_string())
    }

    /// ADD of all plugins; what was attached is detached again if one refuses.
    ///
    /// # Errors
    /// What the plugin said that refused.
    pub fn add(&self, id: &str, netns: &str) -> Result<Value> {
        let mut result = None;
        for n in 0..self.plugins.len() {
            let said = self.one(n, "ADD", id, Some(netns), result.as_ref())?;
            match said.ok() {
                Ok(value) => result = Some(value),
                Err(err) => {
                    let _ = self.del(id, Some(netns), result.as_ref());
                    return Err(err.context(format!("ADD of plugin {n}")));
                }
            }
        }
        result.context("there is a plugin")
    }

    /// DEL of all plugins, the last one first.
    ///
    /// # Errors
    /// What the plugin said that refused.
    pub fn del(&self, id: &str, netns: Option<&str>, result: Option<&Value>) -> Result<()> {
        for n in (0..self.plugins.len()).rev() {
            let said = self.one(n, "DEL", id, netns, result)?;
            let value = said.ok().with_context(|| format!("DEL of plugin {n}"))?;
            ensure!(n > 0 || value.is_null(), "a DEL says nothing: {value}");
        }
        Ok(())
    }

    /// CHECK of all plugins.
    ///
    /// # Errors
    /// What the plugin said that refused.
    pub fn check(&self, id: &str, netns: &str, result: &Value) -> Result<()> {
        for n in 0..self.plugins.len() {
            self.one(n, "CHECK", id, Some(netns), Some(result))?
                .ok()
                .with_context(|| format!("CHECK of plugin {n}"))?;
        }
        Ok(())
    }

    /// GC of our plugin, with what is to stay.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn gc(&self, valid: &[(&str, &str)]) -> Result<Said> {
        let valid: Vec<Value> =
            valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect();
        let mut conf = self.conf(0, None);
        conf["cni.dev/valid-attachments"] = json!(valid);
        self.start(0, &[("CNI_COMMAND", "GC")], &conf.to_string())
    }

    /// STATUS of our plugin.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn status(&self) -> Result<Said> {
        self.start(0, &[("CNI_COMMAND", "STATUS")], &self.conf(0, None).to_string())
    }
}
