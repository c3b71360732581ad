//! `[[spend]]` of `limits.toml`.

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256};
use serde::Deserialize;
use toml::Spanned;

use super::{MAX_SECONDS, Problem};
use crate::limits::spend::{Asset, Per, SpendLimit};

/// Limits that a file may have: each is looked at with every transaction of its asset.
const MAX_LIMITS: usize = 200;

/// `[[spend]]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpendTable {
    name: Spanned<String>,
    chain: Spanned<u64>,
    asset: Spanned<String>,
    per: Spanned<String>,
    amount: Spanned<String>,
    seconds: Option<Spanned<i64>>,
}

/// Reads the spending limits of a file; `chains` are those that there are.
pub(super) fn spends(tables: &[SpendTable], chains: &[u64]) -> Result<Vec<SpendLimit>, Problem> {
    let mut limits: Vec<SpendLimit> = Vec::with_capacity(tables.len());
    let mut names = BTreeMap::new();
    for table in tables {
        let limit = limit(table, chains)?;
        if let Some(()) = names.insert(limit.name.clone(), ()) {
            let problem = format!("there are two limits of the name {}", limit.name);
            return Err(wrong(&table.name, problem));
        }
        if limits.len() == MAX_LIMITS {
            let problem = format!("there may be at most {MAX_LIMITS} spending limits");
            return Err(wrong(&table.name, problem));
        }
        for other in &limits {
            if let Some(problem) = overlap(&limit, other).or_else(|| overlap(other, &limit)) {
                return Err(wrong(&table.name, problem));
            }
        }
        limits.push(limit);
    }
    Ok(limits)
}

fn wrong<T>(at: &Spanned<T>, problem: impl Into<String>) -> Problem {
    Problem {
        place: at.span(),
        problem: problem.into(),
    }
}

fn limit(table: &SpendTable, chains: &[u64]) -> Result<SpendLimit, Problem> {
    let name = table.name.get_ref();
    let said = |at: std::ops::Range<usize>, problem: &str| Problem {
        place: at,
        problem: format!("spend {name:?}: {problem}"),
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=40).contains(&name.len()) || !name.bytes().all(plain) {
        return Err(wrong(
            &table.name,
            format!("{name:?} is no name; write 1 to 40 characters of a-z 0-9 -"),
        ));
    }
    let chain = *table.chain.get_ref();
    if !chains.contains(&chain) {
        let problem =
            format!("chain {chain} is not configured; add a [[chain]] or take the limit out");
        return Err(said(table.chain.span(), &problem));
    }
    let token = token(table.asset.get_ref()).ok_or_else(|| {
        let problem = "the asset is neither \"native\" nor the address of a token; mixed case needs its checksum";
        said(table.asset.span(), problem)
    })?;
    let per = Per::ALL
        .into_iter()
        .find(|per| per.as_str() == table.per.get_ref())
        .ok_or_else(|| {
            let names = Per::ALL.map(Per::as_str).join(", ");
            said(table.per.span(), &format!("per is none of {names}"))
        })?;
    let amount = amount(table.amount.get_ref()).ok_or_else(|| {
        let problem = "the amount is no number of base units; write digits in quotes, from 1 to 2^256-1, without leading zeros";
        said(table.amount.span(), problem)
    })?;
    let seconds = match (&table.seconds, per) {
        (None, Per::Transaction) => 0,
        (Some(seconds), Per::Transaction) => {
            return Err(said(
                seconds.span(),
                "one transaction has no seconds; take them out",
            ));
        }
        (None, _) => return Err(said(table.per.span(), "in how many seconds? write seconds")),
        (Some(seconds), _) => {
            let number = u32::try_from(*seconds.get_ref()).ok();
            let number = number.filter(|number| (1..=MAX_SECONDS).contains(number));
            let problem = format!("write seconds from 1 to {MAX_SECONDS}");
            number.ok_or_else(|| said(seconds.span(), &problem))?
        }
    };
    Ok(SpendLimit {
        name: name.clone(),
        asset: Asset { chain, token },
        per,
        amount,
        seconds,
    })
}

/// `native`, or a token's address: `None` if it is neither.
#[expect(
    clippy::option_option,
    reason = "a token is optional, and so is a good spelling"
)]
fn token(text: &str) -> Option<Option<[u8; 20]>> {
    if text == "native" {
        return Some(None);
    }
    let digits = text.strip_prefix("0x")?;
    let lower = !digits.bytes().any(|byte| byte.is_ascii_uppercase());
    let address = if lower {
        text.parse::<Address>().ok()?
    } else {
        Address::parse_checksummed(text, None).ok()?
    };
    Some(Some(address.into()))
}

/// A decimal number in its one spelling, not zero.
fn amount(text: &str) -> Option<U256> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || text.starts_with('0') {
        return None;
    }
    U256::from_str_radix(text, 10).ok()
}

