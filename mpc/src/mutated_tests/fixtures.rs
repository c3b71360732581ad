//! Wallets and sessions to attack.

use dkls23::protocols::re_key::re_key;
use k256::{Scalar, Secp256k1};
use zeroize::Zeroizing;

use crate::binding::{KeygenBinding, Purpose, SignBinding};
use crate::engine::parameters;
use crate::error::MpcError;
use crate::share::{P1Share, P2Share, PublicShare};
use crate::sign::{self, P1Sign, P2SignKept};

pub(crate) type Message = Zeroizing<Vec<u8>>;

pub(crate) struct Wallet {
    pub(crate) p1: P1Share,
    pub(crate) p2: P2Share,
}

/// A wallet by a trusted dealer: as good as a generated one for signing, and quick.
#[expect(clippy::disallowed_methods, reason = "a fixture")]
pub(crate) fn dealt(session_id: u8) -> Wallet {
    let sid = [session_id; 32];
    let secret = Scalar::from(0x1234_5678_u64);
    let (mut parties, package) =
        re_key::<Secp256k1>(&parameters(), &sid, &secret, Some([7; 32]), |_| {
            String::new()
        });
    let public = PublicShare::new(&package, sid).expect("a dealt key");
    let (Some(p2), Some(p1)) = (parties.pop(), parties.pop()) else {
        panic!("two parties");
    };
    Wallet {
        p1: P1Share::new(p1, public.clone()),
        p2: P2Share::new(p2, public),
    }
}

pub(crate) fn sign_binding() -> SignBinding {
    SignBinding {
        environment_id: [1; 32],
        profile_id: "profile".into(),
        device_thumbprint: "thumbprint".into(),
        key_generation: 1,
        session_id: "session".into(),
        attempt: 1,
        index: 0,
        server_nonce: [2; 32],
        policy_decision_id: "decision".into(),
        purpose: Purpose::Transaction,
        digest: [3; 32],
    }
}

pub(crate) fn keygen_binding() -> KeygenBinding {
    KeygenBinding {
        environment_id: [1; 32],
        profile_id: "profile".into(),
        keygen_session_id: "session".into(),
        device_thumbprint: "thumbprint".into(),
    }
}

impl Wallet {
    pub(crate) fn start(&self) -> (P1Sign, Message) {
        P1Sign::start(&self.p1, sign_binding()).expect("an honest start")
    }

    pub(crate) fn answer(&self, sg1: &[u8]) -> Result<(P2SignKept, Message), MpcError> {
        sign::p2_round_1(&self.p2, sign_binding(), sg1)
    }
}
