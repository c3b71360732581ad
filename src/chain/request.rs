//! What a wallet asks to send, read strictly: one spelling for each value, every error names its field.

use std::fmt;

use alloy_primitives::{Address, Bytes, U256};

/// The most call data a transaction may carry, in bytes.
pub(super) const MAX_DATA: usize = 24 * 1024;

/// The gas that every transaction costs, whatever it does (yellow paper, G_transaction).
pub(super) const MIN_GAS: u64 = 21_000;

/// A transaction that a wallet asks for. It always calls an address: a contract creation cannot be expressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRequest {
    /// The chain it is for, never zero.
    pub chain_id: u64,
    /// The recipient.
    pub to: Address,
    /// The amount, in wei.
    pub value: U256,
    /// The call data, at most 24 KiB.
    pub data: Bytes,
    /// The wallet's own gas limit, in gas units.
    pub gas: Option<u64>,
    /// The wallet's own `maxFeePerGas`, in wei.
    pub max_fee_per_gas: Option<u128>,
    /// The wallet's own `maxPriorityFeePerGas`, in wei.
    pub max_priority_fee_per_gas: Option<u128>,
}

/// The fields of a request as they came, in JSON, over the wire.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestFields<'a> {
    /// `chainId`: a number from 1.
    pub chain_id: u64,
    /// `to`: 0x and 40 hex digits; in mixed case they must carry the EIP-55 checksum.
    pub to: &'a str,
    /// `value`: wei, a decimal number without sign, leading zeros or exponent.
    pub value: &'a str,
    /// `data`: 0x and an even number of hex digits.
    pub data: Option<&'a str>,
    /// `gas`: a decimal or 0x-hex number without leading zeros, at least 21000.
    pub gas: Option<&'a str>,
    /// `maxFeePerGas` in wei: as `gas`.
    pub max_fee_per_gas: Option<&'a str>,
    /// `maxPriorityFeePerGas` in wei: as `gas`.
    pub max_priority_fee_per_gas: Option<&'a str>,
}

impl TransactionRequest {
    /// Reads the fields of a request.
    ///
    /// # Errors
    /// The first field that is not spelled as [`RequestFields`] says, with what is wrong about it.
    pub fn parse(fields: &RequestFields<'_>) -> Result<Self, RequestError> {
        if fields.chain_id == 0 {
            return Err(Field::ChainId.error(Problem::OutOfRange));
        }
        let gas = quantity(Field::Gas, fields.gas)?;
        if gas.is_some_and(|gas| gas < MIN_GAS) {
            return Err(Field::Gas.error(Problem::OutOfRange));
        }
        Ok(Self {
            chain_id: fields.chain_id,
            to: address(fields.to).map_err(|problem| Field::To.error(problem))?,
            value: decimal(fields.value).map_err(|problem| Field::Value.error(problem))?,
            data: fields
                .data
                .map_or(Ok(Bytes::new()), data)
                .map_err(|problem| Field::Data.error(problem))?,
            gas,
            max_fee_per_gas: quantity(Field::MaxFeePerGas, fields.max_fee_per_gas)?,
            max_priority_fee_per_gas: quantity(
                Field::MaxPriorityFeePerGas,
                fields.max_priority_fee_per_gas,
            )?,
        })
    }
}

/// A field of a transaction request, shown under its name in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `chainId`.
    ChainId,
    /// `to`.
    To,
    /// `value`.
    Value,
    /// `data`.
    Data,
    /// `gas`.
    Gas,
    /// `maxFeePerGas`.
    MaxFeePerGas,
    /// `maxPriorityFeePerGas`.
    MaxPriorityFeePerGas,
}

