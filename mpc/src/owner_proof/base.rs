//! The covered components of a request and the signature base over them (RFC 9421 section 2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::OwnerProofError;

/// SHA-256 of a request's body. Made from the body alone, so that nothing else passes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyHash([u8; 32]);

impl BodyHash {
    /// The hash of `body`, as it was sent or received.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

/// The parts of a request that a proof covers.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    /// Upper-case method.
    pub method: &'a str,
    /// Absolute path as sent, without query.
    pub path: &'a str,
    /// Query as sent, without the question mark; empty if there is none.
    pub query: &'a str,
    /// `Content-Type`, with a body only.
    pub content_type: Option<&'a str>,
    /// `MPC-Audience`. The caller checks that it names this appliance.
    pub audience: &'a str,
    /// `Idempotency-Key`, if present. The caller checks that it is where it must be.
    pub idempotency_key: Option<&'a str>,
    /// `Authorization`, only where the appliance asks for a gateway's token.
    pub authorization: Option<&'a str>,
    /// The body's hash; `None` for a request without one.
    pub body: Option<BodyHash>,
}

impl RequestParts<'_> {
    /// `Content-Digest` of the body (RFC 9530), SHA-256 only.
    #[must_use]
    pub fn content_digest(&self) -> Option<String> {
        self.body
            .map(|hash| format!("sha-256=:{}:", STANDARD.encode(hash.0)))
    }

    /// Names and values of all components, in the profile's order.
    pub(super) fn components(&self) -> Result<Vec<(&'static str, String)>, OwnerProofError> {
        let mut components = vec![
            ("@method", self.method.to_owned()),
            ("@path", self.path.to_owned()),
            ("@query", format!("?{}", self.query)),
        ];
        match (self.content_type, self.content_digest()) {
            (Some(content_type), Some(digest)) => {
                components.push(("content-type", content_type.to_owned()));
                components.push(("content-digest", digest));
            }
            (None, None) => {}
            _ => return Err(OwnerProofError::WrongComponents),
        }
        components.push(("mpc-audience", self.audience.to_owned()));
        if let Some(key) = self.idempotency_key {
            components.push(("idempotency-key", key.to_owned()));
        }
        if let Some(authorization) = self.authorization {
            components.push(("authorization", authorization.to_owned()));
        }
        if components.iter().all(|(_, value)| is_valid(value)) {
            Ok(components)
        } else {
            Err(OwnerProofError::InvalidComponent)
        }
    }
}

/// SECURITY: a line break in a value would let it forge other lines of the base.
fn is_valid(value: &str) -> bool {
    !value.is_empty()
        && value.trim() == value
        && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// `("@method" "@path" …)`, the inner list of component names.
pub(super) fn inner_list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let quoted: Vec<String> = names
        .into_iter()
        .map(|name| format!("\"{}\"", name.as_ref()))
        .collect();
    format!("({})", quoted.join(" "))
}

/// The signature base: one line per component, then the parameters (RFC 9421 section 2.5).
pub(super) fn signature_base<T: AsRef<str>>(
    components: &[(T, String)],
    parameters: &str,
) -> String {
    let mut base = String::new();
    for (name, value) in components {
        base.push_str(&format!("\"{}\": {value}\n", name.as_ref()));
    }
    base + "\"@signature-params\": " + parameters
}
