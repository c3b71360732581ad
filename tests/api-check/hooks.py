"""What schemathesis is told about this API: real ids, and a device's signature on every request (API_CHECK=signed)."""

import atexit
import collections
import json
import os
import re
import time
import tomllib

import owner_proof
import requests
import schemathesis
import wallet_file
from requests.auth import AuthBase
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import RejectedPositiveData

MODE = os.environ["API_CHECK"]
DIRECTORY = os.environ["API_CHECK_DIR"]
with open(os.path.join(DIRECTORY, "env", "client.toml"), "rb") as file:
    CLIENT = tomllib.load(file)
AUDIENCE = CLIENT["audience"]
ORIGIN = os.environ["API_CHECK_ORIGIN"]
PKI = os.environ["API_CHECK_PKI"]
CHAIN = int(os.environ["API_CHECK_CHAIN"])
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

with open(os.path.join(DIRECTORY, "passphrase"), "rb") as file:
    passphrase = file.read().strip()
header, secret = wallet_file.read(os.environ["API_CHECK_WALLET"], passphrase)
DEVICE = owner_proof.DeviceKey(secret)
# What the appliance knows of this wallet; the session is replaced by each new one.
ids = {"profile": header["profileId"], "session": header["profileId"]}

with open(os.environ["API_CHECK_DOCUMENT"], encoding="utf-8") as file:
    document = json.load(file)
PROOF = {
    name: re.compile(document["components"]["parameters"][name]["schema"]["pattern"])
    for name in ("MPC-Audience", "Content-Digest", "Signature-Input", "Signature")
}
answers = collections.Counter()


def tests_headers(case) -> bool:
    """Whether the headers are what is wrong on purpose. Headers of the proof are never right as they are made."""
    if case.meta is None:
        return False
    location = case.meta.phase.data.parameter_location
    if location is not None:
        return location == ParameterLocation.HEADER
    return case.meta.is_negative_at(ParameterLocation.HEADER)


def signed(operation) -> bool:
    return "deviceSignature" in json.dumps(operation.definition.raw.get("security", []))


class Proof(AuthBase):
    """Signs what is about to be sent. Where a header of the proof is itself what is tested, it stays as it was made."""

    def __init__(self, broken: bool):
        self.broken = broken

    def __call__(self, request):
        body = request.body.encode() if isinstance(request.body, str) else request.body
        proof = owner_proof.headers(DEVICE, AUDIENCE, request.method, request.url, request.headers, body)
        for name, value in proof.items():
            made = request.headers.get(name)
            if isinstance(made, bytes):
                made = made.decode("latin-1")
            if not self.broken or (made is not None and PROOF[name].fullmatch(made)):
                request.headers[name] = value
        return request


def prepare():
    """One request without schemathesis: whether the proof is right shows here, and there is a session to ask for."""
    transaction = {"to": "0x" + "11" * 20, "value": "1", "chainId": CHAIN}
    response = requests.post(
        f"{ORIGIN}/api/v1/profiles/{ids['profile']}/transactions",
        data=json.dumps(transaction).encode(),
        headers={"Content-Type": "application/json", "Idempotency-Key": "api-check-" + os.urandom(8).hex()},
        auth=Proof(broken=False),
        cert=(f"{PKI}/gateway.pem", f"{PKI}/gateway-key.pem"),
        verify=f"{PKI}/ca.pem",
        timeout=20,
    )
    assert response.status_code == 200, response.text
    ids["session"] = response.json()["sessionId"]


prepare()


@schemathesis.hook
def before_call(context, case, kwargs):
    if MODE == "signed" and signed(case.operation):
        broken = tests_headers(case)
        if isinstance(case.body, dict) and "name" in case.body and not broken:
            # Only the first of the three requests needs it, which the description of one header cannot say.
            case.headers.setdefault("Idempotency-Key", "api-check-" + os.urandom(8).hex())
        kwargs["auth"] = Proof(broken)


@schemathesis.hook
def map_path_parameters(context, parameters):
    """A random id exists nowhere: half of them become ours."""
    value = (parameters or {}).get("id")
    # A frozen profile would be of no use to the other routes: nobody's is frozen.
    freezes = context.operation.path.endswith("/freeze")
    if isinstance(value, str) and UUID.fullmatch(value) and value[-1] in "01234567" and not freezes:
        kind = "session" if "/sessions/" in context.operation.path else "profile"
        parameters["id"] = ids[kind]
    return parameters


