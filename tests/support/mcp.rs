//! A client of MCP servers: starts one inside an unpacked image, without a network, as the app of the
//! box does, and asks it for its tools.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that has been greeted.
pub struct Client {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    said: Receiver<String>,
    last: u64,
}

/// The list that an image has.
pub fn servers(root: &Path) -> Value {
    let path = root.join("agentscope_runtime/mcp_server_configs.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

impl Client {
    /// Starts a server of an image's list. It gets the environment given, then its own.
    pub fn start(root: &Path, name: &str, environment: &[(&str, &str)]) -> Result<Self, String> {
        let list = servers(root);
        let server = &list["mcpServers"][name];
        assert!(server.is_object(), "{name} is not in {list}");
        let command = server["command"].as_str().unwrap();
        let args = server["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        let mut variables: BTreeMap<&str, &str> = BTreeMap::from([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
        ]);
        variables.extend(environment.iter().copied());
        let own = server["env"].as_object().into_iter().flatten();
        variables.extend(own.map(|(name, value)| (name.as_str(), value.as_str().unwrap())));
        let root = root.to_str().unwrap();
        // its own processes, files and network; the machine's devices
        let prepare = "mount -t proc proc \"$0/proc\" && mount --bind /dev \"$0/dev\" && exec chroot \"$0\" \"$@\"";
        let mut child = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                prepare,
                root,
            ])
            .args(["/usr/bin/env", "-i"])
            .args(variables.iter().map(|(name, value)| format!("{name}={value}")))
            .arg(command)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let (out, said) =
            (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        let mut client = Client { child, input, lines: out, said, last: 0 };
        let hello = json!({"protocolVersion": "2024-11-05", "capabilities": {},
            "clientInfo": {"name": "tests", "version": "1"}});
        client.ask("initialize", hello)?;
        client.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        Ok(client)
    }

    fn send(&mut self, message: Value) {
        // one that has ended is seen by its silence
        let _ = writeln!(self.input, "{message}").and_then(|()| self.input.flush());
    }

    /// Asks, and answers the result; what else it says meanwhile is left aside.
    pub fn ask(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.last += 1;
        let id = self.last;
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        let until = Instant::now() + PATIENCE;
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(wait) else {
                return Err(format!("no answer to {method}: {}", self.said()));
            };
            let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
            if message["id"] == id {
                return match &message["error"] {
                    Value::Null => Ok(message["result"].clone()),
                    error => Err(error.to_string()),
                };
            }
        }
    }

    /// The names of its tools, sorted.
    pub fn tools(&mut self) -> Vec<String> {
        let result = self.ask("tools/list", json!({})).unwrap();
        let tools = result["tools"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// The text that a tool answers.
    pub fn call(&mut self, tool: &str, arguments: Value) -> String {
        let result = self.ask("tools/call", json!({"name": tool, "arguments": arguments})).unwrap();
        let parts = result["content"].as_array().unwrap().iter();
        parts.filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
    }

    /// What it has said on stderr so far.
    pub fn said(&self) -> String {
        let mut text = Vec::new();
        while let Ok(line) = self.said.recv_timeout(Duration::from_millis(300)) {
            text.push(line);
        }
        text.join("\n")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