impl Field {
    /// The field's name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChainId => "chainId",
            Self::To => "to",
            Self::Value => "value",
            Self::Data => "data",
            Self::Gas => "gas",
            Self::MaxFeePerGas => "maxFeePerGas",
            Self::MaxPriorityFeePerGas => "maxPriorityFeePerGas",
        }
    }

    const fn error(self, problem: Problem) -> RequestError {
        RequestError {
            field: self,
            problem,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A field of a transaction request that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct RequestError {
    /// The field.
    pub field: Field,
    /// What is wrong about it.
    pub problem: Problem,
}

/// What is wrong about a field. Display continues a sentence that began with the field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is no decimal number in its one spelling.
    #[error("must be a decimal number without sign, leading zeros or exponent")]
    NotDecimal,
    /// It is no decimal or 0x-hex number in its one spelling.
    #[error("must be a decimal or 0x-hex number without sign or leading zeros")]
    NotQuantity,
    /// It is no address.
    #[error("must be 0x and 40 hex digits")]
    NotAddress,
    /// Its mixed case does not carry its EIP-55 checksum.
    #[error("has a wrong EIP-55 checksum: a digit may be mistyped")]
    WrongChecksum,
    /// It is no byte string.
    #[error("must be 0x and an even number of hex digits")]
    NotBytes,
    /// It is longer than 24 KiB.
    #[error("must not be longer than 24576 bytes")]
    TooLong,
    /// It is a number, but too large or too small for its field.
    #[error("is out of range")]
    OutOfRange,
}

fn address(text: &str) -> Result<Address, Problem> {
    let digits = text.strip_prefix("0x").ok_or(Problem::NotAddress)?;
    let address: Address = match hex::decode(digits) {
        Ok(bytes) => bytes
            .as_slice()
            .try_into()
            .map_err(|_| Problem::NotAddress)?,
        Err(_) => return Err(Problem::NotAddress),
    };
    let mixed_case = digits.contains(|c: char| c.is_ascii_uppercase())
        && digits.contains(|c: char| c.is_ascii_lowercase());
    if mixed_case && address.to_checksum(None) != text {
        return Err(Problem::WrongChecksum);
    }
    Ok(address)
}

fn decimal(text: &str) -> Result<U256, Problem> {
    if !is_number(text, 10) {
        return Err(Problem::NotDecimal);
    }
    U256::from_str_radix(text, 10).map_err(|_| Problem::OutOfRange)
}

fn data(text: &str) -> Result<Bytes, Problem> {
    let digits = text.strip_prefix("0x").ok_or(Problem::NotBytes)?;
    if digits.len() > 2 * MAX_DATA {
        return Err(Problem::TooLong);
    }
    hex::decode(digits)
        .map(Bytes::from)
        .map_err(|_| Problem::NotBytes)
}

fn quantity<T: TryFrom<U256>>(field: Field, text: Option<&str>) -> Result<Option<T>, RequestError> {
    let Some(text) = text else { return Ok(None) };
    let (digits, radix) = text
        .strip_prefix("0x")
        .map_or((text, 10), |digits| (digits, 16));
    if !is_number(digits, radix) {
        return Err(field.error(Problem::NotQuantity));
    }
    U256::from_str_radix(digits, radix.into())
        .ok()
        .and_then(|number| T::try_from(number).ok())
        .map(Some)
        .ok_or(field.error(Problem::OutOfRange))
}

/// Whether these are the digits of a number in its shortest spelling.
fn is_number(digits: &str, radix: u32) -> bool {
    (digits == "0" || !digits.starts_with('0'))
        && !digits.is_empty()
        && digits.chars().all(|digit| digit.is_digit(radix))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    const LOWER: &str = "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed";
    const CHECKSUMMED: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

    fn good() -> RequestFields<'static> {
        RequestFields {
            chain_id: 1,
            to: CHECKSUMMED,
            value: "10000000000000000",
            ..RequestFields::default()
        }
    }

    fn refused(fields: &RequestFields<'_>) -> (Field, Problem) {
        let RequestError { field, problem } = TransactionRequest::parse(fields).unwrap_err();
        (field, problem)
    }

    #[test]
    fn the_least_request_is_a_plain_transfer() {
        let request = TransactionRequest::parse(&good()).unwrap();
        assert_eq!(request.value, U256::from(10_000_000_000_000_000_u64));
        assert!(request.data.is_empty());
        assert_eq!((request.gas, request.max_fee_per_gas), (None, None));
    }

    #[test]
    fn value_has_one_spelling() {
        for value in [
            "", "-1", "+1", "01", "00", "1e18", "0x1", "1.0", " 1", "1 ", "1_0", "１",
        ] {
            let fields = RequestFields { value, ..good() };
            assert_eq!(
                refused(&fields),
                (Field::Value, Problem::NotDecimal),
                "{value}"
            );
        }
        for value in [format!("{}0", U256::MAX), "9".repeat(10_000)] {
            let fields = RequestFields {
                value: &value,
                ..good()
            };
            assert_eq!(refused(&fields), (Field::Value, Problem::OutOfRange));
        }
        for value in ["0".to_owned(), U256::MAX.to_string()] {
            let fields = RequestFields {
                value: &value,
                ..good()
            };
            let request = TransactionRequest::parse(&fields).unwrap();
            assert_eq!(request.value.to_string(), value);
        }
    }

    #[test]
    fn a_mistyped_checksum_is_refused() {
        let mistyped = CHECKSUMMED.replace("0x5aA", "0x5aa");
        let fields = RequestFields {
            to: &mistyped,
            ..good()
        };
        assert_eq!(refused(&fields), (Field::To, Problem::WrongChecksum));
        let upper = format!("0x{}", LOWER.trim_start_matches("0x").to_uppercase());
        for to in [LOWER, CHECKSUMMED, &upper] {
            let request = TransactionRequest::parse(&RequestFields { to, ..good() }).unwrap();
            assert_eq!(request.to.to_checksum(None), CHECKSUMMED);
        }
    }

    #[test]
    fn a_contract_creation_cannot_be_asked_for() {
        let long = format!("{LOWER}00");
        let no_prefix = LOWER.replace("0x", "");
        let upper_prefix = LOWER.replace("0x", "0X");
        let bad_digit = LOWER.replace("0x5", "0xg");
        for to in [
            "",
            "0x",
            "0x0",
            "null",
            &long,
            &no_prefix,
            &upper_prefix,
            &bad_digit,
        ] {
            let fields = RequestFields { to, ..good() };
            assert_eq!(refused(&fields), (Field::To, Problem::NotAddress), "{to}");
        }
    }

    #[test]
    fn data_is_bounded_hex() {
        for data in ["", "00", "0x0", "0X00", "0xzz", "0x 0"] {
            let fields = RequestFields {
                data: Some(data),
                ..good()
            };
            assert_eq!(refused(&fields), (Field::Data, Problem::NotBytes), "{data}");
        }
        let most = format!("0x{}", "ab".repeat(MAX_DATA));
        let fields = RequestFields {
            data: Some(&most),
            ..good()
        };
        assert_eq!(
            TransactionRequest::parse(&fields).unwrap().data.len(),
            MAX_DATA
        );
        let more = format!("{most}ab");
        let fields = RequestFields {
            data: Some(&more),
            ..good()
        };
        assert_eq!(refused(&fields), (Field::Data, Problem::TooLong));
    }

    #[test]
    fn quantities_are_decimal_or_hex_in_one_spelling() {
        for gas in [
            "", "0x", "-1", "021000", "0x05208", "5208h", "21e3", "0X5208",
        ] {
            let fields = RequestFields {
                gas: Some(gas),
                ..good()
            };
            assert_eq!(
                refused(&fields),
                (Field::Gas, Problem::NotQuantity),
                "{gas}"
            );
        }
        for gas in ["0", "20999", "18446744073709551616", "0x10000000000000000"] {
            let fields = RequestFields {
                gas: Some(gas),
                ..good()
            };
            assert_eq!(refused(&fields), (Field::Gas, Problem::OutOfRange), "{gas}");
        }
        for gas in ["21000", "0x5208"] {
            let fields = RequestFields {
                gas: Some(gas),
                ..good()
            };
            assert_eq!(
                TransactionRequest::parse(&fields).unwrap().gas,
                Some(21_000)
            );
        }
        let fields = RequestFields {
            max_fee_per_gas: Some("x"),
            ..good()
        };
        assert_eq!(
            refused(&fields),
            (Field::MaxFeePerGas, Problem::NotQuantity)
        );
        let fields = RequestFields {
            max_priority_fee_per_gas: Some("x"),
            ..good()
        };
        assert_eq!(
            refused(&fields),
            (Field::MaxPriorityFeePerGas, Problem::NotQuantity)
        );
    }

    #[test]
    fn chain_zero_is_refused_and_the_error_reads_well() {
        let error = TransactionRequest::parse(&RequestFields {
            chain_id: 0,
            ..good()
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "chainId is out of range");
    }

    proptest! {
        #[test]
        fn no_input_panics_and_what_is_read_was_written(to in ".*", value in ".*", gas in ".*", data in ".*") {
            let text = RequestFields {
                to: &to, value: &value, gas: Some(&gas), data: Some(&data), ..good()
            };
            prop_assert!(TransactionRequest::parse(&text).is_err());
            for fields in [
                RequestFields { to: &to, ..good() },
                RequestFields { gas: Some(&gas), ..good() },
                RequestFields { data: Some(&data), ..good() },
            ] {
                drop(TransactionRequest::parse(&fields));
            }
            if let Ok(request) = TransactionRequest::parse(&RequestFields { value: &value, ..good() }) {
                prop_assert_eq!(request.value.to_string(), value);
            }
        }

        #[test]
        fn every_number_is_read_as_itself(number in any::<u128>(), value in any::<[u8; 32]>()) {
            let value = U256::from_be_bytes(value);
            let (hex, decimal) = (format!("{number:#x}"), value.to_string());
            let request = TransactionRequest::parse(&RequestFields {
                value: &decimal, max_fee_per_gas: Some(&hex), ..good()
            }).unwrap();
            prop_assert_eq!(request.max_fee_per_gas, Some(number));
            prop_assert_eq!(request.value, value);
        }
    }
}
