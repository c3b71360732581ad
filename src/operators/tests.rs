#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use countersign_mpc::owner_proof::{Algorithm, DeviceKey};

use super::{
    Approval, Command, Deed, InvalidOperators, MAX_AHEAD, MAX_LIFETIME, NotApproved, NotNow,
    OperatorName, Operators,
};
use crate::clock::Timestamp;
use crate::domain::{EnvironmentId, OperationId, Reason, Target, TenantId};

const HERE: EnvironmentId = EnvironmentId([0xab; 32]);
const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn name(text: &str) -> OperatorName {
    OperatorName::parse(text).unwrap()
}

fn key(seed: u8) -> DeviceKey {
    DeviceKey::from_bytes(Algorithm::Ed25519, &[seed; 32]).unwrap()
}

fn public(seed: u8) -> [u8; 32] {
    key(seed).public_key().as_bytes().try_into().unwrap()
}

fn operators() -> Operators {
    let all = [("alice", 1), ("bob", 2), ("carol", 3)];
    Operators::new(2, all.map(|(who, seed)| (name(who), public(seed)))).unwrap()
}

fn command() -> Command {
    Command {
        environment: HERE,
        deed: Deed::Unfreeze {
            target: Target::Tenant(TenantId::parse("acme").unwrap()),
            freeze_id: OperationId::generate(),
        },
        reason: Reason::parse("the stolen key was replaced").unwrap(),
        nonce: [7; 16],
        issued: NOW,
        expires: NOW.plus_seconds(3600),
    }
}

fn signed(who: &str, seed: u8, text: &str) -> Approval {
    Approval {
        by: name(who),
        signature: key(seed).sign(text.as_bytes()),
    }
}

fn check(text: &str, approvals: &[Approval]) -> Result<String, NotApproved> {
    let approved = operators().check(text, approvals, HERE)?;
    assert_eq!(approved.text(), text);
    Ok(approved.by())
}

#[test]
fn a_command_is_carried_out_when_two_different_operators_have_signed_it() {
    let text = command().text();
    let (alice, bob) = (signed("alice", 1, &text), signed("bob", 2, &text));
    let both = [bob.clone(), alice.clone()];
    assert_eq!(check(&text, &both), Ok("alice,bob".to_owned()));
    let three = [alice.clone(), bob.clone(), signed("carol", 3, &text)];
    assert_eq!(check(&text, &three), Ok("alice,bob,carol".to_owned()));

    let too_few = |found| Err(NotApproved::TooFew { found, required: 2 });
    assert_eq!(check(&text, &[]), too_few(0));
    assert_eq!(check(&text, std::slice::from_ref(&alice)), too_few(1));
    // The same operator twice is one operator.
    assert_eq!(check(&text, &[alice.clone(), alice.clone()]), too_few(1));
    // One operator in another's name is none.
    let forged = [alice.clone(), signed("bob", 1, &text)];
    assert_eq!(
        check(&text, &forged),
        Err(NotApproved::Signature(name("bob")))
    );
    let stranger = [alice.clone(), signed("dave", 4, &text)];
    assert_eq!(
        check(&text, &stranger),
        Err(NotApproved::Unknown(name("dave")))
    );
    let many = vec![alice; 33];
    assert_eq!(check(&text, &many), Err(NotApproved::TooMany));
}

#[test]
fn signatures_are_good_for_one_text_of_one_environment() {
    let of = |command: &Command| {
        let text = command.text();
        let approvals = [signed("alice", 1, &text), signed("bob", 2, &text)];
        check(&text, &approvals)
    };
    assert!(of(&command()).is_ok());
    let elsewhere = EnvironmentId([1; 32]);
    let other = Command {
        environment: elsewhere,
        ..command()
    };
    assert_eq!(of(&other), Err(NotApproved::OtherEnvironment));
    // Every bit of the text is signed.
    let text = command().text();
    let approvals = [signed("alice", 1, &text), signed("bob", 2, &text)];
    for at in 0..text.len() {
        let mut altered = text.clone().into_bytes();
        altered[at] ^= 1;
        let altered = String::from_utf8(altered).unwrap();
        assert!(check(&altered, &approvals).is_err(), "byte {at}");
    }
}

#[test]
fn a_command_is_good_for_a_day_at_most_whoever_keeps_it_back() {
    let lives = |seconds| {
        let expires = NOW.plus_seconds(seconds);
        Command::parse(
            &Command {
                expires,
                ..command()
            }
            .text(),
        )
    };
    for seconds in [1, 3600, MAX_LIFETIME] {
        let command = lives(seconds).unwrap();
        for (now, expected) in [
            (-MAX_AHEAD - 1, Err(NotNow::Early)),
            (-MAX_AHEAD, Ok(())),
            (seconds - 1, Ok(())),
            (seconds, Err(NotNow::Expired)),
        ] {
            let now = NOW.plus_seconds(now);
            assert_eq!(command.is_good_at(now), expected, "{seconds} {now:?}");
        }
    }
    // Whatever the time is when it is brought: nobody could have signed it.
    for seconds in [-1, 0, MAX_LIFETIME + 1, 365 * MAX_LIFETIME] {
        let error = lives(seconds).unwrap_err();
        assert_eq!(error.line, 8, "{seconds}");
    }
}

