//! A key share, with all that is secret in it.

use std::collections::BTreeMap;

use dkls23::protocols::dkg::{self, ProofCommitment, SessionData};
use dkls23::protocols::{Parameters, Party, PartyIndex};
use k256::{Scalar, Secp256k1};

use crate::random;

/// A party's share.
pub struct Share(pub(crate) Party<Secp256k1>);

impl Share {
    /// From the form in which both parties store it (section 7 of the page).
    #[must_use]
    pub fn of_stored(bytes: &[u8]) -> Self {
        let (version, party) = bytes.split_first().expect("a version");
        assert_eq!(*version, 1);
        Self(postcard::from_bytes(party).expect("a share"))
    }

    /// The form in which both parties store it.
    #[must_use]
    pub fn to_stored(&self) -> Vec<u8> {
        postcard::to_allocvec(&(1_u8, &self.0)).expect("a share")
    }

    /// The party's index.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.0.party_index.as_u8()
    }

    /// The other party.
    pub(crate) fn other(&self) -> PartyIndex {
        index(3 - self.index())
    }

    /// The bits that the selective-failure attack is after: this party's choices in the base oblivious transfers, which
    /// serve all its signatures.
    #[must_use]
    pub fn secret_bits(&self) -> &[bool] {
        &self.0.mul_senders[&self.other()].ote_sender.correlation
    }
}

/// A party's index.
pub(crate) fn index(number: u8) -> PartyIndex {
    PartyIndex::new(number).expect("an index")
}

/// Two of two.
pub(crate) fn session(party: u8, sid: &[u8]) -> SessionData {
    SessionData {
        parameters: Parameters::new(2, 2).expect("two of two"),
        party_index: index(party),
        session_id: sid.to_vec(),
    }
}

/// A fresh pair of shares, of P1 and of P2, made honestly.
#[must_use]
pub fn deal() -> [Share; 2] {
    let sid = random();
    let data = [1, 2].map(|party| session(party, &sid));
    let sent = [0, 1].map(|at: usize| dkg::phase1::<Secp256k1>(&data[at]));
    let committed = [0, 1].map(|at: usize| {
        let fragments: Vec<Scalar> = sent.iter().map(|fragments| fragments[at]).collect();
        dkg::phase2::<Secp256k1>(&data[at], &fragments)
    });
    let opened =
        [0, 1].map(|at| dkg::phase3::<Secp256k1>(&data[at], &committed[at].2, &committed[at].4));
    let proofs = [0, 1].map(|at: usize| committed[at].1.clone());
    let of_both = |at: usize| index(u8::try_from(at + 1).expect("an index"));
    let commitments: BTreeMap<_, _> = [0, 1]
        .map(|at| (of_both(at), committed[at].5.clone()))
        .into();
    let openings: BTreeMap<_, _> = [0, 1].map(|at| (of_both(at), opened[at].4.clone())).into();
    [0, 1].map(|at: usize| {
        let other = 1 - at;
        let (party, _) = dkg::phase4::<Secp256k1>(
            &data[at],
            &committed[at].0,
            &proofs,
            &opened[at].0,
            &committed[other].3,
            &opened[other].1,
            &opened[at].2,
            &opened[other].3,
            &commitments,
            &openings,
            dkls23::secp256k1::compute_eth_address,
        )
        .expect("an honest key generation");
        Share(party)
    })
}

/// The next generation of a pair of shares: a complete refresh, with all-new oblivious transfers.
#[must_use]
pub fn next_generation(pair: [&Share; 2]) -> [Share; 2] {
    let sid = random();
    let parties = pair.map(|share| &share.0);
    let sent = parties.map(Party::refresh_complete_phase1);
    let committed = [0, 1].map(|at: usize| {
        let fragments: Vec<Scalar> = sent.iter().map(|fragments| fragments[at]).collect();
        parties[at].refresh_complete_phase2(&sid, &fragments)
    });
    let opened = [0, 1].map(|at| parties[at].refresh_complete_phase3(&sid, &committed[at].2));
    let proofs: [ProofCommitment<Secp256k1>; 2] = [0, 1].map(|at: usize| committed[at].1.clone());
    [0, 1].map(|at: usize| {
        let other = 1 - at;
        let party = parties[at].refresh_complete_phase4(
            &sid,
            &committed[at].0,
            &proofs,
            &opened[at].0,
            &committed[other].3,
            &opened[other].1,
            &opened[at].2,
            &opened[other].3,
        );
        Share(party.expect("an honest refresh"))
    })
}
