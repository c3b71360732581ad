//! A01: what is left of our share when a wallet was caught.

use super::support::{Wallet, dealt, sign_binding};
use crate::engine::Party;
use crate::share::{EmptiedP2Share, P1Share, P2Share, PublicShare, ShareError};
use crate::sign::{self, P1Sign};

#[test]
fn a01_a_share_without_its_transfer_state_is_stored_and_used_as_nothing_else() {
    let Wallet { p2, .. } = dealt(1);
    let public = p2.public().clone();
    let whole = p2.to_bytes().unwrap();
    let emptied = p2.into_emptied();
    let bytes = emptied.to_bytes().unwrap();
    assert!(bytes.len() < 600, "{}", bytes.len());
    assert!(whole.len() > 50_000);

    let refused = |bytes: &[u8], public: &PublicShare| {
        let whole = P2Share::from_bytes(bytes, public).err();
        (whole, EmptiedP2Share::from_bytes(bytes, public).err())
    };
    assert_eq!(
        refused(&bytes, &public),
        (Some(ShareError::Malformed), None)
    );
    assert_eq!(
        refused(&whole, &public),
        (None, Some(ShareError::Malformed))
    );
    let foreign = dealt(2).p2.public().clone();
    assert_eq!(refused(&bytes, &foreign).1, Some(ShareError::WrongKey));
    let back = EmptiedP2Share::from_bytes(&bytes, &public).unwrap();
    assert_eq!(back.public(), &public);
}

/// Both sides of a complete refresh, which makes new transfer state.
fn refreshed([p1, p2]: [&Party; 2]) -> [Party; 2] {
    let sid = [9; 32];
    let parties = [p1, p2];
    let fragments = parties.map(Party::refresh_complete_phase1);
    let second = [0, 1].map(|i| {
        let mine = [fragments[0][i], fragments[1][i]];
        parties[i].refresh_complete_phase2(&sid, &mine)
    });
    let third = [0, 1].map(|i| parties[i].refresh_complete_phase3(&sid, &second[i].2));
    let proofs = [second[0].1.clone(), second[1].1.clone()];
    [(0, 1), (1, 0)].map(|(own, other)| {
        let (_, zero_2, mul) = (&third[own].0, &second[other].3, &third[other].3);
        parties[own]
            .refresh_complete_phase4(
                &sid,
                &second[own].0,
                &proofs,
                &third[own].0,
                zero_2,
                &third[other].1,
                &third[own].2,
                mul,
            )
            .unwrap()
    })
}

#[test]
fn a01_a_share_without_its_transfer_state_can_be_refreshed_and_signs_again_then() {
    let Wallet { p1, p2 } = dealt(1);
    let address = p2.public().address;
    let emptied = p2.into_emptied();
    let [one, two] = refreshed([p1.party(), emptied.party()]);
    let session_id = two.session_id.as_slice().try_into().unwrap();
    let point = |party: &Party| {
        let own = k256::ProjectivePoint::GENERATOR * party.poly_point;
        let mut bytes = [0; 33];
        let own = own.to_affine();
        bytes
            .copy_from_slice(k256::elliptic_curve::group::GroupEncoding::to_bytes(&own).as_slice());
        bytes
    };
    let public = PublicShare {
        x1: point(&one),
        x2: point(&two),
        session_id,
        ..emptied.public().clone()
    };
    let p1 = P1Share::new(one, public.clone());
    // Through storage, which checks that all of it fits together.
    let stored = P2Share::new(two, public.clone()).to_bytes().unwrap();
    let p2 = P2Share::from_bytes(&stored, &public).unwrap();
    let (state, first) = P1Sign::start(&p1, sign_binding()).unwrap();
    let (kept, reply) = sign::p2_round_1(&p2, sign_binding(), &first).unwrap();
    let second = state.round_2(&p1, &reply).unwrap();
    kept.round_2(&p2, &second).unwrap();
    assert_eq!(p2.public().address, address);
}
