//! [`Node`] against anvil, and against servers that lie, stall and flood.
//!
//! anvil is the program in COUNTERSIGN_ANVIL, or the one that `scripts/setup.sh peers` installs; without it these tests fail.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, Bytes, U256, address, hex, keccak256};
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{
    Broadcast, FeePolicy, FeeRefusal, Fees, Node, NodeError, NodeLimits, NodeUrl, Outcome,
    Preparation, Refusal, SignedTransaction, Terms, TransactionRequest, Unsigned1559,
};

const CHAIN: u64 = 31_337;
const RECIPIENT: Address = address!("5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed");
const GWEI: u128 = 1_000_000_000;

pub(super) fn install_crypto_provider() {
    // Fails if another test of this process was first.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

fn node(chain_id: u64, address: SocketAddr) -> Node {
    install_crypto_provider();
    let url = NodeUrl::parse(&format!("http://{address}/?key=secret-token")).unwrap();
    let limits = NodeLimits {
        deadline: Duration::from_secs(2),
        ..NodeLimits::default()
    };
    Node::new(chain_id, url, limits).unwrap()
}

fn request(value: u64) -> TransactionRequest {
    TransactionRequest {
        chain_id: CHAIN,
        to: RECIPIENT,
        value: U256::from(value),
        data: Bytes::new(),
        gas: None,
        max_fee_per_gas: None,
        max_priority_fee_per_gas: None,
    }
}

const TERMS: Terms = Terms {
    fees: Fees {
        max_fee_per_gas: 10 * GWEI,
        max_priority_fee_per_gas: GWEI,
    },
    gas: 100_000,
};

/// A wallet with a whole key, in the place of the two-party one.
struct Wallet(SigningKey);

impl Wallet {
    /// The first account that anvil funds.
    fn rich() -> Self {
        let key = hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
        Self(SigningKey::from_slice(&key).unwrap())
    }

    fn poor() -> Self {
        Self(SigningKey::from_slice(&[7; 32]).unwrap())
    }

    fn address(&self) -> Address {
        let point = self.0.verifying_key().to_sec1_point(false);
        Address::from_raw_public_key(point.as_bytes().split_first().unwrap().1)
    }

    fn sign(&self, request: &TransactionRequest, nonce: u64, terms: Terms) -> SignedTransaction {
        let unsigned = Unsigned1559::new(request, nonce, terms).unwrap();
        let digest = unsigned.digest();
        let (signature, recovery) = self.0.sign_prehash_recoverable(&digest);
        let (r, s) = (signature.r().to_bytes(), signature.s().to_bytes());
        unsigned
            .sign(&r.into(), &s.into(), recovery.is_y_odd())
            .unwrap()
    }
}

struct Anvil {
    process: Child,
    address: SocketAddr,
}

impl Anvil {
    async fn start(options: &[&str]) -> Self {
        let program = std::env::var_os("COUNTERSIGN_ANVIL").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/anvil")),
            PathBuf::from,
        );
        // Free until now; a collision fails the test with anvil's own words.
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .unwrap();
        let process = Command::new(&program)
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--chain-id", &CHAIN.to_string(), "--hardfork", "prague", "--silent"])
            .args(options)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot start anvil ({}): {error}. Run `scripts/setup.sh peers` or set COUNTERSIGN_ANVIL",
                    program.display()
                )
            });
        let anvil = Self { process, address };
        let start = Instant::now();
        while let Err(error) = anvil.node().verify_chain_id().await {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "anvil does not start: {error}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anvil
    }

    fn node(&self) -> Node {
        node(CHAIN, self.address)
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        self.process.kill().expect("stop anvil");
        self.process.wait().expect("wait for anvil");
    }
}

async fn outcome(node: &Node, sent: &SignedTransaction, nonce: u64) -> Outcome {
    node.transaction_outcome(sent.hash, Wallet::rich().address(), nonce)
        .await
        .unwrap()
}

