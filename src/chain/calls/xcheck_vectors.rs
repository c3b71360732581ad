//! Writes `target/xcheck/calls.jsonl`: calls of the functions that are read here, with random arguments, for
//! `tests/xcheck`, where ethers-core encodes the same arguments. What the decoder reads is compared with them here.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::path::Path;

use alloy_sol_types::SolValue;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

const OF_EACH: usize = 64;

/// Two addresses, a number, and bytes: what arguments are made of.
type Parts = (Address, Address, U256, Bytes);

fn parts() -> impl Strategy<Value = Parts> {
    let address = || any::<[u8; 20]>().prop_map(Address::from);
    // Small numbers and large ones.
    let number = (any::<[u8; 32]>(), 0_usize..256)
        .prop_map(|(bytes, shift)| U256::from_be_bytes(bytes) >> shift);
    let data = prop::collection::vec(any::<u8>(), 0..70).prop_map(Bytes::from);
    (address(), address(), number, data)
}

/// A function, its arguments as text, its data, and what must be read from it.
type Vector = (&'static str, Vec<String>, Bytes, Vec<What>);

fn call(selector: [u8; 4], arguments: Vec<u8>) -> Bytes {
    [selector.to_vec(), arguments].concat().into()
}

/// Bytes as an argument.
fn text(data: &Bytes) -> String {
    hex::encode(data)
}

fn simple((a, b, n, _): Parts) -> Vec<Vector> {
    let token = Address::ZERO;
    let two = || vec![format!("{a:#x}"), n.to_string()];
    let three = || vec![format!("{a:#x}"), format!("{b:#x}"), n.to_string()];
    vec![
        (
            "transfer(address,uint256)",
            two(),
            call(TRANSFER, (a, n).abi_encode_params()),
            vec![What::Erc20Transfer { to: a, amount: n }],
        ),
        (
            "approve(address,uint256)",
            two(),
            call(APPROVE, (a, n).abi_encode_params()),
            vec![What::Approve {
                token,
                spender: a,
                amount: n,
            }],
        ),
        (
            "transferFrom(address,address,uint256)",
            three(),
            call(TRANSFER_FROM, (a, b, n).abi_encode_params()),
            vec![What::TransferFrom {
                from: a,
                to: b,
                amount: n,
            }],
        ),
        (
            "setApprovalForAll(address,bool)",
            vec![format!("{a:#x}"), n.bit(0).to_string()],
            call(SET_APPROVAL_FOR_ALL, (a, n.bit(0)).abi_encode_params()),
            vec![What::ApproveForAll {
                operator: a,
                approved: n.bit(0),
            }],
        ),
    ]
}

fn with_bytes((a, b, n, data): Parts) -> Vec<Vector> {
    let transfer = call(TRANSFER, (b, n).abi_encode_params());
    let read = What::Erc20Transfer { to: b, amount: n };
    let safe = What::SafeTransaction {
        delegatecall: false,
        refund: None,
    };
    let zero = U256::ZERO;
    let exec =
        Exec::abi_encode_params(&(a, n, transfer.clone(), 0, n, zero, zero, a, b, data.clone()));
    vec![
        (
            "safeTransferFrom(address,address,uint256,bytes)",
            vec![
                format!("{a:#x}"),
                format!("{b:#x}"),
                n.to_string(),
                text(&data),
            ],
            call(
                SAFE_TRANSFER_DATA,
                (a, b, n, data.clone()).abi_encode_params(),
            ),
            vec![What::Erc721Transfer { from: a, to: b }],
        ),
        (
            "multicall(bytes[])",
            vec![format!("[{},{}]", text(&transfer), text(&transfer))],
            call(
                MULTICALL,
                (vec![transfer.clone(), transfer.clone()],).abi_encode_params(),
            ),
            vec![What::Multicall, read.clone(), read.clone()],
        ),
        (
            "aggregate3Value((address,bool,uint256,bytes)[])",
            vec![format!("[({a:#x},true,{n},{})]", text(&transfer))],
            call(
                AGGREGATE_3_VALUE,
                (vec![(a, true, n, transfer.clone())],).abi_encode_params(),
            ),
            vec![What::Multicall, read.clone()],
        ),
        (
            "execTransaction(address,uint256,bytes,uint8,uint256,uint256,uint256,address,address,bytes)",
            vec![
                format!("{a:#x}"),
                n.to_string(),
                text(&transfer),
                "0".to_owned(),
                n.to_string(),
                "0".to_owned(),
                "0".to_owned(),
                format!("{a:#x}"),
                format!("{b:#x}"),
                text(&data),
            ],
            call(EXEC_TRANSACTION, exec),
            vec![safe, read],
        ),
    ]
}

#[test]
fn xcheck_vectors_of_calls() {
    let mut random = TestRunner::deterministic();
    let mut lines = String::new();
    for _ in 0..OF_EACH {
        let made = parts().new_tree(&mut random).unwrap().current();
        for (function, arguments, data, expected) in
            [simple(made.clone()), with_bytes(made)].concat()
        {
            let read = decode(Some(Address::ZERO), U256::ZERO, &data);
            let read: Vec<What> = read.into_iter().map(|call| call.what).collect();
            assert_eq!(read, expected, "{function} {arguments:?}");
            let vector = serde_json::json!({"function": function, "arguments": arguments, "data": data.to_string()});
            writeln!(lines, "{vector}").unwrap();
        }
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/xcheck");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("calls.jsonl"), lines).unwrap();
}
