//! An appliance of its own for each test: SoftHSM token, PKI, configuration, database and the running binary.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_client::transport::{Reply, SignedRequest, Transport};
use countersign_client::{Config, Keystore};
use reqwest::Method;
use tempfile::TempDir;

use super::database::Database;
use super::engine::{OwnDatabase, Storage};
use super::{CHAIN, Node, eventually, files_below, free_port, root};

pub(crate) use super::wallet::wallet_of;

/// The program under test.
pub(crate) const COUNTERSIGND: &str = env!("CARGO_BIN_EXE_countersignd");

/// A SoftHSM token in a directory of its own.
pub(crate) struct SoftToken {
    directory: PathBuf,
    module: String,
}

impl SoftToken {
    /// Makes a token with `softhsm/setup.sh`.
    pub(crate) fn make(directory: PathBuf) -> Self {
        let output = Command::new(root().join("softhsm/setup.sh"))
            .arg(&directory)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let settings = String::from_utf8(output.stdout).unwrap();
        let module = settings
            .lines()
            .find_map(|line| line.strip_prefix("export HSM_MODULE="))
            .unwrap()
            .to_owned();
        Self { directory, module }
    }

    /// The files in which SoftHSM keeps the token.
    pub(crate) fn tokens(&self) -> PathBuf {
        self.directory.join("tokens")
    }

    /// The PKCS#11 library.
    pub(crate) fn module(&self) -> &str {
        &self.module
    }

    fn configuration(&self) -> PathBuf {
        self.directory.join("softhsm2.conf")
    }

    fn pin_file(&self) -> PathBuf {
        self.directory.join("pin")
    }
}

/// Rates that no test reaches.
const NO_LIMITS: &str = "[rates]\n\
    signing = { requests = 100000, seconds = 60 }\n\
    key-operations = { requests = 100000, seconds = 60 }\n\
    backup = { requests = 100000, seconds = 60 }\n\
    transactions = { requests = 100000, seconds = 60 }\n\
    reconcile = { requests = 100000, seconds = 60 }\n";

/// An initialised environment and, while it is started, the process that serves it.
pub(crate) struct Appliance {
    directory: Arc<TempDir>,
    /// The name of its configuration file and of its log.
    name: &'static str,
    /// Its HSM.
    pub(crate) token: Arc<SoftToken>,
    /// Its database.
    pub(crate) storage: Arc<Storage>,
    process: Option<Child>,
    operator: Transport,
    operator_port: u16,
    /// The wallets' way in.
    pub(crate) client: countersign_client::Appliance,
}

impl Appliance {
    /// Initialises an environment for `node` and serves it.
    pub(crate) async fn start(node: &Node) -> Self {
        let mut appliance = Self::init(&node.url());
        appliance.serve().await;
        appliance
    }

    /// As [`Appliance::start`], on PostgreSQL, whatever the others run on.
    pub(crate) async fn start_on_postgres(node: &Node) -> Self {
        let mut appliance = Self::init_on_postgres(&node.url());
        appliance.serve().await;
        appliance
    }

    /// As [`Appliance::init`], on PostgreSQL, whatever the others run on.
    pub(crate) fn init_on_postgres(url: &str) -> Self {
        Self::init_on(url, |directory| {
            Storage::Postgres(Box::new(OwnDatabase::make(directory)))
        })
    }

    /// One more instance of this environment: the same token, database and wallets, with listeners of its own. Serves.
    pub(crate) async fn another(&self) -> Self {
        let (api, operator) = (free_port(), free_port());
        let port = |url: &reqwest::Url| format!("\"127.0.0.1:{}\"", url.port().unwrap());
        let file = self.environment().join(format!("{}.toml", self.name));
        let config = std::fs::read_to_string(file)
            .unwrap()
            .replace(
                &port(&self.client.config().url),
                &format!("\"127.0.0.1:{api}\""),
            )
            .replace(
                &format!("\"127.0.0.1:{}\"", self.operator_port),
                &format!("\"127.0.0.1:{operator}\""),
            );
        std::fs::write(self.environment().join("second.toml"), config).unwrap();
        let mut of_client = self.client.config().clone();
        of_client.url = format!("https://127.0.0.1:{api}/").parse().unwrap();
        let mut another = Self {
            operator: operator_transport(&of_client, &self.environment(), operator),
            operator_port: operator,
            client: countersign_client::Appliance::new(of_client).unwrap(),
            directory: Arc::clone(&self.directory),
            name: "second",
            token: Arc::clone(&self.token),
            storage: Arc::clone(&self.storage),
            process: None,
        };
        another.serve().await;
        another
    }

