//! `countersignd serve`: puts the parts together and runs them until SIGTERM or SIGINT.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_hsm::{KekId, KekName, Purpose, SigningKeyId, Token};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::token::{self, Environment, EnvironmentError};
use super::{Failure, identity};
use crate::audit;
use crate::chain::{Chains, FeePolicy, NodeLimits};
use crate::config::{Config, Listener};
use crate::custody::guard::Guard;
use crate::custody::{Capacity, Custody, Identity, Keks, KemRing, ResponseKeys};
use crate::domain::{EnvironmentId, EnvironmentKind, TenantId};
use crate::http::routes::{self, Api};
use crate::http::sign_response::App;
use crate::http::tls::{self, Entrance};
use crate::http::{operator, serve};
use crate::identity::owner::OwnerVerifier;
use crate::limits::InForce;
use crate::policy::Policy;
use crate::service::activation::{Activation, NotActivated};
use crate::service::anchoring::Anchoring;
use crate::service::create_profile::CreateProfile;
use crate::service::devices::Devices;
use crate::service::freeze::Freezing;
use crate::service::housekeeping::Housekeeping;
use crate::service::identity_document::ShowIdentity;
use crate::service::instances::Membership;
use crate::service::policy_files;
use crate::service::prepare_transaction::PrepareTransaction;
use crate::service::reload;
use crate::service::retention::Pruner;
use crate::service::running::Running;
use crate::service::sealed::Opener;
use crate::service::second_factor::Terms;
use crate::service::settlement::Settlement;
use crate::service::show::Show;
use crate::service::sign::Sign;
use crate::service::steps::Steps;
use crate::service::turns::Turns;
use crate::service::two_factor::TwoFactor;
use crate::service::unfreeze::Unfreezing;
use crate::sessions::Lifetimes;
use crate::store::Store;
use crate::store::retention::Retention;
use crate::telemetry::metrics::{ListenerName, Metrics};
use crate::telemetry::readiness::{Check, Readiness};

/// How often dependencies are checked, and how long a result is believed.
const CHECK_EVERY: Duration = Duration::from_secs(5);
const CHECK_MAX_AGE: Duration = Duration::from_secs(20);

/// A key that `init` made is not on the token.
#[derive(Debug, thiserror::Error)]
#[error(
    "the token holds no {0}: connect the token this environment was made on, or run countersignd init"
)]
struct MissingKey(String);

/// Longest wait for running steps and background work at the end.
const DRAIN: Duration = Duration::from_secs(8);

/// Something still runs: the database or the token does not answer.
#[derive(Debug, thiserror::Error)]
#[error(
    "steps were still running at the end: their keys stay locked and are looked after at the next start"
)]
struct NotDrained;

/// Runs the appliance.
///
/// # Errors
/// [`Failure`] says what to do; nothing was served then.
pub async fn run(mut config: Config) -> Result<(), Failure> {
    // A node's URL may hold an access token: it is moved to where it is used, never copied.
    let nodes = std::mem::take(&mut config.chains)
        .into_iter()
        .map(|chain| (chain.id, chain.rpc_url))
        .collect();
    let chains = Arc::new(Chains::new(nodes, NodeLimits::default())?);
    let limits = Arc::new(limits(&config, chains.ids().collect())?);
    let directory = config.policy.directory.as_deref();
    let policy = Policy::new(policy_files::load(directory).map_err(Failure::usage)?);
    let token = tokio::task::block_in_place(|| token::open(&config.hsm))?;
    let result = async {
        let parts = (chains, policy, limits);
        let appliance = Appliance::start(&config, parts, token.clone()).await?;
        appliance.serve(config).await
    };
    let result = result.await;
    // Also after a failure: a process that ends under the module's threads may crash.
    let closed = token.close().await;
    result?;
    Ok(closed?)
}

/// The limits of the configuration.
fn limits(config: &Config, chains: Vec<u64>) -> Result<InForce, Failure> {
    let limits = InForce::open(config.policy.limits.as_deref(), chains).map_err(Failure::usage)?;
    if config.environment_kind == EnvironmentKind::Production {
        for rate in limits.current().raised() {
            let (class, requests, seconds) = (rate.class.as_str(), rate.requests, rate.seconds);
            tracing::warn!(class, requests, seconds, "a rate is above the usual one");
        }
    }
    Ok(limits)
}

/// The keys of an environment.
struct Keys {
    keks: Keks,
    identity: Identity,
}

/// The parts, assembled.
struct Appliance {
    token: Token,
    store: Store,
    keys: Keys,
    chains: Arc<Chains>,
    metrics: Arc<Metrics>,
    steps: Arc<Steps>,
    opener: Arc<Opener>,
    kem: Arc<KemRing>,
    response_keys: Arc<ResponseKeys>,
    settlement: Arc<Settlement>,
    create_profile: Arc<CreateProfile>,
    sign: Arc<Sign>,
}

