//! The description of every route (OpenAPI 3.1), made from the annotations of the handlers.
//!
//! A route is registered by `routes!` only, which wants its annotation: what is not described does not
//! exist. The annotation says what is the route's own; what every route of a listener or every signed
//! request has in common is added here, from the route's `security` and its request body.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::error::{Body, Code};
use super::{operator, rates, routes};

pub mod header;
pub mod text;

/// The security schemes, as annotations name them.
const CERTIFICATE: &str = "clientCertificate";
const DEVICE: &str = "deviceSignature";

/// In an annotation, the error codes that are the route's own: `extensions(("x-errors" = json!([…])))`.
const ERRORS: &str = "x-errors";

/// What every request may be answered, before anything looks at it.
const OF_ALL: &[Code] = &[
    Code::ForbiddenRole,
    Code::RateLimitExceeded,
    Code::Overloaded,
];

/// What every signed request may be answered.
const OF_SIGNED: &[Code] = &[
    Code::InvalidRequest,
    Code::Unauthenticated,
    Code::SignatureInvalid,
    Code::SignatureReplayed,
    Code::DevicePending,
    Code::StoreUnavailable,
    Code::Overloaded,
];

/// What every request with a body may be answered.
const OF_BODY: &[Code] = &[Code::InvalidRequest, Code::PayloadTooLarge];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "countersign",
        description = "An HSM-backed appliance that holds one share of a 2-of-2 threshold ECDSA key and signs with \
            the wallet that holds the other. TLS 1.3 with a client certificate everywhere; what the certificate's \
            role may use is in `x-roles`. All bodies are JSON in UTF-8. An unknown field in a request is an error; \
            answers may get more fields.",
    ),
    servers((url = "https://localhost:8443", description = "the API: wallets, through their gateway")),
    tags(
        (name = "wallet", description = "What wallets use, on the API listener."),
        (name = "operators", description = "What operators and monitoring use, on the operator listener."),
    ),
    components(schemas(Body)),
)]
struct Frame;

/// Who reaches a route, and what its answers have in common.
struct Listener {
    roles: &'static [&'static str],
    servers: Option<Value>,
    /// Response headers, by the names of their components.
    headers: &'static [&'static str],
}

/// The document, in its one order.
#[must_use]
pub fn document() -> Value {
    let mut document = Frame::openapi();
    let api = routes::described().into_openapi();
    let operators = operator::described().into_openapi();
    let mut paths = described(
        &api,
        &Listener {
            roles: &["gateway"],
            servers: None,
            headers: &[
                "MPC-Instance",
                "MPC-Mode",
                "Content-Digest",
                "Signature-Input",
                "Signature",
                "MPC-Response-Key",
            ],
        },
    );
    paths.extend(described(
        &operators,
        &Listener {
            roles: &["operator", "security-officer", "auditor"],
            servers: Some(json!([{
                "url": "https://localhost:8444",
                "description": "the operator listener",
            }])),
            headers: &[
                "MPC-Mode",
                "Content-Digest",
                "Signature-Input",
                "Signature",
                "MPC-Response-Key",
            ],
        },
    ));
    document.merge(api);
    document.merge(operators);
    let mut document = json!(document);
    set(&mut document, "/paths", "", Value::Object(paths));
    let shared = shared_components();
    for (kind, components) in shared.as_object().into_iter().flatten() {
        set(&mut document, "/components", kind, components.clone());
    }
    describe_codes(&mut document);
    // Whether maps keep an order of their own depends on what else is in the dependency tree.
    document.sort_all_objects();
    document
}

/// Puts `value` in the place of the field `name` of the object at `pointer`, or of that object itself.
fn set(document: &mut Value, pointer: &str, name: &str, value: Value) {
    let place = document.pointer_mut(pointer);
    match (place, name) {
        (Some(place), "") => *place = value,
        (Some(Value::Object(fields)), name) => drop(fields.insert(name.to_owned(), value)),
        _ => {}
    }
}

/// The paths of a listener, complete.
fn described(document: &utoipa::openapi::OpenApi, listener: &Listener) -> Map<String, Value> {
    let mut paths = match json!(document.paths) {
        Value::Object(paths) => paths,
        _ => Map::new(),
    };
    for (path, methods) in &mut paths {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            if let Some(operation) = operation.as_object_mut() {
                complete(operation, listener);
                limit(operation, &method.to_ascii_uppercase(), path);
            }
        }
    }
    paths
}

