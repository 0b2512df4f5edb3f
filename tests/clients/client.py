"""Drives instances through the Python client.

usage: client.py PROGRAM     (in a project of tests/support/launch.rs)
"""

import sys
import urllib.request

from sbx_client import Sbx, SbxError

PROGRAM = sys.argv[1]
sbx = Sbx(program=PROGRAM)


def fails(code, part, call):
    try:
        call()
    except SbxError as error:
        assert error.code == code and part in error.message, (error.code, error.message)
        return error
    raise AssertionError(f"it does not fail with {part!r}")


(built,) = sbx.build("web")
assert built.sandbox == "web" and built.image.startswith("sha256:"), built
assert [one.image for one in sbx.build("web")] == [built.image]
assert len(sbx.build()) > 5, "all are built"

with sbx.run("web", name="python") as instance:
    assert instance.image == built.image and instance.name == "python", instance
    assert instance.url == f"http://127.0.0.1:{instance.ports[80]}", instance
    with urllib.request.urlopen(f"{instance.url}/index.html") as page:
        assert page.read().decode().strip() == instance.token
    assert instance.token not in repr(instance)
    done = instance.exec("sh", "-c", "echo out; echo err >&2; echo $X; exit 5", env={"X": "set"})
    assert (done.code, done.stdout, done.stderr) == (5, "out\nset\n", "err\n"), done
    assert instance.exec("busybox", "tr", "a", "b", input="aa\n").stdout == "bb\n"
    (row,) = [row for row in sbx.ps() if row.id == instance.id]
    assert (row.status, row.url, row.token) == ("running", instance.url, instance.token), row
    assert row.launcher == "embedded", row
    fails(1, "already", lambda: sbx.run("s", name="python"))
assert not [row for row in sbx.ps() if row.id == instance.id], "it is removed"

with sbx.run("s", "sh", "-c", "echo $A; exec busybox sleep 300", env={"A": "said so"}) as instance:
    assert instance.url is None and instance.token is None
    for _ in range(200):
        if instance.logs():
            break
        instance.exec("busybox", "sleep", "0.05")
    assert instance.logs() == "said so\n", instance.logs()
    instance.stop(1)
    (row,) = [row for row in sbx.ps() if row.id == instance.id]
    assert row.status == "ended" and row.code is not None, row

with sbx.run("web", name="started", launcher="oci", runtime="runc") as instance:
    (row,) = [row for row in sbx.ps() if row.id == instance.id]
    assert row.launcher == "oci", row
    with urllib.request.urlopen(f"{instance.url}/index.html") as page:
        assert page.read().decode().strip() == instance.token
fails(1, "no runtime `none`", lambda: sbx.run("s", launcher="oci", runtime="none"))

try:
    with sbx.run("s", name="raises"):
        raise ValueError("of the caller")
except ValueError:
    assert not [row for row in sbx.ps() if row.name == "raises"]

error = fails(1, "no sandbox `wed`", lambda: sbx.build("wed"))
assert error.help == "did you mean `web`?", error.help
error = fails(3, "not ready after 1 s", lambda: sbx.run("never", timeout=1))
assert "log: the reason" in error.story and "--timeout" in error.help, error.story
fails(3, "cannot be started", lambda: Sbx(program="/no/such/sbx").ps())
print("done")
