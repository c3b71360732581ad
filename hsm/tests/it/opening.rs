//! Opening a token: the right one, with the right PIN, or a clear error.

use std::path::PathBuf;
use std::time::Duration;

use countersign_hsm::{ErrorClass, HsmError, PinFault, Token, TokenConfig};

use crate::support::{LABEL, init_token, share_kek, with_token, write_pin};

#[test]
fn a_token_tells_who_it_is() {
    with_token(|bench| async move {
        let token = bench.open();
        let info = token.info();
        assert_eq!(info.label, LABEL);
        assert!(
            info.software && info.manufacturer.starts_with("SoftHSM") && !info.serial.is_empty()
        );
    });
}

#[test]
fn softhsm_is_software_whatever_the_profile_says() {
    with_token(|bench| async move {
        let profile = bench.profile_with("software = true", "software = false");
        assert!(!profile.software());
        let token = Token::open(TokenConfig {
            profile,
            ..bench.config()
        })
        .unwrap();
        assert!(token.info().software);
    });
}

#[test]
fn a_wrong_pin_is_tried_exactly_once() {
    with_token(|bench| async move {
        write_pin(&bench.directory, "wrong");
        let error = bench.open_spied().err().unwrap();
        assert!(matches!(error, HsmError::Pin(PinFault::Refused)), "{error}");
        assert_eq!(error.kind(), ErrorClass::Operator);
        assert_eq!(bench.calls("C_Login"), 1);
    });
}

#[test]
fn one_login_serves_all_sessions() {
    with_token(|bench| async move {
        let token = bench.open_spied().unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        token.check(kek, None).await.unwrap();
        assert_eq!(bench.calls("C_Login"), 1);
        assert_eq!(bench.calls("C_Logout"), 0);
    });
}

#[test]
fn a_missing_token_is_named() {
    with_token(|bench| async move {
        let config = TokenConfig {
            token_label: "elsewhere".to_owned(),
            ..bench.config()
        };
        let error = Token::open(config).err().unwrap();
        assert!(
            matches!(&error, HsmError::NoToken { label } if label == "elsewhere"),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorClass::Token);
    });
}

#[test]
fn two_tokens_of_one_label_are_refused() {
    with_token(|bench| async move {
        init_token(&bench.directory, LABEL);
        init_token(&bench.directory, "unrelated");
        let error = Token::open(bench.config()).err().unwrap();
        assert!(
            matches!(&error, HsmError::AmbiguousToken { count: 2, .. }),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorClass::Config);
    });
}

#[test]
fn a_module_that_is_none_is_refused() {
    with_token(|bench| async move {
        for path in ["/nonexistent.so", "/lib/x86_64-linux-gnu/libm.so.6"] {
            let config = TokenConfig {
                module: PathBuf::from(path),
                ..bench.config()
            };
            assert_eq!(
                Token::open(config).err().unwrap().kind(),
                ErrorClass::Config,
                "{path}"
            );
        }
    });
}

#[test]
fn a_profile_that_promises_too_much_is_refused() {
    with_token(|bench| async move {
        // A vendor's own AES-GCM number, which SoftHSM does not have.
        let profile = bench.profile_with("0x1087", "0x80001087");
        let error = Token::open(TokenConfig {
            profile,
            ..bench.config()
        })
        .err()
        .unwrap();
        assert!(
            matches!(error, HsmError::MissingMechanism("AES-GCM")),
            "{error}"
        );
    });
}

#[test]
fn an_overloaded_token_answers_at_the_deadline_and_recovers() {
    with_token(|bench| async move {
        let deadline = Duration::from_millis(150);
        let token = Token::open(TokenConfig {
            workers: 1,
            queue: 1,
            deadline,
            ..bench.config()
        })
        .unwrap();
        let id = loop {
            // Creating the key may itself be slow on a busy machine.
            match token.create_signing_key("cs/identity").await {
                Ok(id) => break id,
                Err(error) => assert_eq!(error.kind(), ErrorClass::Deadline),
            }
        };
        let tasks: Vec<_> = (0..20_000)
            .map(|_| {
                let token = token.clone();
                tokio::spawn(async move { token.sign(id, [1; 32]).await.map(drop) })
            })
            .collect();
        let mut late = 0;
        for task in tasks {
            if let Err(error) = task.await.unwrap() {
                assert_eq!(error.kind(), ErrorClass::Deadline, "{error}");
                late += 1;
            }
        }
        assert!(late > 0, "20 000 signatures in 150 ms");
        let again = async { while token.sign(id, [2; 32]).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(10), again)
            .await
            .unwrap();
    });
}

#[test]
fn a_closed_token_says_so() {
    with_token(|bench| async move {
        let token = bench.open_spied().unwrap();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let other = token.clone();
        token.close().await.unwrap();
        let closed = other.check(kek, None).await.unwrap_err();
        assert!(matches!(closed, HsmError::Closed), "{closed}");
        assert_eq!(bench.calls("C_Finalize"), 1);
        // The same process may open it again.
        assert_eq!(
            bench
                .open_spied()
                .unwrap()
                .find_kek(&share_kek())
                .await
                .unwrap(),
            Some(kek)
        );
    });
}