impl Appliance {
    async fn start(
        config: &Config,
        rules: (Arc<Chains>, Policy, Arc<InForce>),
        token: Token,
    ) -> Result<Self, Failure> {
        let environment = Environment::configured(config);
        environment
            .confirm(&token)
            .await
            .map_err(EnvironmentError::failure)?;
        let store = Store::open(Arc::clone(&config.store)).await?;
        let found = Environment {
            id: store.environment_id(),
            kind: store.environment_kind(),
        };
        environment
            .agrees("database", found)
            .map_err(EnvironmentError::failure)?;
        let keys = Keys::find(&token, config).await?;
        let metrics = Arc::new(Metrics::new(config.environment_kind)?);
        let store = store.observed(Arc::clone(&metrics));
        // Before anything is written: a database that was put back shall stay as it is found.
        let place = token::anchor(&token, config);
        let guard = Guard::open(store.clone(), place, Arc::clone(&metrics)).await?;
        if let Some(activators) = config.activators() {
            let activation = Activation::new(store.clone(), activators);
            match activation.activate(&rules.1.current(), "a start").await {
                Err(NotActivated::Store(error)) => return Err(error.into()),
                activated => activated.map_err(Failure::usage)?,
            }
        }
        let membership = Membership::join(store.clone(), boot_id(), Arc::clone(&metrics)).await?;
        let orphans = membership.reap().await?;
        if orphans > 0 {
            tracing::warn!(orphans, "checks of a process that died were counted");
        }
        let parts = (token, store, keys);
        Self::assemble(config, rules, parts, (metrics, membership, guard)).await
    }

    async fn assemble(
        config: &Config,
        (chains, policy, limits): (Arc<Chains>, Policy, Arc<InForce>),
        (token, store, keys): (Token, Store, Keys),
        (metrics, membership, guard): (Arc<Metrics>, Membership, Guard),
    ) -> Result<Self, Failure> {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let custody = Arc::new(Custody::new(
            (token.clone(), store.clone(), guard),
            config.environment_id,
            keys.keks.clone(),
            Capacity {
                cores: config.mpc.concurrency,
                kept_seconds: seconds(config.mpc.kept_state_ttl),
            },
            Arc::clone(&metrics),
        ));
        let tenant = config.tenants.first().map(ToString::to_string);
        let kem = KemRing::open(
            token.clone(),
            store.clone(),
            keys.identity.clone(),
            tenant.unwrap_or_default(),
        );
        let kem = Arc::new(kem.await?);
        let response_keys = ResponseKeys::open(token.clone(), keys.identity.clone()).await?;
        let steps = Arc::new(Steps {
            store: store.clone(),
            custody,
            policy,
            limits,
            instance: membership.instance(),
            membership: Arc::new(membership),
            lifetimes: Lifetimes {
                session: seconds(config.mpc.session_ttl),
                kept_state: seconds(config.mpc.kept_state_ttl),
            },
            metrics: Arc::clone(&metrics),
            tasks: TaskTracker::new(),
            turns: Turns::default(),
            running: Running::default(),
        });
        let opener = Arc::new(Opener {
            kem: Arc::clone(&kem),
            store: store.clone(),
        });
        let settlement = Arc::new(Settlement::new(
            store.clone(),
            Arc::clone(&chains),
            Arc::clone(&metrics),
        ));
        let create_profile = Arc::new(CreateProfile::new(Arc::clone(&steps), Arc::clone(&opener)));
        let sign = Arc::new(Sign::new(
            Arc::clone(&steps),
            Arc::clone(&opener),
            Arc::clone(&settlement),
            Arc::clone(&chains),
        ));
        Ok(Self {
            token,
            store,
            keys,
            chains,
            metrics,
            steps,
            opener,
            kem,
            response_keys: Arc::new(response_keys),
            settlement,
            create_profile,
            sign,
        })
    }

