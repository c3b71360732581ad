"""Computes envelope.json from the RFCs with Python's `cryptography`, independently of the Rust code.

Run: python3 envelope.py > envelope.json
"""

import base64
import hashlib
import hmac
import json

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEM = b"KEM" + (0x0020).to_bytes(2, "big")
SUITE = b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (0x0020, 0x0001, 0x0003))


def lp(*elements):
    out = b""
    for element in elements:
        if isinstance(element, int):
            element = element.to_bytes(8, "big")
        elif isinstance(element, str):
            element = element.encode()
        out += len(element).to_bytes(4, "big") + element
    return out


def extract(salt, ikm):
    return hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()


def expand(prk, info, length):
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        out, counter = out + block, counter + 1
    return out[:length]


def labeled_extract(suite, salt, label, ikm):
    return extract(salt, b"HPKE-v1" + suite + label + ikm)


def labeled_expand(suite, prk, label, info, length):
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def public(key):
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def envelope(prefix, payload):
    return prefix + base64.urlsafe_b64encode(payload).rstrip(b"=").decode()


kem_key = X25519PrivateKey.from_private_bytes(bytes([0x42]) * 32)
info = lp(
    "mpc-wallet/1", bytes([0xE1]) * 32, "default", "request", "sg1", "kem-2026-11-22",
    "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "profile-1", "session-1", 1, 1,
)
aad = lp("resp/1", info)
prefix = "mw1.sg1.kem-2026-11-22."

# RFC 9180 section 7.1.3: the ephemeral key of input key material 07…07.
prk = labeled_extract(KEM, b"", b"dkp_prk", bytes([7]) * 32)
ephemeral = X25519PrivateKey.from_private_bytes(labeled_expand(KEM, prk, b"sk", b"", 32))
enc = public(ephemeral)
shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public(kem_key)))
eae = labeled_extract(KEM, b"", b"eae_prk", shared)
secret = labeled_expand(KEM, eae, b"shared_secret", enc + public(kem_key), 32)

# RFC 9180 section 5.1: key schedule, base mode.
context = b"\x00" + labeled_extract(SUITE, b"", b"psk_id_hash", b"") + labeled_extract(SUITE, b"", b"info_hash", info)
schedule = labeled_extract(SUITE, secret, b"secret", b"")
key = labeled_expand(SUITE, schedule, b"key", context, 32)
nonce = labeled_expand(SUITE, schedule, b"base_nonce", context, 12)
exporter = labeled_expand(SUITE, schedule, b"exp", context, 32)
request = enc + ChaCha20Poly1305(key).encrypt(nonce, b"request", b"")

response_key = labeled_expand(SUITE, exporter, b"sec", b"response", 32)
response_nonce = bytes([5]) * 12
response = response_nonce + ChaCha20Poly1305(response_key).encrypt(response_nonce, b"answer", aad)

print(json.dumps({
    "kem_secret_key": "42" * 32,
    "kem_public_key": public(kem_key).hex(),
    "ephemeral_ikm": "07" * 32,
    "info": info.hex(),
    "response_aad": aad.hex(),
    "request_plaintext": "request",
    "request": envelope(prefix, request),
    "response_nonce": response_nonce.hex(),
    "response_plaintext": "answer",
    "response": envelope(prefix, response),
}, indent=2))
