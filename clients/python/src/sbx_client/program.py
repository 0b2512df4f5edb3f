"""The program, and what it answers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .instance import Instance


class SbxError(Exception):
    """The program ended without doing what was asked.

    `message` and `help` are its own words, `code` its exit code: 1 for what the caller can mend, 2 for
    a wrong command line, 3 for the outside world, 70 for a fault of the program. `story` is all that it
    said.
    """

    def __init__(self, message: str, code: int, help: str | None = None, story: str = "") -> None:
        super().__init__(message if help is None else f"{message} ({help})")
        self.message = message
        self.code = code
        self.help = help
        self.story = story


@dataclass(frozen=True)
class Built:
    """A built image."""

    sandbox: str
    image: str
    """The image's id."""
    platform: str
    seconds: float


@dataclass(frozen=True)
class Listed:
    """An instance, as `sbx ps` shows it."""

    id: str
    name: str
    sandbox: str
    image: str
    status: str
    """`starting`, `running`, `ended` or `killed`."""
    launcher: str
    """What started it: `embedded`, `oci` or `docker`."""
    code: int | None
    """Its exit code, once it has ended."""
    ports: dict[int, int]
    """Ports of the instance, and where each is reached on 127.0.0.1."""
    url: str | None
    token: str | None


class Sbx:
    """The program `sbx`, with a project."""

    def __init__(
        self,
        project: str | os.PathLike[str] | None = None,
        *,
        program: str | os.PathLike[str] = "sbx",
        cache: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`project` is its directory (default: the one around the current directory); `env` is added to
        the program's environment."""
        self._program = os.fspath(program)
        self._options: list[str] = []
        if project is not None:
            self._options += ["--project", os.fspath(project)]
        if cache is not None:
            self._options += ["--cache", os.fspath(cache)]
        self._env = None if env is None else {**os.environ, **env}

    def build(self, *names: str, locked: bool = False, offline: bool = False) -> list[Built]:
        """Builds sandboxes, all of the project if none is named."""
        words = ["build", *(names or ["--all"])]
        words += ["--locked"] if locked else []
        words += ["--offline"] if offline else []
        return [
            Built(answer["sandbox"], answer["image"], answer["platform"], answer["seconds"])
            for answer in self.answers(words)
        ]

    def run(
        self,
        sandbox: str,
        *command: str,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        publish: Iterable[str] = (),
        volumes: Iterable[str] = (),
        timeout: int | None = None,
        limits: bool = True,
        launcher: str | None = None,
        runtime: str | None = None,
    ) -> Instance:
        """Starts a sandbox, builds it where that is missing, and answers once it is ready.

        The instance is removed at the end of a `with`, or by `Instance.remove`. `publish` takes
        `HOST:PORT`, `volumes` takes `SOURCE:PATH[:ro]`; `limits=False` runs it without those declared.
        `launcher` is `embedded` (the default), `oci`, with its `runtime`, or `docker`.
        """
        words = ["run", "--detach"]
        words += ["--name", name] if name is not None else []
        for option in publish:
            words += ["--publish", option]
        for option in volumes:
            words += ["--volume", option]
        for variable, value in (env or {}).items():
            words += ["--env", f"{variable}={value}"]
        words += ["--timeout", str(timeout)] if timeout is not None else []
        words += [] if limits else ["--no-limits"]
        words += ["--launcher", launcher] if launcher is not None else []
        words += ["--runtime", runtime] if runtime is not None else []
        words.append(sandbox)
        words += ["--", *command] if command else []
        (answer,) = self.answers(words)
        return Instance(
            sbx=self,
            id=answer["id"],
            name=answer["name"],
            image=answer["image"],
            url=answer["url"],
            token=answer["token"],
            ports=_ports(answer["ports"]),
            seconds=answer["seconds"],
        )

    def ps(self) -> list[Listed]:
        """All instances."""
        (rows,) = self.answers(["ps"])
        return [
            Listed(
                id=row["id"],
                name=row["name"],
                sandbox=row["sandbox"],
                image=row["image"],
                status=row["status"],
                launcher=row["launcher"],
                code=row["code"],
                ports=_ports(row["ports"]),
                url=row["url"],
                token=row["token"],
            )
            for row in rows
        ]

    def answers(self, words: Iterable[str]) -> list[Any]:
        """The documents that a verb answers with `--json`."""
        done = self.call([*self._options, "--json", *words])
        if done.returncode != 0:
            raise _error(done)
        decoder, text, found = json.JSONDecoder(), done.stdout.decode().strip(), []
        while text:
            value, end = decoder.raw_decode(text)
            found.append(value)
            text = text[end:].lstrip()
        return found

    def call(self, words: Iterable[str], input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Runs the program as it is."""
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        try:
            return subprocess.run(
                [self._program, *words], capture_output=True, env=self._env, check=False, **given
            )
        except OSError as error:
            message = f"`{self._program}` cannot be started: {error.strerror}"
            raise SbxError(message, 3, "install sbx, or pass `program=`") from error


def _ports(ports: Mapping[str, int]) -> dict[int, int]:
    return {int(inside): outside for inside, outside in ports.items()}


def _error(done: subprocess.CompletedProcess[bytes]) -> SbxError:
    story = done.stderr.decode(errors="replace")
    said: dict[str, str] = {}
    for line in story.splitlines():
        for part in ("error", "help"):
            if line.startswith(f"{part}: "):
                said[part] = line.removeprefix(f"{part}: ")
    message = said.get("error") or f"sbx ended with code {done.returncode}"
    return SbxError(message, done.returncode, said.get("help"), story)
