//! A malicious appliance: every message of P2, with every field altered, replayed and mirrored, and the questions about
//! secret bits that a wallet must not go on answering (A01, A06, A11, A12 from the wallet's side). What the appliance sends
//! is made by `countersign-attacker`, which shares no code with the client.

use std::sync::{Arc, Mutex};

use countersign_attacker::{
    cheat,
    share::Share,
    wire::{
        Closing, Frame, Keygen1Reply, Keygen2, Keygen2Reply, Message, Sign1Reply, generator,
        identity, shorten,
    },
};
use countersign_client::{
    ClientError,
    flows::send,
    keystore::{KeystoreError, Wallet, WalletState},
};
use countersign_mpc::error::{MpcError, RecoverableReason};

use crate::support::{
    Bench,
    appliance::{FakeAppliance, Fault},
    intent,
};

/// From now on, the next message of this kind is what `cheat` makes of the honest one.
fn cheat_in(
    server: &FakeAppliance,
    kind: &'static str,
    cheat: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static,
) {
    server.protocol(|protocol| protocol.cheat = Some((kind, Box::new(cheat))));
}

/// The same for a message in its fields.
fn alter<M: Message + 'static>(
    server: &FakeAppliance,
    kind: &'static str,
    mut alter: impl FnMut(&mut Frame, &mut M) + Send + 'static,
) {
    cheat_in(server, kind, move |message| {
        let mut frame = Frame::parse(message);
        let mut body = M::parse(&frame.body);
        // An alteration of the frame's own body counts as well.
        let honest = body.bytes();
        alter(&mut frame, &mut body);
        if frame.body == honest {
            frame.body = body.bytes();
        }
        frame.bytes()
    });
}

/// The appliance's share, and the wallet's: what the test may know and the appliance may not.
fn shares(bench: &Bench, wallet: &Wallet) -> [Share; 2] {
    let profile = wallet.current().unwrap().0.to_owned();
    let stored = bench.server.protocol(|protocol| {
        let share = protocol.profiles[&profile].share.as_ref();
        share.unwrap().to_bytes().unwrap()
    });
    let own = wallet.current_share().unwrap().to_bytes().unwrap();
    [Share::of_stored(&stored), Share::of_stored(&own)]
}

/// Asks about a row; whether the wallet went on. The appliance hears its second message and does no more.
async fn ask(bench: &Bench, wallet: &mut Wallet, row: usize) -> bool {
    let [own, _] = shares(bench, wallet);
    let client = &bench.client;
    let proposal = send::propose(wallet, client, intent()).await.unwrap();
    let digest = bench.server.protocol(|protocol| {
        protocol.log.clear();
        let mut sessions = protocol.sessions.values();
        let open = sessions.find(|session| session.state == "created");
        open.unwrap().digest
    });
    alter(&bench.server, "sg1", move |frame, m: &mut Sign1Reply| {
        cheat::probe(&own, &mut m.0, &frame.sid, &digest, row);
    });
    let heard = Fault::Refuse("sg2", 500, "MPC_SIGNING_FAILED", "never");
    bench
        .server
        .protocol(|protocol| protocol.faults = vec![heard]);
    let outcome = send::sign(wallet, client, &proposal, &mut |_| {}).await;
    let error = outcome.err().unwrap();
    let went_on = bench.server.protocol(|protocol| {
        let heard = protocol.log.iter().filter(|kind| *kind == "sg2");
        heard.count() == 1
    });
    assert_eq!(error.is_quarantined(), !went_on, "{error}");
    went_on
}

