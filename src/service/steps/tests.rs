#![expect(clippy::panic, reason = "tests")]

use super::{Admitted, judge};
use crate::clock::Timestamp;
use crate::custody::{Product, Verdict};
use crate::domain::{
    DecisionId, DeviceKeyId, Generation, InstanceId, OperationId, ProfileId, SessionId,
    SessionKind, SessionState, Suspicion,
};
use crate::service::Error;
use crate::sessions::conclude::Effect;
use crate::store::sessions::SessionRow;

fn admitted(state: SessionState) -> Option<Admitted> {
    let session = SessionRow {
        session_id: SessionId::generate(),
        kind: SessionKind::Sign,
        profile_id: ProfileId::generate(),
        device_key_id: DeviceKeyId::parse(&"k".repeat(43)).ok()?,
        certificate_spki: [0; 32],
        state,
        attempt: 1,
        generation: Generation::FIRST,
        server_nonce: [0; 32],
        decision_id: DecisionId::generate(),
        instance_id: InstanceId::generate(),
        request_hash: Some([1; 32]),
        expires_at: Timestamp::from_micros(0),
    };
    Some(Admitted {
        session,
        permit_id: OperationId::generate(),
        transaction: None,
    })
}

type Finished = (Effect, Result<(), Error>);

fn judged(
    verdict: Verdict,
    contradicted: bool,
    finish: fn(&Admitted, Product) -> Finished,
) -> Finished {
    let Some(admitted) = admitted(SessionState::Round1Checking) else {
        panic!("a device key id");
    };
    judge(&admitted, verdict, contradicted, finish)
}

fn done() -> Verdict {
    Verdict::Done(Product::Message("answer".to_owned()))
}

fn banned() -> Verdict {
    Verdict::Ban {
        reason: "caught".to_owned(),
        emptied: None,
    }
}

fn advance(_: &Admitted, _: Product) -> Finished {
    (Effect::Advance, Ok(()))
}

fn assert_no_verdict(judged: Finished) {
    let (effect, reply) = judged;
    let Effect::Abort { suspicion, .. } = effect else {
        panic!("it goes on");
    };
    assert_eq!(suspicion, Suspicion::NoVerdict);
    assert!(matches!(reply, Err(Error::Internal)));
}

#[test]
fn a03_a_panic_after_the_check_is_a_check_without_a_verdict() {
    assert_no_verdict(judged(done(), false, |_, _| panic!("in the middle of it")));
}

#[test]
fn a03_a_result_that_its_session_cannot_take_is_a_check_without_a_verdict() {
    assert_no_verdict(judged(done(), false, |_, _| (Effect::Activate, Ok(()))));
}

#[test]
fn a07_a_check_that_its_wallet_contradicts_ends_its_session_without_a_suspicion() {
    let (effect, reply) = judged(done(), true, advance);
    let Effect::Abort { suspicion, .. } = effect else {
        panic!("it goes on");
    };
    assert_eq!(suspicion, Suspicion::None);
    assert!(matches!(reply, Err(Error::Contradiction)));
    let (effect, reply) = judged(done(), false, advance);
    assert!(matches!((effect, reply), (Effect::Advance, Ok(()))));
}

#[test]
fn a01_nothing_takes_the_place_of_a_ban() {
    for contradicted in [false, true] {
        let (effect, reply) = judged(banned(), contradicted, |_, _| panic!("never asked"));
        assert!(matches!(effect, Effect::Ban { .. }));
        assert!(matches!(reply, Err(Error::MpcFailed(1))));
    }
}
