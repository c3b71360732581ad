//! A wallet that does not follow the key generation: no profile comes of it, and nobody is given an address (A11, A09).

use countersign_attacker::wire::{Keygen2, Openings, identity};

use crate::support::keygen::{Generated, Keygen, closing, draft};
use crate::support::signing::{json_of, refusal};
use crate::support::{Appliance, Node, contains};

/// The states of all profiles and how many have an address.
fn profiles(appliance: &Appliance) -> Vec<String> {
    let query = "SELECT state || CASE WHEN address IS NULL THEN '' ELSE ' with an address' END FROM profiles ORDER BY profile_id";
    appliance.database().rows(query)
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_early_open_the_first_answer_opens_nothing_that_the_second_does() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = draft(&appliance, "w");
    let keygen = Keygen::begin(&appliance, &wallet).await;
    let (first, sealed) = (keygen.plaintext.clone(), keygen.sealed_answer.clone());
    assert_eq!(first.len(), 197);
    let base64 = sealed.rsplit('.').next().unwrap();
    assert!(base64.len() * 3 / 4 <= 300, "{}", sealed.len());
    assert_eq!(profiles(&appliance), ["keygen"]);

    let generated: Generated = keygen.generate().await;
    let Openings { key, setup, .. } = &generated.theirs.0;
    let points = key
        .commitments
        .iter()
        .chain([&key.point, &setup.proof.point]);
    for point in points {
        assert!(!contains(&first, &point[1..]));
    }
    // An honest end: a second implementation makes a key with the appliance.
    assert_eq!(profiles(&appliance), ["pending with an address"]);
    let (answered, sign_id, third) = generated.third(&generated.canary()).unwrap();
    let (reply, opener) = generated.post(sign_id, &third).await;
    assert_eq!(reply.status, 201, "{}", json_of(&reply));
    let (second, _last) = closing(&reply, &opener);
    answered.close(&generated.share, &second).unwrap();
    assert_eq!(profiles(&appliance), ["active with an address"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_rogue_openings_make_no_key() {
    type Alter = fn(&mut Keygen2, &Keygen<'_>, &Openings);
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = draft(&appliance, "w");
    // What the appliance opened in another key generation of this wallet.
    let earlier = Keygen::begin(&appliance, &wallet).await.generate().await;
    let replayed = earlier.theirs.0;
    let cases: [(&str, Alter); 12] = [
        ("mirrored commitments", |m, k, _| m.0 = k.theirs.clone()),
        ("a mirrored key", |m, k, _| m.0.key = k.theirs.key),
        ("a mirrored chain code", |m, k, _| {
            m.0.chain_code = k.theirs.chain_code;
        }),
        ("the appliance's proof", |m, _, theirs| {
            m.1.key = theirs.key.clone();
        }),
        ("the appliance's openings", |m, _, theirs| {
            m.1 = theirs.clone();
        }),
        ("a proof that was not committed", |m, _, _| m.0.key[0] ^= 1),
        ("a short challenge", |m, _, _| {
            m.1.key.answers[0].0 = vec![0];
        }),
        ("no challenges", |m, _, _| m.1.key.answers.clear()),
        ("the identity", |m, _, _| m.1.key.point = identity()),
        ("another seed", |m, _, _| m.1.zero_share_seed[0] ^= 1),
        ("another chain code", |m, _, _| m.1.chain_code[0] ^= 1),
        ("other transfers", |m, _, theirs| {
            m.1.setup.encryption[3] = theirs.setup.encryption[3];
        }),
    ];
    for (what, alter) in cases {
        let mut keygen = Keygen::begin(&appliance, &wallet).await;
        let mut second = keygen.second.clone();
        alter(&mut second, &keygen, &replayed);
        keygen.second = second;
        let (reply, _) = keygen.post().await;
        let expected = (400, "INVALID_KEY_SHARE".to_owned());
        assert_eq!(refusal(&reply), expected, "{what}");
        let said = String::from_utf8_lossy(&reply.body).to_lowercase();
        assert!(!said.contains("0x"), "{what}: {said}");
        let query = format!(
            "SELECT state || CASE WHEN address IS NULL THEN '' ELSE ' with an address' END FROM profiles WHERE profile_id = '{}'",
            keygen.binding.profile
        );
        let then = appliance.database().value(&query);
        assert!(["keygen", "destroyed"].contains(&&*then), "{what}: {then}");
    }
    let shares = "SELECT COUNT(*) FROM key_shares";
    assert_eq!(appliance.database().number(shares), 1, "the earlier one's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a09_purpose_a_key_generation_signs_its_canary_and_nothing_else() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = draft(&appliance, "w");
    for what in ["purpose", "digest", "a question"] {
        let generated = Keygen::begin(&appliance, &wallet).await.generate().await;
        let mut binding = generated.canary();
        let (_, sign_id, mut third) = generated.third(&binding).unwrap();
        match what {
            "purpose" => binding.purpose = "transaction".to_owned(),
            "digest" => binding.digest = [7; 32],
            // A cheat in the canary costs the key in the making, which nobody has paid to.
            _ => third.0.u[0] ^= 1,
        }
        let mut named = sign_id;
        if what != "a question" {
            // The appliance's own message is of its canary, so the wallet's engine refuses to answer it for anything else.
            assert!(generated.third(&binding).is_err(), "{what}");
            named = binding.sign_id(&[9; 32]);
        }
        let (reply, _) = generated.post(named, &third).await;
        assert!([400, 500].contains(&refusal(&reply).0), "{what}");
        assert!(json_of(&reply).get("mpcMessage").is_none(), "{what}");
        let query = format!(
            "SELECT state FROM profiles WHERE profile_id = '{}'",
            generated.keygen.binding.profile
        );
        assert_eq!(appliance.database().value(&query), "destroyed", "{what}");
    }
    let shares = "SELECT COUNT(*) FROM key_shares";
    assert_eq!(appliance.database().number(shares), 0);
}
