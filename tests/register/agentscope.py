"""Has AgentScope's own manager and server, unmodified, start a registered type by docker.

usage: agentscope.py EXTENSION TYPE CHECK     (DOCKER_HOST names the engine)
CHECK is an expression over `sandbox`, once it runs. Prints what was done, a line each.
"""

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

EXTENSION, TYPE, CHECK = sys.argv[1:]

spec = importlib.util.spec_from_file_location("extension", EXTENSION)
extension = importlib.util.module_from_spec(spec)
spec.loader.exec_module(extension)

from agentscope_runtime.sandbox.enums import SandboxType  # noqa: E402
from agentscope_runtime.sandbox.registry import SandboxRegistry  # noqa: E402


def said(what):
    print(what, flush=True)


def free_port():
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


def holds(sandbox):
    """The manager does not wait for what it starts."""
    for _ in range(600):
        value = eval(CHECK, {"sandbox": sandbox})
        if value:
            return
        time.sleep(0.1)
    raise AssertionError(f"{CHECK} is {value!r}")


kinds = [TYPE, f"{TYPE}_async"]
sync, late = (SandboxRegistry.get_classes_by_type(kind) for kind in kinds)
assert [SandboxType(kind).value for kind in kinds] == kinds
config = SandboxRegistry.get_config(sync)
said(f"image {config.image_name}")

# the manager in this process
with sync() as sandbox:
    holds(sandbox)
    info = sandbox.get_info()
    assert info["version"] == config.image_name, info
said("manager: started, asked, removed")


async def asynchronous():
    async with late() as sandbox:
        for _ in range(600):
            if await sandbox.manager_api.check_health_async(identity=sandbox.sandbox_id):
                return
            await asyncio.sleep(0.1)
        raise AssertionError("it is never healthy")


asyncio.run(asynchronous())
said("manager: asynchronous")

# a server, and a client of it that knows the type
port = free_port()
server = subprocess.Popen(
    [os.path.join(os.path.dirname(sys.executable), "runtime-sandbox-server"), "--extension", EXTENSION],
    env={**os.environ, "HOST": "127.0.0.1", "PORT": str(port), "DEFAULT_SANDBOX_TYPE": TYPE},
)
try:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
    with sync(base_url=f"http://127.0.0.1:{port}") as sandbox:
        holds(sandbox)
    said("server: started, asked, removed")
finally:
    server.send_signal(signal.SIGTERM)
    server.wait(60)
