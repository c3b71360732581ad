//! A real countersignd with its token, its database and a local Ethereum node.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use countersign_client::transport::{SignedRequest, Transport};
use countersign_client::{Appliance, Config};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machine;

/// The local node's chain.
pub(crate) const CHAIN: u64 = 31_337;
/// Somebody who receives.
pub(crate) const RECIPIENT: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

/// Rates that no benchmark reaches, with as many requests in a window as a busy wallet of production may have.
const LIMITS: &str = "[rates]\n\
    signing = { requests = 100000, seconds = 1 }\n\
    key-operations = { requests = 100000, seconds = 1 }\n\
    transactions = { requests = 100000, seconds = 1 }\n";

/// Everything but the running server.
pub(crate) struct Rig {
    /// The client's view of the appliance.
    pub(crate) client: Appliance,
    directory: TempDir,
    node: Child,
    node_url: String,
    http: reqwest::Client,
    operator: Transport,
    operator_port: u16,
}

/// A running server.
pub(crate) struct Server {
    process: Child,
    /// Milliseconds from exec to the line `listening`.
    pub(crate) listening: f64,
    /// Milliseconds from exec to readiness.
    pub(crate) ready: f64,
}

impl Rig {
    /// Starts the node and initialises an environment for the token of this process's environment.
    pub(crate) fn new() -> Self {
        // Fails only if it is installed already.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let directory = tempfile::Builder::new()
            .prefix("countersign-bench-")
            .tempdir()
            .unwrap();
        let (node_port, api, operator) = (free_port(), free_port(), free_port());
        let node_url = format!("http://127.0.0.1:{node_port}");
        let environment = directory.path().join("env");
        let variable = |name| std::env::var_os(name).unwrap();
        let made = countersignd()
            .args(["init", "--kind", "development"])
            .arg("--dir")
            .arg(&environment)
            .arg("--hsm-module")
            .arg(variable("HSM_MODULE"))
            .arg("--token-label")
            .arg(variable("TOKEN_LABEL"))
            .arg("--pin-file")
            .arg(variable("PIN_FILE"))
            .args(["--rpc", &format!("{CHAIN}={node_url}")])
            .args(["--listen", &format!("127.0.0.1:{api}")])
            .args(["--operator-listen", &format!("127.0.0.1:{operator}")])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let file = environment.join("countersignd.toml");
        let text = fs::read_to_string(&file).unwrap();
        // One client asks for all wallets, as fast as it can.
        let text = ["[api]\n", "[operator]\n"]
            .iter()
            .fold(text, |text, table| {
                text.replace(table, &format!("{table}requests_per_second = 100000\n"))
            });
        let text = text + "\n[policy]\nlimits_file = \"limits.toml\"\n";
        fs::write(&file, text).unwrap();
        fs::write(environment.join("limits.toml"), LIMITS).unwrap();
        let config = Config::load(&environment.join("client.toml")).unwrap();
        let mut of_operator = config.clone();
        of_operator.url = format!("https://127.0.0.1:{operator}/").parse().unwrap();
        of_operator.certificate = environment.join("pki/operator.pem");
        of_operator.key = environment.join("pki/operator-key.pem");
        Self {
            operator: Transport::new(&of_operator).unwrap(),
            operator_port: operator,
            client: Appliance::new(config).unwrap(),
            directory,
            node: start_node(node_port),
            node_url,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// Starts the server and waits until it is ready.
    pub(crate) async fn start(&self) -> Server {
        let log = self.path("log");
        let start = Instant::now();
        let mut process = countersignd()
            .arg("serve")
            .arg("--config")
            .arg(self.environment().join("countersignd.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let milliseconds = || start.elapsed().as_secs_f64() * 1e3;
        while !fs::read_to_string(&log).unwrap().contains("listening") {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(&log).unwrap());
            assert!(start.elapsed() < Duration::from_secs(20), "not listening");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let listening = milliseconds();
        while !self.is_ready().await {
            assert!(start.elapsed() < Duration::from_secs(20), "not ready");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Server {
            process,
            listening,
            ready: milliseconds(),
        }
    }

    async fn is_ready(&self) -> bool {
        let request = SignedRequest {
            method: Method::GET,
            path: "/readyz".to_owned(),
            headers: Vec::new(),
            body: None,
        };
        let reply = self.operator.send(&request).await;
        reply.is_ok_and(|reply| reply.status == 200)
    }

    /// Gives an address 1000 ether.
    pub(crate) async fn fund(&self, address: &str) {
        let params = json!([address, "0x3635c9adc5dea00000"]);
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": "anvil_setBalance", "params": params});
        let request = self
            .http
            .post(&self.node_url)
            .header("content-type", "application/json");
        let reply = request
            .body(body.to_string())
            .send()
            .await
            .unwrap()
            .bytes()
            .await;
        let reply: Value = serde_json::from_slice(&reply.unwrap()).unwrap();
        assert_eq!(reply.get("error"), None);
    }

    /// Runs SQL from a file, with the server stopped.
    pub(crate) fn execute(&self, sql: &str) {
        let mut shell = self.sqlite().stdin(Stdio::piped()).spawn().unwrap();
        shell
            .stdin
            .take()
            .unwrap()
            .write_all(sql.as_bytes())
            .unwrap();
        assert!(shell.wait().unwrap().success());
    }

    /// The number that a query answers.
    pub(crate) fn number(&self, query: &str) -> usize {
        let output = self.sqlite().arg("-readonly").arg(query).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("{query}: {text}"))
    }

    fn sqlite(&self) -> Command {
        let mut command = Command::new("sqlite3");
        command
            .args(["-bail", "-cmd", ".timeout 5000"])
            .arg(self.environment().join("countersign.db"));
        command
    }

    /// Appends a table to the server's configuration; it counts from the next start on.
    pub(crate) fn configure(&self, table: &str) {
        let file = self.environment().join("countersignd.toml");
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        writeln!(file, "\n{table}").unwrap();
    }

    /// A path for a file of the benchmark's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the operator listener is.
    pub(crate) fn operator_address(&self) -> String {
        format!("127.0.0.1:{}", self.operator_port)
    }

    /// The directory that `init` filled.
    pub(crate) fn environment(&self) -> PathBuf {
        self.path("env")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.node.kill());
        drop(self.node.wait());
    }
}

impl Server {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Milliseconds of CPU so far.
    pub(crate) fn cpu(&self) -> f64 {
        machine::process_cpu(self.id())
    }

    /// Resident memory in MiB.
    pub(crate) fn rss_mib(&self) -> f64 {
        machine::rss(self.id()) / 1024.0
    }

    /// Tells it to stop and waits for its orderly end; meanwhile our side closes its connections.
    pub(crate) async fn stop(mut self) {
        let id = self.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status();
        assert!(told.unwrap().success());
        let ended = loop {
            match self.process.try_wait().unwrap() {
                Some(status) => break status,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert!(ended.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when it was stopped in order.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The program with the token's configuration and nothing else of our environment.
fn countersignd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersignd"));
    let token = std::env::var_os("SOFTHSM2_CONF").unwrap();
    command.env_clear().env("SOFTHSM2_CONF", token);
    command
}

fn start_node(port: u16) -> Child {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/anvil");
    let program = std::env::var_os("COUNTERSIGN_ANVIL").map_or_else(default, PathBuf::from);
    let spawned = Command::new(&program)
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args([
            "--chain-id",
            &CHAIN.to_string(),
            "--hardfork",
            "prague",
            "--silent",
        ])
        .stdin(Stdio::null())
        .spawn();
    spawned.unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
