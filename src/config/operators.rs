//! `[operators]`: who must agree before a command of operators is carried out.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::owners::Problem;
use crate::operators::{LEAST_REQUIRED, OperatorName, Operators};

/// `[operators]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OperatorsTable {
    required: Option<u32>,
    keys: BTreeMap<String, String>,
}

/// Checks `[operators]`.
pub(super) fn operators(table: OperatorsTable) -> Result<Operators, Problem> {
    let mut keys = Vec::new();
    for (name, key) in table.keys {
        let Some(name) = OperatorName::parse(&name) else {
            return Err((
                "operators.keys",
                format!("{name:?} is no name of an operator"),
                "use 1 to 32 characters of a-z 0-9 . - _",
            ));
        };
        let bytes = hex::decode(&key).ok().and_then(|key| key.try_into().ok());
        let Some(bytes) = bytes else {
            return Err((
                "operators.keys",
                format!("the key of {name} is not 32 bytes in hex"),
                "write the 64 hex digits that `countersignd approve new-key` prints",
            ));
        };
        keys.push((name, bytes));
    }
    let required = table.required.map_or(LEAST_REQUIRED, |required| {
        usize::try_from(required).unwrap_or(usize::MAX)
    });
    Operators::new(required, keys).map_err(|error| {
        (
            "operators",
            error.to_string(),
            "list at least two operators, each with a key of their own, and write required = 2 or more",
        )
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::operators;

    const ALICE: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const BOB: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

    fn read(text: &str) -> Result<usize, String> {
        let table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        operators(table)
            .map(|operators| operators.required())
            .map_err(|(key, problem, _)| format!("{key}: {problem}"))
    }

    #[test]
    fn one_operator_alone_is_no_dual_control() {
        let two = format!("[keys]\nalice = \"{ALICE}\"\nbob = \"{BOB}\"\n");
        assert_eq!(read(&two), Ok(2));
        assert_eq!(read(&format!("required = 2\n{two}")), Ok(2));
        for (text, expected) in [
            (format!("required = 1\n{two}"), "fewer than two"),
            (format!("required = 3\n{two}"), "only 2 are listed"),
            (
                format!("[keys]\nalice = \"{ALICE}\"\n"),
                "only 1 are listed",
            ),
            (two.replace(BOB, ALICE), "have the same key"),
            (two.replace("alice", "Alice"), "no name of an operator"),
            (two.replace(ALICE, "d75a"), "not 32 bytes in hex"),
            (two.replace(ALICE, &"00".repeat(32)), "no sound Ed25519"),
            (format!("quorum = 2\n{two}"), "unknown field"),
            ("required = 2\n".to_owned(), "missing field"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
