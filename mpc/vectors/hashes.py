"""Computes hashes.json from protocol.md's definitions, independently of the Rust code.

Run: python3 hashes.py > hashes.json
"""

import hashlib
import json


def lp(*elements):
    out = b""
    for element in elements:
        if isinstance(element, int):
            element = element.to_bytes(8, "big")
        elif isinstance(element, str):
            element = element.encode()
        out += len(element).to_bytes(4, "big") + element
    return out


def keccak256(data):
    """Keccak-256 with the original padding 0x01, as Ethereum uses it."""
    mask = (1 << 64) - 1

    def rotate(value, by):
        by %= 64
        return ((value << by) | (value >> (64 - by))) & mask if by else value

    constants, register = [], 1
    for _ in range(24):
        constant = 0
        for j in range(7):
            if register & 1:
                constant ^= 1 << ((1 << j) - 1)
            register = ((register << 1) ^ ((register >> 7) * 0x171)) & 0xFF
        constants.append(constant)
    state = [[0] * 5 for _ in range(5)]
    rate = 136
    padded = bytearray(data) + bytearray(rate - len(data) % rate)
    padded[len(data)] ^= 0x01
    padded[-1] ^= 0x80
    for start in range(0, len(padded), rate):
        for i in range(rate // 8):
            state[i % 5][i // 5] ^= int.from_bytes(padded[start + 8 * i:start + 8 * i + 8], "little")
        for constant in constants:
            parity = [state[x][0] ^ state[x][1] ^ state[x][2] ^ state[x][3] ^ state[x][4] for x in range(5)]
            for x in range(5):
                delta = parity[(x - 1) % 5] ^ rotate(parity[(x + 1) % 5], 1)
                for y in range(5):
                    state[x][y] ^= delta
            x, y, current = 1, 0, state[1][0]
            for t in range(24):
                x, y = y, (2 * x + 3 * y) % 5
                current, state[x][y] = state[x][y], rotate(current, (t + 1) * (t + 2) // 2)
            for y in range(5):
                row = [state[x][y] for x in range(5)]
                for x in range(5):
                    state[x][y] = row[x] ^ (~row[(x + 1) % 5] & mask & row[(x + 2) % 5])
            state[0][0] ^= constant
    return b"".join(state[i % 5][i // 5].to_bytes(8, "little") for i in range(4))


assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"

env, client, server, digest = (bytes([n]) * 32 for n in (0xE1, 0xC1, 0x51, 0xD1))
profile, session, device, decision = "profile-1", "session-1", "thumbprint-1", "decision-1"


def sha(*elements):
    return hashlib.sha256(lp(*elements)).hexdigest()


def sign(purpose, decision_id, attempt, index):
    return sha("sign/1", env, profile, device, 3, session, attempt, index, client, server, decision_id, purpose, digest)


point = lambda tag: bytes([2]) + bytes([tag]) * 32
print(json.dumps({
    "lp": lp("tag/1", b"", b"\x00\xff", 7, "ü").hex(),
    "keygen_sid": sha("keygen/1", env, profile, session, client, server, device),
    "sign_id_transaction": sign("transaction", decision, 2, 5),
    "sign_id_canary": sign("canary", "", 1, 0),
    "canary_digest": keccak256(b"\x19MPC wallet canary v1\n" + lp(profile, 3, session)).hex(),
    "fingerprint": sha("gen/1", point(0x0A), point(0x0B), point(0x0C), bytes([0x0D]) * 32),
    "kem_statement": sha("kem/1", env, "kem-1", bytes([9]) * 32, 1795338000, 1795424400),
}, indent=2))
