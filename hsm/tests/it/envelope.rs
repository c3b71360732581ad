//! Sealed objects: round trip, identity, tampering, leaks.

use zeroize::Zeroizing;

use crate::support::{share_aad, share_kek, with_token};

/// The size of a sealed P2 share.
const SHARE_LENGTH: usize = 52_590;

fn share() -> Vec<u8> {
    (0..SHARE_LENGTH)
        .map(|i| u8::try_from(i * 31 % 251).unwrap())
        .collect()
}

#[test]
fn a_share_opens_as_it_was_sealed() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        for payload in [
            share(),
            vec![],
            vec![7],
            vec![9; countersign_hsm::MAX_PAYLOAD],
        ] {
            let sealed = token
                .seal(kek, share_aad(), Zeroizing::new(payload.clone()))
                .await
                .unwrap();
            assert_eq!(
                sealed.len(),
                payload.len() + countersign_hsm::HEADER_LENGTH + 16
            );
            let opened = token.open_sealed(sealed, share_aad()).await.unwrap();
            assert_eq!(*opened, payload);
        }
    });
}
