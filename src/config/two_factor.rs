//! `[two_factor]`: who needs a second factor, and how long a new one waits.

use serde::Deserialize;

use super::owners::Problem;
use crate::domain::EnvironmentKind;

const HOUR: i64 = 3600;
/// What production waits at least: long enough to notice a factor that was enrolled by a thief.
const LEAST: i64 = 24 * HOUR;
/// What is waited if nothing is said.
const DEFAULT: i64 = 72 * HOUR;

/// `[two_factor]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct TwoFactorTable {
    required: Option<bool>,
    cooling_off: Option<String>,
    issuer: Option<String>,
}

/// How second factors are dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwoFactor {
    /// Whether devices are enrolled only for who has one.
    pub required: bool,
    /// Seconds before an enrolment is the factor.
    pub cooling_off: i64,
    /// What authenticators show before the wallet.
    pub issuer: String,
}

/// Completes `[two_factor]`.
pub(super) fn two_factor(
    table: TwoFactorTable,
    kind: EnvironmentKind,
) -> Result<TwoFactor, Problem> {
    let production = kind == EnvironmentKind::Production;
    let cooling_off = match table.cooling_off {
        Some(text) => seconds(&text).ok_or_else(|| {
            let problem = format!("{text:?} is no time");
            let instead = "write a number with its unit, such as \"72h\", \"90m\" or \"30s\"";
            ("two_factor.cooling_off", problem, instead)
        })?,
        None => DEFAULT,
    };
    if production && cooling_off < LEAST {
        return Err((
            "two_factor.cooling_off",
            "a second factor that a thief enrols would count before anybody notices".to_owned(),
            "write at least \"24h\"",
        ));
    }
    let issuer = table.issuer.unwrap_or_else(|| "countersign".to_owned());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if !(1..=32).contains(&issuer.len()) || !issuer.bytes().all(plain) {
        return Err((
            "two_factor.issuer",
            "authenticators would not show it as it is".to_owned(),
            "use 1 to 32 characters of A-Z a-z 0-9 . - _",
        ));
    }
    Ok(TwoFactor {
        required: table.required.unwrap_or(production),
        cooling_off,
        issuer,
    })
}

fn seconds(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "h" => HOUR,
        "m" => 60,
        "s" => 1,
        _ => return None,
    };
    let number: u32 = number.parse().ok()?;
    Some(i64::from(number).saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::{TwoFactorTable, two_factor};
    use crate::domain::EnvironmentKind::{Development, Production};

    fn table(cooling_off: Option<&str>, issuer: Option<&str>) -> TwoFactorTable {
        TwoFactorTable {
            required: None,
            cooling_off: cooling_off.map(str::to_owned),
            issuer: issuer.map(str::to_owned),
        }
    }

    #[test]
    fn a24_production_asks_for_a_factor_and_waits_a_day_at_least() {
        let seconds = |text, kind| two_factor(table(text, None), kind).map(|made| made.cooling_off);
        for kind in [Development, Production] {
            assert_eq!(seconds(None, kind), Ok(72 * 3600));
            assert_eq!(seconds(Some("24h"), kind), Ok(24 * 3600));
            assert_eq!(seconds(Some("1440m"), kind), Ok(24 * 3600));
            for text in ["", "h", "24", "24d", "-1h", "1.5h", "24 h", "24h ", "５h"] {
                let (key, ..) = seconds(Some(text), kind).unwrap_err();
                assert_eq!(key, "two_factor.cooling_off", "{text:?}");
            }
        }
        assert_eq!(seconds(Some("0s"), Development), Ok(0));
        let (key, _, instead) = seconds(Some("86399s"), Production).unwrap_err();
        assert_eq!(
            (key, instead),
            ("two_factor.cooling_off", "write at least \"24h\"")
        );
        let required = |kind| two_factor(table(None, None), kind).unwrap().required;
        assert_eq!((required(Development), required(Production)), (false, true));
    }

    #[test]
    fn an_issuer_is_what_authenticators_show_as_it_is() {
        let issuer = |text| two_factor(table(None, text), Development).map(|made| made.issuer);
        assert_eq!(issuer(None).unwrap(), "countersign");
        assert_eq!(issuer(Some("My-Bank.example")).unwrap(), "My-Bank.example");
        for text in ["", "my bank", "a:b", "ä", "a&secret=b", &"x".repeat(33)] {
            assert_eq!(issuer(Some(text)).unwrap_err().0, "two_factor.issuer");
        }
    }
}
