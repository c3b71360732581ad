//! Amounts for people: ether and gwei as exact decimal text, never floating point.

use alloy_primitives::U256;
use thiserror::Error;

/// Decimal places of ether over wei.
const ETHER_DECIMALS: usize = 18;
/// Decimal places of gwei over wei.
const GWEI_DECIMALS: usize = 9;
/// Longest accepted text: 78 digits of a 256-bit number, a point, a unit and a space, rounded up.
const MAX_TEXT: usize = 100;

/// Why a text is not an amount.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UnitError {
    /// Not digits with at most one point between them, optionally followed by a known unit.
    #[error("{0:?} is not an amount: write digits with at most one point, such as 0.01 or 5gwei")]
    NotDecimal(String),
    /// More decimal places than the unit has; rounding would change what is paid.
    #[error("{text:?} has more than {limit} decimal places, so it is not a whole number of wei")]
    TooPrecise {
        /// The text as given.
        text: String,
        /// Decimal places of the unit.
        limit: usize,
    },
    /// Does not fit into 256 bits.
    #[error("{0:?} is larger than any amount on a chain")]
    TooLarge(String),
}

/// Wei of a text such as `0.01`, `0.01 ETH`, `5gwei` or `1000wei`. Without a unit it is ether.
///
/// # Errors
/// [`UnitError`]; in particular nothing is ever rounded.
pub fn parse_ether(text: &str) -> Result<U256, UnitError> {
    parse_amount(text, ETHER_DECIMALS)
}

/// Wei of a text such as `2`, `1.5 gwei` or `0.000001 ETH`. Without a unit it is gwei.
///
/// # Errors
/// As [`parse_ether`].
pub fn parse_gwei(text: &str) -> Result<U256, UnitError> {
    parse_amount(text, GWEI_DECIMALS)
}

/// `wei` as ether, exact and without trailing zeros: `0.01 ETH`.
#[must_use]
pub fn format_ether(wei: U256) -> String {
    format!("{} ETH", format_decimal(wei, ETHER_DECIMALS))
}

/// `wei` as gwei, exact and without trailing zeros: `1.5 gwei`.
#[must_use]
pub fn format_gwei(wei: U256) -> String {
    format!("{} gwei", format_decimal(wei, GWEI_DECIMALS))
}

fn parse_amount(text: &str, default_decimals: usize) -> Result<U256, UnitError> {
    let not_decimal = || UnitError::NotDecimal(text.chars().take(MAX_TEXT).collect());
    if text.len() > MAX_TEXT {
        return Err(not_decimal());
    }
    let lower = text.trim().to_ascii_lowercase();
    let (number, decimals) = [("gwei", GWEI_DECIMALS), ("wei", 0), ("eth", ETHER_DECIMALS)]
        .iter()
        .find_map(|(unit, decimals)| Some((lower.strip_suffix(unit)?.trim_end(), *decimals)))
        .unwrap_or((lower.as_str(), default_decimals));
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(not_decimal()),
        None => (number, ""),
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(not_decimal());
    }
    let missing = decimals
        .checked_sub(fraction.len())
        .ok_or_else(|| UnitError::TooPrecise {
            text: text.to_owned(),
            limit: decimals,
        })?;
    let wei = format!("{whole}{fraction}{}", "0".repeat(missing));
    U256::from_str_radix(&wei, 10).map_err(|_| UnitError::TooLarge(text.to_owned()))
}

fn format_decimal(wei: U256, decimals: usize) -> String {
    let digits = format!(
        "{wei:0>width$}",
        wei = wei.to_string(),
        width = decimals + 1
    );
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    match fraction.trim_end_matches('0') {
        "" => whole.to_owned(),
        fraction => format!("{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_become_exact_wei() {
        for (text, wei) in [
            ("0.01", 10_000_000_000_000_000_u128),
            ("1", 1_000_000_000_000_000_000),
            ("0.000000000000000001", 1),
            (" 0.01 ETH ", 10_000_000_000_000_000),
            ("5gwei", 5_000_000_000),
            ("1.5 gwei", 1_500_000_000),
            ("42wei", 42),
            ("0", 0),
        ] {
            assert_eq!(parse_ether(text), Ok(U256::from(wei)), "{text}");
        }
        assert_eq!(parse_gwei("2.5"), Ok(U256::from(2_500_000_000_u64)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", ".", ".5", "5.", "-1", "+1", "1e3", "1,5", "1_000", "0x10", "1.2.3", "ten",
            "1 btc", "٣",
        ] {
            assert!(
                matches!(parse_ether(text), Err(UnitError::NotDecimal(_))),
                "{text}"
            );
        }
        for text in ["0.0000000000000000001", "0.0000000001gwei", "1.5wei"] {
            assert!(
                matches!(parse_ether(text), Err(UnitError::TooPrecise { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            parse_ether(&"9".repeat(70)),
            Err(UnitError::TooLarge(_))
        ));
        assert!(matches!(
            parse_ether(&"9".repeat(101)),
            Err(UnitError::NotDecimal(_))
        ));
    }

    #[test]
    fn formatting_is_the_inverse_of_parsing() {
        for text in [
            "0",
            "1",
            "0.01",
            "0.000000000000000001",
            "123456789.987654321",
        ] {
            assert_eq!(
                parse_ether(text).map(format_ether),
                Ok(format!("{text} ETH"))
            );
        }
        assert_eq!(format_gwei(U256::from(1_500_000_000_u64)), "1.5 gwei");
        assert_eq!(format_ether(U256::MAX).len(), 78 + 1 + 4);
    }
}