async fn mined(node: &Node, sent: &SignedTransaction, nonce: u64) -> (u64, bool) {
    for _ in 0..200 {
        if let Outcome::Mined {
            block_number,
            success,
        } = outcome(node, sent, nonce).await
        {
            return (block_number, success);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not mined");
}

#[tokio::test]
async fn anvil_mines_a_transaction_prepared_from_its_own_numbers() {
    let (anvil, wallet) = (Anvil::start(&[]).await, Wallet::rich());
    let node = anvil.node();
    let request = request(10_000_000_000_000_000);
    let preparation = node.prepare(wallet.address(), &request).await.unwrap();
    assert_eq!((preparation.nonce, preparation.gas), (0, 21_000));
    let terms = FeePolicy::default().terms(&request, &preparation).unwrap();
    let sent = wallet.sign(&request, preparation.nonce, terms);

    assert_eq!(outcome(&node, &sent, 0).await, Outcome::NotFound);
    assert_eq!(
        node.broadcast(&sent.raw).await,
        Broadcast::Accepted { hash_matches: true }
    );
    assert_eq!(mined(&node, &sent, 0).await, (1, true));
    let balance: U256 = node
        .ask("eth_getBalance", (RECIPIENT, "latest"))
        .await
        .unwrap();
    assert_eq!(balance, request.value);

    // The same bytes again: harmless, and the chain still says what became of them.
    assert!(matches!(
        node.broadcast(&sent.raw).await,
        Broadcast::AlreadyKnown | Broadcast::Rejected(Refusal::NonceTooLow)
    ));
    assert_eq!(mined(&node, &sent, 0).await, (1, true));
    assert_eq!(
        node.prepare(wallet.address(), &request)
            .await
            .unwrap()
            .nonce,
        1
    );
}

#[tokio::test]
async fn a28_a_waiting_transaction_is_pending_and_a_replaced_one_is_replaced() {
    let (anvil, wallet) = (Anvil::start(&["--no-mining"]).await, Wallet::rich());
    let node = anvil.node();
    let first = wallet.sign(&request(1), 0, TERMS);
    assert!(matches!(
        node.broadcast(&first.raw).await,
        Broadcast::Accepted { .. }
    ));
    assert_eq!(node.broadcast(&first.raw).await, Broadcast::AlreadyKnown);
    assert_eq!(outcome(&node, &first, 0).await, Outcome::Pending);
    assert_eq!(
        node.prepare(wallet.address(), &request(1))
            .await
            .unwrap()
            .nonce,
        1,
        "a waiting transaction counts"
    );

    let cheap = wallet.sign(&request(2), 0, TERMS);
    assert_eq!(
        node.broadcast(&cheap.raw).await,
        Broadcast::Rejected(Refusal::ReplacementUnderpriced)
    );
    let fees = Fees {
        max_fee_per_gas: 30 * GWEI,
        max_priority_fee_per_gas: 3 * GWEI,
    };
    let second = wallet.sign(&request(3), 0, Terms { fees, ..TERMS });
    assert!(matches!(
        node.broadcast(&second.raw).await,
        Broadcast::Accepted { .. }
    ));
    let _: Value = node.ask("hardhat_mine", ["0x1"]).await.unwrap();
    assert_eq!(mined(&node, &second, 0).await, (1, true));
    assert_eq!(outcome(&node, &first, 0).await, Outcome::ReplacedNonce);
}

#[tokio::test]
async fn refusals_of_anvil_are_understood() {
    let (anvil, wallet) = (Anvil::start(&[]).await, Wallet::rich());
    let node = anvil.node();
    let first = wallet.sign(&request(1), 0, TERMS);
    assert!(matches!(
        node.broadcast(&first.raw).await,
        Broadcast::Accepted { hash_matches: true }
    ));
    mined(&node, &first, 0).await;
    let foreign = TransactionRequest {
        chain_id: 1,
        ..request(1)
    };
    let no_fee = Fees {
        max_fee_per_gas: 0,
        max_priority_fee_per_gas: 0,
    };
    for (sent, refusal) in [
        (wallet.sign(&request(2), 0, TERMS), Refusal::NonceTooLow),
        (wallet.sign(&foreign, 1, TERMS), Refusal::WrongChain),
        (
            Wallet::poor().sign(&request(1), 0, TERMS),
            Refusal::InsufficientFunds,
        ),
        (
            wallet.sign(
                &request(1),
                1,
                Terms {
                    fees: no_fee,
                    ..TERMS
                },
            ),
            Refusal::FeeTooLow,
        ),
        (
            wallet.sign(
                &request(1),
                1,
                Terms {
                    gas: 1 << 60,
                    ..TERMS
                },
            ),
            Refusal::GasLimit,
        ),
    ] {
        assert_eq!(
            node.broadcast(&sent.raw).await,
            Broadcast::Rejected(refusal)
        );
    }
}

#[tokio::test]
async fn a_call_that_fails_is_refused_before_and_reported_after() {
    let (anvil, wallet) = (Anvil::start(&[]).await, Wallet::rich());
    let node = anvil.node();
    // PUSH1 0, PUSH1 0, REVERT.
    let _: Value = node
        .ask("hardhat_setCode", (RECIPIENT, "0x60006000fd"))
        .await
        .unwrap();
    let error = node
        .prepare(wallet.address(), &request(0))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            NodeError::Refused {
                refusal: Refusal::Reverted,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.is_about_request());

    let stubborn = TransactionRequest {
        gas: Some(60_000),
        ..request(0)
    };
    let preparation = node.prepare(wallet.address(), &stubborn).await.unwrap();
    assert_eq!(preparation.gas, 60_000);
    let sent = wallet.sign(&stubborn, 0, TERMS);
    assert!(matches!(
        node.broadcast(&sent.raw).await,
        Broadcast::Accepted { .. }
    ));
    assert_eq!(mined(&node, &sent, 0).await, (1, false));
}

#[tokio::test]
async fn a_wallet_without_funds_is_told_so_before_it_signs() {
    let anvil = Anvil::start(&[]).await;
    let (node, wallet) = (anvil.node(), Wallet::poor());
    let preparation = node.prepare(wallet.address(), &request(1)).await.unwrap();
    assert_eq!(preparation.balance, U256::ZERO);
    assert!(matches!(
        FeePolicy::default().terms(&request(1), &preparation),
        Err(FeeRefusal::InsufficientFunds { .. })
    ));
}

#[tokio::test]
async fn a29_a_real_node_of_another_chain_is_not_used() {
    let anvil = Anvil::start(&[]).await;
    let node = node(11_155_111, anvil.address);
    let mismatch = NodeError::ChainIdMismatch {
        expected: 11_155_111,
        reported: CHAIN,
    };
    let sent = Wallet::rich().sign(&request(1), 0, TERMS);
    assert_eq!(node.prepare(RECIPIENT, &request(1)).await, Err(mismatch));
    assert_eq!(
        node.broadcast(&sent.raw).await,
        Broadcast::Unknown(mismatch)
    );
    assert_eq!(
        node.transaction_outcome(sent.hash, RECIPIENT, 0).await,
        Err(mismatch)
    );
    // Nothing got there.
    assert_eq!(outcome(&anvil.node(), &sent, 0).await, Outcome::NotFound);
}

/// What a server that is no good node does when asked.
#[derive(Clone)]
enum Answer {
    /// A JSON-RPC result.
    Result(Value),
    /// A JSON-RPC error, with this HTTP status.
    Error(u16, &'static str),
    /// This HTTP answer, byte for byte.
    Http(String),
    /// Nothing, ever.
    Silence,
    /// A GiB, with or without saying so before.
    Flood { announced: bool },
    /// A byte now and then.
    Drip,
    /// The connection ends.
    HangUp,
    /// To many questions at once: the answer to each, last one first.
    Batch,
}

/// A server of 127.0.0.1 that answers each JSON-RPC method as told.
struct Liar {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    flooded: Arc<AtomicUsize>,
}

impl Liar {
    async fn start(answer: impl Fn(&str) -> Answer + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let liar = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            flooded: Arc::default(),
        };
        let (requests, flooded) = (liar.requests.clone(), liar.flooded.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                requests.fetch_add(1, Ordering::SeqCst);
                let (answer, flooded) = (answer.clone(), flooded.clone());
                tokio::spawn(async move {
                    // The client may hang up at any time: that is what is tested.
                    drop(lie(stream, answer, &flooded).await);
                });
            }
        });
        liar
    }

    /// A server that gives the right chain id and then this answer to everything.
    async fn then(answer: Answer) -> Self {
        Self::start(move |method| match method {
            "eth_chainId" => Answer::Result(json!("0x7a69")),
            _ => answer.clone(),
        })
        .await
    }

    fn node(&self) -> Node {
        node(CHAIN, self.address)
    }
}