@schemathesis.hook
def map_body(context, body):
    """The same in bodies; and the device's own key, because only its thumbprint fits."""
    if not isinstance(body, dict):
        return body
    for field, kind in (("sessionId", "session"), ("keygenSessionId", "session"), ("profileId", "profile")):
        value = body.get(field)
        if isinstance(value, str) and UUID.fullmatch(value) and value[-1] in "01234567":
            body[field] = ids[kind]
    share = body.get("clientShare")
    if isinstance(share, dict) and type(share.get("publicKey")) in (dict, str) and type(share.get("keyId")) is str:
        share["publicKey"], share["keyId"] = DEVICE.jwk, DEVICE.thumbprint
    # A device that is new, and its statement.
    proof = body.get("proof")
    if context.operation.definition.raw["operationId"] == "enrolDevice" and isinstance(proof, dict):
        name, until = body.get("name"), proof.get("expires")
        if isinstance(name, str) and name == name.strip() and type(until) is int and type(proof.get("nonce")) is str:
            device, nonce = owner_proof.DeviceKey(os.urandom(31)), os.urandom(16)
            expires = int(time.time()) + until % 80_000 + 60
            body["publicKey"] = device.jwk
            proof.update(
                nonce=owner_proof.base64url(nonce),
                expires=expires,
                signature=owner_proof.base64url(
                    device.sign(
                        owner_proof.length_prefixed(
                            b"device-enrol/1",
                            bytes.fromhex(CLIENT["environment_id"]),
                            CLIENT["tenant"].encode(),
                            ids["profile"].encode(),
                            name.encode(errors="replace"),
                            device.thumbprint.encode(),
                            nonce,
                            expires.to_bytes(8),
                        )
                    )
                ),
            )
    # Half of the transactions are such that the chain accepts them.
    if isinstance(body.get("to"), str) and isinstance(body.get("value"), str):
        if re.fullmatch("0x[0-9a-fA-F]{39}[02468aceACE]", body["to"]) and body["value"].isdecimal():
            body["to"], body["value"] = body["to"].lower(), "1"
            if body.get("chainId") is not None and type(body["chainId"]) is int:
                body["chainId"] = CHAIN
            for hint in ("gas", "maxFeePerGas", "maxPriorityFeePerGas", "data", "keyGeneration"):
                if type(body.get(hint)) in (str, int):
                    body[hint] = None
    return body


@schemathesis.hook
def after_call(context, case, response):
    code = ""
    try:
        body = response.json()
        code = body.get("error", "")
        if response.status_code == 200 and "unsignedTx" in body:
            ids["session"] = body["sessionId"]
    except (ValueError, AttributeError):
        pass
    operation = f"{case.operation.method.upper():5}{case.operation.path}"
    answers[(operation, f"{response.status_code} {code}".strip())] += 1


# What only the other side of a protocol or a chain can make: a request in order in all but that is still refused.
BEYOND_A_SCHEMA = {
    ("createProfile", "INVALID_KEY_SHARE"),
    ("sign", "INVALID_KEY_SHARE"),
    ("prepareTransaction", "INVALID_REQUEST"),
    ("prepareTransaction", "IDEMPOTENCY_MISMATCH"),
    ("enrolDevice", "INVALID_REQUEST"),
    ("enrolDevice", "IDEMPOTENCY_MISMATCH"),
    ("revokeDevice", "IDEMPOTENCY_MISMATCH"),
}


@schemathesis.hook
def filter_failure(context, failure, case, response):
    if isinstance(failure, AcceptedNegativeData):
        return response.status_code != 413
    if not isinstance(failure, RejectedPositiveData):
        return True
    operation = case.operation.definition.raw["operationId"]
    return (operation, response.json().get("error")) not in BEYOND_A_SCHEMA


@schemathesis.check
def unsigned_requests_do_nothing(context, response, case):
    """Whoever has the gateway's certificate and no device key is refused, with the code that says so."""
    if MODE == "unsigned" and signed(case.operation) and response.status_code < 400:
        raise AssertionError(f"an unsigned request was answered {response.status_code}")


@atexit.register
def report():
    print("\nanswers, by route:")
    for (operation, answer), count in sorted(answers.items()):
        print(f"  {count:6}  {operation}  {answer}")
