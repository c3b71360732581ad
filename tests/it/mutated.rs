//! Altered messages and requests in great number, over the network, against the whole appliance (A12): no panic, no
//! acceptance, no 5xx but `MPC_SIGNING_FAILED`, bounded memory.
//!
//! In the process alone, `mpc/src/mutated_tests` delivers many more of them.

use std::collections::BTreeMap;
use std::time::Instant;

use countersign_client::api;
use countersign_client::flows::create::client_share;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request};
use countersign_mpc::envelope::MessageType;
use countersign_mpc::owner_proof::{self, BodyHash, RequestParts};
use serde_json::json;

use crate::support::signing::{deliver, fresh_key, json_of, refusal, signed, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, wallet_of};

#[path = "../../mpc/src/mutated_tests/layout.rs"]
#[expect(
    dead_code,
    reason = "only what a wallet sends when it signs is altered here"
)]
mod layout;
#[path = "../../mpc/src/mutated_tests/program.rs"]
mod program;

use layout::Layout;
use program::alter;

/// Requests of each kind, in turns: most are refused early, so that there are many.
const KINDS: u64 = 10;

/// Numbers that are the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// A text with a few characters exchanged, removed or repeated.
    fn altered(&mut self, text: &str) -> String {
        let mut altered: Vec<char> = text.chars().collect();
        for _ in 0..=self.below(3) {
            if altered.is_empty() {
                break;
            }
            let at = self.below(altered.len());
            match self.below(4) {
                0 => altered[at] = char::from(u8::try_from(self.below(94)).unwrap() + 33),
                1 => drop(altered.remove(at)),
                2 => altered.insert(at, altered[at]),
                _ => altered.truncate(at.max(1)),
            }
        }
        let altered: String = altered.into_iter().collect();
        if altered == text {
            return altered + "A";
        }
        altered
    }
}

/// A wallet and the session that altered messages are sent in, until it is used up.
struct Target<'a> {
    appliance: &'a Appliance,
    node: &'a Node,
    wallets: u32,
}

impl Target<'_> {
    async fn wallet(&mut self) -> Wallet {
        self.wallets += 1;
        wallet_of(self.appliance, self.node, &format!("w{}", self.wallets)).await
    }
}

/// What came back, counted; whatever must not come back fails here.
#[derive(Default)]
struct Answers(BTreeMap<String, u64>);

impl Answers {
    fn count(&mut self, kind: &str, reply: &Reply) {
        let said = match reply.status {
            200 | 202 => reply.status.to_string(),
            _ => {
                let (status, code) = refusal(reply);
                let fails = status >= 500 && code != "MPC_SIGNING_FAILED";
                assert!(!fails, "{kind}: {}", json_of(reply));
                format!("{status} {code}")
            }
        };
        *self.0.entry(format!("{kind}: {said}")).or_default() += 1;
    }
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse::<u64>().unwrap() / 1024
}

/// As the program says, or cut, if it says nothing.
fn really_altered(honest: &[u8], other: &[u8], layout: &Layout, program: &[u8]) -> Vec<u8> {
    let altered = alter(honest, other, layout, program);
    if altered == honest {
        return honest[..honest.len() - 1].to_vec();
    }
    altered
}

/// Altered first and second messages, sealed and signed as they should be. Whether the key is still good after it.
async fn protocol_message(
    target: &Target<'_>,
    wallet: &Wallet,
    dice: &mut Dice,
    answers: &mut Answers,
) -> bool {
    let signing = Signing::prepare(target.appliance, wallet, 1).await;
    let second = dice.below(2) == 1;
    let length = 4 + dice.below(24);
    let program = dice.bytes(length);
    let reply = if second {
        let (answer, kept) = signing.round_1().await;
        assert_eq!(answer.status, 202, "{}", json_of(&answer));
        let honest = signing.second(kept, &answer);
        let (_, other) = signing.first();
        let altered = really_altered(&honest, &other, &Layout::second_and_last(), &program);
        let (sealed, _) = signing.sealed(MessageType::Sign2, &altered).await;
        let reply = signing.post(&sealed).await;
        answers.count("second message", &reply);
        reply
    } else {
        let (_, honest) = signing.first();
        let (_, other) = signing.first();
        let altered = really_altered(&honest, &other, &Layout::sg1(), &program);
        let (reply, _) = signing.post_first(&altered).await;
        answers.count("first message", &reply);
        reply
    };
    assert_ne!(reply.status, 200, "an altered message was signed");
    // The session may wait for a second message still: what is altered of the first one can show as late as that, and what
    // is too long does not reach it. No other session of the key could begin.
    let (sealed, _) = signing.sealed(MessageType::Sign2, &[0; 64]).await;
    assert_ne!(signing.post(&sealed).await.status, 200);
    let state = format!(
        "SELECT key_state FROM profiles WHERE profile_id = '{}'",
        profile(wallet)
    );
    let good = target.appliance.database().value(&state) == "stable";
    let hash = format!(
        "SELECT COUNT(*) FROM transactions WHERE session_id = '{}' AND state IN ('signed', 'submitted', 'mined')",
        signing.prepared.session_id
    );
    assert_eq!(target.appliance.database().number(&hash), 0);
    good
}

