//! An authenticator: `oathtool`, which shares no code with us.

use std::process::Command;
use std::time::Duration;

use countersign_client::flows::{MessageBinding, seal};
use countersign_client::keystore::Wallet;
use countersign_client::transport::Reply;
use countersign_mpc::envelope::{MessageType, ResponseOpener};
use serde_json::{Value, json};

use super::Appliance;
use super::signing::{fresh_key, json_of, post};
use super::wallet::profile;

/// What the owner of a wallet got when they enrolled a second factor.
pub(crate) struct Authenticator {
    pub(crate) enrolment: String,
    pub(crate) uri: String,
    pub(crate) secret: String,
    pub(crate) recovery: Vec<String>,
}

fn now() -> i64 {
    countersign::clock::now().as_seconds()
}

/// Waits for the beginning of a step, unless it is near: what a test does then is over before the next one.
pub(crate) async fn early_in_a_step() {
    let into = now() % 30;
    if into > 8 {
        tokio::time::sleep(Duration::from_secs(30 - into.unsigned_abs())).await;
    }
}

impl Authenticator {
    /// What is shown at the present step, or some steps away from it.
    pub(crate) fn code(&self, steps: i64) -> String {
        let time = now() + steps * 30;
        let output = Command::new("oathtool")
            .args([
                "--totp",
                "--base32",
                &format!("--now=@{time}"),
                &self.secret,
            ])
            .output()
            .expect("oathtool: scripts/setup.sh programs installs it");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Six digits that are not shown at any step near.
    pub(crate) fn wrong(&self) -> String {
        let shown: Vec<String> = (-4..=4).map(|steps| self.code(steps)).collect();
        let wrong = (0..).map(|code| format!("{code:06}"));
        wrong
            .into_iter()
            .find(|code| !shown.contains(code))
            .unwrap()
    }
}

/// `/api/v1/profiles/{id}/2fa…`
pub(crate) fn path(wallet: &Wallet, verb: &str) -> String {
    path_of(&profile(wallet), verb)
}

/// The same, of any profile.
pub(crate) fn path_of(profile: &str, verb: &str) -> String {
    format!("/api/v1/profiles/{profile}/2fa{verb}")
}

/// The message of an enrolment, for this idempotency key.
pub(crate) async fn sealed(
    appliance: &Appliance,
    wallet: &Wallet,
    key: &str,
    message: &[u8],
) -> (String, ResponseOpener) {
    sealed_for(appliance, (wallet, &profile(wallet)), key, message).await
}

async fn sealed_for(
    appliance: &Appliance,
    (wallet, profile): (&Wallet, &str),
    key: &str,
    message: &[u8],
) -> (String, ResponseOpener) {
    let client = &appliance.client;
    let identity = client.identity().await.unwrap();
    let place = MessageBinding {
        profile_id: profile,
        session_id: key,
        key_generation: 0,
        attempt: 1,
    };
    let kind = MessageType::TwoFactorEnrol;
    seal(client, &identity, wallet, kind, place, message).unwrap()
}

/// Asks for an enrolment.
pub(crate) async fn ask(
    appliance: &Appliance,
    wallet: &Wallet,
    code: Option<&str>,
) -> (Reply, ResponseOpener) {
    ask_for(appliance, (wallet, &profile(wallet)), code).await
}

/// The same, with the device of a wallet for any profile.
pub(crate) async fn ask_for(
    appliance: &Appliance,
    (wallet, profile): (&Wallet, &str),
    code: Option<&str>,
) -> (Reply, ResponseOpener) {
    let key = fresh_key();
    let (share, opener) = sealed_for(appliance, (wallet, profile), &key, &[]).await;
    let mut body = json!({"clientShare": {"share": share}});
    if let Some(code) = code {
        body["twoFactorCode"] = json!(code);
    }
    let path = path_of(profile, "");
    let reply = post(appliance, wallet, &path, &body, Some(&key)).await;
    (reply, opener)
}

/// What an answer to [`ask`] says.
pub(crate) fn told(reply: &Reply, opener: &ResponseOpener) -> Authenticator {
    let said = json_of(reply);
    assert_eq!(reply.status, 201, "{said}");
    let plaintext = opener.open(said["sealed"].as_str().unwrap()).unwrap();
    let told: Value = serde_json::from_slice(&plaintext).unwrap();
    let uri = told["otpauth"].as_str().unwrap().to_owned();
    let (_, secret) = uri.split_once("?secret=").unwrap();
    Authenticator {
        enrolment: said["enrolmentId"].as_str().unwrap().to_owned(),
        secret: secret.split('&').next().unwrap().to_owned(),
        recovery: serde_json::from_value(told["recoveryCodes"].clone()).unwrap(),
        uri,
    }
}

/// Begins an enrolment.
pub(crate) async fn begin(
    appliance: &Appliance,
    wallet: &Wallet,
    code: Option<&str>,
) -> Authenticator {
    let (reply, opener) = ask(appliance, wallet, code).await;
    told(&reply, &opener)
}

/// Sends the first code.
pub(crate) async fn activate(
    appliance: &Appliance,
    wallet: &Wallet,
    enrolment: &str,
    code: &str,
) -> Reply {
    let body = json!({"enrolmentId": enrolment, "twoFactorCode": code});
    let path = path(wallet, "/activate");
    post(appliance, wallet, &path, &body, None).await
}

/// Enrols a second factor, which uses the code before the present one.
pub(crate) async fn with_factor(appliance: &Appliance, wallet: &Wallet) -> Authenticator {
    early_in_a_step().await;
    let authenticator = begin(appliance, wallet, None).await;
    let enrolment = &authenticator.enrolment;
    let reply = activate(appliance, wallet, enrolment, &authenticator.code(-1)).await;
    assert_eq!(json_of(&reply)["status"], "active", "{}", json_of(&reply));
    authenticator
}
