"""Stands in for AgentScope's app: the same endpoints, and faults to be found.

usage: app.py PORT     with SECRET_TOKEN and FAULT in the environment; says `ready PORT`
"""

import difflib
import hashlib
import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

TOKEN = os.environ["SECRET_TOKEN"]
FAULT = os.environ.get("FAULT", "")

files, dirs, commits, cells = {}, set(), [], {}


def result(error=False, **parts):
    # the box names its streams, MCP servers do not
    names = {part: {} if part == "text" else {"description": part} for part in parts}
    content = [{"type": "text", "text": text, **names[part]} for part, text in parts.items()]
    return {"content": content, "isError": error}


def tool(name, *required):
    parameters = {"type": "object", "properties": {}, "required": required}
    return {"name": name, "json_schema": {"function": {"name": name, "parameters": parameters}}}


def servers():
    listed = {
        "plain": {"list_things": tool("list_things"), "wipe": tool("wipe")},
        "asked": {"search": tool("search", "query")},
        "strange": {"fetch": tool("fetch", "url")},
        "far": {"ask": tool("ask", "query")},
    }
    if os.environ.get("TEST_KEY"):
        listed["keyed"] = {"get_status": tool("get_status")}
    if FAULT == "server":
        del listed["plain"]
    if FAULT == "tool":
        listed["asked"] = {"other": tool("other")}
    return {**listed, "generic": {}}


def call(name, arguments):
    if name == "search" and arguments == {"query": "sand", "limit": 2} and FAULT != "call":
        return result(text="found")
    if name == "ask":
        return result(error=True, text="no route to host")
    if name in ("list_things", "get_status"):
        return result(text="one thing")
    if name in ("search", "wipe", "fetch", "other"):
        return result(error=True, text=f"{name} was called wrongly")
    return None


def ipython(code):
    if FAULT == "state":
        cells.clear()
    try:
        out = []
        exec(code, {**cells, "print": lambda value: out.append(f"{value}\n")}, cells)
        return result(stdout="".join(out))
    except Exception as error:
        return result(error=True, stderr=repr(error))


def commit(message):
    number = hashlib.sha1(f"{message}{len(commits)}".encode()).hexdigest()
    if FAULT != "logs":
        commits.append((number, message, dict(files)))
    return {"commit": number, "message": message}


def diff(one, two):
    states = {number: state for number, _, state in commits}
    before, after = states.get(one, {}), states.get(two, {})
    if FAULT == "diff":
        after = before
    lines = {}
    for path in {*before, *after}:
        texts = [state.get(path, b"").decode().splitlines() for state in (before, after)]
        lines[path] = "\n".join(difflib.unified_diff(*texts))
    return {"diffs": lines}


def beneath(path):
    return [name for name in [*files, *dirs] if name == path or name.startswith(f"{path}/")]


def add_dirs(path):
    parts = path.split("/")
    dirs.update("/".join(parts[:end]) for end in range(1, len(parts) + 1))


class App(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, body=b""):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_one(self):
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        shown = self.headers.get("Authorization")
        right = shown == f"Bearer {TOKEN}"
        allowed = right or (FAULT == "open" and not shown) or (FAULT == "any token" and bool(shown))
        if not allowed:
            return self.answer(403)
        route = f"{self.command} {url.path.removeprefix('/fastapi')}"
        if FAULT == route.split(" ")[1]:
            return self.answer(500, b"out of order")
        if route.startswith("PUT /workspace/file"):
            files[query["path"]] = body
            add_dirs(query["path"].rpartition("/")[0])
            return self.answer(200, {})
        if route == "POST /workspace/files:batch":
            boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
            parts = [part.partition(b"\r\n\r\n") for part in body.split(b"--" + boundary)]
            named = [(re.search(rb'name="(\w+)"', head), text[:-2]) for head, _, text in parts]
            of = lambda name: [text for match, text in named if match and match[1] == name]
            files.update(zip((path.decode() for path in of(b"paths")), of(b"files"), strict=True))
            return self.answer(200, [])
        document = json.loads(body) if body else {}
        return self.route(route, query, document)

    def route(self, route, query, document):
        path = query.get("path")
        match route:
            case "GET /healthz":
                self.answer(200, b"OK")
            case "POST /tools/run_ipython_cell":
                self.answer(200, ipython(document["code"]))
            case "POST /tools/run_shell_command":
                streams = dict(stdout="out", stderr="err", returncode="0" if FAULT == "code" else "3")
                self.answer(200, result(error=True, **streams))
            case "GET /workspace/file":
                known = path in files
                self.answer(200 if known else 404, files.get(path, b""))
            case "GET /workspace/exists":
                self.answer(200, {"exists": FAULT == "exists" or bool(beneath(path))})
            case "GET /workspace/list":
                names = {name[len(path) + 1 :].split("/")[0] for name in beneath(path)} - {""}
                self.answer(200, [{"name": name} for name in names] if FAULT != "list" else [])
            case "POST /workspace/mkdir":
                add_dirs(document["path"])
                self.answer(200, {"created": True})
            case "POST /workspace/move":
                if FAULT != "move":
                    files[document["destination"]] = files.pop(document["source"])
                self.answer(200, {})
            case "DELETE /workspace/entry":
                for name in beneath(path) if FAULT != "entry" else []:
                    files.pop(name, None)
                    dirs.discard(name)
                self.answer(204)
            case "POST /watcher/commit_changes":
                self.answer(200, commit(document["commit_message"]))
            case "POST /watcher/generate_diff":
                self.answer(200, diff(document["commit_a"], document["commit_b"]))
            case "GET /watcher/git_logs":
                self.answer(200, {"logs": [{"commit": number} for number, _, _ in commits]})
            case "GET /mcp/list_tools":
                self.answer(200, servers())
            case "POST /mcp/call_tool":
                said = call(document["tool_name"], document["arguments"])
                self.answer(500 if said is None and FAULT != "unknown" else 200, said or {})
            case _:
                self.answer(404)

    do_GET = do_POST = do_PUT = do_DELETE = handle_one


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App)
print(f"ready {server.server_address[1]}", flush=True)
server.serve_forever()