/// An open session of a wallet that nobody else uses, and its honest first message.
struct Open {
    wallet: Wallet,
    session_id: String,
    sealed: String,
}

impl Open {
    async fn renew(&mut self, appliance: &Appliance) {
        let signing = Signing::prepare(appliance, &self.wallet, 1).await;
        let (_, honest) = signing.first();
        let (sealed, _) = signing.sealed(MessageType::Sign1, &honest).await;
        let session_id = signing.prepared.session_id.clone();
        (self.session_id, self.sealed) = (session_id, sealed);
    }

    /// What is altered of a request, its path and its body.
    fn request(&self, kind: u64, dice: &mut Dice) -> (&'static str, String, String) {
        let (sign, id) = (api::SIGN.to_owned(), &self.session_id);
        match kind {
            1..=4 => {
                let text = dice.altered(&self.sealed);
                let body = json!({"sessionId": id, "p1SignatureShare": text});
                ("envelope", sign, body.to_string())
            }
            5 | 6 => {
                let body = json!({"sessionId": id, "p1SignatureShare": "mw1.sg1.k.AA"});
                ("body of a signature", sign, dice.altered(&body.to_string()))
            }
            7 | 8 => {
                let path = api::transactions_path(&profile(&self.wallet));
                let body = dice.altered(&transaction(1).to_string());
                ("body of a transaction", path, body)
            }
            _ => {
                let share = client_share(&self.wallet, "mw1.kg1.k.AA".to_owned());
                let body = json!({"name": "n", "clientShare": share}).to_string();
                let path = api::PROFILES.to_owned();
                ("body of a creation", path, dice.altered(&body))
            }
        }
    }
}

async fn altered_messages(messages: u64) {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let seed = std::env::var("COUNTERSIGN_SEED").map_or(7, |seed| seed.parse().unwrap());
    let (mut dice, mut answers) = (Dice(seed), Answers::default());
    let mut target = Target {
        appliance: &appliance,
        node: &node,
        wallets: 0,
    };
    let mut open = Open {
        wallet: target.wallet().await,
        session_id: String::new(),
        sealed: String::new(),
    };
    let mut wallet = target.wallet().await;
    let before = resident(appliance.pid());
    let (mut most, start) = (before, Instant::now());
    for number in 0..messages {
        if number % 1_000 == 0 {
            open.renew(&appliance).await;
        }
        match number % KINDS {
            0 => {
                if !protocol_message(&target, &wallet, &mut dice, &mut answers).await {
                    wallet = target.wallet().await;
                }
            }
            kind => {
                let (what, path, body) = open.request(kind, &mut dice);
                let reply = raw(&appliance, &open.wallet, &path, &body).await;
                assert!(what != "envelope" || reply.status >= 400, "it was opened");
                answers.count(what, &reply);
            }
        }
        most = most.max(resident(appliance.pid()));
    }
    let took = start.elapsed().as_secs_f64();
    for (answer, count) in &answers.0 {
        eprintln!("{count:>8}  {answer}");
    }
    eprintln!(
        "seed {seed}: {messages} in {took:.0} s, {} wallets; memory {before} MiB before, at most {most} MiB",
        target.wallets
    );
    assert!(!appliance.log().contains("panicked"), "a panic");
    assert!(most < before + 96, "{before} MiB became {most} MiB");
    // And it still works.
    let last = target.wallet().await;
    let signing = Signing::prepare(&appliance, &last, 2).await;
    signing.complete().await;
}

/// Signs and sends a body that may be no JSON.
async fn raw(appliance: &Appliance, wallet: &Wallet, path: &str, body: &str) -> Reply {
    let key = fresh_key();
    let request = Request::post(path, &json!({})).unwrap();
    let request = request.with_idempotency_key(&key);
    let mut request = signed(appliance, wallet, &request);
    let parts = RequestParts {
        method: "POST",
        path,
        query: "",
        content_type: Some("application/json"),
        audience: &appliance.client.config().audience,
        idempotency_key: Some(&key),
        authorization: None,
        body: Some(BodyHash::of(body.as_bytes())),
    };
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).unwrap();
    let now = countersign_client::clock::now();
    let proof = owner_proof::sign(wallet.device(), &parts, now, nonce).unwrap();
    for (name, value) in &mut request.headers {
        match *name {
            "content-digest" => *value = proof.content_digest.clone().unwrap(),
            "signature-input" => value.clone_from(&proof.signature_input),
            "signature" => value.clone_from(&proof.signature),
            _ => {}
        }
    }
    request.body = Some(body.as_bytes().to_vec());
    deliver(appliance, &request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_fuzz_altered_messages_and_requests_are_refused_by_the_appliance() {
    altered_messages(200).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: run by `make test-long`"]
async fn a12_fuzz_twenty_thousand_altered_messages_and_requests_are_refused_by_the_appliance() {
    let asked = std::env::var("COUNTERSIGN_REQUESTS");
    altered_messages(asked.map_or(20_000, |count| count.parse().unwrap())).await;
}
