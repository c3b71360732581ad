"""The owner proof of a request (RFC 9421, profile `mpc-wallet-p1/1`). Shares no code with the wallet."""

import base64
import hashlib
import json
import os
import time
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def length_prefixed(*parts: bytes) -> bytes:
    """LP of mpc/README.md: each part after its length in four bytes, big-endian."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)


class DeviceKey:
    def __init__(self, secret: bytes):
        self.key = ec.derive_private_key(int.from_bytes(secret), ec.SECP256R1())
        point = self.key.public_key().public_numbers()
        self.x, self.y = (base64url(n.to_bytes(32)) for n in (point.x, point.y))

    @property
    def jwk(self) -> dict:
        return {"kty": "EC", "crv": "P-256", "x": self.x, "y": self.y}

    @property
    def thumbprint(self) -> str:
        """RFC 7638."""
        canonical = json.dumps(self.jwk, sort_keys=True, separators=(",", ":"))
        return base64url(hashlib.sha256(canonical.encode()).digest())

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)


def headers(key: DeviceKey, audience: str, method: str, url: str, present, body: bytes | None) -> dict:
    """The headers that prove a request with the header fields `present`; `body` is None for a request without one."""
    target = urlsplit(url)
    covered = [("@method", method), ("@path", target.path), ("@query", "?" + target.query)]
    proof = {"MPC-Audience": audience}
    if body is not None:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        proof["Content-Digest"] = f"sha-256=:{digest}:"
        covered.append(("content-type", present.get("Content-Type", "")))
        covered.append(("content-digest", proof["Content-Digest"]))
    covered.append(("mpc-audience", audience))
    if "Idempotency-Key" in present:
        covered.append(("idempotency-key", present["Idempotency-Key"]))

    created = int(time.time())
    names = " ".join(f'"{name}"' for name, _ in covered)
    parameters = (
        f"({names});created={created};expires={created + 60};nonce=\"{base64url(os.urandom(16))}\""
        f';keyid="{key.thumbprint}";alg="ecdsa-p256-sha256";tag="mpc-wallet-p1/1"'
    )
    lines = [f'"{name}": {value}' for name, value in covered]
    base = "\n".join([*lines, f'"@signature-params": {parameters}'])
    signature = base64.b64encode(key.sign(base.encode("latin-1", "replace"))).decode()
    proof["Signature-Input"] = f"p1={parameters}"
    proof["Signature"] = f"p1=:{signature}:"
    return proof
