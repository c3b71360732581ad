//! A local Ethereum node: anvil, mining each transaction at once.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::{eventually, free_port, root};

/// A running anvil. Its state survives [`Node::stop`] and [`Node::start_again`].
pub(crate) struct Node {
    chain: u64,
    port: u16,
    process: Option<Child>,
    state: Option<Value>,
    http: reqwest::Client,
}

impl Node {
    /// A node of [`super::CHAIN`].
    pub(crate) async fn start() -> Self {
        Self::of_chain(super::CHAIN).await
    }

    /// A node that says it is `chain`.
    pub(crate) async fn of_chain(chain: u64) -> Self {
        // Fails if another test of this process was first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let mut node = Self {
            chain,
            port: free_port(),
            process: None,
            state: None,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        };
        node.start_again().await;
        node
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts it on the same port with the state it had when it was stopped.
    pub(crate) async fn start_again(&mut self) {
        let program = std::env::var_os("COUNTERSIGN_ANVIL")
            .map_or_else(|| root().join("target/peers/anvil"), PathBuf::from);
        let process = Command::new(&program)
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--chain-id", &self.chain.to_string()])
            .args(["--hardfork", "prague", "--silent"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot start anvil ({}): {error}. Run `scripts/setup.sh peers` or set COUNTERSIGN_ANVIL",
                    program.display()
                )
            });
        self.process = Some(process);
        eventually("anvil answers", 10, async || {
            self.try_call("eth_chainId", json!([])).await
        })
        .await;
        if let Some(state) = self.state.take() {
            self.call("anvil_loadState", json!([state])).await;
        }
    }

    /// Stops it: connections are refused from now on.
    pub(crate) async fn stop(&mut self) {
        self.state = Some(self.call("anvil_dumpState", json!([])).await);
        self.kill();
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    async fn try_call(&self, method: &str, params: Value) -> Option<Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self
            .http
            .post(self.url())
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .ok()?;
        let answer: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        assert_eq!(answer.get("error"), None, "{method}");
        answer.get("result").cloned()
    }

    /// One JSON-RPC call.
    pub(crate) async fn call(&self, method: &str, params: Value) -> Value {
        self.try_call(method, params)
            .await
            .unwrap_or_else(|| panic!("{method}: the node does not answer"))
    }

    /// Gives `address` 100 ether.
    pub(crate) async fn fund(&self, address: &str) {
        self.call("anvil_setBalance", json!([address, "0x56bc75e2d63100000"]))
            .await;
    }

    /// How many transactions of `address` are mined.
    pub(crate) async fn nonce(&self, address: &str) -> u64 {
        let count = self
            .call("eth_getTransactionCount", json!([address, "latest"]))
            .await;
        u64::from_str_radix(count.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }

    /// A mined transaction's receipt.
    pub(crate) async fn receipt(&self, hash: &str) -> Value {
        eventually("the receipt", 10, async || {
            let receipt = self.call("eth_getTransactionReceipt", json!([hash])).await;
            (!receipt.is_null()).then_some(receipt)
        })
        .await
    }

    /// The signed bytes of a transaction the node knows, as 0x-hex.
    pub(crate) async fn raw(&self, hash: &str) -> String {
        let raw = self
            .call("eth_getRawTransactionByHash", json!([hash]))
            .await;
        raw.as_str().unwrap().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a program of `tests/peers` prints; it must end with status 0.
pub(crate) fn peer(script: &str, arguments: &[&str]) -> String {
    let output = Command::new("node")
        .arg(root().join("target/peers").join(script))
        .args(arguments)
        .env("CHAIN_ID", super::CHAIN.to_string())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
