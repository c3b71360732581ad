//! Every route, as the appliance itself describes it: who gets in, who does not, and with which answer.
//!
//! The routes come from the description, so that a new one is here at once; `docs/routes.md` is what was found. A route
//! without a sample in [`Sampler::body`] fails the test.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use countersign_client::flows::create::client_share;
use countersign_client::flows::devices;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request, SignedRequest, Transport};
use countersign_mpc::owner_proof::{Algorithm, DeviceKey};
use serde_json::{Value, json};

use crate::bad_input::state;
use crate::devices::copy_of;
use crate::support::authenticator::{Authenticator, begin};
use crate::support::outside::{curl, issued};
use crate::support::signing::{fresh_key, json_of, refusal, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, CHAIN, Node, Signing, root, wallet_of};

/// Every role that a certificate can have.
const ROLES: [&str; 5] = [
    "gateway",
    "operator",
    "security-officer",
    "auditor",
    "metrics",
];

/// A route, as it is described.
struct Route {
    method: String,
    path: String,
    operation: Value,
}

impl Route {
    fn all(document: &Value) -> Vec<Self> {
        let mut routes = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                routes.push(Self {
                    method: method.to_uppercase(),
                    path: path.clone(),
                    operation: operation.clone(),
                });
            }
        }
        routes
    }

    fn name(&self) -> &str {
        self.operation["operationId"].as_str().unwrap()
    }

    fn admits(&self, role: &str) -> bool {
        let roles = self.operation["x-roles"].as_array().unwrap();
        roles.iter().any(|admitted| admitted == role)
    }

    fn is_signed(&self) -> bool {
        let security = self.operation["security"].to_string();
        assert!(security.contains("clientCertificate"), "{}", self.path);
        security.contains("deviceSignature")
    }

    fn is_on_the_operator_listener(&self) -> bool {
        self.operation["tags"] == json!(["operators"])
    }

    fn takes_idempotency_key(&self) -> bool {
        let parameters = self.operation["parameters"].as_array();
        parameters.is_some_and(|all| all.iter().any(|one| one["name"] == "Idempotency-Key"))
    }

    /// Whether the description knows this answer.
    fn check(&self, reply: &Reply) {
        let status = reply.status.to_string();
        let response = &self.operation["responses"][&status];
        let what = format!("{} {} answers {status}", self.method, self.path);
        assert!(response.is_object(), "{what}, which is not described");
        if reply.status >= 400 && !self.is_on_the_operator_listener() {
            let code = refusal(reply).1;
            let codes = &response["content"]["application/json"]["schema"]["properties"]["error"];
            let known = codes["enum"].as_array().unwrap().contains(&json!(code));
            assert!(known, "{what} {code}, which is not described");
        }
    }
}

/// Requests for a wallet's own things; in order, if it is the sender.
struct Sampler<'a> {
    wallet: &'a Wallet,
    session: String,
    keygen_session: String,
    /// A new device, and what it asks for.
    device: String,
    asked: Value,
    /// A second factor that waits for its first code.
    factor: Authenticator,
}

impl Sampler<'_> {
    fn path(&self, route: &Route) -> String {
        let path = route
            .path
            .replace(
                "/profiles/{id}",
                &format!("/profiles/{}", profile(self.wallet)),
            )
            .replace("/sessions/{id}", &format!("/sessions/{}", self.session))
            .replace("{keyId}", &self.device);
        assert!(!path.contains('{'), "add the parameter of {path} here");
        match route.name() {
            "listTransactions" => format!("{path}?chainId={CHAIN}"),
            _ => path,
        }
    }

    fn body(&self, route: &Route, sender: &Wallet) -> Value {
        match route.name() {
            "createProfile" => json!({
                "profileId": profile(self.wallet),
                "keygenSessionId": self.keygen_session,
                "clientShare": client_share(sender, "mw1.kg2.k.x".to_owned()),
            }),
            "prepareTransaction" => transaction(1),
            "enrolDevice" => self.asked.clone(),
            "revokeDevice" | "freezeProfile" | "unfreezeProfile" => json!({}),
            // Whoever may do this does it with a certificate alone: these do nothing.
            "placeFreeze" => json!({"scope": "tenant", "subject": "nobody", "reason": "a test"}),
            "carryOut" => json!({"command": "nothing", "approvals": []}),
            "enrolTwoFactor" => json!({"clientShare": {"share": "mw1.tf1.k.x"}}),
            "activateTwoFactor" => {
                let code = self.factor.code(0);
                json!({"enrolmentId": self.factor.enrolment, "twoFactorCode": code})
            }
            "cancelTwoFactor" => json!({"enrolmentId": self.factor.enrolment}),
            "sign" => json!({"sessionId": self.session, "restart": true}),
            other => panic!("add a body for {other} here: a request of the owner that is in order"),
        }
    }

    fn request(&self, route: &Route, sender: &Wallet) -> Request {
        let mut request = if route.operation["requestBody"].is_object() {
            Request::post(self.path(route), &self.body(route, sender)).unwrap()
        } else {
            Request::get(self.path(route))
        };
        if route.takes_idempotency_key() {
            request = request.with_idempotency_key(fresh_key());
        }
        request
    }
}