/// Adds to an operation whose number is limited what its answers say of that.
fn limit(operation: &mut Map<String, Value>, method: &str, path: &str) {
    let Some(class) = rates::class(method, path) else {
        return;
    };
    operation.insert("x-rate-limit".to_owned(), json!(class.as_str()));
    let responses = operation
        .get_mut("responses")
        .and_then(Value::as_object_mut);
    for response in responses.into_iter().flat_map(Map::values_mut) {
        for name in ["RateLimit-Policy", "RateLimit"] {
            let header = json!({"$ref": format!("#/components/headers/{name}")});
            set(response, "/headers", name, header);
        }
    }
}

/// Adds to an operation what follows from its listener, its security and its body.
fn complete(operation: &mut Map<String, Value>, listener: &Listener) {
    let signed = operation
        .get("security")
        .is_some_and(|security| security.to_string().contains(DEVICE));
    let body = operation.contains_key("requestBody");
    let own = operation.remove(ERRORS).unwrap_or_default();
    let mut codes: BTreeSet<Code> = serde_json::from_value(own).unwrap_or_default();
    codes.extend(OF_ALL);
    if signed {
        codes.extend(OF_SIGNED);
        let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
        let of_body = if body { Some("Content-Digest") } else { None };
        let of_all = ["Signature-Input", "Signature", "MPC-Audience"];
        if let Some(parameters) = parameters.as_array_mut() {
            let more = of_all.into_iter().chain(of_body);
            parameters.extend(
                more.map(|name| json!({"$ref": format!("#/components/parameters/{name}")})),
            );
        }
    }
    if body {
        codes.extend(OF_BODY);
    }
    if !operation.contains_key("x-roles") {
        operation.insert("x-roles".to_owned(), json!(listener.roles));
    }
    if let Some(servers) = &listener.servers {
        operation.insert("servers".to_owned(), servers.clone());
    }
    let Some(Value::Object(responses)) = operation.get_mut("responses") else {
        return;
    };
    for (status, response) in refusals(&codes) {
        responses.entry(status).or_insert(response);
    }
    for response in responses.values_mut().filter_map(Value::as_object_mut) {
        let headers = response.entry("headers").or_insert_with(|| json!({}));
        for name in listener.headers {
            let header = json!({"$ref": format!("#/components/headers/{name}")});
            set(headers, "", name, header);
        }
    }
}

/// The errors by status: which codes, what they mean, and what to do.
fn refusals(codes: &BTreeSet<Code>) -> BTreeMap<String, Value> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        by_status
            .entry(code.status().as_u16())
            .or_default()
            .push(*code);
    }
    let response = |status: u16, codes: &[Code]| {
        let lines: Vec<String> = codes.iter().copied().map(explained).collect();
        let mut response = json!({
            "description": lines.join("\n"),
            "content": {"application/json": {"schema": {
                "allOf": [{"$ref": "#/components/schemas/Error"}],
                "properties": {"error": {"enum": codes}, "statusCode": {"const": status}},
            }}},
        });
        if [409, 429, 503].contains(&status) {
            let header = json!({"Retry-After": {"$ref": "#/components/headers/Retry-After"}});
            set(&mut response, "", "headers", header);
        }
        response
    };
    by_status
        .into_iter()
        .map(|(status, codes)| (status.to_string(), response(status, &codes)))
        .collect()
}

