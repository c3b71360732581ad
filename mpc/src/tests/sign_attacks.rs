//! Attacks on signing.

use k256::elliptic_curve::PrimeField;
use k256::{AffinePoint, Scalar};

use super::support::{
    Message, SignMessage, Wallet, altered, body, dealt, session_of, sign_binding,
};
use crate::engine::Role;
use crate::error::{BanReason, MpcError, RecoverableReason, Refusal};
use crate::sign::{self, Opened, P1Sign};
use crate::signature::{Signature, SignatureError};
use crate::wire::{self, Body, Sign1, Sign1Reply, Sign2};

fn ban(reason: BanReason) -> MpcError {
    MpcError::Ban { reason }
}

fn recoverable(reason: RecoverableReason, suspect: bool) -> MpcError {
    MpcError::Recoverable { reason, suspect }
}

fn other_session() -> MpcError {
    recoverable(RecoverableReason::SessionBindingMismatch, false)
}

/// Outcome of a signature whose `which` message has an altered body.
fn attacked<B: Body>(
    wallet: &Wallet,
    which: SignMessage,
    mut alter: impl FnMut(&mut B),
) -> MpcError {
    let sender = if which == SignMessage::Reply {
        Role::P2
    } else {
        Role::P1
    };
    wallet
        .sign_with(|this, message| {
            if this == which {
                altered(sender, &message, &mut alter)
            } else {
                message
            }
        })
        .expect_err("an altered message must not lead to a signature")
}

#[test]
fn a08_a_wallet_that_signs_another_digest_is_recoverable_and_not_suspect() {
    let wallet = dealt(1);
    let mut other = sign_binding();
    other.digest = [9; 32];
    let (_, sg1) = P1Sign::start(&wallet.p1, other).unwrap();
    assert_eq!(wallet.answer(&sg1).err(), Some(other_session()));

    // The same with a lying header: the engine's own binding refuses it before any work on long-lived secrets.
    let client_nonce = [5; 32];
    let sign_id = sign_binding().sign_id(&client_nonce);
    let (_, first) = Opened::start(wallet.p1.party(), Role::P1, sign_id, [9; 32]).unwrap();
    let sg1 = wire::encode(
        Role::P1,
        &sign_id,
        &Sign1 {
            client_nonce,
            first,
        },
    )
    .unwrap();
    assert_eq!(wallet.answer(&sg1).err(), Some(other_session()));
}

#[test]
fn a06_every_part_of_the_binding_separates_sessions() {
    let wallet = dealt(1);
    let (_, sg1) = wallet.start();
    let answered = |alter: fn(&mut crate::binding::SignBinding)| {
        let mut binding = sign_binding();
        alter(&mut binding);
        sign::p2_round_1(&wallet.p2, binding, &sg1).err()
    };
    assert_eq!(answered(|_| ()), None);
    assert_eq!(
        answered(|b| b.environment_id = [9; 32]),
        Some(other_session())
    );
    assert_eq!(
        answered(|b| b.profile_id = "other".into()),
        Some(other_session())
    );
    assert_eq!(
        answered(|b| b.device_thumbprint = "other".into()),
        Some(other_session())
    );
    assert_eq!(answered(|b| b.key_generation = 2), Some(other_session()));
    assert_eq!(
        answered(|b| b.session_id = "other".into()),
        Some(other_session())
    );
    assert_eq!(answered(|b| b.attempt = 2), Some(other_session()));
    assert_eq!(answered(|b| b.index = 1), Some(other_session()));
    assert_eq!(
        answered(|b| b.server_nonce = [9; 32]),
        Some(other_session())
    );
    assert_eq!(
        answered(|b| b.policy_decision_id = "other".into()),
        Some(other_session())
    );
    assert_eq!(answered(|b| b.digest = [9; 32]), Some(other_session()));
}

#[test]
fn a06_messages_of_another_session_are_recoverable() {
    let wallet = dealt(1);
    let (first, sg1_a) = wallet.start();
    let (_, sg1_b) = wallet.start();
    let (kept_a, reply_a) = wallet.answer(&sg1_a).unwrap();
    let (_, reply_b) = wallet.answer(&sg1_b).unwrap();
    let sg2 = first.round_2(&wallet.p1, &reply_a).unwrap();
    let (other, _) = wallet.start();
    assert_eq!(
        other.round_2(&wallet.p1, &reply_b).err(),
        Some(other_session())
    );
    assert_eq!(kept_a.round_2(&wallet.p2, &sg2).err(), None);
}

#[test]
fn a16_shares_of_different_generations_do_not_sign() {
    let (old, new) = (dealt(1), dealt(2));
    assert_eq!(
        old.p1.public().address,
        new.p1.public().address,
        "same key, other shares"
    );
    let (_, sg1) = old.start();
    assert_eq!(new.answer(&sg1).err(), Some(other_session()));
}

