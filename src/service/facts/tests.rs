#![expect(clippy::unwrap_used, reason = "tests")]
use alloy_primitives::{Bytes, address, hex};
use alloy_sol_types::SolValue;

use super::*;

const CHAIN: ChainFacts = ChainFacts {
    id: 1,
    configured: true,
    fits_environment: true,
};
const BOB: Address = address!("00000000000000000000000000000000000000b0");
const CONTRACT: Address = address!("00000000000000000000000000000000000000cc");

fn of(value: u64, data: &[u8]) -> TransactionFacts {
    of_transaction(CHAIN, Some(CONTRACT), U256::from(value), data)
}

fn names(addresses: &[Address]) -> BTreeSet<String> {
    addresses.iter().copied().map(name).collect()
}

#[test]
fn coins_have_a_recipient_and_call_no_contract() {
    let facts = of(1, &[]);
    assert_eq!(facts.recipients, names(&[CONTRACT]));
    assert_eq!(facts.contracts, BTreeSet::new());
    assert_eq!(facts.to, "0x00000000000000000000000000000000000000cc");
}

#[test]
fn a_value_is_rounded_up_and_never_wraps() {
    for (wei, gwei) in [(0, 0), (1, 1), (WEI_PER_GWEI, 1), (WEI_PER_GWEI + 1, 2)] {
        assert_eq!(of(wei, &[]).value_gwei, gwei);
    }
    let most = of_transaction(CHAIN, Some(BOB), U256::MAX, &[]);
    assert_eq!(most.value_gwei, i64::MAX);
}

#[test]
fn coins_that_a_call_carries_go_to_the_contract() {
    let transfer = [
        &hex!("a9059cbb")[..],
        &(BOB, U256::from(5)).abi_encode_params(),
    ]
    .concat();
    let without = of(0, &transfer);
    assert_eq!(without.recipients, names(&[BOB]));
    assert_eq!(without.tokens, names(&[CONTRACT]));
    assert_eq!(of(1, &transfer).recipients, names(&[BOB, CONTRACT]));
}

#[test]
fn a27_a_list_of_allowed_recipients_never_overlooks_what_was_not_understood() {
    for data in [hex!("deadbeef").to_vec(), hex!("a9059cbb00").to_vec()] {
        let facts = of(0, &data);
        for set in [
            facts.recipients,
            facts.tokens,
            facts.spenders,
            facts.sources,
        ] {
            assert!(set.contains(UNKNOWN));
        }
    }
}

#[test]
fn a_right_that_is_taken_back_has_no_spender() {
    let all = |approved: bool| {
        let arguments = (BOB, approved).abi_encode_params();
        of(0, &[&hex!("a22cb465")[..], &arguments].concat())
    };
    assert_eq!(all(true).spenders, names(&[BOB]));
    assert!(all(true).unlimited_approval);
    assert_eq!(all(false).spenders, BTreeSet::new());
    assert!(!all(false).unlimited_approval);
}

#[test]
fn what_calls_inside_carry_is_summed_apart() {
    let call = |wei: u64| (BOB, true, U256::from(wei), Bytes::new());
    let arguments = (vec![call(WEI_PER_GWEI), call(1)],).abi_encode_params();
    let facts = of(3, &[&hex!("174dea71")[..], &arguments].concat());
    assert_eq!((facts.value_gwei, facts.inner_value_gwei), (1, 2));
    assert_eq!(facts.recipients, names(&[BOB, CONTRACT]));
    assert_eq!(facts.calls, 3);
    assert!(facts.kinds.contains("multicall") && facts.kinds.contains("native-transfer"));
}

#[test]
fn a_creation_calls_nobody() {
    let facts = of_transaction(CHAIN, None, U256::ZERO, &[1]);
    assert_eq!(facts.to, NOBODY);
    assert_eq!(facts.kinds.first().unwrap(), "contract-creation");
}
