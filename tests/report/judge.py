"""Judges documents by what others wrote: `judge.py KIND FILE…`; says what is wrong and ends with 1."""

import base64
import json
import sys
from pathlib import Path


def spdx(path):
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    found = validate_full_spdx_document(parse_file(path), "SPDX-2.3")
    return [f"{one.context.spdx_id}: {one.validation_message}" for one in found]


def cyclonedx(path):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(Path(path).read_text())
    return [str(wrong)] if wrong else []


def provenance(path):
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    text = Path(path).read_text()
    Statement.copy_from_pb(json_format.Parse(text, statement_pb2.Statement())).validate()
    json_format.ParseDict(json.loads(text)["predicate"], provenance_pb2.Provenance())
    return []


def key(path):
    """Makes a key, as PKCS #8 and as cosign keeps it under the password `secret`, and its public half."""
    import hashlib

    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec
    from nacl.secret import SecretBox

    private = ec.generate_private_key(ec.SECP256R1())
    plain = form.NoEncryption()
    pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, plain)
    der = private.private_bytes(form.Encoding.DER, form.PrivateFormat.PKCS8, plain)
    public = private.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    salt, nonce = b"s" * 32, b"n" * 24
    derived = hashlib.scrypt(b"secret", salt=salt, n=1 << 15, r=8, p=1, dklen=32, maxmem=1 << 26)
    text = lambda data: base64.b64encode(data).decode()
    body = {
        "kdf": {"name": "scrypt", "params": {"N": 1 << 15, "r": 8, "p": 1}, "salt": text(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": text(nonce)},
        "ciphertext": text(SecretBox(derived).encrypt(der, nonce).ciphertext),
    }
    kind = "ENCRYPTED SIGSTORE PRIVATE KEY"
    lines = text(json.dumps(body).encode())
    lines = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
    Path(path).with_suffix(".pem").write_bytes(pem)
    Path(path).with_suffix(".key").write_text(f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n")
    Path(path).with_suffix(".pub").write_bytes(public)
    return []


def envelope(path):
    """Verifies an envelope with the `key.pub` beside it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    public = form.load_pem_public_key(Path(path).with_name("key.pub").read_bytes())
    read = json.loads(Path(path).read_text())
    kind, payload = read["payloadType"].encode(), base64.b64decode(read["payload"])
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    for one in read["signatures"]:
        public.verify(base64.b64decode(one["sig"]), signed, ec.ECDSA(hashes.SHA256()))
    return [] if read["signatures"] else ["no signature"]


def bundle(path):
    """Verifies a bundle of sigstore's with the `key.pub` beside it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec
    from in_toto_attestation.v1 import statement_pb2
    from google.protobuf import json_format
    from sigstore_models.bundle.v1 import Bundle

    read = Bundle.from_json(Path(path).read_text())
    assert read.media_type == "application/vnd.dev.sigstore.bundle.v0.3+json", read.media_type
    assert read.verification_material.public_key.hint, "no hint"
    (one,) = read.dsse_envelope.signatures
    kind, payload = read.dsse_envelope.payload_type.encode(), read.dsse_envelope.payload
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    public = form.load_pem_public_key(Path(path).with_name("key.pub").read_bytes())
    public.verify(one.sig, signed, ec.ECDSA(hashes.SHA256()))
    json_format.Parse(payload, statement_pb2.Statement())
    return []


def _write(path, content):
    """Writes `bundle.json` beside a file, by the key beside it, as cosign's version 3 does."""
    import hashlib

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec
    from sigstore_models.bundle.v1 import Bundle

    private = form.load_pem_private_key(Path(path).with_name("key.pem").read_bytes(), None)
    spki = private.public_key().public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)
    text = lambda data: base64.b64encode(data).decode()
    sign = lambda data: text(private.sign(data, ec.ECDSA(hashes.SHA256())))
    written = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": text(hashlib.sha256(spki).digest())},
            "tlogEntries": [],
        },
        **content(Path(path).read_bytes(), text, sign),
    }
    Path(path).with_name("bundle.json").write_text(Bundle.from_json(json.dumps(written)).to_json())
    return []


def write_statement(path):
    import hashlib

    def content(data, text, sign):
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": hashlib.sha256(data).hexdigest()}}],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
        }
        kind, payload = "application/vnd.in-toto+json", json.dumps(statement).encode()
        signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
        envelope = {"payload": text(payload), "payloadType": kind, "signatures": [{"sig": sign(signed)}]}
        return {"dsseEnvelope": envelope}

    return _write(path, content)


def write_message(path):
    import hashlib

    def content(data, text, sign):
        digest = {"algorithm": "SHA2_256", "digest": text(hashlib.sha256(data).digest())}
        return {"messageSignature": {"messageDigest": digest, "signature": sign(data)}}

    return _write(path, content)


wrong = [line for path in sys.argv[2:] for line in globals()[sys.argv[1]](path)]
print("\n".join(wrong))
sys.exit(bool(wrong))
