//! Sealed objects: round trip, identity, tampering, leaks, load.

use countersign_hsm::{
    DataFault, ErrorClass, HEADER_LENGTH, HsmError, KekId, KekName, MAX_PAYLOAD, ObjectAad,
    Purpose, Token, TokenConfig,
};
use zeroize::Zeroizing;

use crate::support::{LABEL, share_aad, share_kek, with_token};

/// The size of a sealed P2 share.
const SHARE_LENGTH: usize = 52_590;

fn share() -> Vec<u8> {
    (0..SHARE_LENGTH)
        .map(|i| u8::try_from(i * 31 % 251).unwrap())
        .collect()
}

async fn seal(token: &Token, kek: KekId, payload: &[u8]) -> Vec<u8> {
    token
        .seal(kek, share_aad(), Zeroizing::new(payload.to_vec()))
        .await
        .unwrap()
}

#[test]
fn a_share_opens_as_it_was_sealed() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        for payload in [share(), vec![], vec![7], vec![9; MAX_PAYLOAD]] {
            let sealed = seal(&token, kek, &payload).await;
            assert_eq!(sealed.len(), payload.len() + HEADER_LENGTH + 16);
            let opened = token.open_sealed(sealed, share_aad()).await.unwrap();
            assert_eq!(*opened, payload);
        }
        let too_large = token
            .seal(kek, share_aad(), Zeroizing::new(vec![0; MAX_PAYLOAD + 1]))
            .await;
        assert!(matches!(too_large, Err(HsmError::PayloadTooLarge(_))));
    });
}

#[test]
fn sealing_twice_shares_no_bytes_but_the_key_id() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let (one, two) = (
            seal(&token, kek, &share()).await,
            seal(&token, kek, &share()).await,
        );
        assert_eq!(one[..24], two[..24]);
        let equal = one[24..]
            .iter()
            .zip(&two[24..])
            .filter(|(a, b)| a == b)
            .count();
        // 1 in 256 by chance.
        assert!(equal < one.len() / 128, "{equal} equal bytes");
    });
}

#[test]
fn a19_swap_of_any_identity_field_is_refused() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let sealed = seal(&token, kek, &share()).await;
        let right = share_aad();
        let swaps: [(&str, ObjectAad); 9] = [
            (
                "environment",
                ObjectAad {
                    environment_id: [0x12; 32],
                    ..right.clone()
                },
            ),
            (
                "tenant",
                ObjectAad {
                    tenant: "other".to_owned(),
                    ..right.clone()
                },
            ),
            (
                "purpose",
                ObjectAad {
                    purpose: Purpose::Totp,
                    ..right.clone()
                },
            ),
            (
                "profile",
                ObjectAad {
                    profile_id: "another".to_owned(),
                    ..right.clone()
                },
            ),
            (
                "owner",
                ObjectAad {
                    owner_id: "another".to_owned(),
                    ..right.clone()
                },
            ),
            (
                "generation",
                ObjectAad {
                    key_generation: 2,
                    ..right.clone()
                },
            ),
            (
                "version",
                ObjectAad {
                    object_version: 2,
                    ..right.clone()
                },
            ),
            (
                "role",
                ObjectAad {
                    role: "kem",
                    ..right.clone()
                },
            ),
            (
                "public key",
                ObjectAad {
                    public_key: vec![3; 33],
                    ..right.clone()
                },
            ),
        ];
        for (field, aad) in swaps {
            let error = token.open_sealed(sealed.clone(), aad).await.unwrap_err();
            assert!(
                matches!(error, HsmError::Damaged(DataFault::DataKey)),
                "{field}: {error}"
            );
            assert_eq!(error.kind(), ErrorClass::Data, "{field}");
        }
        assert_eq!(*token.open_sealed(sealed, right).await.unwrap(), share());
    });
}