/// Most of them know no batches.
fn batch(questions: &[Value], answer: &impl Fn(&str) -> Answer) -> String {
    if !matches!(answer("batch"), Answer::Batch) {
        return "HTTP/1.1 400 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
    }
    let answers = questions.iter().rev().map(|question| {
        let Answer::Result(result) = answer(question["method"].as_str().unwrap()) else {
            panic!("a batch is answered with results");
        };
        json!({ "jsonrpc": "2.0", "id": question["id"], "result": result })
    });
    let content = Value::Array(answers.collect()).to_string();
    let length = content.len();
    format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{content}")
}

async fn lie(
    mut stream: TcpStream,
    answer: impl Fn(&str) -> Answer,
    flooded: &AtomicUsize,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let body = loop {
        stream.read_buf(&mut request).await?;
        let text = String::from_utf8_lossy(&request);
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str::<Value>(body)
        {
            break body;
        }
    };
    if let Some(questions) = body.as_array() {
        stream
            .write_all(batch(questions, &answer).as_bytes())
            .await?;
        return stream.shutdown().await;
    }
    let json = |status: u16, mut content: Value| {
        for (name, value) in [("jsonrpc", &json!("2.0")), ("id", body.get("id").unwrap())] {
            content
                .as_object_mut()
                .unwrap()
                .insert(name.to_owned(), value.clone());
        }
        let content = content.to_string();
        format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{content}",
            content.len()
        )
    };
    match answer(body.get("method").unwrap().as_str().unwrap()) {
        Answer::Result(result) => {
            let answer = json(200, json!({ "result": result }));
            stream.write_all(answer.as_bytes()).await?;
        }
        Answer::Error(status, message) => {
            let answer = json(
                status,
                json!({ "error": { "code": -32_000, "message": message } }),
            );
            stream.write_all(answer.as_bytes()).await?;
        }
        Answer::Http(text) => stream.write_all(text.as_bytes()).await?,
        Answer::Silence => tokio::time::sleep(Duration::from_secs(60)).await,
        Answer::Flood { announced } => {
            let length = if announced {
                "content-length: 1073741824\r\n"
            } else {
                ""
            };
            let head = format!("HTTP/1.1 200 OK\r\n{length}connection: close\r\n\r\n\"");
            stream.write_all(head.as_bytes()).await?;
            for _ in 0..16 * 1024 {
                stream.write_all(&[b'a'; 64 * 1024]).await?;
                flooded.fetch_add(64 * 1024, Ordering::SeqCst);
            }
        }
        Answer::Drip => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                .await?;
            loop {
                stream.write_all(b" ").await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Answer::HangUp | Answer::Batch => {}
    }
    stream.shutdown().await
}

