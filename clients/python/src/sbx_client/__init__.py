"""Sandboxes from Python: builds, starts and drives them with the program `sbx`, over `--json`.

>>> from sbx_client import Sbx
>>> with Sbx().run("custom_sandbox") as sandbox:
...     print(sandbox.url, sandbox.exec("uname", "-r").stdout)
"""

from .instance import Completed, Instance
from .program import Built, Listed, Sbx, SbxError

__all__ = ["Built", "Completed", "Instance", "Listed", "Sbx", "SbxError"]
