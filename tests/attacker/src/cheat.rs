//! A01: the selective-failure attack on the oblivious-transfer extension.
//!
//! The cheat flips one bit in one row of its `u` and makes the check values fit what the other party computes if that
//! row's bit of its long-lived secret is 0. So the check passes if and only if the bit is 0: a question about one bit,
//! and the answer is whether the session goes on.

use dkls23::utilities::hashes::{point_to_bytes, tagged_hash};
use dkls23::utilities::oracle_tags::{
    TAG_MUL_TRANSCRIPT_RECEIVER, TAG_OTE_CHI, TAG_OTE_PRG, TAG_OTE_SESSION, TAG_SIGN_MUL_SESSION,
};
use dkls23::utilities::ot::extension::field_mul;
use k256::Secp256k1;

use crate::share::Share;
use crate::wire::{First, ROW};

type Value = [u8; 26];

/// Turns an honest T1 of this share's party into a question about `row`. What comes back is the message's digest, which
/// the party must put into what it keeps ([`crate::sign::Started::sent`]) to go on after the answer.
pub fn probe(
    share: &Share,
    first: &mut First,
    sign_id: &[u8; 32],
    digest: &[u8; 32],
    row: usize,
) -> [u8; 32] {
    let multiplication = multiplication(share, sign_id, digest);
    let named = [b"OT Extension protocol".as_slice(), &multiplication].concat();
    let extension = tagged_hash(TAG_OTE_SESSION, &[&named, &first.nonce]);
    let receiver = &share.0.mul_receivers[&share.other()].ote_receiver;
    let pads: Vec<[u8; ROW]> = (0..256)
        .map(|at| pad(&extension, at, &receiver.seeds0[at]))
        .collect();
    // An honest row is the exclusive or of both its pads and of the choices, which are the same in every row.
    let other = pad(&extension, 0, &receiver.seeds1[0]);
    let choices: [u8; ROW] = std::array::from_fn(|at| first.u[at] ^ pads[0][at] ^ other[at]);
    first.u[ROW * row] ^= 1;
    let chi = [b"chi1", b"chi2"].map(|name| -> Value {
        let hash = tagged_hash(TAG_OTE_CHI, &[&extension, name, &first.u]);
        *hash.first_chunk().expect("26 of 32 bytes")
    });
    first.x = combined(&choices, &chi);
    first.t = pads.iter().map(|pad| combined(pad, &chi)).collect();
    tagged_hash(
        TAG_MUL_TRANSCRIPT_RECEIVER,
        &[
            &multiplication,
            &first.nonce,
            &first.u,
            &first.x,
            &first.t.concat(),
        ],
    )
}

/// The session id of the multiplication in which this share's party receives.
fn multiplication(share: &Share, sign_id: &[u8; 32], digest: &[u8; 32]) -> [u8; 32] {
    let party = &share.0;
    tagged_hash(
        TAG_SIGN_MUL_SESSION,
        &[
            &party.session_id,
            sign_id,
            &party.derivation_data.chain_code,
            &point_to_bytes::<Secp256k1>(&party.pk),
            digest,
            &[1, 2],
            &[share.index(), 3 - share.index()],
        ],
    )
}

fn pad(extension: &[u8; 32], row: usize, seed: &[u8; 32]) -> [u8; ROW] {
    let row = u16::try_from(row).expect("a row").to_be_bytes();
    let chunks: Vec<u8> = (0_u16..3)
        .flat_map(|count| tagged_hash(TAG_OTE_PRG, &[extension, &row, &count.to_be_bytes(), seed]))
        .collect();
    *chunks.first_chunk().expect("78 of 96 bytes")
}

fn combined(row: &[u8; ROW], chi: &[Value; 2]) -> Value {
    let [one, two] = [(0..26, &chi[0]), (26..52, &chi[1])]
        .map(|(part, chi)| field_mul(&row[part], chi).expect("26 bytes"));
    std::array::from_fn(|at| one[at] ^ two[at] ^ row[52 + at])
}