#[test]
fn a19_payload_of_another_object_is_refused() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let (one, two) = (
            seal(&token, kek, &share()).await,
            seal(&token, kek, &share()).await,
        );
        let mixed = [&one[..HEADER_LENGTH], &two[HEADER_LENGTH..]].concat();
        let error = token.open_sealed(mixed, share_aad()).await.unwrap_err();
        assert!(
            matches!(error, HsmError::Damaged(DataFault::Payload)),
            "{error}"
        );
        // A whole data key taken from another row, commitment and all, still lacks its payload.
        let mixed = [&one[..116], &two[116..]].concat();
        let error = token.open_sealed(mixed, share_aad()).await.unwrap_err();
        assert!(
            matches!(error, HsmError::Damaged(DataFault::Payload)),
            "{error}"
        );
        // A data key without its commitment.
        let mixed = [&one[..84], &two[84..]].concat();
        let error = token.open_sealed(mixed, share_aad()).await.unwrap_err();
        assert!(
            matches!(error, HsmError::Damaged(DataFault::Commitment)),
            "{error}"
        );
    });
}

#[test]
fn every_header_bit_and_the_payload_are_authenticated_and_the_next_open_works() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let sealed = seal(&token, kek, b"sixteen byte msg").await;
        for position in 0..sealed.len() {
            for bit in [0x01, 0x02, 0x80] {
                let mut tampered = sealed.clone();
                tampered[position] ^= bit;
                let error = token.open_sealed(tampered, share_aad()).await.unwrap_err();
                assert_eq!(
                    error.kind(),
                    ErrorClass::Data,
                    "byte {position}, bit {bit:#x}: {error}"
                );
            }
            let opened = token
                .open_sealed(sealed.clone(), share_aad())
                .await
                .unwrap();
            assert_eq!(opened.as_slice(), b"sixteen byte msg");
        }
    });
}

#[test]
fn what_is_truncated_or_malformed_never_reaches_the_hsm() {
    with_token(|bench| async move {
        let token = bench.open_spied().unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let sealed = seal(&token, kek, b"payload").await;
        let before = (
            bench.calls("C_DecryptInit"),
            bench.calls("C_FindObjectsInit"),
        );
        for length in 0..HEADER_LENGTH + 16 {
            let error = token
                .open_sealed(sealed[..length].to_vec(), share_aad())
                .await
                .unwrap_err();
            assert!(
                matches!(error, HsmError::Damaged(DataFault::Length)),
                "{length}: {error}"
            );
        }
        let too_long = vec![0; HEADER_LENGTH + MAX_PAYLOAD + 17];
        assert!(token.open_sealed(too_long, share_aad()).await.is_err());
        for position in (0..8).chain([24]) {
            let mut malformed = sealed.clone();
            match position {
                24 => malformed[24..36].fill(0), // an all-zero IV
                6 => malformed[6] = 3,           // an IV mode we do not know
                _ => malformed[position] ^= 0x40,
            }
            let error = token.open_sealed(malformed, share_aad()).await.unwrap_err();
            assert!(
                matches!(error, HsmError::Damaged(DataFault::Header)),
                "{position}: {error}"
            );
        }
        let after = (
            bench.calls("C_DecryptInit"),
            bench.calls("C_FindObjectsInit"),
        );
        assert_eq!(before, after);
        assert!(before.0 > 0, "the spy must see calls at all");
    });
}

#[test]
fn an_open_is_exactly_one_decrypt_of_32_bytes() {
    with_token(|bench| async move {
        let token = bench.open_spied().unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let sealed = seal(&token, kek, &share()).await;
        let counted = [
            "C_DecryptInit",
            "C_Decrypt",
            "C_EncryptInit",
            "C_FindObjectsInit",
            "C_GetAttributeValue",
        ];
        let before = counted.map(|function| bench.calls(function));
        for _ in 0..5 {
            token
                .open_sealed(sealed.clone(), share_aad())
                .await
                .unwrap();
        }
        let after = counted.map(|function| bench.calls(function));
        let made: Vec<usize> = after
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect();
        assert_eq!(made, [5, 5, 0, 0, 0]);
    });
}

#[test]
fn every_seal_is_unwrapped_on_another_session() {
    with_token(|bench| async move {
        let token = bench.open_spied().unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        seal(&token, kek, b"warm up").await;
        let seen =
            bench.sessions_of("C_EncryptInit").len() + bench.sessions_of("C_DecryptInit").len();
        seal(&token, kek, b"payload").await;
        let (encrypts, decrypts) = (
            bench.sessions_of("C_EncryptInit"),
            bench.sessions_of("C_DecryptInit"),
        );
        assert_eq!(encrypts.len() + decrypts.len(), seen + 2);
        assert_ne!(encrypts.last().unwrap(), decrypts.last().unwrap());
    });
}