    fn api(&self, config: &mut Config, freezing: Arc<Freezing>) -> Api {
        let prepare = PrepareTransaction::new(
            Arc::clone(&self.steps),
            Arc::clone(&self.chains),
            FeePolicy::default(),
        );
        let identity = ShowIdentity {
            environment_id: config.environment_id,
            kind: config.environment_kind,
            audience: config.audience.clone(),
            identity: self.keys.identity.certificate.clone(),
            kem: Arc::clone(&self.kem),
        };
        let terms = terms(config);
        let devices = Devices::new(Arc::clone(&self.steps), config.cooling_off, &terms);
        let (steps, opener) = (Arc::clone(&self.steps), Arc::clone(&self.opener));
        Api {
            create_profile: Arc::clone(&self.create_profile),
            prepare_transaction: Arc::new(prepare),
            sign: Arc::clone(&self.sign),
            devices: Arc::new(devices),
            two_factor: Arc::new(TwoFactor::new(steps, opener, terms)),
            freezing,
            unfreezing: Arc::new(Unfreezing::new(Arc::clone(&self.steps))),
            show: Arc::new(Show::new(self.store.clone())),
            identity: Arc::new(identity),
            limits: Arc::clone(&self.steps.limits),
            verifier: Arc::new(OwnerVerifier::new(
                self.store.clone(),
                config.audience.clone(),
                config.gateway_jwt.take(),
            )),
            instance: self.steps.membership.tag(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    async fn serve(self, mut config: Config) -> Result<(), Failure> {
        let shutdown = CancellationToken::new();
        let readiness = self.readiness();
        let activation = config.activators().map(|activators| {
            let instance = self.steps.membership.tag().to_string();
            (Activation::new(self.store.clone(), activators), instance)
        });
        let signed = |router| App::signed(router, Arc::clone(&self.response_keys));
        let freezing = Arc::new(self.freezing(&mut config));
        let api = signed(routes::router(self.api(&mut config, Arc::clone(&freezing))));
        let operators = signed(operator::router(
            Arc::clone(&self.metrics),
            readiness.clone(),
            freezing,
        ));
        let kind = config.environment_kind;
        let clients = Arc::new(config.clients);
        let entrance = |name, listener: &Listener| {
            let metrics = Arc::clone(&self.metrics);
            Entrance::new(name, listener, Arc::clone(&clients), kind, metrics).map(Arc::new)
        };
        let api_entrance = entrance(ListenerName::Api, &config.api)?;
        let operator_entrance = entrance(ListenerName::Operator, &config.operator)?;
        let api_listener = TcpListener::bind(config.api.listen).await?;
        let operator_listener = TcpListener::bind(config.operator.listen).await?;
        stop_on_signals(&shutdown)?;
        let hangup = || signal(SignalKind::hangup());
        let (certificates, limits, rules) = (hangup()?, hangup()?, hangup()?);

        let background = CancellationToken::new();
        let tasks = TaskTracker::new();
        let entrances = vec![Arc::clone(&api_entrance), Arc::clone(&operator_entrance)];
        tasks.spawn(tls::watch(entrances, certificates, background.clone()));
        let from = (config.policy.directory, activation);
        self.follow_policy(&tasks, from, [rules, limits], &background);
        tasks.spawn(Arc::clone(&self.settlement).run(background.clone()));
        tasks.spawn(Arc::clone(&self.steps.membership).run(background.clone()));
        tasks.spawn(self.housekeeping(config.retention).run(background.clone()));
        tasks.spawn(audit::sequence(
            self.store.clone(),
            Arc::clone(&self.metrics),
            self.steps.instance,
            background.clone(),
        ));
        tasks.spawn(self.checks(readiness).run(background.clone()));
        let anchoring = Anchoring {
            steps: Arc::clone(&self.steps),
            interval: config.anchor.interval,
        };
        tasks.spawn(anchoring.clone().run(background.clone()));

        tracing::info!(
            api = %api_listener.local_addr()?,
            operator = %operator_listener.local_addr()?,
            environment = %kind,
            instance = %self.steps.membership.tag(),
            "listening"
        );
        tokio::join!(
            serve::run(api_listener, api_entrance, api, shutdown.clone()),
            serve::run(
                operator_listener,
                operator_entrance,
                operators,
                shutdown.clone()
            ),
        );
        // A step that a client no longer waits for still ends in a durable verdict.
        self.steps.tasks.close();
        let drained = async {
            self.steps.tasks.wait().await;
            // The sequencer goes last: it chains what the steps recorded.
            background.cancel();
            tasks.close();
            tasks.wait().await;
            anchoring.turn().await;
        };
        let drained = tokio::time::timeout(DRAIN, drained).await;
        // Last, also when steps still run: nobody concludes them any more.
        self.steps.membership.leave().await;
        drained.map_err(|_| NotDrained)?;
        tracing::info!("stopped");
        Ok(())
    }

    /// Loads rules and limits again, each on a signal of its own.
    fn follow_policy(
        &self,
        tasks: &TaskTracker,
        from: (Option<PathBuf>, Option<(Activation, String)>),
        [rules, limits]: [Signal; 2],
        stop: &CancellationToken,
    ) {
        let metrics = || Arc::clone(&self.metrics);
        let policy = self.steps.policy.clone();
        let watch = policy_files::watch(policy, from, metrics(), rules, stop.clone());
        tasks.spawn(watch);
        let in_force = Arc::clone(&self.steps.limits);
        tasks.spawn(reload::limits(in_force, metrics(), limits, stop.clone()));
    }

    fn freezing(&self, config: &mut Config) -> Freezing {
        if let Some(operators) = &config.operators {
            let (required, known) = (operators.required(), operators.known());
            let fingerprint = operators.fingerprint();
            tracing::info!(required, known, fingerprint, "operators who agree together");
        }
        let custody = Arc::clone(&self.steps.custody);
        Freezing::new(
            self.store.clone(),
            Arc::clone(&self.metrics),
            move |session| custody.forget(session),
            (config.tenants.clone(), config.operators.take()),
        )
    }

    fn housekeeping(&self, retention: Retention) -> Housekeeping {
        Housekeeping {
            steps: Arc::clone(&self.steps),
            kem: Arc::clone(&self.kem),
            response_keys: Arc::clone(&self.response_keys),
            create_profile: Arc::clone(&self.create_profile),
            sign: Arc::clone(&self.sign),
            pruner: Pruner {
                store: self.store.clone(),
                retention,
                instance: self.steps.instance,
                metrics: Arc::clone(&self.metrics),
            },
        }
    }

    fn readiness(&self) -> Readiness {
        let chains = self.chains.ids().map(Check::Chain);
        Readiness::new(
            [
                Check::Store,
                Check::Lease,
                Check::Clock,
                Check::Hsm,
                Check::Anchor,
            ]
            .into_iter()
            .chain(chains),
            CHECK_MAX_AGE,
        )
    }

    fn checks(&self, readiness: Readiness) -> Checks {
        Checks {
            readiness,
            store: self.store.clone(),
            steps: Arc::clone(&self.steps),
            token: self.token.clone(),
            keks: self.keys.keks(),
            identity: self.keys.identity.key,
            chains: Arc::clone(&self.chains),
        }
    }
}

fn terms(config: &Config) -> Terms {
    Terms {
        required: config.two_factor.required,
        cooling_off: config.two_factor.cooling_off,
        issuer: config.two_factor.issuer.clone(),
    }
}

impl Keys {
    /// All of them, to be checked.
    fn keks(&self) -> Vec<KekId> {
        let Keks { share, factor } = &self.keks;
        share.values().chain(factor.values()).copied().collect()
    }

    async fn find(token: &Token, config: &Config) -> Result<Self, Failure> {
        let environment: EnvironmentId = config.environment_id;
        let name = |tenant: &TenantId, purpose| KekName {
            environment_id: environment.0,
            tenant: tenant.to_string(),
            purpose,
            epoch: 1,
        };
        let (mut share, mut factor) = (HashMap::new(), HashMap::new());
        for tenant in &config.tenants {
            let name_of_share = name(tenant, Purpose::Share);
            let missing = MissingKey(format!("share KEK of tenant {tenant}"));
            let kek = token.find_kek(&name_of_share).await?.ok_or(missing)?;
            share.insert(tenant.clone(), kek);
            // An environment from before second factors gets its key with the first start.
            let name_of_factor = name(tenant, Purpose::Totp);
            factor.insert(tenant.clone(), token.create_kek(&name_of_factor).await?);
        }
        Ok(Self {
            keks: Keks { share, factor },
            identity: identity::of_token(token, config).await?,
        })
    }
}

/// Looks after everything the appliance depends on.
struct Checks {
    readiness: Readiness,
    store: Store,
    steps: Arc<Steps>,
    token: Token,
    keks: Vec<KekId>,
    identity: SigningKeyId,
    chains: Arc<Chains>,
}

impl Checks {
    async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.once().await;
            drop(tokio::time::timeout(CHECK_EVERY, stop.cancelled()).await);
        }
    }

    async fn once(&self) {
        let store = self.store.ping().await;
        self.readiness
            .record(Check::Store, store.map_err(|error| error.to_string()));
        let membership = &self.steps.membership;
        self.readiness.record(Check::Lease, membership.lease());
        self.readiness.record(Check::Clock, membership.clock());
        let mut hsm = Ok(());
        for kek in &self.keks {
            let checked = self.token.check(*kek, Some(self.identity)).await;
            hsm = hsm.and(checked.map_err(|error| error.to_string()));
        }
        self.readiness.record(Check::Hsm, hsm);
        let anchor = self.steps.custody.guard().look().await;
        self.readiness.record(
            Check::Anchor,
            anchor.map(drop).map_err(|error| error.to_string()),
        );
        for id in self.chains.ids() {
            if let Some(node) = self.chains.node(id) {
                let reached = node.verify_chain_id().await;
                self.readiness
                    .record(Check::Chain(id), reached.map_err(|error| error.to_string()));
            }
        }
    }
}

/// The boot of this machine, for operators who look into the database. Nothing depends on it: a hardened
/// service does not see it (`ProcSubset=pid`).
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "hidden".to_owned(), |id| id.trim().to_owned())
}

fn stop_on_signals(shutdown: &CancellationToken) -> Result<(), std::io::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: no new connections, running steps finish");
        shutdown.cancel();
    });
    Ok(())
}