/// One line about a code.
fn explained(code: Code) -> String {
    let retries: Vec<String> = code
        .retries()
        .iter()
        .map(|retry| text_of(&json!(retry)))
        .collect();
    format!(
        "- `{}`:{} Retry: {}.",
        text_of(&json!(code)),
        code.meaning(),
        retries.join(" or ")
    )
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Each code's status, meaning and retry classes, for programs.
fn describe_codes(document: &mut Value) {
    let codes: Map<String, Value> = Code::ALL
        .iter()
        .map(|code| {
            let about = json!({
                "status": code.status().as_u16(),
                "meaning": code.meaning().trim(),
                "retry": code.retries(),
            });
            (text_of(&json!(code)), about)
        })
        .collect();
    set(
        document,
        "/components/schemas/ErrorCode",
        "x-codes",
        Value::Object(codes),
    );
}

/// What annotations and answers refer to.
fn shared_components() -> Value {
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    let parameter = |name: &str, pattern: &str, description: &str| {
        json!({
            "name": name, "in": "header", "required": true,
            "schema": text(pattern), "description": description,
        })
    };
    json!({
        "securitySchemes": {
            CERTIFICATE: {
                "type": "mutualTLS",
                "description": "A certificate of the configured CA whose one SAN (SPIFFE URI or DNS name) the \
                    configuration maps to a role and a tenant. Who has another role gets `FORBIDDEN_ROLE`; who has no \
                    valid certificate gets no TLS connection.",
            },
            DEVICE: {
                "type": "apiKey", "in": "header", "name": "Signature",
                "description": "RFC 9421, made by a device key that is enrolled for the profile (P-256 or Ed25519; in \
                    the request that creates a profile, by the key it names): label `p1`, over \"@method\" \"@path\" \"@query\" \
                    \"content-type\" \"content-digest\" \"mpc-audience\" \"idempotency-key\", without those that the \
                    request does not have; with `created`, `expires` (at most 60 s later), `nonce` (16 bytes, \
                    base64url), `keyid` (RFC 7638 thumbprint), `alg` (that of the key) and `tag=\"mpc-wallet-p1/1\"`. A \
                    signed request is accepted once; to repeat it, sign it anew.",
            },
        },
        "parameters": {
            "Signature-Input": parameter("Signature-Input", "^p1=[(].+[)];.+$",
                "The covered components and parameters of the signature (RFC 9421)."),
            "Signature": parameter("Signature", "^p1=:[A-Za-z0-9+/]+={0,2}:$",
                "The signature, 64 bytes in base64: `r ‖ s` for P-256, as in RFC 8032 for Ed25519."),
            "MPC-Audience": parameter("MPC-Audience", "^[!-~]+$",
                "The name of the appliance that the request is for, as in its identity document."),
            "Content-Digest": parameter("Content-Digest", "^sha-256=:[A-Za-z0-9+/]{43}=:$",
                "SHA-256 of the body's bytes (RFC 9530)."),
        },
        "headers": {
            "MPC-Instance": {
                "schema": text("^[0-9a-f]{10}$"),
                "description": "The instance that answered, or in a 409 the one that can.",
            },
            "MPC-Mode": {
                "schema": {"type": "string", "const": "development"},
                "description": "Only in answers of a development environment.",
            },
            "Content-Digest": {
                "schema": text("^sha-256=:[A-Za-z0-9+/]{43}=:$"),
                "description": "SHA-256 of the body's bytes (RFC 9530).",
            },
            "Signature-Input": {
                "schema": text("^p2=[(].+[)];.+$"),
                "description": "RFC 9421: label `p2`, over \"@status\" \"content-digest\" and, if the request has one \
                    well-formed signature `p1`, \"signature\";req;key=\"p1\"; with `created`, `keyid`, `alg` and \
                    `tag=\"mpc-wallet-p2/1\"`. No other header is covered.",
            },
            "Signature": {
                "schema": text("^p2=:[A-Za-z0-9+/]{86}==:$"),
                "description": "The appliance's signature over the answer, by its response key: `r ‖ s`, P-256, base64.",
            },
            "MPC-Response-Key": {
                "schema": text("^[A-Za-z0-9_-]{398}$"),
                "description": "The response key, signed by the identity key, signed by an offline root: \
                    `mpc/README.md` says byte by byte how.",
            },
            "RateLimit-Policy": {
                "schema": text("^\"[a-z-]+\";q=[0-9]+;w=[0-9]+$"),
                "description": "The rate that requests of this route count towards, as its operation's `x-rate-limit` \
                    names it: at most `q` in any `w` seconds.",
            },
            "RateLimit": {
                "schema": text("^\"[a-z-]+\";r=[0-9]+;t=[0-9]+$"),
                "description": "What is left of it, where it was looked at: `r` requests, and one more after `t` seconds.",
            },
            "Retry-After": {
                "schema": {"type": "integer", "minimum": 1},
                "description": "Seconds; present when the same request may succeed later.",
            },
        },
    })
}

#[cfg(test)]
mod tests;
