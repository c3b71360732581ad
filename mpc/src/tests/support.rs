//! Wallets and sessions to attack, and the means to alter their messages.

use zeroize::Zeroizing;

use crate::engine::Role;
use crate::error::MpcError;
use crate::keygen::{self, P1AfterRound2, P1Generated, P1Keygen, P2AfterRound1, P2Generated};
use crate::signature::Signature;
use crate::wire::{self, Body};

pub(super) use crate::mutated_tests::fixtures::{
    Message, Wallet, dealt, keygen_binding, sign_binding,
};

impl Wallet {
    /// A whole signature with the three messages passed through `alter`.
    pub(super) fn sign_with(
        &self,
        mut alter: impl FnMut(SignMessage, Message) -> Message,
    ) -> Result<Signature, MpcError> {
        let (p1, sg1) = self.start();
        let (p2, reply) = self.answer(&alter(SignMessage::First, sg1))?;
        let sg2 = p1.round_2(&self.p1, &alter(SignMessage::Reply, reply))?;
        p2.round_2(&self.p2, &alter(SignMessage::Second, sg2))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignMessage {
    First,
    Reply,
    Second,
}

pub(super) struct Round1 {
    pub(super) p1: P1AfterRound2,
    pub(super) p2: P2AfterRound1,
    pub(super) reply_1: Message,
    pub(super) kg2: Message,
}

/// A key generation up to kg2.
pub(super) fn keygen_round_1() -> Round1 {
    let (p1, kg1) = P1Keygen::start().unwrap();
    let (p2, reply_1) = keygen::p2_round_1(&keygen_binding(), [2; 32], &kg1).unwrap();
    let (p1, kg2) = p1.round_2(&keygen_binding(), &reply_1).unwrap();
    Round1 {
        p1,
        p2,
        reply_1,
        kg2,
    }
}

/// A key generation up to kg3.
pub(super) fn keygen_round_2() -> (P1Generated, P2Generated) {
    let Round1 { p1, p2, kg2, .. } = keygen_round_1();
    let p2 = p2.round_2(&kg2).unwrap();
    (p1.round_3(&p2.message).unwrap(), p2)
}

/// Decodes a message of `sender` without checking its session.
pub(super) fn body<B: Body>(sender: Role, message: &[u8]) -> B {
    let received = wire::decode::<B>(sender.other(), message).unwrap();
    received.in_session(&session_of(message)).unwrap()
}

/// The message with an altered body, encoded anew.
pub(super) fn altered<B: Body>(
    sender: Role,
    message: &[u8],
    alter: impl FnOnce(&mut B),
) -> Message {
    let mut body = body(sender, message);
    alter(&mut body);
    wire::encode(sender, &session_of(message), &body).unwrap()
}

pub(super) fn session_of(message: &[u8]) -> [u8; 32] {
    message[2..34].try_into().unwrap()
}

/// The message with one byte exchanged.
pub(super) fn patched(message: &[u8], position: usize, byte: u8) -> Message {
    let mut copy = Zeroizing::new(message.to_vec());
    copy[position] = byte;
    copy
}