#[test]
fn a_command_for_rules_names_them_and_is_no_other() {
    let command = Command {
        deed: Deed::Activate { rules: [0xcd; 32] },
        ..command()
    };
    let text = command.text();
    assert_eq!(Command::parse(&text).unwrap(), command);
    let start = format!("command activate rules\nrules {}\nreason ", "cd".repeat(32));
    assert!(text.contains(&start), "{text}");
    for (altered, line) in [
        (text.replace("activate rules", "activate"), 3),
        (text.replace("activate rules", "unfreeze global"), 4),
        (text.replace("rules cdcd", "rules CDCD"), 1),
        (text.replace("rules cdcd", "rules cd"), 4),
        (text.replace("rules cdcd", "freeze cdcd"), 4),
    ] {
        let error = Command::parse(&altered).unwrap_err();
        assert_eq!(error.line, line, "{error}: {altered}");
    }
    let approvals = [signed("alice", 1, &text), signed("bob", 2, &text)];
    assert_eq!(check(&text, &approvals), Ok("alice,bob".to_owned()));
}

#[test]
fn operators_have_one_fingerprint() {
    let all = [("carol", 3), ("alice", 1), ("bob", 2)];
    let of = |required, all: &[(&str, u8)]| {
        let keys = all.iter().map(|(who, seed)| (name(who), public(*seed)));
        Operators::new(required, keys).unwrap().fingerprint()
    };
    let here = operators().fingerprint();
    assert_eq!(here.len(), 64);
    assert_eq!(of(2, &all), here);
    for other in [
        of(3, &all),
        of(2, &all[..2]),
        of(2, &[("carol", 3), ("alice", 1), ("bob", 4)]),
    ] {
        assert_ne!(other, here);
    }
}

#[test]
fn a_command_has_one_spelling() {
    let command = command();
    let text = command.text();
    assert_eq!(Command::parse(&text).unwrap(), command);
    assert!(text.contains("command unfreeze tenant acme\n"), "{text}");
    let long = format!("{text}{}", "\n".repeat(5000));
    for (altered, line) in [
        (String::new(), 1),
        (text.replace("command 1", "command 2"), 1),
        (text.replace("abab", "ABAB"), 2),
        (text.replace("unfreeze", "freeze"), 3),
        (text.replace("tenant acme", "tenant Acme"), 3),
        (text.replace("tenant acme", "global acme"), 3),
        (text.replace("reason the", "reason  the"), 5),
        (text.replace("nonce 07", "nonce 0"), 6),
        (text.replace("\nissued", "\nnonce 00\nissued"), 7),
        (text.replace('Z', "+00:00"), 7),
        (text.replace("\nexpires", "\nissued"), 8),
        (format!("{text}more\n"), 9),
        (format!("{text}\n"), 9),
        (text.replace('\n', "\r\n"), 1),
        (text.trim_end().to_owned(), 1),
        (long, 1),
    ] {
        let error = Command::parse(&altered).unwrap_err();
        assert_eq!(error.line, line, "{error}: {altered}");
    }
}

#[test]
fn one_person_is_no_dual_control() {
    let new = |required, all: &[(&str, [u8; 32])]| {
        let all: Vec<_> = all.iter().map(|(who, key)| (name(who), *key)).collect();
        Operators::new(required, all).map(|operators| operators.required())
    };
    let (one, two) = (("alice", public(1)), ("bob", public(2)));
    assert_eq!(new(2, &[one, two]), Ok(2));
    assert_eq!(new(1, &[one, two]), Err(InvalidOperators::TooFewRequired));
    let too_few = InvalidOperators::TooFewKnown {
        required: 3,
        known: 2,
    };
    assert_eq!(new(3, &[one, two]), Err(too_few));
    let same = InvalidOperators::SameKey(name("alice"), name("bob"));
    assert_eq!(new(2, &[one, ("bob", public(1))]), Err(same));
    // A point of small order: one signature fits many texts.
    let mut unsound = [0; 32];
    unsound[0] = 1;
    assert_eq!(
        new(2, &[one, ("bob", unsound)]),
        Err(InvalidOperators::Key(name("bob")))
    );
    for bad in ["", "Alice", "a b", &"a".repeat(33)] {
        assert_eq!(OperatorName::parse(bad), None, "{bad:?}");
    }
}
