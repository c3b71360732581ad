//! Whether an answer is the appliance's: its signature, up to a pinned root (`protocol.md` section 4).

use std::sync::{Mutex, PoisonError};

use countersign_mpc::{
    identity::{self, RESPONSE_KEY_HEADER, ResponseKey},
    response_proof::{self, AnswerHeaders, ResponseProofError},
};
use reqwest::header::HeaderMap;
use thiserror::Error;

use super::SignedRequest;
use crate::{clock, config::Config};

/// Response keys whose verification is remembered: one for each instance and day that is met.
const REMEMBERED: usize = 8;

/// Why an answer is not believed. Nothing in it is acted upon.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// The key that signed it does not lead to a pinned root.
    #[error("the key that signed the answer is not one of the pinned appliance's")]
    Key(#[source] identity::IdentityError),
    /// The signature does not hold.
    #[error(transparent)]
    Proof(#[from] ResponseProofError),
}

/// Verifies answers.
pub(super) struct Verifier {
    environment_id: [u8; 32],
    environment_kind: &'static str,
    roots: Vec<[u8; 65]>,
    /// Headers that were verified, and the keys they stand for; the last one met comes last.
    known: Mutex<Vec<(String, ResponseKey)>>,
}

impl Verifier {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            environment_id: config.environment_id,
            environment_kind: config.environment_kind.as_str(),
            roots: config.root_keys.clone(),
            known: Mutex::default(),
        }
    }

    /// Checks that the appliance gave this answer, to this request if it is signed.
    pub(super) fn verify(
        &self,
        request: &SignedRequest,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), AnswerError> {
        let now = u64::try_from(clock::now()).unwrap_or(0);
        let one = |name: &str| single(headers, name);
        let chain = one(RESPONSE_KEY_HEADER).ok_or(ResponseProofError::Unsigned)?;
        let key = self.key(chain, now).map_err(AnswerError::Key)?;
        let received = AnswerHeaders {
            content_digest: one("content-digest"),
            signature_input: one("signature-input"),
            signature: one("signature"),
        };
        Ok(response_proof::verify(
            &key,
            status,
            body,
            received,
            own_signature(request),
            now,
        )?)
    }

    fn key(&self, chain: &str, now: u64) -> Result<ResponseKey, identity::IdentityError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = known.iter().find(|(header, _)| header == chain) {
            return key.check(now).map(|()| key.clone());
        }
        let key = ResponseKey::verify(
            chain,
            &self.environment_id,
            self.environment_kind,
            &self.roots,
            now,
        )?;
        if known.len() == REMEMBERED {
            known.remove(0);
        }
        known.push((chain.to_owned(), key.clone()));
        Ok(key)
    }
}

/// The part of our request that the answer must cover; the appliance takes it by the same rule.
fn own_signature(request: &SignedRequest) -> Option<&str> {
    let mut signatures = request
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("signature"));
    match (signatures.next(), signatures.next()) {
        (Some((_, value)), None) => response_proof::request_signature(value),
        _ => None,
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}