async fn prepare(liar: &Liar) -> Result<Preparation, NodeError> {
    liar.node().prepare(RECIPIENT, &request(1)).await
}

#[tokio::test]
async fn a29_a_wrong_chain_id_is_refused_before_anything_else_is_asked() {
    let liar = Liar::start(|_| Answer::Result(json!("0x1"))).await;
    assert_eq!(
        prepare(&liar).await,
        Err(NodeError::ChainIdMismatch {
            expected: CHAIN,
            reported: 1
        })
    );
    assert_eq!(liar.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a29_a_wrong_hash_is_noticed() {
    let liar = Liar::then(Answer::Result(json!(keccak256(b"other")))).await;
    let sent = Wallet::rich().sign(&request(1), 0, TERMS);
    assert_eq!(
        liar.node().broadcast(&sent.raw).await,
        Broadcast::Accepted {
            hash_matches: false
        }
    );
}

#[tokio::test]
async fn a29_a_flood_is_cut_off_at_the_limit() {
    for announced in [true, false] {
        let liar = Liar::then(Answer::Flood { announced }).await;
        let sent = Wallet::rich().sign(&request(1), 0, TERMS);
        assert_eq!(
            liar.node().broadcast(&sent.raw).await,
            Broadcast::Unknown(NodeError::TooLarge { limit: 1 << 20 })
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        let sent = liar.flooded.load(Ordering::SeqCst);
        // What the sockets hold is beyond our limit, but not much.
        assert!(sent < 32 << 20, "{sent} bytes were taken");
    }
}

#[tokio::test]
async fn a28_silence_after_sending_is_an_unknown_outcome() {
    for answer in [Answer::Silence, Answer::Drip] {
        let liar = Liar::then(answer).await;
        let sent = Wallet::rich().sign(&request(1), 0, TERMS);
        let start = Instant::now();
        assert_eq!(
            liar.node().broadcast(&sent.raw).await,
            Broadcast::Unknown(NodeError::Timeout)
        );
        assert!(start.elapsed() < Duration::from_secs(4));
    }
}

#[tokio::test]
async fn a28_a_broken_or_busy_node_is_an_unknown_outcome() {
    let http = |text: &str| Answer::Http(text.replace('\n', "\r\n"));
    for (answer, error) in [
        (Answer::HangUp, NodeError::Unreachable),
        (
            http("HTTP/1.1 200 OK\ncontent-length: 9\n\nnonsense!"),
            NodeError::Malformed,
        ),
        (
            http("HTTP/1.1 200 OK\ncontent-length: 2\n\n[]"),
            NodeError::Malformed,
        ),
        (
            http("HTTP/1.1 200 OK\ncontent-length: 0\n\n"),
            NodeError::Malformed,
        ),
        (
            http("HTTP/1.1 500 X\ncontent-length: 4\n\noops"),
            NodeError::Status(500),
        ),
        (
            http("HTTP/1.1 401 X\ncontent-length: 0\n\n"),
            NodeError::Status(401),
        ),
        (http("SSH-2.0-OpenSSH_9.2\n"), NodeError::Unreachable),
        (Answer::Error(429, "nonce too low"), NodeError::Status(429)),
        (Answer::Result(Value::Null), NodeError::Malformed),
        (Answer::Result(json!("0x12")), NodeError::Malformed),
        (
            Answer::Error(200, "Transaction reverted without a reason string"),
            NodeError::Refused {
                refusal: Refusal::Reverted,
                code: -32_000,
            },
        ),
        (
            Answer::Error(200, "request timed out"),
            NodeError::Refused {
                refusal: Refusal::Busy,
                code: -32_000,
            },
        ),
    ] {
        let liar = Liar::then(answer).await;
        let sent = Wallet::rich().sign(&request(1), 0, TERMS);
        assert_eq!(
            liar.node().broadcast(&sent.raw).await,
            Broadcast::Unknown(error)
        );
    }
}

#[tokio::test]
async fn a_refusal_with_an_http_error_is_still_the_node_s_word() {
    let liar = Liar::then(Answer::Error(400, "nonce too low")).await;
    let sent = Wallet::rich().sign(&request(1), 0, TERMS);
    assert_eq!(
        liar.node().broadcast(&sent.raw).await,
        Broadcast::Rejected(Refusal::NonceTooLow)
    );
}

#[tokio::test]
async fn a29_a_redirect_is_not_followed() {
    let elsewhere = Liar::start(|_| Answer::Result(json!("0x7a69"))).await;
    let location = format!(
        "HTTP/1.1 307 X\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
        elsewhere.address
    );
    let liar = Liar::start(move |_| Answer::Http(location.clone())).await;
    assert_eq!(prepare(&liar).await, Err(NodeError::Redirected));
    assert_eq!(elsewhere.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a29_numbers_that_are_none_are_refused() {
    for lie in [
        json!("0x1ffffffffffffffffffffffffffffffffff"),
        json!("-1"),
        json!({}),
        Value::Null,
    ] {
        let liar = Liar::then(Answer::Result(lie)).await;
        assert_eq!(prepare(&liar).await, Err(NodeError::Malformed));
    }
}

#[tokio::test]
async fn questions_are_one_batch_or_one_by_one_for_a_node_that_takes_none() {
    for (batches, first, second) in [(true, 2, 3), (false, 7, 12)] {
        let liar = Liar::start(move |method| match method {
            "batch" if batches => Answer::Batch,
            "eth_chainId" => Answer::Result(json!("0x7a69")),
            "eth_getTransactionCount" => Answer::Result(json!("0x1")),
            "eth_feeHistory" => Answer::Result(json!({ "baseFeePerGas": ["0x1", "0x2"] })),
            "eth_maxPriorityFeePerGas" => Answer::Result(json!("0x3")),
            "eth_estimateGas" => Answer::Result(json!("0x4")),
            _ => Answer::Result(json!("0x5")),
        })
        .await;
        let node = liar.node();
        let expected = Preparation {
            nonce: 1,
            base_fee: 2,
            priority_fee: 3,
            gas: 4,
            balance: U256::from(5),
        };
        for exchanges in [first, second] {
            assert_eq!(node.prepare(RECIPIENT, &request(1)).await, Ok(expected));
            assert_eq!(liar.requests.load(Ordering::SeqCst), exchanges);
        }
    }
}

#[tokio::test]
async fn a_chain_without_a_base_fee_is_said_to_be_one() {
    let liar = Liar::start(|method| {
        Answer::Result(match method {
            "eth_chainId" => json!("0x7a69"),
            "eth_feeHistory" => json!({ "baseFeePerGas": [] }),
            _ => json!("0x5208"),
        })
    })
    .await;
    assert_eq!(prepare(&liar).await, Err(NodeError::NoBaseFee));
}

#[tokio::test]
async fn a29_a_receipt_of_another_transaction_proves_nothing() {
    let liar = Liar::then(Answer::Result(json!({
        "transactionHash": keccak256(b"other"), "blockNumber": "0x1", "status": "0x1",
    })))
    .await;
    let outcome = liar.node().transaction_outcome([1; 32], RECIPIENT, 0).await;
    assert_eq!(outcome, Err(NodeError::Malformed));
}

#[tokio::test]
async fn a_node_that_was_away_is_used_when_it_is_back() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        node(CHAIN, free).verify_chain_id().await,
        Err(NodeError::Unreachable)
    );
    let asked = AtomicUsize::new(0);
    let asked = Arc::new(asked);
    let liar = Liar::start(move |_| {
        if asked.fetch_add(1, Ordering::SeqCst) == 0 {
            Answer::HangUp
        } else {
            Answer::Result(json!("0x7a69"))
        }
    })
    .await;
    let node = liar.node();
    assert_eq!(node.verify_chain_id().await, Err(NodeError::Unreachable));
    assert_eq!(node.verify_chain_id().await, Ok(()));
    // Matched once: not asked again.
    assert_eq!(node.verify_chain_id().await, Ok(()));
    assert_eq!(liar.requests.load(Ordering::SeqCst), 2);
}

/// Collects what the process would log.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a30_the_url_s_secret_is_in_no_log_at_any_level() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    for answer in [
        Answer::Result(json!("0x1")),
        Answer::HangUp,
        Answer::Silence,
    ] {
        let liar = Liar::then(answer).await;
        let error = prepare(&liar).await.unwrap_err();
        let shown = format!("{error} {error:?} {:?}", liar.node());
        assert!(
            !shown.contains("secret-token") && !shown.contains("127.0.0.1"),
            "{shown}"
        );
    }
    drop(guard);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("eth_chainId"), "nothing was logged: {log}");
    assert!(!log.contains("secret-token"), "{log}");
}
