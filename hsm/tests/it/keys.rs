//! Keys on the token: template, names, signatures, data objects.

use countersign_hsm::{ErrorClass, HsmError, KekName, MAX_DATA, Purpose, Token, TokenConfig};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass};
use p256::ecdsa::signature::hazmat::PrehashVerifier;

use crate::support::{second_session, share_kek, with_token};

#[test]
fn a_kek_is_made_once_and_found_by_its_name() {
    with_token(|bench| async move {
        let token = bench.open();
        assert_eq!(token.find_kek(&share_kek()).await.unwrap(), None);
        let name = share_kek();
        let (one, two) = tokio::join!(token.create_kek(&name), token.create_kek(&name));
        let kek = one.unwrap();
        assert_eq!(two.unwrap(), kek);
        assert_eq!(token.find_kek(&share_kek()).await.unwrap(), Some(kek));
        for other in [
            KekName {
                epoch: 2,
                ..share_kek()
            },
            KekName {
                purpose: Purpose::Kem,
                ..share_kek()
            },
            KekName {
                tenant: "other".to_owned(),
                ..share_kek()
            },
            KekName {
                environment_id: [0x12; 32],
                ..share_kek()
            },
        ] {
            assert_eq!(token.find_kek(&other).await.unwrap(), None);
            assert_ne!(token.create_kek(&other).await.unwrap(), kek);
        }
    });
}

#[test]
fn a_kek_cannot_be_read_exported_copied_or_changed() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        token.check(kek, None).await.unwrap();
        let session = second_session();
        let found = session
            .find_objects(&[Attribute::Id(kek.0.to_vec())])
            .unwrap();
        let [handle] = found[..] else {
            panic!("{} objects", found.len())
        };
        let info = session
            .get_attribute_info(handle, &[AttributeType::Value])
            .unwrap();
        assert!(matches!(info[..], [AttributeInfo::Sensitive]), "{info:?}");
        let value = session.get_attributes(handle, &[AttributeType::Value]);
        assert!(value.is_ok_and(|values| values.is_empty()));
        assert!(
            session
                .wrap_key(&Mechanism::AesKeyWrap, handle, handle)
                .is_err()
        );
        assert!(
            session
                .copy_object(handle, &[Attribute::Extractable(true)])
                .is_err()
        );
        for change in [
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Wrap(true),
        ] {
            assert!(session.update_attributes(handle, &[change]).is_err());
        }
        let ecb = session.encrypt(&Mechanism::AesEcb, handle, &[0; 16]);
        assert!(ecb.is_err(), "only AES-GCM may use the key");
    });
}

#[test]
fn a_weak_key_under_our_name_is_refused() {
    with_token(|bench| async move {
        let token = bench.open();
        let strict = [
            (
                Attribute::Sensitive(true),
                Attribute::Extractable(true),
                "CKA_EXTRACTABLE",
            ),
            (
                Attribute::Sensitive(false),
                Attribute::Extractable(false),
                "CKA_SENSITIVE",
            ),
        ];
        for (epoch, (sensitive, extractable, weakness)) in (1..).zip(strict) {
            let name = KekName {
                epoch,
                ..share_kek()
            };
            let id = [u8::try_from(epoch).unwrap(); 16];
            let template = [
                Attribute::KeyType(KeyType::AES),
                Attribute::ValueLen(32.into()),
                Attribute::Token(true),
                Attribute::Private(true),
                sensitive,
                extractable,
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
                Attribute::Sign(false),
                Attribute::Verify(false),
                Attribute::Derive(false),
                Attribute::Label(name.label().unwrap().into_bytes()),
                Attribute::Id(id.to_vec()),
            ];
            second_session()
                .generate_key(&Mechanism::AesKeyGen, &template)
                .unwrap();
            let by_id = token.check(countersign_hsm::KekId(id), None).await;
            for error in [
                token.find_kek(&name).await.unwrap_err(),
                token.create_kek(&name).await.unwrap_err(),
                by_id.unwrap_err(),
            ] {
                assert!(
                    matches!(&error, HsmError::WeakKey { attribute, .. } if *attribute == weakness),
                    "{error}"
                );
                assert_eq!(error.kind(), ErrorClass::Config);
            }
        }
    });
}

#[test]
fn a_key_made_under_a_weaker_profile_is_refused_by_a_stricter_one() {
    with_token(|bench| async move {
        let all = "drop = [\"modifiable\", \"copyable\", \"destroyable\", \"allowed_mechanisms\"]";
        let profile = bench.profile_with("drop = []", all);
        let token = Token::open(TokenConfig {
            profile,
            ..bench.config()
        })
        .unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        token.check(kek, None).await.unwrap();
        let error = bench.open().find_kek(&share_kek()).await.unwrap_err();
        assert!(
            matches!(
                error,
                HsmError::WeakKey {
                    attribute: "CKA_MODIFIABLE",
                    ..
                }
            ),
            "{error}"
        );
    });
}

#[test]
fn an_imported_key_is_no_kek() {
    with_token(|bench| async move {
        let token = bench.open();
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Value(vec![7; 32]),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
            Attribute::Derive(false),
            Attribute::Label(share_kek().label().unwrap().into_bytes()),
            Attribute::Id(vec![7; 16]),
        ];
        second_session().create_object(&template).unwrap();
        let error = token.find_kek(&share_kek()).await.unwrap_err();
        assert!(matches!(error, HsmError::WeakKey { .. }), "{error}");
    });
}

