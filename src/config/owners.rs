//! `[devices]` and `[gateway_jwt]`: who may speak for an owner, and from when.

use std::path::PathBuf;

use serde::Deserialize;

use crate::domain::EnvironmentKind;
use crate::identity::jwt::GatewayJwt;

const HOUR: i64 = 3600;
/// What production waits at least: long enough to notice a device that was enrolled by a thief.
const LEAST: u32 = 24;
/// What is waited if nothing is said.
const DEFAULT: u32 = 72;
/// The largest clock difference to an issuer that is made up for, in seconds.
const MAX_LEEWAY: u32 = 60;

/// `[devices]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct DevicesTable {
    cooling_off_hours: Option<u32>,
}

/// `[gateway_jwt]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatewayJwtTable {
    issuer: String,
    audience: String,
    pub(super) jwks_file: PathBuf,
    leeway_seconds: Option<u32>,
}

/// What is wrong: the key, the problem, and what to write instead.
pub(super) type Problem = (&'static str, String, &'static str);

/// Seconds before a new device may act.
pub(super) fn cooling_off(table: &DevicesTable, kind: EnvironmentKind) -> Result<i64, Problem> {
    let hours = table.cooling_off_hours.unwrap_or(DEFAULT);
    if kind == EnvironmentKind::Production && hours < LEAST {
        return Err((
            "devices.cooling_off_hours",
            "a device that a thief enrols could act before anybody notices".to_owned(),
            "write at least 24",
        ));
    }
    Ok(i64::from(hours).saturating_mul(HOUR))
}

/// Which tokens of a gateway are believed; `jwks` is the content of the file.
pub(super) fn gateway_jwt(table: GatewayJwtTable, jwks: &str) -> Result<GatewayJwt, Problem> {
    let leeway = table.leeway_seconds.unwrap_or(5);
    if leeway > MAX_LEEWAY {
        return Err((
            "gateway_jwt.leeway_seconds",
            "tokens would live much longer than they say".to_owned(),
            "write at most 60",
        ));
    }
    if table.issuer.is_empty() || table.audience.is_empty() {
        return Err((
            "gateway_jwt",
            "an empty issuer or audience vouches for nobody".to_owned(),
            "write the iss and aud of the gateway's tokens",
        ));
    }
    GatewayJwt::new(table.issuer, table.audience, i64::from(leeway), jwks).map_err(|error| {
        (
            "gateway_jwt.jwks_file",
            error.to_string(),
            "name a JWK set with the issuer's public keys",
        )
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::{DevicesTable, GatewayJwtTable, cooling_off, gateway_jwt};
    use crate::domain::EnvironmentKind::{Development, Production};

    #[test]
    fn a35_production_waits_a_day_at_least_before_a_new_device_acts() {
        let hours = |cooling_off_hours| DevicesTable { cooling_off_hours };
        let seconds = |table, kind| cooling_off(&table, kind).ok();
        for kind in [Development, Production] {
            assert_eq!(seconds(hours(None), kind), Some(72 * 3600));
            assert_eq!(seconds(hours(Some(24)), kind), Some(24 * 3600));
        }
        assert_eq!(seconds(hours(Some(0)), Development), Some(0));
        let (key, _, instead) = cooling_off(&hours(Some(23)), Production).unwrap_err();
        assert_eq!(
            (key, instead),
            ("devices.cooling_off_hours", "write at least 24")
        );
    }

    #[test]
    fn s4_a_gateway_that_vouches_for_nobody_is_refused() {
        let jwks = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let key = |issuer: &str, audience: &str, leeway, jwks| {
            let table = GatewayJwtTable {
                issuer: issuer.to_owned(),
                audience: audience.to_owned(),
                jwks_file: "jwks.json".into(),
                leeway_seconds: leeway,
            };
            gateway_jwt(table, jwks)
                .map(|_| ())
                .map_err(|(key, ..)| key)
        };
        assert_eq!(key("i", "a", None, jwks), Ok(()));
        assert_eq!(key("", "a", None, jwks), Err("gateway_jwt"));
        assert_eq!(key("i", "", None, jwks), Err("gateway_jwt"));
        let leeway = Err("gateway_jwt.leeway_seconds");
        assert_eq!(key("i", "a", Some(61), jwks), leeway);
        let file = Err("gateway_jwt.jwks_file");
        assert_eq!(key("i", "a", None, "{}"), file);
        assert_eq!(key("i", "a", None, r#"{"keys": []}"#), file);
    }
}
