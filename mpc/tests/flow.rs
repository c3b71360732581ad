//! The honest path through the public surface: key generation, canary, signatures, stored shares.
#![expect(clippy::unwrap_used, reason = "tests")]

use countersign_mpc::binding::{KeygenBinding, Purpose, SignBinding};
use countersign_mpc::canary::CanaryDigest;
use countersign_mpc::error::{MpcError, Refusal};
use countersign_mpc::keygen::{self, P1Keygen};
use countersign_mpc::share::{P1Share, P2Share, ShareError};
use countersign_mpc::sign::{self, P1Sign};
use countersign_mpc::signature::Signature;

struct Wallet {
    p1: P1Share,
    p2: P2Share,
    canary: Signature,
    sizes: [usize; 6],
}

fn keygen_binding() -> KeygenBinding {
    KeygenBinding {
        environment_id: [1; 32],
        profile_id: "profile".into(),
        keygen_session_id: "session".into(),
        device_thumbprint: "thumbprint".into(),
    }
}

fn wallet() -> Wallet {
    let binding = keygen_binding();
    let (p1, kg1) = P1Keygen::start().unwrap();
    let (p2, reply_1) = keygen::p2_round_1(&binding, [9; 32], &kg1).unwrap();
    let (p1, kg2) = p1.round_2(&binding, &reply_1).unwrap();
    let p2 = p2.round_2(&kg2).unwrap();
    let p1 = p1.round_3(&p2.message).unwrap();
    assert_eq!(
        p1.public, p2.public,
        "both parties hold the same public facts"
    );
    let digest = CanaryDigest::new("profile", 1, "session");
    let reply_3 = p2.canary.finish(&p2.share, &p1.message, &digest).unwrap();
    let canary = p1.canary.finish(&p1.share, &reply_3).unwrap();
    let sizes = [
        kg1.len(),
        reply_1.len(),
        kg2.len(),
        p2.message.len(),
        p1.message.len(),
        reply_3.len(),
    ];
    Wallet {
        p1: p1.share,
        p2: p2.share,
        canary,
        sizes,
    }
}

fn sign_binding(number: u8) -> SignBinding {
    SignBinding {
        environment_id: [1; 32],
        profile_id: "profile".into(),
        device_thumbprint: "thumbprint".into(),
        key_generation: 1,
        session_id: format!("session {number}"),
        attempt: 1,
        index: 0,
        server_nonce: [number; 32],
        policy_decision_id: "decision".into(),
        purpose: Purpose::Transaction,
        digest: [number.wrapping_mul(37); 32],
    }
}

#[test]
fn a10_twenty_signatures_are_low_s_and_recover_to_the_address() {
    let wallet = wallet();
    let address = wallet.p2.public().address;
    let canary_digest = CanaryDigest::new("profile", 1, "session");
    wallet
        .canary
        .verify_against(&address, canary_digest.as_bytes())
        .unwrap();
    assert!(wallet.sizes[1] <= 300, "P2's first answer opens nothing");

    let mut nonce_points = std::collections::BTreeSet::new();
    for number in 1..=20 {
        let binding = sign_binding(number);
        let (p1, sg1) = P1Sign::start(&wallet.p1, binding.clone()).unwrap();
        let (p2, answer) = sign::p2_round_1(&wallet.p2, binding.clone(), &sg1).unwrap();
        let sg2 = p1.round_2(&wallet.p1, &answer).unwrap();
        let signature = p2.round_2(&wallet.p2, &sg2).unwrap();
        signature.verify_against(&address, &binding.digest).unwrap();
        assert!(
            nonce_points.insert(*signature.r()),
            "no nonce point occurs twice"
        );
    }
}

#[test]
fn stored_shares_sign_and_are_bound_to_their_public_share() {
    let Wallet { p1, p2, .. } = wallet();
    let public = p2.public().clone();
    let (bytes_1, bytes_2) = (p1.to_bytes().unwrap(), p2.to_bytes().unwrap());
    let read_1 = P1Share::from_bytes(&bytes_1, &public).unwrap();
    let read_2 = P2Share::from_bytes(&bytes_2, &public).unwrap();
    let (kept_1, sg1) = P1Sign::start(&read_1, sign_binding(1)).unwrap();
    let (kept_2, answer) = sign::p2_round_1(&read_2, sign_binding(1), &sg1).unwrap();
    let sg2 = kept_1.round_2(&read_1, &answer).unwrap();
    kept_2.round_2(&read_2, &sg2).unwrap();

    // A19: the other party's share, another wallet's share, damaged bytes.
    assert_eq!(
        P2Share::from_bytes(&bytes_1, &public).err(),
        Some(ShareError::WrongParty)
    );
    let other = wallet();
    assert_eq!(
        P2Share::from_bytes(&bytes_2, other.p2.public()).err(),
        Some(ShareError::WrongKey)
    );
    let mut longer = bytes_2.to_vec();
    longer.push(0);
    assert_eq!(
        P2Share::from_bytes(&longer, &public).err(),
        Some(ShareError::Malformed)
    );
    let mut contradictory = public.clone();
    contradictory.address = other.p2.public().address;
    assert_eq!(
        P2Share::from_bytes(&bytes_2, &contradictory).err(),
        Some(ShareError::InconsistentPublicShare)
    );
    assert_ne!(public.fingerprint(), other.p2.public().fingerprint());
}

#[test]
fn a15_a_canary_cannot_take_the_transaction_path() {
    let Wallet { p1, p2, .. } = wallet();
    let mut binding = sign_binding(1);
    let (_, sg1) = P1Sign::start(&p1, binding.clone()).unwrap();
    binding.purpose = Purpose::Canary;
    let refused = MpcError::Refused(Refusal::WrongPurpose);
    assert_eq!(
        sign::p2_round_1(&p2, binding.clone(), &sg1).err(),
        Some(refused)
    );
    assert_eq!(P1Sign::start(&p1, binding).err(), Some(refused));
}

#[test]
fn a09_the_last_message_is_released_for_the_stored_canary_only() {
    let binding = keygen_binding();
    let (p1, kg1) = P1Keygen::start().unwrap();
    let (p2, reply_1) = keygen::p2_round_1(&binding, [9; 32], &kg1).unwrap();
    let (p1, kg2) = p1.round_2(&binding, &reply_1).unwrap();
    let p2 = p2.round_2(&kg2).unwrap();
    let p1 = p1.round_3(&p2.message).unwrap();
    let other = CanaryDigest::new("profile", 2, "session");
    let outcome = p2.canary.finish(&p2.share, &p1.message, &other);
    assert_eq!(outcome.err(), Some(MpcError::Refused(Refusal::WrongCanary)));
}