#[test]
fn an_object_under_a_foreign_kek_is_refused_by_name() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let mut sealed = seal(&token, kek, b"payload").await;
        sealed[8..24].fill(0xee);
        let error = token.open_sealed(sealed, share_aad()).await.unwrap_err();
        assert!(
            matches!(&error, HsmError::UnknownKek(id) if id.0 == [0xee; 16]),
            "{error}"
        );
        assert!(error.to_string().contains(&"ee".repeat(16)));
        let error = token
            .seal(KekId([1; 16]), share_aad(), Zeroizing::new(vec![1]))
            .await
            .unwrap_err();
        assert!(matches!(error, HsmError::UnknownKek(_)), "{error}");
    });
}

#[test]
fn an_object_moved_to_another_kek_of_the_token_is_refused() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let other = token
            .create_kek(&KekName {
                epoch: 2,
                ..share_kek()
            })
            .await
            .unwrap();
        let mut sealed = seal(&token, kek, b"payload").await;
        sealed[8..24].copy_from_slice(&other.0);
        let error = token.open_sealed(sealed, share_aad()).await.unwrap_err();
        assert!(
            matches!(error, HsmError::Damaged(DataFault::DataKey)),
            "{error}"
        );
    });
}

#[test]
fn the_token_holds_neither_payload_nor_data_key() {
    with_token(|bench| async move {
        let token = bench.open_spied().unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let sealed = seal(&token, kek, &share()).await;
        let dek = bench.inputs_of("C_Encrypt").pop().unwrap();
        assert_eq!(dek.len(), 32);
        let files = bench.token_files();
        let holds = |part: &[u8]| files.windows(part.len()).any(|window| window == part);
        assert!(!holds(&share()[1000..1032]), "payload");
        assert!(!holds(&dek), "data key");
        assert!(
            holds(format!("{LABEL:32}").as_bytes()),
            "the search finds what is there"
        );
        for secret in [&dek, &share()[1000..1032]] {
            assert!(
                !sealed.windows(32).any(|window| window == secret),
                "sealed object"
            );
        }
    });
}

#[test]
fn the_hsm_sees_a_new_data_key_per_seal_and_never_the_payload() {
    with_token(|bench| async move {
        let token = bench.open_spied().unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        for _ in 0..5 {
            seal(&token, kek, &share()).await;
        }
        let mut deks = bench.inputs_of("C_Encrypt");
        // The first is the canary.
        deks.remove(0);
        assert_eq!(deks.len(), 5);
        assert!(deks.iter().all(|dek| dek.len() == 32 && dek != &[0; 32]));
        deks.sort();
        deks.dedup();
        assert_eq!(deks.len(), 5);
    });
}

#[test]
fn an_all_zero_iv_is_refused() {
    with_token(|bench| async move {
        let kek = bench.open().create_kek(&share_kek()).await.unwrap();
        // SoftHSM takes our zeros and writes no IV back, as this profile promises it would.
        let profile = bench.profile_with("iv_mode = \"caller\"", "iv_mode = \"hsm_writeback\"");
        let token = Token::open(TokenConfig {
            profile,
            ..bench.config()
        })
        .unwrap();
        let error = token
            .seal(kek, share_aad(), Zeroizing::new(vec![1]))
            .await
            .unwrap_err();
        assert!(
            matches!(error, HsmError::Untrustworthy("an all-zero IV")),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorClass::Token);
    });
}

#[test]
fn two_hundred_seals_and_opens_run_concurrently() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let tasks: Vec<_> = (0..200u64)
            .map(|index| {
                let token = token.clone();
                let aad = ObjectAad {
                    object_version: index,
                    ..share_aad()
                };
                tokio::spawn(async move {
                    let payload = index.to_be_bytes().repeat(500);
                    let sealed = token
                        .seal(kek, aad.clone(), Zeroizing::new(payload.clone()))
                        .await?;
                    Ok::<_, HsmError>(*token.open_sealed(sealed, aad).await? == payload)
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap().unwrap());
        }
    });
}