    /// Initialises an environment whose chain [`CHAIN`] is behind `url`. Serves nothing yet.
    pub(crate) fn init(url: &str) -> Self {
        Self::init_on(url, Storage::make)
    }

    /// As [`Appliance::init`], with its database where `storage` says; that is told the test's directory.
    pub(crate) fn init_on(url: &str, storage: impl FnOnce(&Path) -> Storage) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("countersign-")
            .tempdir()
            .unwrap();
        let token = SoftToken::make(directory.path().join("softhsm"));
        let environment = directory.path().join("env");
        let storage = storage(directory.path());
        let (api, operator) = (free_port(), free_port());
        let output = countersignd(&token)
            .args([
                "init",
                "--kind",
                "development",
                "--token-label",
                "countersign",
            ])
            .arg("--dir")
            .arg(&environment)
            .args(["--hsm-module", &token.module])
            .arg("--pin-file")
            .arg(token.pin_file())
            .args(["--rpc", &format!("{CHAIN}={url}")])
            .args(["--listen", &format!("127.0.0.1:{api}")])
            .args(["--operator-listen", &format!("127.0.0.1:{operator}")])
            .args(storage.options())
            .output()
            .unwrap();
        assert!(output.status.success(), "init: {output:?}");
        let config = Config::load(&environment.join("client.toml")).unwrap();
        let appliance = Self {
            operator: operator_transport(&config, &environment, operator),
            operator_port: operator,
            client: countersign_client::Appliance::new(config).unwrap(),
            directory: Arc::new(directory),
            name: "countersignd",
            token: Arc::new(token),
            storage: Arc::new(storage),
            process: None,
        };
        // Tests ask faster than the gateways of one tenant, and their few wallets faster than anybody's; those that
        // test a limit set it.
        appliance.configure(|config| {
            config.replace("[api]\n", "[api]\nrequests_per_second = 10000\n")
                + "\n[policy]\nlimits_file = \"limits.toml\"\n"
        });
        appliance.limit(NO_LIMITS);
        appliance
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn serve(&mut self) {
        self.spawn();
        eventually("the appliance is ready", 20, async || {
            let process = self.process.as_mut().unwrap();
            if let Some(status) = process.try_wait().unwrap() {
                panic!("the appliance ended with {status}:\n{}", self.log());
            }
            self.operator("/readyz")
                .await
                .filter(|reply| reply.status == 200)
        })
        .await;
    }

