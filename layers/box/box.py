"""Serves the unmodified app; only how its MCP servers live is different.

The app starts them one after another in the task that starts the app itself, where the cancellation
that a dying server causes ends everything. Here each server has a task of its own, in which it is
started, kept and ended: they start together, and one that fails is reported and left out.
"""

import asyncio
import gc
import logging
import os

# what modules make is there for good: looking for garbage among it meanwhile takes a sixth of the start
gc.disable()
from app import app  # noqa: E402, F401  (uvicorn looks it up here)
from mcp import ClientSession  # noqa: E402
from routers import mcp as box_mcp, mcp_utils  # noqa: E402

gc.freeze()
gc.enable()

log = logging.getLogger("box")
START_SECONDS = float(os.environ.get("MCP_START_TIMEOUT", "30"))


class Session(ClientSession):
    """Ends what waits for a server whose output has ended, instead of letting it wait for ever."""

    async def _receive_loop(self):
        await super()._receive_loop()
        self._task_group.cancel_scope.cancel()


class Server(mcp_utils.MCPSessionHandler):
    """An MCP server whose session is entered and left in one task."""

    def __init__(self, name, config):
        super().__init__(name, config)
        self._task = None
        self._stop = asyncio.Event()

    async def initialize(self):
        started = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(started), name=f"mcp {self.name}")
        try:
            await asyncio.wait_for(asyncio.shield(started), START_SECONDS)
        except asyncio.TimeoutError:
            await self.cleanup()
            raise RuntimeError(f"`{self.name}` did not answer within {START_SECONDS:g} s") from None

    async def cleanup(self):
        self._stop.set()
        if self._task is None or self._task.done():
            return
        # a server may ignore that its input has ended: cancelling its task ends it by force
        _, late = await asyncio.wait({self._task}, timeout=5)
        for task in late:
            task.cancel()
            await asyncio.wait({task}, timeout=5)

    async def _live(self, started):
        reason = "ended"
        try:
            await super().initialize()
            if not started.done():
                started.set_result(None)
            await self._stop.wait()
        except asyncio.CancelledError:
            reason = "went away"
        except Exception as error:
            reason = str(error) or type(error).__name__
        finally:
            await super().cleanup()
            if box_mcp._MCP_SERVERS.get(self.name) is self:
                del box_mcp._MCP_SERVERS[self.name]
            if not started.done():
                started.set_exception(RuntimeError(f"`{self.name}` {reason}"))
            elif not self._stop.is_set():
                log.error("MCP server `%s` %s: its tools are gone", self.name, reason)


async def start_all(server_configs, overwrite=False):
    """What the app calls at its start: all servers at once, in the file's order in the end."""
    # FastAPI runs a router's start twice, once for the router and once for the app
    mcp_router = box_mcp.mcp_router
    if getattr(mcp_router, "servers_started", False):
        return
    mcp_router.servers_started = True
    servers = [Server(name, config) for name, config in server_configs["mcpServers"].items()]
    outcomes = await asyncio.gather(
        *(server.initialize() for server in servers), return_exceptions=True
    )
    for server, outcome in zip(servers, outcomes):
        if outcome is None:
            box_mcp._MCP_SERVERS[server.name] = server
        else:
            log.error("MCP server `%s` is left out: %s", server.name, outcome)
    log.info("MCP servers: %s", ", ".join(box_mcp._MCP_SERVERS) or "none")


# the app looks these names up when it needs them; its own endpoint for adding keeps its function
mcp_utils.ClientSession = Session
box_mcp.MCPSessionHandler = Server
box_mcp.add_servers = start_all
