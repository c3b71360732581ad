//! Wallets without key generation over the wire: one key is made in this process, which so holds both
//! shares, and is stored under as many profiles as a measurement needs.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use countersign_hsm::{KekId, KekName, ObjectAad, Pin, Profile, Purpose, Token, TokenConfig};
use countersign_mpc::binding::KeygenBinding;
use countersign_mpc::canary::CanaryDigest;
use countersign_mpc::keygen::{self, P1Keygen};
use countersign_mpc::owner_proof::{Algorithm, DeviceKey};
use countersign_mpc::share::{P1Share, P2Share, PublicShare};
use uuid::Uuid;

use crate::rig::Rig;

/// Both shares of one key.
pub(crate) struct Key {
    pub(crate) p1: P1Share,
    pub(crate) p2: P2Share,
    pub(crate) public: PublicShare,
}

/// Runs the protocol's key generation with itself.
pub(crate) fn key() -> Key {
    let binding = KeygenBinding {
        environment_id: [1; 32],
        profile_id: "profile".into(),
        keygen_session_id: "session".into(),
        device_thumbprint: "thumbprint".into(),
    };
    let (p1, kg1) = P1Keygen::start().unwrap();
    let (p2, reply) = keygen::p2_round_1(&binding, [2; 32], &kg1).unwrap();
    let (p1, kg2) = p1.round_2(&binding, &reply).unwrap();
    let p2 = p2.round_2(&kg2).unwrap();
    let p1 = p1.round_3(&p2.message).unwrap();
    let digest = CanaryDigest::new("profile", 1, "session");
    let reply = p2.canary.finish(&p2.share, &p1.message, &digest).unwrap();
    p1.canary.finish(&p1.share, &reply).unwrap();
    Key {
        p1: p1.share,
        p2: p2.share,
        public: p2.public,
    }
}

/// Puts wallets of one owner into the database.
pub(crate) struct Fixtures {
    pub(crate) key: Key,
    pub(crate) device: DeviceKey,
    token: Token,
    kek: KekId,
    owner: String,
}

impl Fixtures {
    /// Connects to the token and finds the environment's KEK for shares.
    pub(crate) async fn new(rig: &Rig, key: Key) -> Self {
        let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
        let config = TokenConfig {
            module: path("HSM_MODULE"),
            token_label: std::env::var("TOKEN_LABEL").unwrap(),
            pin: Pin::from_file(&path("PIN_FILE")).unwrap(),
            profile: Profile::builtin("softhsm2").unwrap(),
            workers: 1,
            queue: 16,
            deadline: Duration::from_secs(10),
        };
        let token = Token::open(config).unwrap();
        let name = KekName {
            environment_id: rig.client.config().environment_id,
            tenant: rig.client.config().tenant.clone(),
            purpose: Purpose::Share,
            epoch: 1,
        };
        let kek = token.find_kek(&name).await.unwrap().unwrap();
        let fixtures = Self {
            key,
            device: DeviceKey::generate(Algorithm::P256).unwrap(),
            token,
            kek,
            owner: Uuid::now_v7().to_string(),
        };
        let (tenant, owner) = (&rig.client.config().tenant, &fixtures.owner);
        rig.execute(&format!(
            "INSERT INTO owners VALUES ('{owner}', '{tenant}', NULL, NULL, 0); \
             INSERT INTO devices VALUES ('{tenant}', '{}', '{owner}', 'ecdsa-p256-sha256', X'{}', 'bench', 0, 0, NULL);",
            fixtures.device.thumbprint(),
            hex::encode(fixtures.device.public_key().as_bytes())
        ));
        fixtures
    }

    /// Adds `count` wallets that can sign; the server must not run. Their profile ids.
    pub(crate) async fn insert(&self, rig: &Rig, count: usize) -> Vec<String> {
        let (mut profiles, mut sql) = (vec![], "BEGIN;\n".to_owned());
        for _ in 0..count {
            let profile = Uuid::now_v7().to_string();
            let share = self.key.p2.to_bytes().unwrap();
            let sealed = self
                .token
                .seal(self.kek, self.aad(rig, &profile), share)
                .await
                .unwrap();
            let sealed = format!("X'{}'", hex::encode(sealed));
            self.write_rows(&mut sql, rig, &format!("'{profile}'"), &sealed, "");
            profiles.push(profile);
        }
        sql.push_str("COMMIT;");
        rig.execute(&sql);
        profiles
    }

    /// Adds wallets until there are `total`. Their shares are of the right length and do not open: nothing
    /// that reads them may run.
    pub(crate) fn fill_up(&self, rig: &Rig, total: usize) {
        let missing = total - rig.number("SELECT COUNT(*) FROM key_shares");
        let length = rig.number("SELECT MAX(length(sealed)) FROM key_shares");
        let counted = format!(
            "FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {missing}) SELECT n FROM c)"
        );
        let id = "printf('01900000-0000-7000-8000-%012x', n)";
        let mut sql = "BEGIN;\n".to_owned();
        self.write_rows(&mut sql, rig, id, &format!("zeroblob({length})"), &counted);
        sql.push_str("COMMIT;");
        rig.execute(&sql);
    }

    fn write_rows(&self, sql: &mut String, rig: &Rig, id: &str, sealed: &str, from: &str) {
        let public = &self.key.public;
        let (tenant, owner) = (&rig.client.config().tenant, &self.owner);
        let [address, public_key, x1, x2, session, kek] = [
            public.address.as_slice(),
            &public.public_key,
            &public.x1,
            &public.x2,
            &public.session_id,
            &self.kek.0,
        ]
        .map(hex::encode);
        writeln!(
            sql,
            "INSERT INTO profiles (profile_id, tenant, owner_id, name, state, key_state, generation, address, created_at, updated_at) \
             SELECT {id}, '{tenant}', '{owner}', 'fixture', 'active', 'stable', 1, X'{address}', 0, 0 {from};\n\
             INSERT INTO key_shares (profile_id, generation, state, object_version, kek_id, sealed, public_key, x1, x2, \
             dkg_session_id, created_at) SELECT {id}, 1, 'active', 1, X'{kek}', {sealed}, \
             X'{public_key}', X'{x1}', X'{x2}', X'{session}', 0 {from};"
        )
        .unwrap();
    }

    fn aad(&self, rig: &Rig, profile: &str) -> ObjectAad {
        ObjectAad {
            environment_id: rig.client.config().environment_id,
            tenant: rig.client.config().tenant.clone(),
            purpose: Purpose::Share,
            profile_id: profile.to_owned(),
            owner_id: self.owner.clone(),
            key_generation: 1,
            object_version: 1,
            role: "P2",
            public_key: self.key.public.public_key.to_vec(),
        }
    }
}