    /// Starts the process without waiting for it.
    pub(crate) fn spawn(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        if Arc::strong_count(&self.storage) == 1 {
            self.storage.let_leases_lapse();
        }
        let process = self
            .serve_command()
            .stdin(Stdio::null())
            .stdout(self.open_log())
            .stderr(self.open_log())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// `countersignd serve`, to be run on the side.
    pub(crate) fn serve_command(&self) -> Command {
        let mut command = countersignd(&self.token);
        command
            .arg("serve")
            .arg("--config")
            .arg(self.environment().join(format!("{}.toml", self.name)))
            // Everything the appliance would ever say about a request.
            .env("RUST_LOG", "info,countersign=trace");
        command
    }

    /// What `countersignd doctor` says.
    pub(crate) fn doctor(&self) -> String {
        let file = self.environment().join(format!("{}.toml", self.name));
        let output = countersignd(&self.token)
            .arg("doctor")
            .arg("--config")
            .arg(file)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `countersignd limits show` says.
    pub(crate) fn limits_shown(&self, options: &[&str]) -> String {
        let file = self.environment().join(format!("{}.toml", self.name));
        let output = countersignd(&self.token)
            .args(["limits", "show", "--config"])
            .arg(file)
            .args(options)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// SIGTERM; the process goes on until it has drained.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Writes its limits: they count from its start, or from the next SIGHUP.
    pub(crate) fn limit(&self, limits: &str) {
        std::fs::write(self.environment().join("limits.toml"), limits).unwrap();
    }

    /// Changes its configuration, before it is started.
    pub(crate) fn configure(&self, change: impl FnOnce(String) -> String) {
        let file = self.environment().join(format!("{}.toml", self.name));
        let config = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, change(config)).unwrap();
    }

    /// Waits for the end of a process that was told to end, or was killed by somebody else.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        eventually("the appliance ends", 20, async || {
            process.try_wait().unwrap()
        })
        .await
    }

    /// SIGTERM, and the end that must follow.
    pub(crate) async fn stop(&mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// SIGKILL and a new start.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.kill();
        self.serve().await;
    }

    /// Whether the process still runs.
    pub(crate) fn is_running(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        // The state follows the name, which is in parentheses; Z is dead and not waited for.
        state.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
    }

    /// What `work` gives, or nothing if the process dies first: its client then dies with it.
    pub(crate) async fn while_it_lives<T, E: Debug>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Option<T> {
        let death = async || {
            while self.is_running() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let done = tokio::select! {
            done = work => done,
            () = death() => return None,
        };
        match done {
            Ok(done) => Some(done),
            Err(error) => {
                // The client may notice the death first.
                let dead = tokio::time::timeout(Duration::from_secs(2), death()).await;
                assert!(dead.is_ok(), "{error:?}");
                None
            }
        }
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// A GET on the operator listener, if it answers.
    pub(crate) async fn operator(&self, path: &str) -> Option<Reply> {
        let request = SignedRequest {
            method: Method::GET,
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
        };
        self.operator.send(&request).await.ok()
    }

    /// A POST on the operator listener.
    pub(crate) async fn operator_post(&self, path: &str, body: &serde_json::Value) -> Reply {
        let request = SignedRequest {
            method: Method::POST,
            path: path.to_owned(),
            headers: vec![("content-type", "application/json".to_owned())],
            body: Some(body.to_string().into_bytes()),
        };
        self.operator.send(&request).await.unwrap()
    }

    /// The value of a metric, written as in the exposition with its labels; 0 when it is absent.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let reply = self.operator("/metrics").await.unwrap();
        let text = String::from_utf8(reply.body).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map_or(0.0, |value| value.parse().unwrap())
    }

    /// The directory that `init` filled.
    pub(crate) fn environment(&self) -> PathBuf {
        self.directory.path().join("env")
    }

    /// The directory of everything that belongs to this appliance.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A file of its PKI.
    pub(crate) fn pki(&self, name: &str) -> String {
        let path = self.environment().join("pki").join(name);
        path.to_str().unwrap().to_owned()
    }

    /// Its API's address.
    pub(crate) fn url(&self, path: &str) -> String {
        self.client.config().url.join(path).unwrap().to_string()
    }

    /// Its operator listener's address.
    pub(crate) fn operator_url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.operator_port)
    }

    /// Its database, as another program sees it.
    pub(crate) fn database(&self) -> Database {
        self.storage.database(&self.environment())
    }

    /// Everything it keeps, and nothing of the wallets: configuration, token, log, and all of its database.
    pub(crate) fn at_rest(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = files_below(self.directory());
        files.retain(|file| !file.starts_with(self.directory().join("wallets")));
        let kept = files.into_iter().map(|file| {
            let content = std::fs::read(&file).unwrap();
            (file, content)
        });
        kept.chain(self.storage.at_rest()).collect()
    }

    /// All it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A keystore for wallets of this appliance.
    pub(crate) fn keystore(&self) -> Keystore {
        Keystore::new(self.directory.path().join("wallets"))
            .with_cost(countersign_client::keystore::KdfParams::FLOOR)
    }

    fn log_file(&self) -> PathBuf {
        let name = match self.name {
            "countersignd" => "log".to_owned(),
            name => format!("{name}.log"),
        };
        self.directory.path().join(name)
    }

    fn open_log(&self) -> File {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let start = log.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
            eprintln!("end of the appliance's log:\n{}", &log[start..]);
        }
    }
}

fn operator_transport(config: &Config, environment: &Path, port: u16) -> Transport {
    let mut of_operator = config.clone();
    of_operator.url = format!("https://127.0.0.1:{port}/").parse().unwrap();
    of_operator.certificate = environment.join("pki/operator.pem");
    of_operator.key = environment.join("pki/operator-key.pem");
    Transport::new(&of_operator).unwrap()
}

/// `countersignd` with this token and nothing else of our environment.
pub(crate) fn countersignd(token: &SoftToken) -> Command {
    let mut command = Command::new(COUNTERSIGND);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("SOFTHSM2_CONF", token.configuration());
    command
}

/// Runs a command that must end by itself within `limit`.
pub(crate) fn output_within(mut command: Command, limit: Duration) -> Output {
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + limit;
    while process.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            drop(process.kill());
            panic!("{command:?} still runs after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    process.wait_with_output().unwrap()
}
