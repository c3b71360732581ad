//! A key generation by a wallet that cheats, request by request.

use countersign_attacker::envelope::{self, Info, Opener};
use countersign_attacker::hashes::KeygenBinding;
use countersign_attacker::keygen::{self, Opened};
use countersign_attacker::random;
use countersign_attacker::share::Share;
use countersign_attacker::sign::{self, Answered};
use countersign_attacker::wire::{
    Closing, Commitments, Frame, Keygen1, Keygen1Reply, Keygen2, Keygen2Reply, Keygen3, Message,
};
use countersign_client::api::{self, ContinueProfile, CreateProfile};
use countersign_client::flows::create::client_share;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request};
use serde_json::Value;

use super::Appliance;
use super::signing::{deliver, fresh_key, json_of, signed};
use super::wallet::passphrase;

/// A wallet that has only a device key.
pub(crate) fn draft(appliance: &Appliance, name: &str) -> Wallet {
    let environment = appliance.client.config().environment_id;
    let name = name.parse().unwrap();
    let keystore = appliance.keystore();
    keystore.create(&name, &environment, &passphrase()).unwrap()
}

/// A key generation whose first request was answered.
pub(crate) struct Keygen<'a> {
    appliance: &'a Appliance,
    wallet: &'a Wallet,
    pub(crate) binding: KeygenBinding,
    info: Info,
    key: [u8; 32],
    pub(crate) server_nonce: [u8; 32],
    pub(crate) sid: [u8; 32],
    /// P2's first answer.
    pub(crate) plaintext: Vec<u8>,
    pub(crate) sealed_answer: String,
    pub(crate) theirs: Commitments,
    opened: Opened,
    /// kg2, to be altered.
    pub(crate) second: Keygen2,
}

/// A key generation whose second request was answered.
pub(crate) struct Generated<'a> {
    pub(crate) keygen: Rest<'a>,
    pub(crate) share: Share,
    /// P2's second answer.
    pub(crate) theirs: Keygen2Reply,
    canary_nonce: [u8; 32],
}

/// What later requests need.
pub(crate) struct Rest<'a> {
    appliance: &'a Appliance,
    wallet: &'a Wallet,
    pub(crate) binding: KeygenBinding,
    info: Info,
    key: [u8; 32],
    pub(crate) server_nonce: [u8; 32],
}

fn opened(said: &Value, opener: &Opener) -> Vec<u8> {
    opener.open(said["mpcMessage"].as_str().unwrap()).unwrap()
}

impl<'a> Keygen<'a> {
    /// The first request, honestly; and an honest second message.
    pub(crate) async fn begin(appliance: &'a Appliance, wallet: &'a Wallet) -> Self {
        let document = appliance.client.identity_document().await.unwrap();
        let (kid, key) = (document.kem.kid, document.kem.public_key);
        let idempotency = fresh_key();
        let environment = appliance.client.config().environment_id;
        let device = wallet.device().thumbprint();
        let mut info = Info {
            environment,
            tenant: "default".to_owned(),
            kind: "kg1".to_owned(),
            kid,
            device: device.clone(),
            profile: idempotency.clone(),
            session: idempotency.clone(),
            generation: 1,
            attempt: 1,
        };
        let (started, fragment) = keygen::start();
        let nonce = random();
        let body: Keygen1 = (nonce, fragment);
        let frame = Frame::of_wallet(1, [0; 32], &body);
        let (sealed, opener) = envelope::seal(&key, &info, &frame.bytes());
        let request = CreateProfile {
            name: "main".to_owned(),
            client_share: client_share(wallet, sealed),
        };
        let request = Request::post(api::PROFILES, &request)
            .unwrap()
            .with_idempotency_key(idempotency);
        let reply = deliver(appliance, &signed(appliance, wallet, &request)).await;
        let said = json_of(&reply);
        assert_eq!(reply.status, 202, "{said}");
        let plaintext = opened(&said, &opener);
        let answer = Frame::parse(&plaintext);
        let (server_nonce, fragment, theirs) = Keygen1Reply::parse(&answer.body);
        info.profile = said["profileId"].as_str().unwrap().to_owned();
        info.session = said["keygenSessionId"].as_str().unwrap().to_owned();
        let binding = KeygenBinding {
            environment,
            profile: info.profile.clone(),
            session: info.session.clone(),
            device,
        };
        let sid = binding.sid(&nonce, &server_nonce);
        assert_eq!(answer.sid, sid);
        let (opened, commitments, openings) = started.open(sid, &fragment);
        Self {
            appliance,
            wallet,
            binding,
            info,
            key,
            server_nonce,
            sid,
            plaintext,
            sealed_answer: said["mpcMessage"].as_str().unwrap().to_owned(),
            theirs,
            opened,
            second: (commitments, openings, random()),
        }
    }