/// What is wrong about a limit beside another one that is reached first, whatever is spent.
fn overlap(limit: &SpendLimit, other: &SpendLimit) -> Option<String> {
    if limit.asset != other.asset {
        return None;
    }
    let (name, of) = (&limit.name, &other.name);
    if limit.per == other.per && limit.seconds == other.seconds {
        return Some(format!("{name} and {of} limit the same"));
    }
    // What fits in a longer time fits in a shorter one, and what a profile may spend one transaction may.
    let within = match (limit.per, other.per) {
        (Per::Transaction, Per::Profile) => true,
        (one, another) => one == another && limit.seconds < other.seconds,
    };
    (within && limit.amount >= other.amount)
        .then(|| format!("{name} is never reached: {of} does not allow that much in a longer time"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::super::{FileError, load};
    use crate::limits::Limits;
    use crate::limits::spend::{Asset, Per};

    const TOKEN: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

    fn read(text: &str) -> Result<Limits, FileError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("limits.toml");
        std::fs::write(&file, text).unwrap();
        load(&file, &[1, 10])
    }

    fn spend(name: &str, per: &str, amount: &str, seconds: &str) -> String {
        format!(
            "[[spend]]\nname = \"{name}\"\nchain = 1\nasset = \"native\"\nper = \"{per}\"\namount = \"{amount}\"\n{seconds}\n"
        )
    }

    #[test]
    fn limits_are_read_in_base_units_whatever_their_size() {
        let most = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        let text = [
            spend("one", "transaction", "500", ""),
            spend(
                "day",
                "profile",
                "1000000000000000000000",
                "seconds = 86400",
            ),
            spend("all", "environment", most, "seconds = 3600"),
            spend("usd", "recipient", "7", "seconds = 60").replace("native", TOKEN),
        ]
        .concat();
        let limits = read(&text).unwrap();
        let [one, day, all, usd] = limits.spends() else {
            panic!("{limits:?}");
        };
        assert_eq!((one.per, one.seconds), (Per::Transaction, 0));
        assert_eq!(day.amount.to_string(), "1000000000000000000000");
        assert_eq!(all.amount.to_string(), most);
        let asset = |hex: &str| Asset {
            chain: 1,
            token: Some(<[u8; 20]>::try_from(hex::decode(hex).unwrap()).unwrap()),
        };
        assert_eq!(usd.asset, asset("5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"));
    }

    #[test]
    fn what_is_wrong_about_a_spending_limit_is_refused_with_its_line() {
        let good = spend("a", "profile", "5", "seconds = 60");
        let over = "115792089237316195423570985008687907853269984665640564039457584007913129639936";
        let with = |from: &str, to: &str| good.replace(from, to);
        for (text, line, says) in [
            (with("\"a\"", "\"A b\""), 2, "name"),
            (with("\"a\"", "\"\""), 2, "name"),
            (
                with("chain = 1", "chain = 3"),
                3,
                "chain 3 is not configured",
            ),
            (with("chain = 1", "chain = -1"), 3, ""),
            (with("native", "eth"), 4, "asset"),
            (
                with("native", "0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed"),
                4,
                "checksum",
            ),
            (
                with("native", "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beae"),
                4,
                "asset",
            ),
            (with("\"profile\"", "\"wallet\""), 5, "transaction, profile"),
            (with("\"5\"", "\"0\""), 6, "amount"),
            (with("\"5\"", "\"-5\""), 6, "amount"),
            (with("\"5\"", "\"05\""), 6, "amount"),
            (with("\"5\"", "\"1.5\""), 6, "amount"),
            (with("\"5\"", "\"1e18\""), 6, "amount"),
            (with("\"5\"", "\"\""), 6, "amount"),
            (with("\"5\"", "\"0x5\""), 6, "amount"),
            (with("\"5\"", "5"), 6, "string"),
            (with("\"5\"", &format!("\"{over}\"")), 6, "amount"),
            (with("seconds = 60", "seconds = 0"), 7, "seconds"),
            (with("seconds = 60", "seconds = 2678401"), 7, "seconds"),
            (with("seconds = 60", ""), 5, "how many seconds"),
            (with("\"profile\"", "\"transaction\""), 7, "no seconds"),
            (with("seconds", "minutes"), 7, "minutes"),
            (format!("{good}{good}"), 9, "name a"),
            (
                format!("{good}{}", with("\"a\"", "\"b\"")),
                9,
                "limit the same",
            ),
            (
                good.clone() + &spend("b", "profile", "5", "seconds = 61"),
                9,
                "a is never reached",
            ),
            (
                good.clone() + &spend("b", "profile", "6", "seconds = 59"),
                9,
                "b is never reached",
            ),
            (
                good.clone() + &spend("b", "transaction", "5", ""),
                9,
                "b is never reached",
            ),
        ] {
            let error = read(&text).unwrap_err();
            let FileError::Invalid {
                line: found,
                ref problem,
                ..
            } = error
            else {
                panic!("{text}: {error}");
            };
            assert_eq!(found, line, "{text}: {problem}");
            assert!(problem.contains(says), "{text}: {problem}");
        }
        assert!(read(&with("\"a\"", "\"eth-2-day\"")).is_ok());
        let fine = good
            + &spend("b", "profile", "6", "seconds = 61")
            + &spend("c", "transaction", "4", "");
        assert!(read(&fine).is_ok());
    }
}