#[tokio::test]
async fn a01_client_probes_in_order_learn_no_more_than_up_to_the_first_set_bit() {
    let fresh = Fresh::make().await;
    let bench = &fresh.bench;
    let mut wallet = fresh.wallet();
    let [_, victim] = shares(bench, &wallet);
    let secret = victim.secret_bits();
    // From a row on which it goes well for a while.
    let zeros = |row: usize| secret[row..].iter().take_while(|bit| !**bit).count();
    let start = (0..200).find(|row| (2..=3).contains(&zeros(*row))).unwrap();
    let first_set = start + zeros(start);
    let mut learned = Vec::new();
    for (row, &bit) in secret.iter().enumerate().skip(start) {
        let went_on = ask(bench, &mut wallet, row).await;
        assert_eq!(went_on, !bit, "row {row}");
        learned.push(row);
        if !went_on {
            break;
        }
        // The next payment, with the shares as they are.
        drop(wallet);
        wallet = fresh.wallet();
    }
    assert_eq!(learned.len(), first_set - start + 1);
    bench.server.protocol(|protocol| protocol.faults.clear());
    // A wallet that has banned its appliance answers nothing, in this process or in the next.
    assert!(bench.send(&mut wallet).await.unwrap_err().is_quarantined());
    drop(wallet);
    let mut wallet = bench.open();
    assert_eq!(wallet.state(), WalletState::Quarantined);
    assert!(bench.send(&mut wallet).await.unwrap_err().is_quarantined());
}

fn one() -> [u8; 32] {
    std::array::from_fn(|at| u8::from(at == 31))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// Never seen by the engine; no suspicion.
    Harmless,
    /// Three of these quarantine the wallet.
    Suspect,
    /// The wallet bans the appliance.
    Banned,
}

type Change = fn(&mut Frame, &mut Sign1Reply);

fn of_signing() -> Vec<(&'static str, Change, Expected)> {
    use Expected::{Banned, Harmless, Suspect};
    vec![
        ("version", |f, _| f.version = 2, Harmless),
        ("type", |f, _| f.kind = 5, Harmless),
        ("session", |f, _| f.sid[0] ^= 1, Harmless),
        ("from the wallet", |f, _| (f.from, f.to) = (1, 2), Harmless),
        ("a byte more", |f, _| f.body.push(0), Harmless),
        ("a byte less", |f, _| shorten(&mut f.body), Harmless),
        ("empty", |f, _| f.body.clear(), Harmless),
        ("sender", |_, m| m.0.sender = 1, Harmless),
        ("receiver", |_, m| m.1.receiver = 2, Harmless),
        ("binding", |_, m| m.0.session_binding[0] ^= 1, Harmless),
        ("binding", |_, m| m.1.session_binding[0] ^= 1, Harmless),
        ("rows", |_, m| drop(m.0.u.split_off(78)), Harmless),
        ("check values", |_, m| shorten(&mut m.0.t), Harmless),
        ("identity", |_, m| m.1.gamma_u = identity(), Harmless),
        ("identity", |_, m| m.1.public_share = identity(), Harmless),
        ("no point", |_, m| m.1.gamma_v = vec![4; 33], Harmless),
        ("no scalar", |_, m| m.1.psi = [0xff; 32], Harmless),
        ("salt", |_, m| m.1.salt.push(0), Harmless),
        ("tau", |_, m| shorten(&mut m.1.tau[0]), Harmless),
        ("gamma", |_, m| m.1.gamma.clear(), Harmless),
        ("identity", |_, m| m.1.instance_point = identity(), Suspect),
        ("commitment", |_, m| m.0.commitment[0] ^= 1, Suspect),
        ("opening", |_, m| m.1.salt[0] ^= 1, Suspect),
        (
            "nonce point",
            |_, m| m.1.instance_point = generator(),
            Suspect,
        ),
        ("psi", |_, m| m.1.psi = one(), Suspect),
        ("nonce", |_, m| m.0.nonce[0] ^= 1, Banned),
        ("row", |_, m| m.0.u[78] ^= 1, Banned),
        ("check value", |_, m| m.0.x[0] ^= 1, Banned),
        ("check value of a row", |_, m| m.0.t[9][9] ^= 1, Banned),
        ("gamma u", |_, m| m.1.gamma_u = generator(), Banned),
        ("gamma v", |_, m| m.1.gamma_v = generator(), Banned),
        (
            "public share",
            |_, m| m.1.public_share = generator(),
            Banned,
        ),
        ("tau", |_, m| m.1.tau[3][415] = one(), Banned),
        (
            "salt of the extension",
            |_, m| m.1.extension_salt[0] ^= 1,
            Banned,
        ),
        ("hash", |_, m| m.1.verify_r[0] ^= 1, Banned),
        ("check values", |_, m| m.1.verify_u[0] = one(), Banned),
        ("gamma", |_, m| m.1.gamma[1] = one(), Banned),
    ]
}

