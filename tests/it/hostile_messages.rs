//! Every field of every signing message, with a value that no honest wallet sends (A01, A12, A13): what is refused before
//! the engine sees it, what ends the session, what counts against the wallet, and what is a ban.

use countersign_attacker::wire::{
    Frame, Last, Message, Second, Sign1, Sign1Reply, generator, identity, shorten,
};

use crate::support::attacker::{Attack, Attacker, SIGN_1, SIGN_2, closing_frame, opened};
use crate::support::signing::refusal;
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, wallet_of};

/// 1.
fn one() -> [u8; 32] {
    std::array::from_fn(|at| u8::from(at == 31))
}

/// There is no point with x = 5.
fn off_the_curve() -> Vec<u8> {
    let mut point = vec![0; 33];
    (point[0], point[32]) = (2, 5);
    point
}

/// What an alteration gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// Never seen by the engine.
    Refused,
    /// Of another version.
    Version,
    /// Another session: the two do not agree on what is signed.
    Failed,
    /// A final check failed that an honest wallet passes: three of them are a ban.
    Suspect,
    /// A check on long-lived secrets failed.
    Banned,
}

/// What is done to a message; each gets an honest one.
enum Alteration {
    /// To sg1 before it is written.
    First(fn(&mut Sign1)),
    /// To sg1 as it is written.
    FirstFrame(fn(&mut Frame)),
    /// To sg2 before it is written.
    Second(fn(&mut Second, &mut Last)),
    /// To sg2 as it is written.
    SecondFrame(fn(&mut Frame)),
}

use Alteration::{First, FirstFrame, SecondFrame};

