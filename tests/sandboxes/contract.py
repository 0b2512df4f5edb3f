"""Holds an instance of `custom_sandbox` to the contract, through AgentScope's own client.

usage: contract.py TOKEN     (in the instance's network)
Prints what it has checked, a line each; the first thing that is not so ends it.
"""

import base64
import json
import sys
import tempfile
import time
import urllib.error
import urllib.request

from agentscope_runtime.sandbox.client import SandboxHttpClient
from agentscope_runtime.sandbox.model import ContainerModel

TOKEN = sys.argv[1]
URL = "http://127.0.0.1"

# At least so many tools of each server.
TOOLS = {
    "amap-maps": 12,
    "chart": 20,
    "filesystem": 11,
    "markdownify": 10,
    "playwright": 20,
    "tavily-websearch": 2,
    "word-document": 20,
}


def said(what):
    print(what, flush=True)


def ask(path, token):
    request = urllib.request.Request(URL + path)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except OSError:
        return 0, b""


def wait_until_healthy():
    start = time.monotonic()
    while ask("/fastapi/healthz", TOKEN)[0] != 200:
        # the container may have been there for a second already
        assert time.monotonic() - start < 60, "healthz is not 200 after 60 s"
        time.sleep(0.02)


def texts(result, part="stdout"):
    assert isinstance(result.get("content"), list), result
    return "".join(item.get("text", "") for item in result["content"] if item.get("description") in (part, None))


def good(result):
    assert result["isError"] is False, result
    return texts(result)


def pdf(line):
    """The smallest PDF with a line of text."""
    stream = f"BT /F1 24 Tf 72 700 Td ({line}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    table += b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + table + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        len(out),
    )


def check_auth():
    for path in ["/fastapi/mcp/list_tools", "/fastapi/workspace/list", "/fastapi/watcher/git_logs"]:
        for token in [None, "wrong", ""]:
            status, _ = ask(path, token)
            assert status == 403, f"{path} with token {token!r} answers {status}"
    status, body = ask("/", None)
    assert status == 200, f"/ answers {status}"
    said("auth: refused without the token")


def check_tools(client):
    listed = client.list_tools()
    assert set(listed) == {*TOOLS, "generic"}, sorted(listed)
    for server, least in TOOLS.items():
        assert len(listed[server]) >= least, f"{server} has {sorted(listed[server])}"
    said("tools: " + ", ".join(f"{server} {len(listed[server])}" for server in TOOLS))


def check_box(client):
    good(client.run_ipython_cell("kept = 41"))
    assert good(client.run_ipython_cell("print(kept + 1)")) == "42\n"
    shell = client.run_shell_command("printf out; printf err >&2; exit 3")
    assert (texts(shell), texts(shell, "stderr"), texts(shell, "returncode")) == ("out", "err", "3"), shell
    assert shell["isError"] is True
    said("box: ipython keeps its state, shell answers by stream")


def check_workspace(client):
    client.workspace_mkdir("made/below")
    client.workspace_write("made/one.txt", "first")
    assert client.workspace_read("made/one.txt") == "first"
    client.workspace_write_many([{"path": "made/two.bin", "data": b"\x00\xff"}])
    assert client.workspace_read("made/two.bin", fmt="bytes") == b"\x00\xff"
    # what is not UTF-8 is too much for the app's own diffs
    client.workspace_remove("made/two.bin")
    names = {entry["name"] for entry in client.workspace_list("made")}
    assert names == {"below", "one.txt"}, names
    client.workspace_move("made/one.txt", "made/three.txt")
    assert not client.workspace_exists("made/one.txt") and client.workspace_exists("made/three.txt")
    with tempfile.NamedTemporaryFile() as local:
        local.write(b"x" * 5_000_000)
        local.flush()
        client.workspace_write_from_path("made/large", local.name)
    assert len(client.workspace_read("made/large", fmt="bytes")) == 5_000_000
    client.workspace_remove("made/large")
    assert not client.workspace_exists("made/large")
    said("workspace: file, files:batch, list, exists, entry, move, mkdir")


def check_watcher(client):
    commit = client.commit_changes("first")
    assert len(commit["commit"]) == 40, commit
    client.workspace_write("made/three.txt", "second")
    second = client.commit_changes("second")
    diff = client.generate_diff(commit["commit"], second["commit"])
    assert "-first" in json.dumps(diff) and "+second" in json.dumps(diff), diff
    messages = [log["message"] for log in client.git_logs()["logs"]]
    assert messages[:2] == ["second", "first"], messages
    said("watcher: commit_changes, generate_diff, git_logs")


def check_servers(client):
    client.workspace_write("paper.pdf", pdf("sand and stone"))
    calls = [
        ("filesystem", "list_allowed_directories", {}, "/workspace"),
        ("markdownify", "pdf-to-markdown", {"filepath": "/workspace/paper.pdf"}, "sand and stone"),
        ("word-document", "create_document", {"filename": "/workspace/a.docx", "title": "A"}, "created"),
        ("tavily-websearch", "tavily-search", {"query": "sandboxes"}, "A sandbox"),
        ("amap-maps", "maps_geo", {"address": "somewhere"}, "116.48,39.99"),
        (
            "chart",
            "generate_bar_chart",
            {"data": [{"category": "a", "value": 1}, {"category": "b", "value": 2}]},
            "https://example.org/chart.png",
        ),
        ("playwright", "browser_navigate", {"url": URL}, "sandbox"),
    ]
    for server, tool, arguments, expected in calls:
        answer = good(client.call_tool(tool, arguments))
        assert expected in answer, f"{server}: {tool} says {answer}"
        said(f"call: {server} {tool}")
    assert client.workspace_exists("a.docx")


def check_screen(client):
    """The browser shows the screen that it is itself on, through noVNC."""
    page = f"{URL}/vnc/vnc_lite.html?path=websockify&password={TOKEN}"
    good(client.call_tool("browser_navigate", {"url": page}))
    for _ in range(50):
        seen = good(client.call_tool("browser_snapshot", {}))
        if "Connected to" in seen:
            break
        time.sleep(0.1)
    assert "Connected to" in seen, seen
    shot = client.call_tool("browser_take_screenshot", {})
    images = [item for item in shot["content"] if item["type"] == "image"]
    assert images and len(base64.b64decode(images[0]["data"])) > 10_000, shot
    said("screen: noVNC connects, a screenshot is made")


wait_until_healthy()
model = ContainerModel(
    session_id="s", container_id="c", container_name="n", url=URL, ports=[80], runtime_token=TOKEN
)
with SandboxHttpClient(model) as client:
    check_auth()
    check_tools(client)
    check_box(client)
    check_workspace(client)
    check_watcher(client)
    check_servers(client)
    check_screen(client)