/// The request without its device's signature.
fn unsigned(mut request: SignedRequest) -> SignedRequest {
    let of_proof = [
        "signature",
        "signature-input",
        "mpc-audience",
        "content-digest",
    ];
    request.headers.retain(|(name, _)| !of_proof.contains(name));
    request
}

/// Both listeners, as one who has the certificate of a role reaches them.
struct Visitor {
    api: Transport,
    operators: Transport,
}

impl Visitor {
    fn new(appliance: &Appliance, role: &str) -> Self {
        let san = format!("URI:spiffe://countersign.test/every/{role}");
        let [certificate, key] = issued(appliance, &san, 1);
        let mut config = appliance.client.config().clone();
        (config.certificate, config.key) = (certificate.into(), key.into());
        let api = Transport::new(&config).unwrap();
        config.url = appliance.operator_url("/").parse().unwrap();
        let operators = Transport::new(&config).unwrap();
        Self { api, operators }
    }

    fn transport(&self, route: &Route) -> &Transport {
        if route.is_on_the_operator_listener() {
            &self.operators
        } else {
            &self.api
        }
    }
}

/// An appliance that knows one certificate of each role.
async fn with_every_role(node: &Node) -> Appliance {
    let mut appliance = Appliance::init(&node.url());
    let file = appliance.environment().join("countersignd.toml");
    let mut config = fs::read_to_string(&file).unwrap();
    for role in ROLES {
        let san = format!("spiffe://countersign.test/every/{role}");
        write!(config, "\n[[client]]\nsan = \"{san}\"\nrole = \"{role}\"\n").unwrap();
    }
    // A new second factor waits, so that what comes after it in the list needs no code.
    let config = config.replace("cooling_off = \"0s\"", "cooling_off = \"72h\"");
    fs::write(file, config).unwrap();
    appliance.serve().await;
    appliance
}

fn code(reply: &Reply) -> String {
    let (status, code) = refusal(reply);
    format!("{status} {code}")
}

/// What is written down, and that the file says so.
pub(crate) fn compare(file: &str, found: &str) {
    let path = root().join(file);
    if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
        fs::write(&path, found).unwrap();
    }
    let reviewed = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == reviewed,
        "{file} differs: run this test with COUNTERSIGN_BLESS=1 and review the difference\n{found}"
    );
}

/// What the refusals are tried on.
struct Site<'a> {
    appliance: &'a Appliance,
    owner: &'a Wallet,
    other: &'a Wallet,
    sampler: Sampler<'a>,
    visitors: BTreeMap<&'static str, Visitor>,
}

