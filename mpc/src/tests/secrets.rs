//! Secrets cannot be printed, copied or serialised by accident.

use serde::Serialize;
use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::fmt::Debug;

use crate::envelope::{KemSecretKey, ResponseOpener, ResponseSealer};
use crate::keygen::{
    P1AfterRound2, P1Canary, P1Generated, P1Keygen, P2AfterRound1, P2Canary, P2Generated,
};
use crate::owner_proof::DeviceKey;
use crate::share::{P1Share, P2Share};
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