    /// The second request, as [`Keygen::second`] is now.
    pub(crate) async fn post(&self) -> (Reply, Opener) {
        let frame = Frame::of_wallet(2, self.sid, &self.second);
        self.rest().post("kg2", &frame).await
    }

    fn rest(&self) -> Rest<'a> {
        Rest {
            appliance: self.appliance,
            wallet: self.wallet,
            binding: self.binding.clone(),
            info: self.info.clone(),
            key: self.key,
            server_nonce: self.server_nonce,
        }
    }

    /// The second request, and the share from its answer.
    pub(crate) async fn generate(self) -> Generated<'a> {
        let (reply, opener) = self.post().await;
        let said = json_of(&reply);
        assert_eq!(reply.status, 202, "{said}");
        let answer = Frame::parse(&opened(&said, &opener));
        assert_eq!((answer.kind, answer.sid), (2, self.sid));
        let theirs = Keygen2Reply::parse(&answer.body);
        let rest = self.rest();
        Generated {
            canary_nonce: self.second.2,
            share: self.opened.finish(&self.theirs, &theirs.0),
            theirs,
            keygen: rest,
        }
    }
}

impl Rest<'_> {
    /// A request with this message.
    pub(crate) async fn post(&self, kind: &str, frame: &Frame) -> (Reply, Opener) {
        let mut info = self.info.clone();
        info.kind = kind.to_owned();
        let (sealed, opener) = envelope::seal(&self.key, &info, &frame.bytes());
        let request = ContinueProfile {
            profile_id: info.profile,
            keygen_session_id: info.session,
            client_share: client_share(self.wallet, sealed),
        };
        let request = Request::post(api::PROFILES, &request).unwrap();
        let reply = deliver(
            self.appliance,
            &signed(self.appliance, self.wallet, &request),
        )
        .await;
        (reply, opener)
    }
}

impl Generated<'_> {
    /// The canary's binding as both parties should have it.
    pub(crate) fn canary(&self) -> countersign_attacker::hashes::Binding {
        self.keygen.binding.canary(self.keygen.server_nonce)
    }

    /// An honest third message under this binding; the parties may disagree.
    pub(crate) fn third(
        &self,
        binding: &countersign_attacker::hashes::Binding,
    ) -> Result<(Answered, [u8; 32], Keygen3), String> {
        let sign_id = binding.sign_id(&self.canary_nonce);
        let (started, first) = sign::start(&self.share, sign_id, binding.digest);
        let (answered, second) = started.answer(&self.share, &self.theirs.1)?;
        Ok((answered, sign_id, (first, second)))
    }

    /// The third request.
    pub(crate) async fn post(&self, sign_id: [u8; 32], third: &Keygen3) -> (Reply, Opener) {
        let frame = Frame::of_wallet(3, sign_id, third);
        self.keygen.post("kg3", &frame).await
    }
}

/// P2's third answer.
pub(crate) fn closing(reply: &Reply, opener: &Opener) -> Closing {
    let plaintext = opened(&json_of(reply), opener);
    Closing::parse(&Frame::parse(&plaintext).body)
}