impl Site<'_> {
    fn url(&self, route: &Route) -> String {
        let path = self.sampler.path(route);
        if route.is_on_the_operator_listener() {
            self.appliance.operator_url(&path)
        } else {
            self.appliance.url(&path)
        }
    }

    /// Tries a certificate of each role, and none. The roles that are not refused.
    async fn roles(&self, route: &Route) -> Vec<&'static str> {
        let url = self.url(route);
        let nobody = curl(self.appliance, &url, &["--request", &route.method]);
        assert_eq!((nobody.status, nobody.head.as_str()), (0, ""), "{url}");

        let before = state(self.appliance);
        let mut admitted = Vec::new();
        for (role, visitor) in &self.visitors {
            let transport = visitor.transport(route);
            let request = self.sampler.request(route, self.owner);
            // Also with a signature that holds: it is no substitute for the role.
            let mut request = transport.sign(&request, self.owner.device()).unwrap();
            if route.admits(role) {
                admitted.push(*role);
                request = unsigned(request);
            }
            let reply = transport.send(&request).await.unwrap();
            route.check(&reply);
            let refused = reply.status == 403 && code(&reply) == "403 FORBIDDEN_ROLE";
            assert_eq!(refused, !route.admits(role), "{role} {url}");
            assert_eq!(state(self.appliance), before, "{role} {url}");
        }
        admitted
    }

    /// Tries no signature, and those of two devices that have no business there.
    async fn devices(&self, route: &Route, transport: &Transport) -> [String; 3] {
        if !route.is_signed() {
            return ["-", "-", "-"].map(str::to_owned);
        }
        let of_owner = self.sampler.request(route, self.owner);
        let of_other = self.sampler.request(route, self.other);
        let stranger = DeviceKey::generate(Algorithm::P256).unwrap();
        let before = state(self.appliance);
        let mut codes = Vec::new();
        for request in [
            unsigned(transport.sign(&of_owner, self.owner.device()).unwrap()),
            transport.sign(&of_owner, &stranger).unwrap(),
            transport.sign(&of_other, self.other.device()).unwrap(),
        ] {
            let reply = transport.send(&request).await.unwrap();
            route.check(&reply);
            assert_eq!(state(self.appliance), before, "{}", request.path);
            codes.push(code(&reply));
        }
        let codes: [String; 3] = codes.try_into().unwrap();
        assert_eq!(
            codes[..2],
            ["401 UNAUTHENTICATED", "401 SIGNATURE_INVALID"],
            "{}",
            route.path
        );
        assert!(codes[2].starts_with("404 "), "{} {}", route.path, codes[2]);
        codes
    }

    /// The request as it should be: what is refused now is refused for another reason than who asks.
    async fn owner(&self, route: &Route, transport: &Transport) -> String {
        let request = self.sampler.request(route, self.owner);
        let request = transport.sign(&request, self.owner.device()).unwrap();
        assert_eq!(request.method.as_str(), route.method);
        let reply = transport.send(&request).await.unwrap();
        route.check(&reply);
        if route.name() == "freezeProfile" {
            let all = "DELETE FROM freezes";
            let environment = self.appliance.environment();
            self.appliance.storage.tamper(&environment, all);
        }
        if reply.status < 300 {
            return reply.status.to_string();
        }
        assert!(
            ![401, 403, 404].contains(&reply.status),
            "{} {}",
            route.path,
            code(&reply)
        );
        code(&reply)
    }
}

const HEAD: &str = "# Routes and who gets in

Generated by `tests/it/routes.rs`, which sends each of these requests to a running appliance; what they are is in
[openapi.json](openapi.json). After every refusal the database is as before. Without a client certificate there is no TLS
connection, on no route; a certificate of another role than these gets 403 `FORBIDDEN_ROLE`.

| route | roles | unsigned | a device nobody enrolled | another owner's device | as it should be |
|---|---|---|---|---|---|
";

#[tokio::test(flavor = "multi_thread")]
async fn a32_every_route_refuses_who_has_no_business_there() {
    let node = Node::start().await;
    let appliance = with_every_role(&node).await;
    let owner = wallet_of(&appliance, &node, "owner").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let signing = Signing::prepare(&appliance, &owner, 1).await;
    let new = copy_of(&appliance, &owner, "new", Algorithm::Ed25519);
    let site = Site {
        appliance: &appliance,
        owner: &owner,
        other: &other,
        sampler: Sampler {
            wallet: &owner,
            session: signing.prepared.session_id.clone(),
            device: new.device().thumbprint(),
            asked: json!(devices::ask(&new, &appliance.client, "new").unwrap()),
            factor: begin(&appliance, &owner, None).await,
            keygen_session: appliance.database().value(&format!(
                "SELECT session_id FROM sessions WHERE kind = 'keygen' AND profile_id = '{}'",
                profile(&owner)
            )),
        },
        visitors: ROLES
            .map(|role| (role, Visitor::new(&appliance, role)))
            .into(),
    };
    let document = json_of(&appliance.operator("/openapi.json").await.unwrap());
    let mut table = HEAD.to_owned();
    for route in Route::all(&document) {
        let roles = site.roles(&route).await;
        let transport = site.visitors[roles[0]].transport(&route);
        let devices = site.devices(&route, transport).await;
        let owner = site.owner(&route, transport).await;
        writeln!(
            table,
            "| `{} {}` | {} | {} | {owner} |",
            route.method,
            route.path,
            roles.join(", "),
            devices.join(" | "),
        )
        .unwrap();
    }
    compare("docs/routes.md", &table);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_listener_serves_the_description_that_was_reviewed() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let served = appliance.operator("/openapi.json").await.unwrap();
    let reviewed = fs::read(root().join("docs/openapi.json")).unwrap();
    let reviewed: Value = serde_json::from_slice(&reviewed).unwrap();
    assert!(json_of(&served) == reviewed);
}
