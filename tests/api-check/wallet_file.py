"""The device key out of a wallet file, as client/README.md lays it out. Shares no code with the wallet."""

import json
import struct

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

PREFIX, NONCE, CHECKSUM = 16, 24, 32


def read(path: str, passphrase: bytes) -> tuple[dict, bytes]:
    """The readable header and the 32 bytes of the device key."""
    with open(path, "rb") as file:
        content = file.read()
    magic, version, length = struct.unpack(">8sII", content[:PREFIX])
    assert (magic, version) == (b"CSWALLET", 1), "not a wallet file of version 1"
    start = PREFIX + length
    associated, nonce = content[:start], content[start : start + NONCE]
    header = json.loads(associated[PREFIX:])
    cost = header["kdf"]["cost"]
    kdf = Argon2id(
        salt=bytes.fromhex(header["kdf"]["salt"]),
        length=48,
        iterations=cost["iterations"],
        lanes=cost["parallelism"],
        memory_cost=cost["memoryKib"],
    )
    derived = kdf.derive(passphrase)
    assert derived[32:].hex() == header["kdf"]["check"], "another passphrase"
    key = hchacha20(derived[:32], nonce[:16])
    sealed = content[start + NONCE : -CHECKSUM]
    plain = ChaCha20Poly1305(key).decrypt(bytes(4) + nonce[16:], sealed, associated)
    tag, _metadata, device, *_shares = elements(plain)
    assert tag == b"wallet/1"
    return header, device


def elements(plain: bytes):
    while plain:
        (length,) = struct.unpack(">I", plain[:4])
        yield plain[4 : 4 + length]
        plain = plain[4 + length :]


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """draft-irtf-cfrg-xchacha, section 2.2."""
    state = list(struct.unpack("<4I", b"expand 32-byte k"))
    state += struct.unpack("<8I", key)
    state += struct.unpack("<4I", nonce)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for one, other, target, left in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[one] = (state[one] + state[other]) & 0xFFFFFFFF
            mixed = state[target] ^ state[one]
            state[target] = ((mixed << left) | (mixed >> (32 - left))) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            quarter(
                diagonal,
                4 + (diagonal + 1) % 4,
                8 + (diagonal + 2) % 4,
                12 + (diagonal + 3) % 4,
            )
    return struct.pack("<8I", *state[:4], *state[12:])
