"""Judges objects: `validate.py OBJECTS.yaml LIST.json`. Both say the same, and the schemas take it."""

import json
import sys

import kubernetes_validate
import yaml

documents = list(yaml.safe_load_all(open(sys.argv[1])))
listed = json.load(open(sys.argv[2]))
assert listed["kind"] == "List", listed["kind"]


def without_token(document):
    """Every run draws a token of its own."""
    if document["kind"] == "Secret":
        document["stringData"].pop("SECRET_TOKEN")
    for container in document["spec"].get("containers", []) if document["kind"] == "Pod" else []:
        for probe in ("startupProbe", "readinessProbe"):
            container.get(probe, {}).get("httpGet", {}).pop("httpHeaders", None)
    return document


for document in documents:
    for version in ("1.33", "1.37"):
        kubernetes_validate.validate(document, version, strict=True)
assert [without_token(one) for one in documents] == [without_token(one) for one in listed["items"]]
assert any(one["kind"] == "Pod" for one in documents)
