"""Computes identity.json from the definitions in mpc/README.md with Python's `cryptography`, independently of the Rust code.

Run: python3 identity.py > identity.json
"""

import base64
import hashlib
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def lp(*elements):
    out = b""
    for element in elements:
        if isinstance(element, int):
            element = element.to_bytes(8, "big")
        elif isinstance(element, str):
            element = element.encode()
        out += len(element).to_bytes(4, "big") + element
    return out


def key(byte):
    return ec.derive_private_key(int.from_bytes(bytes([byte]) * 32, "big"), ec.SECP256R1())


def public(private):
    numbers = private.public_key().public_numbers()
    return b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def sign(private, message):
    r, s = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def b64(data):
    return base64.b64encode(data).decode()


env, kind = bytes([0xE1]) * 32, "development"
root, identity, response = key(3), key(7), key(8)
serial, not_before, not_after = 5, 1795338000, 1826874000
day_end = not_before + 48 * 3600

request = lp("identity-request/1", env, kind, public(identity))
certificate = lp("identity/1", env, kind, public(identity), serial, not_before, not_after)
kid = hashlib.sha256(public(response)).hexdigest()[:16]
statement = lp("response/1", env, kid, public(response), not_before, day_end)

chain = b"".join([
    public(identity), serial.to_bytes(8, "big"), not_before.to_bytes(8, "big"), not_after.to_bytes(8, "big"),
    sign(root, certificate),
    public(response), not_before.to_bytes(8, "big"), day_end.to_bytes(8, "big"), sign(identity, statement),
])

body = '{"state":"created"}'
digest = f"sha-256=:{b64(hashlib.sha256(body.encode()).digest())}:"
asked = f":{b64(bytes([1]) * 64)}:"


def answer(request_signature):
    lines = ['"@status": 202', f'"content-digest": {digest}']
    names = '"@status" "content-digest"'
    if request_signature:
        lines.append(f'"signature";req;key="p1": {request_signature}')
        names += ' "signature";req;key="p1"'
    parameters = f'({names});created={not_before};keyid="{kid}";alg="ecdsa-p256-sha256";tag="mpc-wallet-p2/1"'
    base = "\n".join(lines + [f'"@signature-params": {parameters}'])
    return {
        "base": base,
        "signature_input": f"p2={parameters}",
        "signature": f"p2=:{b64(sign(response, base.encode()))}:",
    }


print(json.dumps({
    "environment_id": env.hex(),
    "environment_kind": kind,
    "root_secret": "03" * 32,
    "identity_secret": "07" * 32,
    "response_secret": "08" * 32,
    "root_key": public(root).hex(),
    "request": {"statement": request.hex(), "signature": sign(identity, request).hex()},
    "certificate": {
        "serial": serial, "not_before": not_before, "not_after": not_after,
        "statement": certificate.hex(), "signature": sign(root, certificate).hex(),
    },
    "response_key": {
        "kid": kid, "not_before": not_before, "not_after": day_end,
        "statement": statement.hex(), "signature": sign(identity, statement).hex(),
    },
    "mpc_response_key": base64.urlsafe_b64encode(chain).rstrip(b"=").decode(),
    "body": body,
    "content_digest": digest,
    "request_signature": f"p1={asked}",
    "bound": answer(asked),
    "unbound": answer(None),
}, indent=2))
