"""Computes owner_proof.json from RFC 9421, 9530 and 7638 with Python's `cryptography`, independently of the Rust code.

Run: python3 owner_proof.py > owner_proof.json
"""

import base64
import hashlib
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b64(data):
    return base64.b64encode(data).decode()


key = ec.derive_private_key(int.from_bytes(bytes([3]) * 32, "big"), ec.SECP256R1())
numbers = key.public_key().public_numbers()
x, y = (b64url(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
jwk = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
thumbprint = b64url(hashlib.sha256(jwk.encode()).digest())

body = '{"sessionId":"1"}'
digest = f"sha-256=:{b64(hashlib.sha256(body.encode()).digest())}:"
components = [
    ("@method", "POST"), ("@path", "/api/v1/mpc/sign"), ("@query", "?"), ("content-type", "application/json"),
    ("content-digest", digest), ("mpc-audience", "signer.example"), ("idempotency-key", "9b0f"),
]
names = " ".join(f'"{name}"' for name, _ in components)
parameters = (
    f'({names});created=1795338000;expires=1795338060;nonce="{b64url(bytes([5]) * 16)}";keyid="{thumbprint}"'
    ';alg="ecdsa-p256-sha256";tag="mpc-wallet-p1/1"'
)
base = "".join(f'"{name}": {value}\n' for name, value in components) + f'"@signature-params": {parameters}'
r, s = decode_dss_signature(key.sign(base.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))

print(json.dumps({
    "secret_key": "03" * 32,
    "jwk": json.loads(jwk),
    "thumbprint": thumbprint,
    "body": body,
    "base": base,
    "content_digest": digest,
    "signature_input": f"p1={parameters}",
    "signature": f"p1=:{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}:",
}, indent=2))