/// The wallet as it was when it was made, so that each alteration meets a fresh one.
struct Fresh {
    bench: Bench,
    file: Vec<u8>,
}

impl Fresh {
    async fn make() -> Self {
        let bench = Bench::start().await;
        let wallet = bench.create().await.unwrap();
        drop(wallet);
        let path = bench.keystore().path(&crate::support::name());
        let file = std::fs::read(path).unwrap();
        Self { bench, file }
    }

    fn wallet(&self) -> Wallet {
        let path = self.bench.keystore().path(&crate::support::name());
        std::fs::write(path, &self.file).unwrap();
        self.bench.open()
    }
}

#[tokio::test]
async fn a01_client_every_field_of_a_signing_answer() {
    let fresh = Fresh::make().await;
    let bench = &fresh.bench;
    for (what, change, expected) in of_signing() {
        let mut wallet = fresh.wallet();
        alter(&bench.server, "sg1", change);
        let error = bench.send(&mut wallet).await.unwrap_err();
        let standing = (wallet.state(), wallet.suspect_events());
        let then = match expected {
            Expected::Harmless => (WalletState::Active, 0),
            Expected::Suspect => (WalletState::Active, 1),
            Expected::Banned => (WalletState::Quarantined, 0),
        };
        assert_eq!(standing, then, "{what}: {error}");
        assert_eq!(
            error.is_quarantined(),
            expected == Expected::Banned,
            "{what}"
        );
        bench.server.protocol(|protocol| {
            assert!(protocol.cheat.is_none(), "{what}: it was not sent");
            assert!(protocol.signed.is_empty(), "{what}");
            assert!(
                !protocol.log.contains(&"sg2".to_owned()),
                "{what}: a message left"
            );
        });
    }
}

fn refused(error: &ClientError) -> bool {
    let ClientError::Keystore(KeystoreError::Protocol(error)) = error else {
        return false;
    };
    matches!(error, MpcError::Refused(_))
}

#[tokio::test]
async fn a06_client_an_answer_of_another_session_is_of_no_use() {
    let fresh = Fresh::make().await;
    let server = &fresh.bench.server;
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&recorded);
    cheat_in(server, "sg1", move |message| {
        *record.lock().unwrap() = message.to_vec();
        message.to_vec()
    });
    let mut wallet = fresh.wallet();
    fresh.bench.send(&mut wallet).await.unwrap();
    let earlier = recorded.lock().unwrap().clone();
    for as_it_was in [true, false] {
        drop(wallet);
        wallet = fresh.wallet();
        let earlier = earlier.clone();
        cheat_in(server, "sg1", move |message| {
            // Or as if it were of this session.
            let mut frame = Frame::parse(message);
            frame.body = Frame::parse(&earlier).body;
            if as_it_was {
                earlier.clone()
            } else {
                frame.bytes()
            }
        });
        let error = fresh.bench.send(&mut wallet).await.unwrap_err();
        let mismatch = matches!(
            error,
            ClientError::Keystore(KeystoreError::Protocol(MpcError::Recoverable {
                reason: RecoverableReason::SessionBindingMismatch,
                suspect: false,
            }))
        );
        assert!(mismatch, "{error:?}");
        let standing = (wallet.state(), wallet.suspect_events());
        assert_eq!(standing, (WalletState::Active, 0));
    }
}