#[test]
fn a01_every_check_on_long_lived_state_is_a_ban_on_both_sides() {
    let wallet = dealt(1);
    let first = |alter: fn(&mut Sign2)| attacked::<Sign2>(&wallet, SignMessage::Second, alter);
    assert_eq!(
        first(|m| m.second.gamma_u = AffinePoint::GENERATOR),
        ban(BanReason::NonceConsistency)
    );
    assert_eq!(
        first(|m| m.second.gamma_v = AffinePoint::GENERATOR),
        ban(BanReason::KeyConsistency)
    );
    assert_eq!(
        first(|m| m.second.public_share = AffinePoint::GENERATOR),
        ban(BanReason::KeyConsistency)
    );
    assert_eq!(
        first(|m| m.second.mul_transmit.verify_u[0] = Scalar::ONE),
        ban(BanReason::Multiplication)
    );
    assert_eq!(
        first(|m| m.second.mul_transmit.verify_r[0] ^= 1),
        ban(BanReason::Multiplication)
    );
    assert_eq!(
        first(|m| m.second.mul_transmit.vector_of_tau[1][7] = Scalar::ONE),
        ban(BanReason::Multiplication)
    );

    let reply =
        |alter: fn(&mut Sign1Reply)| attacked::<Sign1Reply>(&wallet, SignMessage::Reply, alter);
    assert_eq!(
        reply(|m| m.second.gamma_u = AffinePoint::GENERATOR),
        ban(BanReason::NonceConsistency)
    );
    assert_eq!(
        reply(|m| m.second.gamma_v = AffinePoint::GENERATOR),
        ban(BanReason::KeyConsistency)
    );
    assert_eq!(
        reply(|m| m.second.mul_transmit.verify_r[0] ^= 1),
        ban(BanReason::Multiplication)
    );
    assert_eq!(
        reply(|m| m.first.mul_transmit.verify_x[0] ^= 1),
        ban(BanReason::Multiplication)
    );
    assert_eq!(
        reply(|m| m.first.mul_transmit.verify_t[255][0] ^= 1),
        ban(BanReason::Multiplication)
    );
}

#[test]
fn a13_a_wrong_last_message_is_suspect_and_gives_no_signature() {
    let wallet = dealt(1);
    let suspect = recoverable(RecoverableReason::SignatureVerification, true);
    assert_eq!(
        attacked::<Sign2>(&wallet, SignMessage::Second, |m| m.last.u = Scalar::ONE),
        suspect
    );
    assert_eq!(
        attacked::<Sign2>(&wallet, SignMessage::Second, |m| m.last.w = Scalar::ONE),
        suspect
    );
}

#[test]
fn a10_commitments_are_opened_as_committed() {
    let wallet = dealt(1);
    let mismatch = recoverable(RecoverableReason::CommitmentMismatch, true);
    let swapped = attacked::<Sign2>(&wallet, SignMessage::Second, |m| {
        m.second.instance_point = AffinePoint::GENERATOR;
    });
    assert_eq!(swapped, mismatch);
    let psi = attacked::<Sign2>(&wallet, SignMessage::Second, |m| m.second.psi = Scalar::ONE);
    assert_eq!(psi, mismatch);
    let reply = attacked::<Sign1Reply>(&wallet, SignMessage::Reply, |m| m.second.salt[0] ^= 1);
    assert_eq!(reply, mismatch);
}

#[test]
fn a12_identity_points_are_refused() {
    let wallet = dealt(1);
    let identity = AffinePoint::IDENTITY;
    // The engine counts this one as suspect (protocol.md 2.4).
    let trivial = recoverable(RecoverableReason::TrivialInstancePoint, true);
    assert_eq!(
        attacked::<Sign2>(&wallet, SignMessage::Second, |m| m.second.instance_point =
            identity),
        trivial
    );
    assert_eq!(
        attacked::<Sign1Reply>(&wallet, SignMessage::Reply, |m| m.second.instance_point =
            identity),
        trivial
    );
    let refused = MpcError::Refused(Refusal::IdentityPoint);
    assert_eq!(
        attacked::<Sign2>(&wallet, SignMessage::Second, |m| m.second.gamma_u =
            identity),
        refused
    );
    assert_eq!(
        attacked::<Sign2>(&wallet, SignMessage::Second, |m| m.second.gamma_v =
            identity),
        refused
    );
    assert_eq!(
        attacked::<Sign2>(&wallet, SignMessage::Second, |m| m.second.public_share =
            identity),
        refused
    );
    assert_eq!(
        attacked::<Sign1Reply>(&wallet, SignMessage::Reply, |m| m.second.gamma_u = identity),
        refused
    );
}

