"""A sandbox that was started."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .program import Sbx


@dataclass(frozen=True)
class Completed:
    """How a command in an instance ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Instance:
    """A running instance; a `with` removes it in the end."""

    sbx: Sbx = field(repr=False)
    id: str
    name: str
    image: str
    """The image's id."""
    url: str | None
    """Where its first port is reached."""
    token: str | None = field(repr=False)
    """What its callers must show: `Authorization: Bearer …`."""
    ports: dict[int, int]
    """Ports of the instance, and where each is reached on 127.0.0.1."""
    seconds: float
    """From the call until it was ready."""

    def exec(
        self,
        *command: str,
        input: str | bytes | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        workdir: str | None = None,
    ) -> Completed:
        """Runs a command to its end. Its code is not judged."""
        words = ["exec"]
        words += ["--interactive"] if input is not None else []
        for variable, value in (env or {}).items():
            words += ["--env", f"{variable}={value}"]
        words += ["--user", user] if user is not None else []
        words += ["--workdir", workdir] if workdir is not None else []
        given = input.encode() if isinstance(input, str) else input
        done = self.sbx.call([*words, self.id, *command], input=given)
        return Completed(
            code=done.returncode,
            stdout=done.stdout.decode(errors="replace"),
            stderr=done.stderr.decode(errors="replace"),
        )

    def logs(self) -> str:
        """What it has said."""
        done = self.sbx.call(["logs", self.id])
        return done.stdout.decode(errors="replace")

    def stop(self, seconds: int = 10) -> None:
        """Ends it; it may take so long to end by itself."""
        self.sbx.answers(["stop", "--time", str(seconds), self.id])

    def remove(self) -> None:
        """Ends it at once, and removes what it wrote."""
        self.sbx.answers(["rm", "--force", self.id])

    def __enter__(self) -> Instance:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()
