//! Every field of every request, with the value of another valid session, profile, device or owner in its place (A06).

use countersign_client::api;
use countersign_client::flows::create::client_share;
use countersign_client::flows::devices;
use countersign_client::keystore::Wallet;
use countersign_client::transport::Request;
use countersign_mpc::envelope::MessageType;
use countersign_mpc::owner_proof::Algorithm;
use serde_json::{Value, json};

use crate::bad_input::state;
use crate::devices::{copy_of, enrolled};
use crate::support::signing::{deliver, fresh_key, get, post, refusal, signed, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, wallet_of};

/// What takes part: two devices of one owner and one of another, each with a prepared session.
struct Cast<'a> {
    appliance: &'a Appliance,
    first: &'a Wallet,
    second: &'a Wallet,
    other: &'a Wallet,
    /// Of the first device.
    session: String,
    /// Those it could be mistaken for: its own second one, the second device's, the other owner's.
    sessions: [String; 3],
    /// Sealed first messages of these four, in this order.
    messages: Vec<String>,
    /// Of the owner and of the other one.
    keygens: [String; 2],
}

type Case<'a> = (
    String,
    &'a Wallet,
    String,
    Option<Value>,
    (u16, &'static str),
);

impl Cast<'_> {
    fn round(&self, session: &str, message: usize) -> Value {
        json!({"sessionId": session, "p1SignatureShare": self.messages[message]})
    }

    fn of_signing(&self) -> Vec<Case<'_>> {
        let nowhere = (404, "NOT_FOUND");
        let unopened = (400, "INVALID_KEY_SHARE");
        let path = || api::SIGN.to_owned();
        let restart = |session: &str| json!({"sessionId": session, "restart": true});
        let mut cases: Vec<Case<'_>> = Vec::new();
        // The session: its own second one is open to the device, and takes no message of the first.
        for (number, session) in self.sessions.iter().enumerate() {
            let expected = if number == 0 { unopened } else { nowhere };
            let body = self.round(session, 0);
            cases.push((
                format!("message, session {number}"),
                self.first,
                path(),
                Some(body),
                expected,
            ));
            if number > 0 {
                let body = restart(session);
                cases.push((
                    format!("restart, session {number}"),
                    self.first,
                    path(),
                    Some(body),
                    nowhere,
                ));
                let path = api::session_path(session);
                cases.push((
                    format!("look, session {number}"),
                    self.first,
                    path,
                    None,
                    nowhere,
                ));
            }
            // The message.
            let body = self.round(&self.session, number + 1);
            cases.push((
                format!("message {number}"),
                self.first,
                path(),
                Some(body),
                unopened,
            ));
        }
        let keygen = &self.keygens[0];
        let body = self.round(keygen, 0);
        cases.push((
            "message, a key generation".to_owned(),
            self.first,
            path(),
            Some(body),
            nowhere,
        ));
        let body = restart(keygen);
        cases.push((
            "restart, a key generation".to_owned(),
            self.first,
            path(),
            Some(body),
            nowhere,
        ));
        // The device.
        for (who, device) in [("second", self.second), ("other", self.other)] {
            let body = self.round(&self.session, 0);
            cases.push((
                format!("message by {who}"),
                device,
                path(),
                Some(body),
                nowhere,
            ));
            let body = restart(&self.session);
            cases.push((
                format!("restart by {who}"),
                device,
                path(),
                Some(body),
                nowhere,
            ));
            let path = api::session_path(&self.session);
            cases.push((format!("look by {who}"), device, path, None, nowhere));
        }
        cases
    }

    fn of_profiles(&self) -> Vec<Case<'_>> {
        let (mine, theirs) = (profile(self.first), profile(self.other));
        let no_profile = (404, "PROFILE_NOT_FOUND");
        let mut cases: Vec<Case<'_>> = Vec::new();
        for (what, id, by) in [
            ("another's profile", &theirs, self.first),
            ("by another", &mine, self.other),
        ] {
            let of_device = api::revoke_path(id, &self.second.device().thumbprint());
            let asked = json!(devices::ask(self.second, &self.appliance.client, "n").unwrap());
            for (path, body) in [
                (api::profile_path(id), None),
                (api::devices_path(id), None),
                (api::transactions_path(id), Some(transaction(1))),
                (api::devices_path(id), Some(asked)),
                (of_device, Some(json!({}))),
            ] {
                cases.push((format!("{what}: {path}"), by, path, body, no_profile));
            }
        }
        let foreign = api::revoke_path(&mine, &self.other.device().thumbprint());
        let body = Some(json!({}));
        cases.push((
            "another's device".to_owned(),
            self.first,
            foreign,
            body,
            (404, "NOT_FOUND"),
        ));
        let asked = devices::ask(self.other, &self.appliance.client, "n").unwrap();
        let path = api::devices_path(&mine);
        let invalid = (400, "INVALID_REQUEST");
        cases.push((
            "enrolment for another".to_owned(),
            self.first,
            path,
            Some(json!(asked)),
            invalid,
        ));
        cases
    }

    fn of_key_generation(&self) -> Vec<Case<'_>> {
        let (mine, theirs) = (profile(self.first), profile(self.other));
        let [own, foreign] = &self.keygens;
        let body = |id: &str, session: &str, device: &Wallet| {
            let share = client_share(device, "mw1.kg2.k.x".to_owned());
            Some(json!({"profileId": id, "keygenSessionId": session, "clientShare": share}))
        };
        let (first, second, other) = (self.first, self.second, self.other);
        let nowhere = (404, "NOT_FOUND");
        let no_profile = (404, "PROFILE_NOT_FOUND");
        let unsigned = (401, "SIGNATURE_INVALID");
        [
            ("profile", first, body(&theirs, own, first), no_profile),
            (
                "profile and session",
                first,
                body(&theirs, foreign, first),
                no_profile,
            ),
            ("session", first, body(&mine, foreign, first), nowhere),
            (
                "a signing session",
                first,
                body(&mine, &self.session, first),
                nowhere,
            ),
            (
                "by the second device",
                second,
                body(&mine, own, second),
                nowhere,
            ),
            ("by another", other, body(&mine, own, other), no_profile),
            (
                "the second's key",
                first,
                body(&mine, own, second),
                unsigned,
            ),
            ("another's key", first, body(&mine, own, other), unsigned),
        ]
        .map(|(what, by, body, expected)| {
            (
                format!("key generation: {what}"),
                by,
                api::PROFILES.to_owned(),
                body,
                expected,
            )
        })
        .into()
    }

    /// Each field of a whole request after it was signed.
    async fn signed_fields(&self) {
        let path = api::transactions_path(&profile(self.first));
        let own = || {
            let request = Request::post(&path, &transaction(1)).unwrap();
            signed(
                self.appliance,
                self.first,
                &request.with_idempotency_key(fresh_key()),
            )
        };
        let theirs = Request::post(&path, &transaction(2)).unwrap();
        let theirs = theirs.with_idempotency_key(fresh_key());
        for device in [self.second, self.other] {
            let another = signed(self.appliance, device, &theirs);
            for (name, value) in &another.headers {
                let mut mixed = own();
                let mut headers = mixed.headers.iter_mut();
                let header = headers.find(|(header, _)| header == name).unwrap();
                if header.1 == *value {
                    continue;
                }
                header.1.clone_from(value);
                let reply = deliver(self.appliance, &mixed).await;
                assert_eq!(
                    refusal(&reply),
                    (401, "SIGNATURE_INVALID".to_owned()),
                    "{name}"
                );
            }
            let mut mixed = own();
            mixed.body = another.body;
            let reply = deliver(self.appliance, &mixed).await;
            assert_eq!(refusal(&reply).0, 401, "the body");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a06_matrix() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let first = wallet_of(&appliance, &node, "first").await;
    let second = enrolled(&appliance, &first, "second", Algorithm::Ed25519).await;
    let other = wallet_of(&appliance, &node, "other").await;
    let mut sessions = Vec::new();
    for (wallet, wei) in [(&first, 1), (&first, 2), (&second, 3), (&other, 4)] {
        sessions.push(Signing::prepare(&appliance, wallet, wei).await);
    }
    let mut messages = Vec::new();
    for signing in &sessions {
        let (_, message) = signing.first();
        messages.push(signing.sealed(MessageType::Sign1, &message).await.0);
    }
    let id = |number: usize| sessions[number].prepared.session_id.clone();
    let keygen = |wallet| {
        let of = profile(wallet);
        let query = format!(
            "SELECT session_id FROM sessions WHERE kind = 'keygen' AND profile_id = '{of}'"
        );
        appliance.database().value(&query)
    };
    let cast = Cast {
        appliance: &appliance,
        first: &first,
        second: &second,
        other: &other,
        session: id(0),
        sessions: [id(1), id(2), id(3)],
        messages,
        keygens: [keygen(&first), keygen(&other)],
    };
    let before = state(&appliance);
    let cases = [
        cast.of_signing(),
        cast.of_profiles(),
        cast.of_key_generation(),
    ]
    .concat();
    assert!(cases.len() >= 38, "{}", cases.len());
    for (what, by, path, body, (status, code)) in cases {
        let reply = match &body {
            Some(body) => post(&appliance, by, &path, body, Some(&fresh_key())).await,
            None => get(&appliance, by, &path).await,
        };
        assert_eq!(refusal(&reply), (status, code.to_owned()), "{what}");
        assert_eq!(state(&appliance), before, "{what}");
    }
    cast.signed_fields().await;
    assert_eq!(state(&appliance), before);

    // The idempotency key of another device of the same owner names its request, not this one.
    let key = fresh_key();
    let path = api::transactions_path(&profile(&first));
    let made = post(&appliance, &first, &path, &transaction(9), Some(&key)).await;
    assert_eq!(made.status, 200);
    let before = state(&appliance);
    let reply = post(&appliance, &second, &path, &transaction(9), Some(&key)).await;
    assert_eq!(refusal(&reply), (422, "IDEMPOTENCY_MISMATCH".to_owned()));
    assert_eq!(state(&appliance), before);
    // Every session still does what it was made for.
    for signing in &sessions {
        signing.complete().await;
    }
    let stranger = copy_of(&appliance, &first, "stranger", Algorithm::P256);
    let reply = get(&appliance, &stranger, &api::profile_path(&profile(&first))).await;
    assert_eq!(refusal(&reply), (401, "SIGNATURE_INVALID".to_owned()));
}