#[test]
fn a12_wrong_lengths_are_refused_before_they_could_be_a_ban() {
    let wallet = dealt(1);
    let refused = MpcError::Refused(Refusal::WrongLength);
    let first = |alter: fn(&mut Sign1)| attacked::<Sign1>(&wallet, SignMessage::First, alter);
    assert_eq!(
        first(|m| shorten(&mut m.first.mul_transmit.verify_t)),
        refused
    );
    assert_eq!(
        first(|m| m.first.mul_transmit.verify_t.push([0; 26])),
        refused
    );
    let second = |alter: fn(&mut Sign2)| attacked::<Sign2>(&wallet, SignMessage::Second, alter);
    assert_eq!(second(|m| shorten(&mut m.second.salt)), refused);
    assert_eq!(second(|m| m.second.salt.push(0)), refused);
    assert_eq!(
        second(|m| shorten(&mut m.second.mul_transmit.vector_of_tau)),
        refused
    );
    assert_eq!(
        second(|m| shorten(&mut m.second.mul_transmit.vector_of_tau[3])),
        refused
    );
    assert_eq!(
        second(|m| shorten(&mut m.second.mul_transmit.verify_u)),
        refused
    );
    assert_eq!(
        second(|m| m.second.mul_transmit.gamma_sender.push(Scalar::ONE)),
        refused
    );
    // The number of rows of `u` is fixed by the decoding.
    assert_eq!(
        first_with_rows_missing(&wallet),
        MpcError::Refused(Refusal::Malformed)
    );
}

fn first_with_rows_missing(wallet: &Wallet) -> MpcError {
    let (_, sg1) = wallet.start();
    let sg1 = altered(Role::P1, &sg1, |m: &mut Sign1| {
        m.first.mul_transmit.verify_t.clear();
    });
    let with_rows = altered_rows(&sg1);
    wallet.answer(&with_rows).err().unwrap()
}

fn altered_rows(message: &Message) -> Message {
    // `altered` cannot decode what it may not encode, so cut the last row by hand: the message ends
    // `… ‖ rows ‖ verify_x ‖ 0`.
    let end = message.len() - 27;
    let mut cut = message[..end - 78].to_vec();
    cut.extend_from_slice(&message[end..]);
    cut.into()
}

#[test]
fn a12_inner_party_indices_are_checked() {
    let wallet = dealt(1);
    let refused = MpcError::Refused(Refusal::Misrouted);
    let p2 = Role::P2.index();
    assert_eq!(
        attacked::<Sign1>(&wallet, SignMessage::First, |m| m.first.parties.sender = p2),
        refused
    );
    assert_eq!(
        attacked::<Sign2>(&wallet, SignMessage::Second, |m| m.second.parties.sender =
            p2),
        refused
    );
    let p1 = Role::P1.index();
    assert_eq!(
        attacked::<Sign1>(&wallet, SignMessage::First, |m| m.first.parties.receiver =
            p1),
        refused
    );
    assert_eq!(
        attacked::<Sign1Reply>(&wallet, SignMessage::Reply, |m| m.second.parties.receiver =
            p2),
        refused
    );
}

#[test]
fn a15_p2_sends_no_last_message_when_signing() {
    let wallet = dealt(1);
    let (_, sg1) = wallet.start();
    let (_, reply) = wallet.answer(&sg1).unwrap();
    // All bytes P2 sends in a transaction session are this reply: header, first and second message, and nothing else.
    // The second step returns a `Signature` and no bytes.
    let Sign1Reply { first, second } = body(Role::P2, &reply);
    let size = |encoded: Result<Message, _>| encoded.unwrap().len();
    let parts =
        size(wire::encode_bounded(&first, 96_000)) + size(wire::encode_bounded(&second, 96_000));
    assert_eq!(reply.len(), 36 + parts);
    // Nor can the reply stand in for a last message.
    assert!(wire::decode::<Sign2>(Role::P1, &reply).is_err());
    assert!(wire::decode::<wire::Keygen3Reply>(Role::P1, &reply).is_err());
    assert_eq!(session_of(&reply), session_of(&sg1));
}

#[test]
fn a10_a_flipped_s_or_v_is_refused() {
    let wallet = dealt(1);
    let address = wallet.p2.public().address;
    let digest = sign_binding().digest;
    let signature = wallet.sign_with(|_, message| message).unwrap();
    assert_eq!(signature.verify_against(&address, &digest), Ok(()));

    let high = -Scalar::from_repr((*signature.s()).into()).unwrap();
    let flipped = Signature::new(
        *signature.r(),
        high.to_bytes().into(),
        !signature.y_parity(),
    );
    assert_eq!(flipped, Err(SignatureError::HighS));
    let parity = Signature::new(*signature.r(), *signature.s(), !signature.y_parity()).unwrap();
    assert_eq!(
        parity.verify_against(&address, &digest),
        Err(SignatureError::WrongSigner)
    );
    assert_eq!(
        signature.verify_against(&[0; 20], &digest),
        Err(SignatureError::WrongSigner)
    );
    assert_eq!(
        signature.verify_against(&address, &[4; 32]),
        Err(SignatureError::WrongSigner)
    );
    let out_of_range = Err(SignatureError::OutOfRange);
    assert_eq!(Signature::new([0; 32], *signature.s(), false), out_of_range);
    assert_eq!(Signature::new(*signature.r(), [0; 32], false), out_of_range);
    assert_eq!(
        Signature::new([0xff; 32], *signature.s(), false),
        out_of_range
    );
}

fn shorten<T>(list: &mut Vec<T>) {
    list.truncate(list.len() - 1);
}
