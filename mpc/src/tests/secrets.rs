//! Secrets cannot be printed, copied or serialised by accident.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Serialize;
use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::fmt::Debug;

use crate::envelope::{
    EnvelopeError, EnvelopeInfo, KemSecretKey, MessageType, ResponseOpener, ResponseSealer,
};
use crate::keygen::{
    P1AfterRound2, P1Canary, P1Generated, P1Keygen, P2AfterRound1, P2Canary, P2Generated,
};
use crate::owner_proof::DeviceKey;
use crate::share::{EmptiedP2Share, P1Share, P2Share};
use crate::sign::{P1Sign, P2SignKept};

macro_rules! secret {
    ($($name:ty),* $(,)?) => {$(
        assert_not_impl_any!($name: Debug, Clone, Serialize);
        // Custody moves them between tasks and worker threads.
        assert_impl_all!($name: Send);
    )*};
}

secret!(
    P1Share,
    P2Share,
    EmptiedP2Share,
    P1Keygen,
    P1AfterRound2,
    P1Generated,
    P1Canary,
    P2AfterRound1,
    P2Generated,
    P2Canary,
    P1Sign,
    P2SignKept,
    KemSecretKey,
    DeviceKey,
    ResponseSealer,
    ResponseOpener,
);

#[test]
fn a23_a_share_in_place_of_an_envelope_is_told_apart() {
    let wallet = super::support::dealt(1);
    let ours = wallet.p1.to_bytes().unwrap();
    let engines_own = &ours[1..];
    let json = serde_json::to_string(wallet.p1.party()).unwrap();
    let texts = [
        hex::encode(&ours),
        STANDARD.encode(&ours),
        URL_SAFE_NO_PAD.encode(engines_own),
        hex::encode(engines_own),
        json,
    ];
    let key = KemSecretKey::generate().unwrap();
    let info = EnvelopeInfo {
        environment_id: [1; 32],
        tenant: "default".into(),
        message_type: MessageType::Keygen1,
        kem_kid: "kid".into(),
        device_thumbprint: "thumbprint".into(),
        profile_id: "profile".into(),
        session_id: "session".into(),
        key_generation: 1,
        attempt: 1,
    };
    for text in texts {
        let outcome = crate::envelope::open_request(&key, &info, &text).err();
        assert_eq!(outcome, Some(EnvelopeError::BareSecret), "{}…", &text[..8]);
    }
}
