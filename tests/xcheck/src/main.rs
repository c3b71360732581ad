//! Compares our EIP-1559 encoder, and the calls that our decoder reads, with ethers-core, which shares no code with us.
//!
//! Input: the file named by the first argument, one JSON object a line, as `src/chain/xcheck_vectors.rs` writes it: the
//! fields of an `eth_sendTransaction` request (with `from`, the wallet's address), `digest` (what was signed) and `raw`
//! (the signed EIP-2718 bytes). Or, from `src/chain/calls/xcheck_vectors.rs`: `function`, `arguments` as text, and `data`.
//! Every line must agree, and there must be at least as many as the second argument says.

use std::{env, error::Error, fs, process::ExitCode};

use ethers_core::abi::token::{LenientTokenizer, Tokenizer};
use ethers_core::abi::{HumanReadableParser, Token};
use ethers_core::types::{
    Address, Bytes, Eip1559TransactionRequest, H256, transaction::eip2718::TypedTransaction,
};
use ethers_core::utils::rlp::Rlp;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Call(Call),
    Transaction(Box<Vector>),
}

/// A call of a contract's function.
#[derive(Deserialize)]
struct Call {
    function: String,
    arguments: Vec<String>,
    data: Bytes,
}

#[derive(Deserialize)]
struct Vector {
    #[serde(flatten)]
    request: Eip1559TransactionRequest,
    digest: H256,
    raw: Bytes,
}

/// What ethers-core makes of the same transaction differs from ours: the answer names the part.
fn compare(vector: &Vector) -> Result<(), Box<dyn Error>> {
    let wallet: Address = vector.request.from.ok_or("the vector has no sender")?;
    let theirs = TypedTransaction::Eip1559(vector.request.clone());
    if theirs.sighash() != vector.digest {
        return Err(format!(
            "digest: ethers-core {:?}, ours {:?}",
            theirs.sighash(),
            vector.digest
        )
        .into());
    }
    let (decoded, signature) = TypedTransaction::decode_signed(&Rlp::new(&vector.raw))?;
    let sender = signature.recover(vector.digest)?;
    if sender != wallet {
        return Err(format!("sender: ethers-core {sender:?}, ours {wallet:?}").into());
    }
    if theirs.rlp_signed(&signature) != vector.raw {
        return Err("signed bytes differ".into());
    }
    if decoded.sighash() != vector.digest {
        return Err("the decoded transaction has another digest".into());
    }
    Ok(())
}

/// ethers-core encodes the same arguments to other bytes than we read them from.
fn compare_call(call: &Call) -> Result<(), Box<dyn Error>> {
    let declaration = format!("function {}", call.function);
    let function =
        HumanReadableParser::parse_function(&declaration).map_err(|error| error.to_string())?;
    if function.inputs.len() != call.arguments.len() {
        return Err(format!("{} has other arguments", call.function).into());
    }
    let arguments = function
        .inputs
        .iter()
        .zip(&call.arguments)
        .map(|(input, text)| LenientTokenizer::tokenize(&input.kind, text))
        .collect::<Result<Vec<Token>, _>>()?;
    let theirs = function.encode_input(&arguments)?;
    if theirs != call.data.to_vec() {
        return Err(format!("{}: {:?} differs", call.function, call.arguments).into());
    }
    Ok(())
}

fn run(path: &str, least: usize) -> Result<usize, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut compared = 0;
    for (line, json) in text.lines().enumerate() {
        let vector: Line =
            serde_json::from_str(json).map_err(|error| format!("line {}: {error}", line + 1))?;
        let compared_line = match &vector {
            Line::Call(call) => compare_call(call),
            Line::Transaction(vector) => compare(vector),
        };
        compared_line.map_err(|error| format!("line {}: {error}", line + 1))?;
        compared += 1;
    }
    if compared < least {
        return Err(format!("only {compared} of at least {least} vectors in {path}").into());
    }
    Ok(compared)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path, least] = arguments.as_slice() else {
        eprintln!("usage: xcheck VECTORS LEAST");
        return ExitCode::from(2);
    };
    match least
        .parse()
        .map_err(Into::into)
        .and_then(|least| run(path, least))
    {
        Ok(compared) => {
            println!("{compared} lines of {path}: ethers-core agrees");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("xcheck: {error}");
            ExitCode::FAILURE
        }
    }
}
