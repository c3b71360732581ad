//! Signing in two requests, P1 first (protocol.md 2.4).
//!
//! ```text
//! P1                                              P2
//! commit to its nonce point        -- sg1 -->     commit, and open (after P1's commitment)
//! open, and its last message   <-- answer --
//!                                  -- sg2 -->     check, assemble, verify
//! ```
//!
//! P2 alone assembles the signature and never sends its last message (A15). Kept state is single-use: every step
//! consumes the one before, nothing here is `Clone` or serialisable (A07).

mod p1;
mod p2;
mod steps;

pub use p1::P1Sign;
pub use p2::{P2SignKept, p2_round_1};
pub(crate) use steps::{Answered, Opened};
