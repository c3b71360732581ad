//! A wallet that cheats. Its requests are signed and sent as an honest one's; what is in them is made by
//! `countersign-attacker`, which shares no code with the product, and by the test.

use countersign_attacker::envelope::{self, Info, Opener};
use countersign_attacker::hashes::Binding;
use countersign_attacker::share::Share;
use countersign_attacker::sign::{self, Started};
use countersign_attacker::wire::{Closing, First, Frame, Last, Message, Second, Sign1, Sign1Reply};
use countersign_attacker::{cheat, random};
use countersign_client::keystore::Wallet;
use countersign_client::transport::Reply;

use super::signing::json_of;
use super::wallet::profile;
use super::{Appliance, Signing};

/// The kinds of frames and envelopes of a signature.
pub(crate) const SIGN_1: (u8, &str) = (4, "sg1");
pub(crate) const SIGN_2: (u8, &str) = (5, "sg2");

/// A wallet in the hands of an attacker.
pub(crate) struct Attacker<'a> {
    pub(crate) wallet: &'a Wallet,
    /// Its share: the attacker has it.
    pub(crate) share: Share,
    kid: String,
    key: [u8; 32],
}

impl<'a> Attacker<'a> {
    /// Takes a wallet over.
    pub(crate) async fn of(appliance: &Appliance, wallet: &'a Wallet) -> Self {
        let stored = wallet.current_share().unwrap().to_bytes().unwrap();
        let document = appliance.client.identity_document().await.unwrap();
        Self {
            wallet,
            share: Share::of_stored(&stored),
            kid: document.kem.kid,
            key: document.kem.public_key,
        }
    }

    /// Seals what is bound to `info`.
    pub(crate) fn seal(&self, info: &Info, plaintext: &[u8]) -> (String, Opener) {
        envelope::seal(&self.key, info, plaintext)
    }

    /// What a message of this kind of a session is bound to, if it is honest.
    pub(crate) fn info(&self, signing: &Signing<'_>, kind: &str) -> Info {
        let binding = signing.binding();
        Info {
            environment: binding.environment_id,
            tenant: "default".to_owned(),
            kind: kind.to_owned(),
            kid: self.kid.clone(),
            device: binding.device_thumbprint,
            profile: profile(self.wallet),
            session: binding.session_id,
            generation: binding.key_generation,
            attempt: u64::from(binding.attempt),
        }
    }
}

/// What a signature of this session is bound to, if it is honest.
pub(crate) fn binding(signing: &Signing<'_>) -> Binding {
    let honest = signing.binding();
    Binding {
        environment: honest.environment_id,
        profile: honest.profile_id,
        device: honest.device_thumbprint,
        generation: honest.key_generation,
        session: honest.session_id,
        attempt: u64::from(honest.attempt),
        index: u64::from(honest.index),
        server_nonce: honest.server_nonce,
        decision: honest.policy_decision_id,
        purpose: "transaction".to_owned(),
        digest: honest.digest,
    }
}

/// A first message in the making.
pub(crate) struct Attempt {
    pub(crate) sign_id: [u8; 32],
    pub(crate) digest: [u8; 32],
    pub(crate) nonce: [u8; 32],
    pub(crate) started: Started,
    /// To be altered.
    pub(crate) first: First,
}

impl Attempt {
    /// An honest one under this binding.
    pub(crate) fn new(share: &Share, binding: &Binding) -> Self {
        let nonce = random();
        let sign_id = binding.sign_id(&nonce);
        let (started, first) = sign::start(share, sign_id, binding.digest);
        Self {
            sign_id,
            digest: binding.digest,
            nonce,
            started,
            first,
        }
    }

    /// Asks about a row.
    pub(crate) fn probing(mut self, share: &Share, row: usize) -> Self {
        let sent = cheat::probe(share, &mut self.first, &self.sign_id, &self.digest, row);
        self.started.sent(sent);
        self
    }

    /// sg1.
    pub(crate) fn frame(&self) -> Frame {
        let body: Sign1 = (self.nonce, self.first.clone());
        Frame::of_wallet(SIGN_1.0, self.sign_id, &body)
    }

    /// The attempt goes on with the answer to sg1: sg2, before it is altered.
    pub(crate) fn closing(self, share: &Share, answer: &[u8]) -> (Second, Last) {
        let frame = Frame::parse(answer);
        assert_eq!((frame.kind, frame.sid, frame.from), (4, self.sign_id, 2));
        let (first, second) = Sign1Reply::parse(&frame.body);
        let (answered, ours) = self.started.answer(share, &first).unwrap();
        let last = answered.close(share, &second).unwrap();
        (ours, last)
    }
}

/// sg2.
pub(crate) fn closing_frame(sign_id: [u8; 32], second: Second, last: Last) -> Frame {
    let body: Closing = (second, last);
    Frame::of_wallet(SIGN_2.0, sign_id, &body)
}

/// A prepared transaction whose signature is attacked.
pub(crate) struct Attack<'a> {
    pub(crate) by: &'a Attacker<'a>,
    pub(crate) signing: Signing<'a>,
}

impl<'a> Attack<'a> {
    /// Prepares a transaction of `wei`.
    pub(crate) async fn prepare(appliance: &'a Appliance, by: &'a Attacker<'a>, wei: u64) -> Self {
        let signing = Signing::prepare(appliance, by.wallet, wei).await;
        Self { by, signing }
    }

    /// An honest first message.
    pub(crate) fn attempt(&self) -> Attempt {
        Attempt::new(&self.by.share, &binding(&self.signing))
    }

    /// A first message that asks about a row.
    pub(crate) fn probe(&self, row: usize) -> Attempt {
        self.attempt().probing(&self.by.share, row)
    }

    /// Sealed to this session.
    pub(crate) fn sealed(&self, kind: &str, frame: &Frame) -> (String, Opener) {
        let info = self.by.info(&self.signing, kind);
        self.by.seal(&info, &frame.bytes())
    }

    /// Posts a first message.
    pub(crate) async fn post_first(&self, attempt: &Attempt) -> (Reply, Opener) {
        let (sealed, opener) = self.sealed(SIGN_1.1, &attempt.frame());
        (self.signing.post(&sealed).await, opener)
    }

    /// Posts a second message.
    pub(crate) async fn post_second(&self, sign_id: [u8; 32], second: Second, last: Last) -> Reply {
        let frame = closing_frame(sign_id, second, last);
        let (sealed, _) = self.sealed(SIGN_2.1, &frame);
        self.signing.post(&sealed).await
    }

    /// The second message to the answer of the first, before it is altered.
    pub(crate) fn closing(
        &self,
        attempt: Attempt,
        answer: &Reply,
        opener: &Opener,
    ) -> (Second, Last) {
        attempt.closing(&self.by.share, &opened(answer, opener))
    }
}

/// The plaintext of an answer.
pub(crate) fn opened(answer: &Reply, opener: &Opener) -> Vec<u8> {
    let said = json_of(answer);
    opener.open(said["mpcMessage"].as_str().unwrap()).unwrap()
}
