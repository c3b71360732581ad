//! What happens when sessions, the login or the whole module are lost underneath us.
//!
//! Another user of the module in this process stands in for the fault: PKCS#11 logs out and finalises
//! per application, not per user.

use countersign_hsm::{ErrorClass, HsmError, PinFault};
use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::Attribute;
use zeroize::Zeroizing;

use crate::support::{second_module, second_session, share_aad, share_kek, with_token, write_pin};

#[test]
fn a_lost_login_is_repaired_without_an_error() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let signer = token.create_signing_key("cs/identity").await.unwrap();
        let payload = Zeroizing::new(vec![7; 100]);
        let sealed = token.seal(kek, share_aad(), payload.clone()).await.unwrap();
        for _ in 0..5 {
            second_session().logout().unwrap();
            assert_eq!(
                token
                    .open_sealed(sealed.clone(), share_aad())
                    .await
                    .unwrap(),
                payload
            );
            second_session().logout().unwrap();
            let again = token.seal(kek, share_aad(), payload.clone()).await.unwrap();
            assert_eq!(
                token.open_sealed(again, share_aad()).await.unwrap(),
                payload
            );
            second_session().logout().unwrap();
            token.sign(signer, [1; 32]).await.unwrap();
        }
    });
}

#[test]
fn a_lost_login_is_repaired_once_for_all_workers() {
    with_token(|bench| async move {
        let token = bench.open_spied().unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        second_session().logout().unwrap();
        let checks: Vec<_> = (0..20)
            .map(|_| {
                let token = token.clone();
                tokio::spawn(async move { token.check(kek, None).await })
            })
            .collect();
        for check in checks {
            check.await.unwrap().unwrap();
        }
        assert_eq!(bench.calls("C_Login"), 2);
    });
}

#[test]
fn a_restarted_module_is_used_again_without_a_restart_of_ours() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let payload = Zeroizing::new(vec![7; 100]);
        let sealed = token.seal(kek, share_aad(), payload.clone()).await.unwrap();
        let module = second_module();
        for _ in 0..3 {
            module.clone().finalize().unwrap();
            let away = token
                .open_sealed(sealed.clone(), share_aad())
                .await
                .unwrap_err();
            assert_eq!(away.kind(), ErrorClass::Token, "{away}");
            module
                .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
                .unwrap();
            for _ in 0..8 {
                assert_eq!(
                    token
                        .open_sealed(sealed.clone(), share_aad())
                        .await
                        .unwrap(),
                    payload
                );
            }
        }
    });
}

#[test]
fn a_pin_that_is_refused_when_logging_in_again_is_never_tried_a_second_time() {
    with_token(|bench| async move {
        let token = bench.open_spied().unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        // Somebody changes the PIN, then the login is lost.
        let session = second_session();
        let (old, new) = ("correct-horse".into(), "another-pin".into());
        session.set_pin(&old, &new).unwrap();
        session.logout().unwrap();
        for _ in 0..5 {
            let error = token.check(kek, None).await.unwrap_err();
            assert!(matches!(error, HsmError::Pin(PinFault::Refused)), "{error}");
        }
        assert_eq!(bench.calls("C_Login"), 2);
        write_pin(&bench.directory, "another-pin");
    });
}

#[test]
fn a_key_exchanged_under_the_same_id_is_noticed_by_its_canary() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let payload = Zeroizing::new(vec![7; 100]);
        let sealed = token.seal(kek, share_aad(), payload.clone()).await.unwrap();
        let session = second_session();
        let found = session
            .find_objects(&[Attribute::Id(kek.0.to_vec())])
            .unwrap();
        session.destroy_object(found[0]).unwrap();
        let gone = token
            .open_sealed(sealed.clone(), share_aad())
            .await
            .unwrap_err();
        // It was here before, so the token is in doubt and not the object that names it.
        assert!(matches!(gone, HsmError::CanaryFailed(_)), "{gone}");
        assert_eq!(gone.kind(), ErrorClass::Token);
        // As strict as ours, same id, another key.
        let template = [
            Attribute::ValueLen(32.into()),
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
            Attribute::Modifiable(false),
            Attribute::Copyable(false),
            Attribute::AllowedMechanisms(vec![MechanismType::AES_GCM]),
            Attribute::Id(kek.0.to_vec()),
        ];
        session
            .generate_key(&Mechanism::AesKeyGen, &template)
            .unwrap();
        for _ in 0..3 {
            let error = token
                .open_sealed(sealed.clone(), share_aad())
                .await
                .unwrap_err();
            assert!(
                matches!(error, HsmError::CanaryFailed(id) if id == kek),
                "{error}"
            );
            let error = token
                .seal(kek, share_aad(), payload.clone())
                .await
                .unwrap_err();
            assert!(
                matches!(error, HsmError::CanaryFailed(id) if id == kek),
                "{error}"
            );
        }
    });
}