type Case = (&'static str, Alteration, Expected);

/// Runs a case in a session of its own; the refusal.
async fn run(appliance: &Appliance, attacker: &Attacker<'_>, case: &Case) -> (u16, String) {
    let attack = Attack::prepare(appliance, attacker, 1).await;
    let mut attempt = attack.attempt();
    if let First(alter) = case.1 {
        let mut body: Sign1 = (attempt.nonce, attempt.first.clone());
        alter(&mut body);
        (attempt.nonce, attempt.first) = body;
    }
    let mut frame = attempt.frame();
    if let FirstFrame(alter) = case.1 {
        alter(&mut frame);
    }
    let (sealed, opener) = attack.sealed(SIGN_1.1, &frame);
    let answer = attack.signing.post(&sealed).await;
    if answer.status != 202 {
        assert!(matches!(case.1, First(_) | FirstFrame(_)), "{}", case.0);
        return refusal(&answer);
    }
    let sign_id = attempt.sign_id;
    let (mut second, mut last) = attack.closing(attempt, &answer, &opener);
    if let Alteration::Second(alter) = case.1 {
        alter(&mut second, &mut last);
    }
    let mut frame = closing_frame(sign_id, second, last);
    if let SecondFrame(alter) = case.1 {
        alter(&mut frame);
    }
    let (sealed, _) = attack.sealed(SIGN_2.1, &frame);
    let reply = attack.signing.post(&sealed).await;
    assert_ne!(reply.status, 200, "{}: signed", case.0);
    refusal(&reply)
}

/// State of the key and the failed signatures that count.
fn standing(appliance: &Appliance, attacker: &Attacker<'_>) -> String {
    appliance.database().value(&format!(
        "SELECT key_state || ' ' || failed_signatures || ' ' || suspect_events || ' ' || \
         CASE WHEN checking IS NULL THEN 'free' ELSE 'locked' END FROM profiles WHERE profile_id = '{}'",
        profile(attacker.wallet)
    ))
}

fn signed(appliance: &Appliance) -> i64 {
    appliance
        .database()
        .number("SELECT COUNT(*) FROM transactions WHERE raw IS NOT NULL")
}

fn code(expected: Expected) -> (u16, String) {
    let (status, code) = match expected {
        Expected::Refused => (400, "INVALID_KEY_SHARE"),
        Expected::Version => (400, "UNSUPPORTED_PROTOCOL_VERSION"),
        _ => (500, "MPC_SIGNING_FAILED"),
    };
    (status, code.to_owned())
}

fn harmless() -> Vec<Case> {
    use Expected::{Failed, Refused, Version};
    let second = |name, alter, expected| -> Case { (name, Alteration::Second(alter), expected) };
    vec![
        ("sg1: version", FirstFrame(|f| f.version = 2), Version),
        ("sg1: type", FirstFrame(|f| f.kind = 5), Refused),
        ("sg1: session", FirstFrame(|f| f.sid[7] ^= 1), Failed),
        (
            "sg1: from us",
            FirstFrame(|f| (f.from, f.to) = (2, 1)),
            Refused,
        ),
        ("sg1: from nobody", FirstFrame(|f| f.from = 0), Refused),
        ("sg1: empty", FirstFrame(|f| f.body.clear()), Refused),
        ("sg1: a byte more", FirstFrame(|f| f.body.push(0)), Refused),
        (
            "sg1: a byte less",
            FirstFrame(|f| shorten(&mut f.body)),
            Refused,
        ),
        (
            "sg1: too much",
            FirstFrame(|f| f.body.resize(100_000, 0)),
            Refused,
        ),
        // The length of `u` in three bytes where two would do, or of 2^63 bytes.
        (
            "sg1: a padded length",
            FirstFrame(|f| drop(f.body.splice(130..133, [0x80, 0x9c, 0x81, 0]))),
            Refused,
        ),
        (
            "sg1: a huge length",
            FirstFrame(|f| drop(f.body.splice(130..133, [0xff; 9]))),
            Refused,
        ),
        ("sg1: sender", First(|m| m.1.sender = 2), Refused),
        ("sg1: receiver", First(|m| m.1.receiver = 1), Refused),
        ("sg1: client nonce", First(|m| m.0[0] ^= 1), Failed),
        (
            "sg1: binding",
            First(|m| m.1.session_binding[0] ^= 1),
            Failed,
        ),
        (
            "sg1: rows",
            First(|m| drop(m.1.u.split_off(255 * 78))),
            Refused,
        ),
        ("sg1: check values", First(|m| shorten(&mut m.1.t)), Refused),
        ("sg1: no check values", First(|m| m.1.t.clear()), Refused),
        ("sg2: version", SecondFrame(|f| f.version = 0), Version),
        ("sg2: type", SecondFrame(|f| f.kind = 4), Refused),
        ("sg2: session", SecondFrame(|f| f.sid[31] ^= 1), Failed),
        ("sg2: to itself", SecondFrame(|f| f.to = 1), Refused),
        ("sg2: a byte more", SecondFrame(|f| f.body.push(7)), Refused),
        second("sg2: sender", |m, _| m.sender = 0, Refused),
        second("sg2: binding", |m, _| m.session_binding[9] ^= 1, Failed),
        second("sg2: identity", |m, _| m.gamma_u = identity(), Refused),
        second("sg2: identity", |m, _| m.gamma_v = identity(), Refused),
        second("sg2: identity", |m, _| m.public_share = identity(), Refused),
        second("sg2: zeros", |m, _| m.gamma_u = vec![0; 33], Refused),
        second(
            "sg2: off the curve",
            |m, _| m.instance_point = off_the_curve(),
            Refused,
        ),
        second(
            "sg2: off the curve",
            |m, _| m.gamma_u[1..].fill(0xff),
            Refused,
        ),
        second("sg2: no scalar", |m, _| m.psi = [0xff; 32], Refused),
        second("sg2: no scalar", |_, l| l.w = [0xff; 32], Refused),
        second("sg2: salt", |m, _| shorten(&mut m.salt), Refused),
        second("sg2: no salt", |m, _| m.salt.clear(), Refused),
        second("sg2: tau", |m, _| shorten(&mut m.tau), Refused),
        second("sg2: tau", |m, _| shorten(&mut m.tau[3]), Refused),
        second("sg2: tau", |m, _| m.tau.push(vec![]), Refused),
        second("sg2: u", |m, _| m.verify_u.push([0; 32]), Refused),
        second("sg2: gamma", |m, _| m.gamma.clear(), Refused),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_what_an_honest_wallet_could_send_by_mistake_ends_the_session_and_counts_for_nothing() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    for case in harmless() {
        let (name, _, expected) = case;
        let got = run(&appliance, &attacker, &case).await;
        assert_eq!(got, code(expected), "{name}");
        assert_eq!(standing(&appliance, &attacker), "stable 0 0 free", "{name}");
    }
    assert_eq!(signed(&appliance), 0);
    // The key is as good as before.
    let honest = Signing::prepare(&appliance, &wallet, 1).await;
    honest.complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_three_failed_final_checks_of_a_key_quarantine_it_and_none_releases_a_signature() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let second = |name, alter| -> Case { (name, Alteration::Second(alter), Expected::Suspect) };
    let cases = [
        [
            second("last u", |_, l| l.u = one()),
            second("last w", |_, l| l.w = one()),
            second("both", |_, l| (l.u, l.w) = (l.w, l.u)),
        ],
        [
            second("nonce point", |m, _| m.instance_point = generator()),
            second("no nonce point", |m, _| m.instance_point = identity()),
            (
                "commitment",
                First(|m| m.1.commitment[0] ^= 1),
                Expected::Suspect,
            ),
        ],
        [
            second("salt", |m, _| m.salt[0] ^= 1),
            second("psi", |m, _| m.psi = one()),
            second("zero", |_, l| (l.u, l.w) = ([0; 32], [0; 32])),
        ],
    ];
    for (number, of_key) in cases.into_iter().enumerate() {
        let wallet = wallet_of(&appliance, &node, &format!("w{number}")).await;
        let attacker = Attacker::of(&appliance, &wallet).await;
        let then = ["stable 1 0 free", "stable 2 0 free", "quarantined 3 0 free"];
        for (case, then) in of_key.into_iter().zip(then) {
            let got = run(&appliance, &attacker, &case).await;
            assert_eq!(got, code(case.2), "{}", case.0);
            assert_eq!(standing(&appliance, &attacker), then, "{}", case.0);
        }
        assert_eq!(signed(&appliance), 0);
    }
}

/// Each of these is one ban, and of one key there is only one.
async fn all_banned(cases: Vec<Case>) {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    for (number, case) in cases.into_iter().enumerate() {
        let wallet = wallet_of(&appliance, &node, &format!("w{number}")).await;
        let attacker = Attacker::of(&appliance, &wallet).await;
        let got = run(&appliance, &attacker, &case).await;
        assert_eq!(got, code(Expected::Banned), "{}", case.0);
        let then = standing(&appliance, &attacker);
        assert_eq!(then, "quarantined 0 0 free", "{}", case.0);
    }
    assert_eq!(signed(&appliance), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_every_cheat_in_the_first_message_is_a_ban() {
    let first = |name, alter| -> Case { (name, First(alter), Expected::Banned) };
    all_banned(vec![
        first("nonce", |m| m.1.nonce[0] ^= 1),
        first("row", |m| m.1.u[200 * 78 + 5] ^= 4),
        first("check value", |m| m.1.x[25] ^= 1),
        first("check value of a row", |m| m.1.t[255][0] ^= 0x80),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_every_cheat_in_the_second_message_is_a_ban() {
    let second = |name, alter| -> Case { (name, Alteration::Second(alter), Expected::Banned) };
    all_banned(vec![
        second("gamma u", |m, _| m.gamma_u = generator()),
        second("gamma v", |m, _| m.gamma_v = generator()),
        second("public share", |m, _| m.public_share = generator()),
        second("tau", |m, _| m.tau[2][7] = one()),
        second("salt", |m, _| m.extension_salt[0] ^= 1),
        second("hash", |m, _| m.verify_r[31] ^= 1),
        second("check value", |m, _| m.verify_u[1] = one()),
        second("gamma", |m, _| m.gamma[0] = one()),
    ])
    .await;
}

/// The wallet's second message in a session, and the appliance's in the same one.
async fn second_messages(attack: &Attack<'_>) -> ([u8; 32], Second, Last, Second) {
    let attempt = attack.attempt();
    let sign_id = attempt.sign_id;
    let (answer, opener) = attack.post_first(&attempt).await;
    let said = Frame::parse(&opened(&answer, &opener));
    let (_, theirs) = Sign1Reply::parse(&said.body);
    let (ours, last) = attack.closing(attempt, &answer, &opener);
    (sign_id, ours, last, theirs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a06_a_second_message_that_is_the_appliances_own_or_of_an_earlier_session_signs_nothing() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    let earlier = Attack::prepare(&appliance, &attacker, 1).await;
    let (sign_id, second, last, _) = second_messages(&earlier).await;
    let (old, old_last) = (second.clone(), last.clone());
    let reply = earlier.post_second(sign_id, second, last).await;
    assert_eq!(reply.status, 200);

    let mirrored = |ours: &Second, theirs: &Second| Second {
        sender: ours.sender,
        receiver: ours.receiver,
        ..theirs.clone()
    };
    let bound = |ours: &Second, other: &Second| Second {
        session_binding: ours.session_binding,
        ..other.clone()
    };
    for (what, then) in [
        ("of an earlier session", "stable 0 0 free"),
        ("mirrored", "stable 0 0 free"),
        // As if they were of this session: neither opens what was committed.
        ("of an earlier session, and bound", "stable 1 0 free"),
        ("mirrored, and bound", "stable 2 0 free"),
    ] {
        let attack = Attack::prepare(&appliance, &attacker, 1).await;
        let (sign_id, ours, last, theirs) = second_messages(&attack).await;
        let sent = match what {
            "of an earlier session" => old.clone(),
            "mirrored" => mirrored(&ours, &theirs),
            "mirrored, and bound" => bound(&ours, &mirrored(&ours, &theirs)),
            _ => bound(&ours, &old),
        };
        let last = if what.starts_with("of") {
            old_last.clone()
        } else {
            last
        };
        let reply = attack.post_second(sign_id, sent, last).await;
        assert_eq!(refusal(&reply), code(Expected::Failed), "{what}");
        assert_eq!(standing(&appliance, &attacker), then, "{what}");
    }
    assert_eq!(signed(&appliance), 1, "the earlier one");
}

#[test]
fn frames_are_cut_where_these_tests_say() {
    let [one, _] = countersign_attacker::share::deal();
    let (_, first) = countersign_attacker::sign::start(&one, [1; 32], [2; 32]);
    let body: Sign1 = ([3; 32], first);
    // client nonce, two indices, three hashes, then the length of `u`: 19968.
    assert_eq!(body.bytes()[130..133], [0x80, 0x9c, 0x01]);
}
