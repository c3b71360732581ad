//! Key generation in three requests, closed by a canary signature (protocol.md 2.3).
//!
//! ```text
//! P1                                               P2
//! nonce, fragment                   -- kg1 -->     nonce, fragment, commitments
//! commitments and openings  <----- answer --
//! (P2 is committed)                 -- kg2 -->     check; its share exists: store PENDING
//!                           <----- answer --       openings, canary message 1
//! check; its share exists: store STAGED
//! canary messages 1 and 2           -- kg3 -->     check: P1's share works; store ACTIVE
//!                           <----- answer --       canary messages 2 and 3
//! verify the canary: promote the share
//! ```
//!
//! P2 opens only after it holds P1's commitments *and* openings, so P1 cannot choose its contribution (A11).

mod p1;
mod p2;
mod steps;

pub use p1::{P1AfterRound2, P1Canary, P1Generated, P1Keygen};
pub use p2::{P2AfterRound1, P2Canary, P2Generated, p2_round_1};
