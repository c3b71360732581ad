//! A01: the selective-failure attack on the oblivious-transfer extension, run for real against both parties.
//!
//! The attacker flips one bit in row `i` of its message `u` and recomputes the check values for it. The victim's check
//! then passes if and only if bit `i` of its long-lived secret is zero. What the crate owes its callers is that a
//! failed check is always a ban: then at most the bits before the first set one leak.

use dkls23::protocols::signing::TransmitPhase1to2;
use dkls23::utilities::hashes::{point_to_bytes, tagged_hash};
use dkls23::utilities::oracle_tags::{
    TAG_OTE_CHI, TAG_OTE_PRG, TAG_OTE_SESSION, TAG_SIGN_MUL_SESSION,
};
use dkls23::utilities::ot::extension::{FieldElement, OTEDataToSender, PRGOutput, field_mul};
use k256::Secp256k1;

use super::support::{SignMessage, Wallet, altered, dealt, session_of, sign_binding};
use crate::engine::{Party, Role};
use crate::error::{BanReason, MpcError};
use crate::wire::{Sign1, Sign1Reply};

const BAN: MpcError = MpcError::Ban {
    reason: BanReason::Multiplication,
};
const PROBED_ROWS: usize = 12;

/// `sign_id` of the session and the attacker's own state suffice to recompute the check values.
struct Attacker<'a> {
    party: &'a Party,
    role: Role,
}

impl Attacker<'_> {
    fn probe(&self, message: &mut TransmitPhase1to2, sign_id: &[u8; 32], row: usize) {
        let data = &mut message.mul_transmit;
        let session = self.extension_session(sign_id, &data.nonce);
        let receiver = &self.party.mul_receivers[&self.role.other().index()].ote_receiver;
        let pads: Vec<PRGOutput> = (0..256)
            .map(|i| expand(&session, i, &receiver.seeds0[i]))
            .collect();
        let other_pad = expand(&session, 0, &receiver.seeds1[0]);
        let choices: PRGOutput = std::array::from_fn(|j| data.u[0][j] ^ pads[0][j] ^ other_pad[j]);
        data.u[row][0] ^= 1;
        let chi = challenges(&session, data);
        data.verify_x = combine(&choices, &chi);
        data.verify_t = pads.iter().map(|pad| combine(pad, &chi)).collect();
    }

    fn extension_session(&self, sign_id: &[u8; 32], nonce: &[u8; 32]) -> [u8; 32] {
        let multiplication = tagged_hash(
            TAG_SIGN_MUL_SESSION,
            &[
                &self.party.session_id,
                sign_id,
                &self.party.derivation_data.chain_code,
                &point_to_bytes::<Secp256k1>(&self.party.pk),
                &sign_binding().digest,
                &[1, 2],
                &[self.role.byte(), self.role.other().byte()],
            ],
        );
        let extension = [b"OT Extension protocol".as_slice(), &multiplication].concat();
        tagged_hash(TAG_OTE_SESSION, &[&extension, nonce])
    }
}

fn expand(session: &[u8; 32], row: usize, seed: &[u8; 32]) -> PRGOutput {
    let row = u16::try_from(row).unwrap().to_be_bytes();
    let chunks: Vec<u8> = (0_u16..3)
        .flat_map(|count| tagged_hash(TAG_OTE_PRG, &[session, &row, &count.to_be_bytes(), seed]))
        .collect();
    chunks[..78].try_into().unwrap()
}

fn challenges(session: &[u8; 32], data: &OTEDataToSender) -> [FieldElement; 2] {
    let rows = data.u.concat();
    [b"chi1", b"chi2"].map(|name| {
        tagged_hash(TAG_OTE_CHI, &[session, name, &rows])[..26]
            .try_into()
            .unwrap()
    })
}

fn combine(row: &PRGOutput, chi: &[FieldElement; 2]) -> FieldElement {
    let first = field_mul(&row[..26], &chi[0]).unwrap();
    let second = field_mul(&row[26..52], &chi[1]).unwrap();
    std::array::from_fn(|k| first[k] ^ second[k] ^ row[52 + k])
}

/// The victim's secret bits, which only this test may know.
fn secret_bits(victim: &Party, role: Role) -> &[bool] {
    &victim.mul_senders[&role.other().index()]
        .ote_sender
        .correlation
}

fn assert_bans_exactly_on_set_bits(
    secret: &[bool],
    mut probe: impl FnMut(usize) -> Result<(), MpcError>,
) {
    let rows = &secret[..PROBED_ROWS];
    for (row, &bit) in rows.iter().enumerate() {
        let expected = if bit { Err(BAN) } else { Ok(()) };
        assert_eq!(probe(row), expected, "row {row}");
    }
}

/// P2's verdict about a probe of its row.
fn probe_p2(wallet: &Wallet, row: usize) -> Result<(), MpcError> {
    let attacker = Attacker {
        party: wallet.p1.party(),
        role: Role::P1,
    };
    let (_, sg1) = wallet.start();
    let sid = session_of(&sg1);
    let probe = altered(Role::P1, &sg1, |m: &mut Sign1| {
        attacker.probe(&mut m.first, &sid, row);
    });
    wallet.answer(&probe).map(|_| ())
}

/// P1's verdict about a probe of its row.
fn probe_p1(wallet: &Wallet, row: usize) -> Result<(), MpcError> {
    let attacker = Attacker {
        party: wallet.p2.party(),
        role: Role::P2,
    };
    let (p1, sg1) = wallet.start();
    let (_, reply) = wallet.answer(&sg1)?;
    let sid = session_of(&reply);
    let probe = altered(Role::P2, &reply, |m: &mut Sign1Reply| {
        attacker.probe(&mut m.first, &sid, row);
    });
    p1.round_2(&wallet.p1, &probe).map(|_| ())
}

#[test]
fn a01_a_probing_wallet_is_banned_at_the_first_set_bit() {
    let wallet = dealt(1);
    let secret = secret_bits(wallet.p2.party(), Role::P2).to_vec();
    assert_bans_exactly_on_set_bits(&secret, |row| probe_p2(&wallet, row));
}

#[test]
fn a01_client_a_probing_appliance_is_banned_at_the_first_set_bit() {
    let wallet = dealt(1);
    let secret = secret_bits(wallet.p1.party(), Role::P1).to_vec();
    assert_bans_exactly_on_set_bits(&secret, |row| probe_p1(&wallet, row));
}

#[test]
fn a01_a_clumsily_altered_row_is_a_ban_on_both_sides() {
    let wallet = dealt(1);
    let outcome = wallet.sign_with(|which, message| match which {
        SignMessage::First => altered(Role::P1, &message, |sg1: &mut Sign1| {
            sg1.first.mul_transmit.u[5][9] ^= 4;
        }),
        _ => message,
    });
    assert_eq!(outcome, Err(BAN));
    let outcome = wallet.sign_with(|which, message| match which {
        SignMessage::Reply => altered(Role::P2, &message, |reply: &mut Sign1Reply| {
            reply.first.mul_transmit.u[5][9] ^= 4;
        }),
        _ => message,
    });
    assert_eq!(outcome, Err(BAN));
}
