//! MCP servers: each declared one is listed, and answers a real call.
//!
//! Which tool is called, the declaration says (`probe`); otherwise one that takes no argument and whose
//! name says that it only looks. What a server does beside that is not known here, so nothing else is
//! ever called.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::app::texts;
use super::caller::{Call, Caller};
use super::{Finding, Flaw, Trial, brief, hold};
use crate::decl::ToolCall;

/// First words of tools that only look, the best first.
const LOOKS: [&str; 6] = ["list", "get", "show", "status", "version", "info"];
const PAUSE: Duration = Duration::from_millis(100);

/// A declared server.
#[derive(Clone, Debug)]
pub struct Expected {
    pub name: String,
    pub probe: Option<ToolCall>,
    /// Why it may be left out at its start.
    pub excuse: Option<String>,
}

/// Servers start while the app is healthy already: the list is asked for until all are on it.
pub fn check_servers(
    trial: &mut Trial,
    caller: &Caller,
    servers: &[Expected],
    (patience, network): (Duration, bool),
) {
    let mut listed = Map::new();
    trial.check("mcp", "list_tools", || {
        listed = list(caller, servers, patience)?;
        let tools: usize = listed.values().filter_map(|tools| Some(tools.as_object()?.len())).sum();
        Ok(format!("{} servers, {tools} tools", listed.len()))
    });
    trial.check("mcp", "call_tool", || {
        let call = json!({ "tool_name": "sbx-no-such-tool", "arguments": {} });
        let answer = caller.ask(Call::post("/fastapi/mcp/call_tool", &call))?;
        hold(answer.status >= 400, || "a tool that nobody has is answered".to_owned())?;
        Ok("refuses a tool that nobody has".to_owned())
    });
    for server in servers {
        trial.check("server", server.name.as_str(), || {
            let tools = listed.get(&server.name).and_then(Value::as_object);
            match (tools, &server.excuse) {
                (Some(tools), _) => call(caller, server, tools, network),
                (None, Some(excuse)) => Err(Flaw::LeftOut(excuse.clone())),
                (None, None) => Err(Flaw::Failed("it is not among the servers".to_owned())),
            }
        });
    }
}

fn list(
    caller: &Caller,
    servers: &[Expected],
    patience: Duration,
) -> Result<Map<String, Value>, Flaw> {
    let end = Instant::now() + patience;
    let wanted = |server: &&Expected| server.excuse.is_none();
    loop {
        let answer = caller.json(Call::get("/fastapi/mcp/list_tools"))?;
        let Value::Object(mut listed) = answer else {
            return Err(Flaw::Failed(format!("no servers in {}", brief(&answer.to_string()))));
        };
        let whole = servers.iter().filter(wanted).all(|server| listed.contains_key(&server.name));
        if whole || Instant::now() > end {
            // the box's own tools
            listed.remove("generic");
            return Ok(listed);
        }
        std::thread::sleep(PAUSE);
    }
}

fn call(caller: &Caller, server: &Expected, tools: &Map<String, Value>, network: bool) -> Finding {
    let probe = server.probe.clone().or_else(|| choose(tools)).ok_or_else(|| {
        let count = tools.len();
        Flaw::LeftOut(format!(
            "none of its {count} tools is known to be harmless: declare `probe tool=\"…\"`"
        ))
    })?;
    let tool = &probe.tool;
    hold(tools.contains_key(tool), || format!("it has no tool `{tool}`"))?;
    let failed = |reason: String| {
        let failed = format!("`{tool}` fails: {reason}");
        if probe.network && !network {
            let why = "it needs the network, to which this sandbox has no `egress`";
            return Flaw::LeftOut(format!("{why}; {failed}"));
        }
        Flaw::Failed(failed)
    };
    let body = json!({ "tool_name": tool, "arguments": probe.arguments });
    // the app answers 500 to a server that raises
    let result = caller.json(Call::post("/fastapi/mcp/call_tool", &body));
    let result = result.map_err(|error| failed(error.to_string()))?;
    let said = brief(&texts(&result, "stdout"));
    hold(result["content"].is_array(), || format!("`{tool}` answers no result: {said}"))?;
    if result["isError"] == true { Err(failed(said)) } else { Ok(format!("{tool}: {said}")) }
}

/// A tool that needs no argument and only looks.
fn choose(tools: &Map<String, Value>) -> Option<ToolCall> {
    let parameters = |tool: &Value| tool["json_schema"]["function"]["parameters"].clone();
    // some servers need what they do not say that they need
    let idle = |tool: &Value| parameters(tool)["properties"].as_object().is_none_or(Map::is_empty);
    let looks = |name: &str, word: &str| {
        name.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == word)
    };
    LOOKS.iter().find_map(|word| {
        let (name, _) = tools.iter().find(|(name, tool)| looks(name, word) && idle(tool))?;
        Some(ToolCall { tool: name.clone(), arguments: Map::new(), network: false })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(list: &[(&str, &[&str])]) -> Map<String, Value> {
        let tool = |(name, known): &(&str, &[&str])| {
            let known: Map<String, Value> =
                known.iter().map(|name| (name.to_string(), json!({}))).collect();
            let parameters = json!({ "properties": known, "required": [] });
            let schema = json!({ "function": { "parameters": parameters } });
            (name.to_string(), json!({ "json_schema": schema }))
        };
        list.iter().map(tool).collect()
    }

    #[test]
    fn only_what_looks_is_called_unasked() {
        let chosen = |list: &[(&str, &[&str])]| choose(&tools(list)).map(|call| call.tool);
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(chosen(&[("get_x", &[]), ("list-all", &[]), ("wipe", &[])]), some("list-all"));
        assert_eq!(chosen(&[("get_x", &["path"]), ("wipe", &[]), ("forget", &[])]), None);
    }
}
