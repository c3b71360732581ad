#![expect(clippy::indexing_slicing, clippy::panic, reason = "tests")]
use alloy_primitives::{address, bytes, keccak256};
use alloy_sol_types::SolValue;
use proptest::prelude::*;

use super::*;

const TOKEN: Address = address!("dac17f958d2ee523a2206206994597c13d831ec7");
const BOB: Address = address!("00000000000000000000000000000000000000b0");

fn decoded(data: &[u8]) -> Vec<What> {
    decode(Some(TOKEN), U256::ZERO, data)
        .into_iter()
        .map(|call| call.what)
        .collect()
}

fn only(data: &[u8]) -> What {
    let mut all = decoded(data);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn call(selector: [u8; 4], arguments: Vec<u8>) -> Bytes {
    [selector.to_vec(), arguments].concat().into()
}

fn transfer(amount: u64) -> Bytes {
    call(TRANSFER, (BOB, U256::from(amount)).abi_encode_params())
}

fn multicall(calls: Vec<Bytes>) -> Bytes {
    call(MULTICALL, (calls,).abi_encode_params())
}

fn exec(to: Address, value: u64, data: Bytes, operation: u8) -> Bytes {
    let zero = U256::ZERO;
    let arguments = (
        (to, U256::from(value), data, operation, zero),
        (zero, zero, Address::ZERO, Address::ZERO, Bytes::new()),
    );
    let ((a, b, c, d, e), (f, g, h, i, j)) = arguments;
    call(
        EXEC_TRANSACTION,
        Exec::abi_encode_params(&(a, b, c, d, e, f, g, h, i, j)),
    )
}

#[test]
fn selectors_are_those_of_their_functions() {
    for (selector, signature) in [
        (TRANSFER, "transfer(address,uint256)"),
        (TRANSFER_FROM, "transferFrom(address,address,uint256)"),
        (APPROVE, "approve(address,uint256)"),
        (INCREASE_ALLOWANCE, "increaseAllowance(address,uint256)"),
        (DECREASE_ALLOWANCE, "decreaseAllowance(address,uint256)"),
        (
            PERMIT,
            "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)",
        ),
        (
            PERMIT_DAI,
            "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)",
        ),
        (PERMIT2_APPROVE, "approve(address,address,uint160,uint48)"),
        (
            PERMIT2_TRANSFER,
            "transferFrom(address,address,uint160,address)",
        ),
        (SET_APPROVAL_FOR_ALL, "setApprovalForAll(address,bool)"),
        (SAFE_TRANSFER, "safeTransferFrom(address,address,uint256)"),
        (
            SAFE_TRANSFER_DATA,
            "safeTransferFrom(address,address,uint256,bytes)",
        ),
        (
            SAFE_TRANSFER_1155,
            "safeTransferFrom(address,address,uint256,uint256,bytes)",
        ),
        (
            SAFE_BATCH_TRANSFER_1155,
            "safeBatchTransferFrom(address,address,uint256[],uint256[],bytes)",
        ),
        (MULTICALL, "multicall(bytes[])"),
        (MULTICALL_UNTIL, "multicall(uint256,bytes[])"),
        (MULTICALL_AFTER, "multicall(bytes32,bytes[])"),
        (AGGREGATE, "aggregate((address,bytes)[])"),
        (BLOCK_AND_AGGREGATE, "blockAndAggregate((address,bytes)[])"),
        (TRY_AGGREGATE, "tryAggregate(bool,(address,bytes)[])"),
        (
            TRY_BLOCK_AND_AGGREGATE,
            "tryBlockAndAggregate(bool,(address,bytes)[])",
        ),
        (AGGREGATE_3, "aggregate3((address,bool,bytes)[])"),
        (
            AGGREGATE_3_VALUE,
            "aggregate3Value((address,bool,uint256,bytes)[])",
        ),
        (
            EXEC_TRANSACTION,
            "execTransaction(address,uint256,bytes,uint8,uint256,uint256,uint256,address,address,bytes)",
        ),
    ] {
        assert_eq!(keccak256(signature)[..4], selector, "{signature}");
    }
}

/// Call data as explorers show it, written out by hand, word by word.
#[test]
fn real_call_data_is_read() {
    let transfer = bytes!(
        "a9059cbb"
        "0000000000000000000000005041ed759dd4afc3a72b8192c143f72f4724081a"
        "0000000000000000000000000000000000000000000000000000000005f5e100"
    );
    let to = address!("5041ed759dd4afc3a72b8192c143f72f4724081a");
    assert_eq!(
        only(&transfer),
        What::Erc20Transfer {
            to,
            amount: U256::from(100_000_000)
        }
    );
    let approve = bytes!(
        "095ea7b3"
        "000000000000000000000000e592427a0aece92de3edee1f18e0157c05861564"
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    );
    let what = only(&approve);
    assert_eq!(
        what,
        What::Approve {
            token: TOKEN,
            spender: address!("e592427a0aece92de3edee1f18e0157c05861564"),
            amount: U256::MAX
        }
    );
    assert!(what.is_unlimited());
    let for_all = bytes!(
        "a22cb465"
        "0000000000000000000000001e0049783f008a0085193e00003d00cd54003c71"
        "0000000000000000000000000000000000000000000000000000000000000001"
    );
    assert!(only(&for_all).is_unlimited());
    let batch = bytes!(
        "ac9650d8"
        "0000000000000000000000000000000000000000000000000000000000000020"
        "0000000000000000000000000000000000000000000000000000000000000002"
        "0000000000000000000000000000000000000000000000000000000000000040"
        "00000000000000000000000000000000000000000000000000000000000000c0"
        "0000000000000000000000000000000000000000000000000000000000000044"
        "a9059cbb0000000000000000000000005041ed759dd4afc3a72b8192c143f72f"
        "4724081a00000000000000000000000000000000000000000000000000000000"
        "05f5e10000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000004"
        "12210e8a00000000000000000000000000000000000000000000000000000000"
    );
    let kinds: Vec<&str> = decoded(&batch).iter().map(What::kind).collect();
    assert_eq!(kinds, ["multicall", "erc20-transfer", "unknown-call"]);
}

#[test]
fn every_function_is_known_by_its_word() {
    let (zero, one) = (U256::ZERO, U256::from(1));
    let word = FixedBytes::<32>::repeat_byte(0x11);
    let from_to = |selector| call(selector, (TOKEN, BOB, one).abi_encode_params());
    for (data, kind) in [
        (Bytes::new(), "native-transfer"),
        (transfer(1), "erc20-transfer"),
        (from_to(TRANSFER_FROM), "transfer-from"),
        (from_to(SAFE_TRANSFER), "erc721-transfer"),
        (call(APPROVE, (BOB, one).abi_encode_params()), "approve"),
        (
            call(INCREASE_ALLOWANCE, (BOB, one).abi_encode_params()),
            "increase-allowance",
        ),
        (
            call(DECREASE_ALLOWANCE, (BOB, one).abi_encode_params()),
            "decrease-allowance",
        ),
        (
            call(
                PERMIT,
                (TOKEN, BOB, one, zero, U256::from(27), word, word).abi_encode_params(),
            ),
            "erc20-permit",
        ),
        (
            call(
                PERMIT_DAI,
                (TOKEN, BOB, one, zero, true, U256::from(27), word, word).abi_encode_params(),
            ),
            "erc20-permit",
        ),
        (
            call(PERMIT2_APPROVE, (TOKEN, BOB, one, one).abi_encode_params()),
            "approve",
        ),
        (
            call(
                PERMIT2_TRANSFER,
                (TOKEN, BOB, one, TOKEN).abi_encode_params(),
            ),
            "transfer-from",
        ),
        (
            call(SET_APPROVAL_FOR_ALL, (BOB, true).abi_encode_params()),
            "approve-for-all",
        ),
    ] {
        assert_eq!(only(&data).kind(), kind, "{data}");
    }
}

#[test]
fn collectibles_lists_and_what_is_unknown_have_their_words() {
    let (one, word) = (U256::from(1), FixedBytes::<32>::repeat_byte(0x11));
    for (data, kind) in [
        (
            call(
                SAFE_TRANSFER_DATA,
                (TOKEN, BOB, one, Bytes::new()).abi_encode_params(),
            ),
            "erc721-transfer",
        ),
        (
            call(
                SAFE_TRANSFER_1155,
                (TOKEN, BOB, one, one, Bytes::new()).abi_encode_params(),
            ),
            "erc1155-transfer",
        ),
        (
            call(
                SAFE_BATCH_TRANSFER_1155,
                (TOKEN, BOB, vec![one], vec![one], Bytes::new()).abi_encode_params(),
            ),
            "erc1155-transfer",
        ),
        (multicall(vec![]), "multicall"),
        (
            call(
                MULTICALL_UNTIL,
                (one, Vec::<Bytes>::new()).abi_encode_params(),
            ),
            "multicall",
        ),
        (
            call(
                MULTICALL_AFTER,
                (word, Vec::<Bytes>::new()).abi_encode_params(),
            ),
            "multicall",
        ),
        (bytes!("deadbeef"), "unknown-call"),
        (bytes!("de"), "unknown-call"),
    ] {
        assert_eq!(only(&data).kind(), kind, "{data}");
    }
    let creation = decode(None, one, &transfer(1));
    assert_eq!(creation[0].what, What::ContractCreation);
}

#[test]
fn a27_calls_hidden_in_calls_are_found_at_every_depth() {
    let hidden = bytes!("deadbeef");
    for data in [
        multicall(vec![transfer(1), hidden.clone()]),
        multicall(vec![multicall(vec![hidden.clone()])]),
        call(
            AGGREGATE,
            (vec![(BOB, hidden.clone())],).abi_encode_params(),
        ),
        call(
            BLOCK_AND_AGGREGATE,
            (vec![(BOB, hidden.clone())],).abi_encode_params(),
        ),
        call(
            TRY_AGGREGATE,
            (true, vec![(BOB, hidden.clone())]).abi_encode_params(),
        ),
        call(
            TRY_BLOCK_AND_AGGREGATE,
            (true, vec![(BOB, hidden.clone())]).abi_encode_params(),
        ),
        call(
            AGGREGATE_3,
            (vec![(BOB, true, hidden.clone())],).abi_encode_params(),
        ),
        call(
            AGGREGATE_3_VALUE,
            (vec![(BOB, true, U256::ZERO, hidden.clone())],).abi_encode_params(),
        ),
        exec(BOB, 0, hidden.clone(), 0),
        exec(BOB, 0, multicall(vec![hidden]), 0),
    ] {
        assert!(decoded(&data).contains(&What::Unknown), "{data}");
    }
}

#[test]
fn a_safe_tells_whom_it_calls_and_how() {
    let calls = decode(Some(TOKEN), U256::ZERO, &exec(BOB, 7, transfer(1), 0));
    assert_eq!(calls[1].to, Some(BOB));
    assert_eq!((calls[1].depth, calls[1].value), (1, U256::from(7)));
    let delegatecall = |data: &[u8]| match &decoded(data)[0] {
        What::SafeTransaction { delegatecall, .. } => *delegatecall,
        other => panic!("{other:?}"),
    };
    assert!(!delegatecall(&exec(BOB, 0, Bytes::new(), 0)));
    assert!(delegatecall(&exec(BOB, 0, Bytes::new(), 1)));
    assert_eq!(only(&exec(BOB, 0, Bytes::new(), 2)), What::Undecodable);
}

#[test]
fn a_contract_that_calls_itself_without_data_sends_no_coins() {
    assert_eq!(
        decoded(&multicall(vec![Bytes::new()])),
        [What::Multicall, What::Unknown]
    );
}

#[test]
fn a27_what_lies_too_deep_or_is_one_too_many_is_undecodable() {
    let mut deep = transfer(1);
    for _ in 0..MAX_DEPTH {
        deep = multicall(vec![deep]);
    }
    assert!(!decoded(&deep).contains(&What::Undecodable));
    assert!(decoded(&multicall(vec![deep])).contains(&What::Undecodable));
    let wide = |calls: usize| decoded(&multicall(vec![transfer(1); calls]));
    assert!(!wide(MAX_CALLS - 1).contains(&What::Undecodable));
    let too_wide = wide(MAX_CALLS);
    assert_eq!(too_wide.len(), MAX_CALLS);
    assert!(too_wide.contains(&What::Undecodable));
}

#[test]
fn only_the_canonical_encoding_is_read() {
    let good = transfer(1).to_vec();
    let mut dirty = good.clone();
    dirty[4] = 1;
    let mut longer = good.clone();
    longer.push(0);
    let shorter = good[..good.len() - 1].to_vec();
    for data in [dirty, longer, shorter, good[..4].to_vec()] {
        assert_eq!(only(&data), What::Undecodable);
    }
    // Two elements at one place: another encoding of the same list, and no compiler's.
    let shared = bytes!(
        "ac9650d8"
        "0000000000000000000000000000000000000000000000000000000000000020"
        "0000000000000000000000000000000000000000000000000000000000000002"
        "0000000000000000000000000000000000000000000000000000000000000040"
        "0000000000000000000000000000000000000000000000000000000000000040"
        "0000000000000000000000000000000000000000000000000000000000000004"
        "deadbeef00000000000000000000000000000000000000000000000000000000"
    );
    assert_eq!(only(&shared), What::Undecodable);
    let bool_of_two = bytes!(
        "a22cb465"
        "0000000000000000000000001e0049783f008a0085193e00003d00cd54003c71"
        "0000000000000000000000000000000000000000000000000000000000000002"
    );
    assert_eq!(only(&bool_of_two), What::Undecodable);
}

#[test]
fn the_largest_numbers_are_without_limit_and_others_are_not() {
    let of = |amount: U256| only(&call(APPROVE, (BOB, amount).abi_encode_params())).is_unlimited();
    let one = U256::from(1);
    for unlimited in [
        U256::MAX,
        U256::from(u128::MAX),
        (one << 96) - one,
        one << 159,
    ] {
        assert!(of(unlimited), "{unlimited}");
    }
    for limited in [
        U256::ZERO,
        one << 96,
        (one << 96) - U256::from(2),
        one << 127,
    ] {
        assert!(!of(limited), "{limited}");
    }
    assert!(
        !only(&call(
            SET_APPROVAL_FOR_ALL,
            (BOB, false).abi_encode_params()
        ))
        .is_unlimited()
    );
    let permit = |allowed: bool| {
        let word = FixedBytes::<32>::ZERO;
        let zero = U256::ZERO;
        let arguments = (TOKEN, BOB, zero, zero, allowed, zero, word, word);
        only(&call(PERMIT_DAI, arguments.abi_encode_params())).is_unlimited()
    };
    assert_eq!((permit(true), permit(false)), (true, false));
}

proptest! {
    #[test]
    fn no_data_panics_or_is_passed_over(data in prop::collection::vec(any::<u8>(), 0..600), which in 0_usize..24) {
        let selectors = [
            TRANSFER, TRANSFER_FROM, APPROVE, INCREASE_ALLOWANCE, DECREASE_ALLOWANCE, PERMIT, PERMIT_DAI,
            PERMIT2_APPROVE, PERMIT2_TRANSFER, SET_APPROVAL_FOR_ALL, SAFE_TRANSFER, SAFE_TRANSFER_DATA,
            SAFE_TRANSFER_1155, SAFE_BATCH_TRANSFER_1155, MULTICALL, MULTICALL_UNTIL, MULTICALL_AFTER, AGGREGATE,
            BLOCK_AND_AGGREGATE, TRY_AGGREGATE, TRY_BLOCK_AND_AGGREGATE, AGGREGATE_3, AGGREGATE_3_VALUE,
            EXEC_TRANSACTION,
        ];
        let known = call(selectors[which], data.clone());
        for data in [&data[..], &known[..]] {
            let calls = decode(Some(TOKEN), U256::ZERO, data);
            prop_assert!(!calls.is_empty() && calls.len() <= MAX_CALLS);
            prop_assert_eq!(calls[0].depth, 0);
        }
    }

    #[test]
    fn a_transfer_is_read_as_it_was_written(to in any::<[u8; 20]>(), amount in any::<[u8; 32]>()) {
        // Written without any encoder: a selector and two words.
        let data = [&TRANSFER[..], &[0; 12], &to, &amount].concat();
        let amount = U256::from_be_bytes(amount);
        prop_assert_eq!(only(&data), What::Erc20Transfer { to: to.into(), amount });
    }
}
