//! Amounts for humans: exact, without needless zeros.

use alloy_primitives::U256;
use alloy_primitives::utils::{ParseUnits, Unit};

/// An amount of wei in the chain's native coin, which is called ETH here on every chain.
pub(super) fn ether(wei: U256) -> String {
    format!("{} ETH", in_units(wei, Unit::ETHER))
}

/// A price of gas, in wei for each unit of gas.
pub(super) fn gwei(wei: u128) -> String {
    format!("{} gwei", in_units(U256::from(wei), Unit::GWEI))
}

fn in_units(wei: U256, unit: Unit) -> String {
    let text = ParseUnits::from(wei).format_units(unit);
    let short = text.trim_end_matches('0').trim_end_matches('.');
    short.to_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn amounts_are_exact_and_short() {
        for (wei, text) in [
            ("0", "0 ETH"),
            ("1", "0.000000000000000001 ETH"),
            ("1000000000000000000", "1 ETH"),
            ("100000000000000000000", "100 ETH"),
            ("1500000000000000001", "1.500000000000000001 ETH"),
        ] {
            assert_eq!(ether(wei.parse().unwrap()), text);
        }
        let most = ether(U256::MAX);
        assert!(most.starts_with("115792089237316195423570985008687907853269984665640564039457."));
        assert_eq!(gwei(500_000_000_001), "500.000000001 gwei");
        assert_eq!(gwei(0), "0 gwei");
    }
}