#[tokio::test]
async fn a11_client_openings_that_were_not_committed_mirrored_or_short_make_no_wallet() {
    type Change = fn(&mut Frame, &mut Keygen2Reply);
    let cases: [(&str, Change, bool); 9] = [
        ("another proof", |_, m| m.0.key.answers[3].1 = one(), false),
        ("another point", |_, m| m.0.key.point = generator(), false),
        ("another seed", |_, m| m.0.zero_share_seed[0] ^= 1, false),
        ("another chain code", |_, m| m.0.chain_code[0] ^= 1, false),
        ("other transfers", |_, m| m.0.setup.seed[0] ^= 1, false),
        (
            "a short challenge",
            |_, m| m.0.key.answers[0].0 = vec![0],
            true,
        ),
        ("no proof", |_, m| m.0.key.answers.clear(), true),
        ("the identity", |_, m| m.0.key.point = identity(), true),
        (
            "transfers missing",
            |_, m| shorten(&mut m.0.setup.encryption),
            true,
        ),
    ];
    for (what, change, early) in cases {
        let bench = Bench::start().await;
        alter(&bench.server, "kg2", change);
        let error = bench.create().await.err().unwrap();
        assert_eq!(refused(&error), early, "{what}: {error}");
        assert!(!error.is_quarantined(), "{what}: {error}");
        let wallet = bench.open();
        assert_eq!(wallet.state(), WalletState::Draft, "{what}");
        assert_eq!(wallet.header().address, None, "{what}");
    }
}

#[tokio::test]
async fn a11_client_an_appliance_that_mirrors_the_wallet_makes_no_wallet() {
    let bench = Bench::start().await;
    let theirs = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&theirs);
    bench
        .server
        .protocol(|protocol| protocol.heard = Some(("kg2", heard)));
    alter(&bench.server, "kg2", move |_, m: &mut Keygen2Reply| {
        let (_, openings, _) = Keygen2::parse(&Frame::parse(&theirs.lock().unwrap()).body);
        m.0.key = openings.key;
        m.0.chain_code = openings.chain_code;
    });
    let error = bench.create().await.err().unwrap();
    assert!(refused(&error), "{error}");
    assert_eq!(bench.open().header().address, None);
}

#[tokio::test]
async fn a12_client_a_first_answer_that_is_not_one_makes_no_wallet() {
    type Change = fn(&mut Frame, &mut Keygen1Reply);
    let cases: [(&str, Change); 6] = [
        ("version", |f, _| f.version = 0),
        ("session", |f, _| f.sid[0] ^= 1),
        ("server nonce", |_, m| m.0[0] ^= 1),
        ("no scalar", |_, m| m.1.0 = [0xff; 32]),
        ("a byte more", |f, _| f.body.push(0)),
        // A commitment is found wrong when it is opened.
        ("commitment", |_, m| m.2.key[0] ^= 1),
    ];
    for (what, change) in cases {
        let bench = Bench::start().await;
        alter(&bench.server, "kg1", change);
        let error = bench.create().await.err().unwrap();
        assert!(!error.is_quarantined(), "{what}: {error}");
        assert_eq!(bench.open().header().address, None, "{what}");
    }
}

#[tokio::test]
async fn a01_client_a_cheat_in_the_canary_is_a_ban_and_a_wrong_end_is_no_proof() {
    type Change = fn(&mut Frame, &mut Closing);
    let cases: [(&str, Change, bool); 3] = [
        ("tau", |_, m| m.0.tau[0][0] = one(), true),
        ("last u", |_, m| m.1.u = one(), false),
        ("last w", |_, m| m.1.w = one(), false),
    ];
    for (what, change, banned) in cases {
        let bench = Bench::start().await;
        alter(&bench.server, "kg3", change);
        let error = bench.create().await.err().unwrap();
        assert_eq!(error.is_quarantined(), banned, "{what}: {error}");
        let wallet = bench.open();
        assert_eq!(wallet.header().address, None, "{what}");
        assert_eq!(wallet.suspect_events(), u32::from(!banned), "{what}");
    }
}