#[test]
fn two_keys_of_one_name_or_id_are_refused() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let template = [
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(32.into()),
            Attribute::Token(true),
            Attribute::Label(share_kek().label().unwrap().into_bytes()),
            Attribute::Id(kek.0.to_vec()),
        ];
        second_session()
            .generate_key(&Mechanism::AesKeyGen, &template)
            .unwrap();
        for error in [
            token.find_kek(&share_kek()).await.unwrap_err(),
            token.create_kek(&share_kek()).await.unwrap_err(),
            token.check(kek, None).await.unwrap_err(),
        ] {
            assert!(matches!(error, HsmError::Duplicate(_)), "{error}");
        }
    });
}

#[test]
fn signatures_verify_under_the_published_key() {
    with_token(|bench| async move {
        let token = bench.open();
        assert_eq!(token.find_signing_key("cs/identity").await.unwrap(), None);
        let id = token.create_signing_key("cs/identity").await.unwrap();
        assert_eq!(token.create_signing_key("cs/identity").await.unwrap(), id);
        assert_eq!(
            token.find_signing_key("cs/identity").await.unwrap(),
            Some(id)
        );
        let public = token.public_key(id).await.unwrap();
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&public).unwrap();
        for byte in 0..20 {
            let digest = [byte; 32];
            let signature = token.sign(id, digest).await.unwrap();
            let signature = p256::ecdsa::Signature::from_slice(&signature).unwrap();
            key.verify_prehash(&digest, &signature).unwrap();
            assert!(key.verify_prehash(&[0xff; 32], &signature).is_err());
        }
        let missing = token
            .sign(countersign_hsm::SigningKeyId([9; 16]), [0; 32])
            .await
            .unwrap_err();
        assert!(matches!(missing, HsmError::NoSigningKey(_)), "{missing}");
        let kek = token.create_kek(&share_kek()).await.unwrap();
        token.check(kek, Some(id)).await.unwrap();
    });
}

#[test]
fn a_public_key_exchanged_on_the_token_is_noticed_when_signing() {
    with_token(|bench| async move {
        let token = bench.open();
        let ours = token.create_signing_key("cs/identity").await.unwrap();
        let other = token.create_signing_key("cs/other").await.unwrap();
        let session = second_session();
        let public = |id: &[u8]| {
            let template = [
                Attribute::Class(ObjectClass::PUBLIC_KEY),
                Attribute::Id(id.to_vec()),
            ];
            session.find_objects(&template).unwrap()[0]
        };
        session.destroy_object(public(&ours.0)).unwrap();
        session
            .update_attributes(public(&other.0), &[Attribute::Id(ours.0.to_vec())])
            .unwrap();
        let error = token.sign(ours, [1; 32]).await.unwrap_err();
        assert!(matches!(error, HsmError::Untrustworthy(_)), "{error}");
    });
}

#[test]
fn a_data_object_is_written_once_and_private() {
    with_token(|bench| async move {
        let token = bench.open();
        assert_eq!(token.read_data("cs/environment").await.unwrap(), None);
        let value = b"environment id and kind".to_vec();
        token
            .store_data("cs/environment", value.clone())
            .await
            .unwrap();
        token
            .store_data("cs/environment", value.clone())
            .await
            .unwrap();
        let conflict = token
            .store_data("cs/environment", vec![1])
            .await
            .unwrap_err();
        assert!(matches!(conflict, HsmError::DataConflict(_)), "{conflict}");
        assert_eq!(
            token.read_data("cs/environment").await.unwrap(),
            Some(value.clone())
        );
        let too_large = token.store_data("cs/large", vec![0; MAX_DATA + 1]).await;
        assert!(matches!(too_large, Err(HsmError::Name(_))));
        token
            .store_data("cs/large", vec![5; MAX_DATA])
            .await
            .unwrap();
        assert_eq!(
            token.read_data("cs/large").await.unwrap().unwrap().len(),
            MAX_DATA
        );
        assert!(token.read_data("with space").await.is_err());
        assert!(
            !bench
                .token_files()
                .windows(value.len())
                .any(|window| window == value)
        );
        let reopened = bench.open();
        assert_eq!(
            reopened.read_data("cs/environment").await.unwrap(),
            Some(value)
        );
    });
}

#[test]
fn what_a_destroyed_kek_sealed_is_lost_for_good() {
    with_token(|bench| async move {
        let token = bench.open();
        let kem = |epoch| KekName {
            purpose: Purpose::Kem,
            epoch,
            ..share_kek()
        };
        let (one, two) = (
            token.create_kek(&kem(20_001)).await.unwrap(),
            token.create_kek(&kem(20_002)).await.unwrap(),
        );
        let secret = || zeroize::Zeroizing::new(vec![7; 32]);
        let aad = crate::support::share_aad;
        let sealed = token.seal(one, aad(), secret()).await.unwrap();
        let other = token.seal(two, aad(), secret()).await.unwrap();
        assert!(token.open_sealed(sealed.clone(), aad()).await.is_ok());

        assert!(token.destroy_kek(&kem(20_001)).await.unwrap());
        assert!(!token.destroy_kek(&kem(20_001)).await.unwrap());
        assert_eq!(token.find_kek(&kem(20_001)).await.unwrap(), None);
        let lost = token.open_sealed(sealed.clone(), aad()).await;
        assert!(matches!(lost, Err(HsmError::UnknownKek(_))), "{lost:?}");
        // A key of the same name is another key, and its neighbour has not noticed.
        let again = token.create_kek(&kem(20_001)).await.unwrap();
        assert_ne!(again, one);
        let lost = token.open_sealed(sealed, aad()).await;
        assert!(matches!(lost, Err(HsmError::UnknownKek(_))), "{lost:?}");
        assert_eq!(*token.open_sealed(other, aad()).await.unwrap(), *secret());
        token.check(again, None).await.unwrap();
    });
}
