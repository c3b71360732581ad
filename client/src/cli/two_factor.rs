//! `countersign two-factor …`

use clap::Subcommand;
use qrcode::{Color, EcLevel, QrCode};
use serde_json::json;

use super::{
    Context,
    second_factor::{SecondFactor, ask, can_ask},
};
use crate::{
    Appliance, ClientError,
    api::{EnrolmentState, TwoFactorStatus},
    flows::two_factor::{self, Enrolment},
    keystore::{Wallet, WalletName},
    output::Output,
    two_factor::{TwoFactorCode, Why},
};

/// First codes that are asked for before the enrolment is left to wait. Five wrong ones in a row lock the factor.
const MAX_ASKED: u32 = 3;
/// The smallest width of white around a QR code that every camera takes.
const QUIET: usize = 2;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Ask for a second factor: shows, once, the secret for an authenticator app and ten recovery codes
    ///
    /// Scan the QR code, or type the secret of the otpauth:// URI into the app, and give the first code within the hour. Keep
    /// the recovery codes apart from this device, on paper: whoever lost the authenticator gets on only with one of them. The
    /// secret is sealed to this device by the appliance and stored nowhere here. What is enrolled later than the wallet counts
    /// only after a cooling-off, in which every device of the wallet can cancel it. A wallet that has a factor already needs a
    /// code of that one, or a recovery code.
    Enrol {
        /// Name of the wallet
        wallet: WalletName,
        /// Do not draw the QR code
        #[arg(long)]
        no_qr: bool,
        #[command(flatten)]
        code: SecondFactor,
    },
    /// Give the first code of a new second factor, which shows that the authenticator has its secret
    Activate {
        /// Name of the wallet
        wallet: WalletName,
        /// Which one [default: the one that waits for its first code]
        #[arg(long, value_name = "ID")]
        enrolment: Option<String>,
        #[command(flatten)]
        code: SecondFactor,
    },
    /// Show whether the wallet has a second factor, and how many recovery codes are left
    Status {
        /// Name of the wallet
        wallet: WalletName,
    },
    /// Give up a new second factor that does not count yet; needs no code, and the one that counts stays
    Cancel {
        /// Name of the wallet
        wallet: WalletName,
        /// Which one [default: the one that waits]
        #[arg(long, value_name = "ID")]
        enrolment: Option<String>,
    },
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> Result<(), ClientError> {
        let open = |name: &WalletName| -> Result<Wallet, ClientError> {
            Ok(context.keystore().open(name, &context.passphrase(name)?)?)
        };
        let appliance = context.appliance()?;
        let output = context.output;
        match self {
            Self::Enrol {
                wallet,
                no_qr,
                code,
            } => enrol(&open(&wallet)?, &appliance, output, (no_qr, &code)).await,
            Self::Activate {
                wallet,
                enrolment,
                code,
            } => {
                let wallet = open(&wallet)?;
                let id = waiting(&wallet, &appliance, enrolment).await?;
                let state = match code.given()? {
                    Some(code) => two_factor::activate(&wallet, &appliance, &id, &code).await?,
                    None => first_code(&wallet, &appliance, output, &id).await?,
                };
                show_activated(&wallet, output, &state);
                Ok(())
            }
            Self::Status { wallet } => {
                let status = two_factor::status(&open(&wallet)?, &appliance).await?;
                output.result(&json!(status), &lines(&status));
                Ok(())
            }
            Self::Cancel { wallet, enrolment } => {
                let wallet = open(&wallet)?;
                let id = waiting(&wallet, &appliance, enrolment).await?;
                two_factor::cancel(&wallet, &appliance, &id).await?;
                let value = json!({"enrolmentId": id, "status": "cancelled"});
                output.result(&value, &[format!("enrolment {id} is cancelled")]);
                Ok(())
            }
        }
    }
}

async fn enrol(
    wallet: &Wallet,
    appliance: &Appliance,
    output: Output,
    (no_qr, code): (bool, &SecondFactor),
) -> Result<(), ClientError> {
    let enrolment = code
        .with(output, async |code| {
            two_factor::enrol(wallet, appliance, code).await
        })
        .await?;
    let name = wallet.name();
    show(&enrolment, output, no_qr);
    if output.json || !can_ask() {
        output.note(&format!(
            "Next, before {}: countersign two-factor activate {name} --two-factor-code CODE",
            enrolment.expires_at
        ));
        return Ok(());
    }
    let id = &enrolment.enrolment_id;
    let state = first_code(wallet, appliance, output, id).await;
    let state = state.inspect_err(|_| {
        output.note(&format!(
            "The second factor waits for its first code until {}: countersign two-factor activate {name}",
            enrolment.expires_at
        ));
    })?;
    show_activated(wallet, output, &state);
    Ok(())
}

fn show(enrolment: &Enrolment, output: Output, no_qr: bool) {
    let secret = &enrolment.secret;
    let codes: Vec<&str> = secret
        .recovery_codes
        .iter()
        .map(|code| code.as_str())
        .collect();
    let value = json!({
        "enrolmentId": enrolment.enrolment_id, "status": "pending", "expiresAt": enrolment.expires_at,
        "otpauth": secret.otpauth.as_str(), "recoveryCodes": codes,
    });
    if !no_qr && !output.json {
        output.note("Scan this with an authenticator app:");
        output.qr(&drawn(&secret.otpauth));
    }
    let mut lines = vec![
        "Or type this into an authenticator app:".to_owned(),
        format!("  {}", secret.otpauth.as_str()),
        "Recovery codes, each good once in the place of a code, for when the authenticator is lost:".to_owned(),
    ];
    lines.extend(codes.iter().map(|code| format!("  {code}")));
    lines.push(
        "Write them down NOW and keep them apart from this device. They are shown this once, and stored nowhere here."
            .to_owned(),
    );
    output.result(&value, &lines);
}

/// Asks for the first code of an enrolment, and for another one when it was not right.
async fn first_code(
    wallet: &Wallet,
    appliance: &Appliance,
    output: Output,
    id: &str,
) -> Result<EnrolmentState, ClientError> {
    if !can_ask() {
        return Err(ClientError::Usage(
            "no terminal to ask for the first code on: use --two-factor-code".to_owned(),
        ));
    }
    let mut asked = 0;
    loop {
        let code: TwoFactorCode = ask(output, "First code of the authenticator: ")?;
        asked += 1;
        match two_factor::activate(wallet, appliance, id, &code).await {
            Err(ClientError::TwoFactor(error))
                if error.why == Why::Invalid && asked < MAX_ASKED =>
            {
                output.note(&error.to_string());
            }
            outcome => return outcome,
        }
    }
}

/// The enrolment that is meant.
async fn waiting(
    wallet: &Wallet,
    appliance: &Appliance,
    named: Option<String>,
) -> Result<String, ClientError> {
    if let Some(id) = named {
        return Ok(id);
    }
    let status = two_factor::status(wallet, appliance).await?;
    let waiting = status.waiting().map(|enrolment| enrolment.enrolment_id);
    waiting.ok_or_else(|| {
        ClientError::Usage(format!(
            "no second factor of {name} waits: `countersign two-factor enrol {name}` asks for one",
            name = wallet.name()
        ))
    })
}

fn show_activated(wallet: &Wallet, output: Output, state: &EnrolmentState) {
    let at = state.active_at.as_deref().unwrap_or("?");
    let line = if state.status == "active" {
        "the second factor counts from now on".to_owned()
    } else {
        format!(
            "the second factor counts from {at} on. Until then the one before it goes on to count, if there is one, and \
             every device of the wallet can cancel it: countersign two-factor cancel {}",
            wallet.name()
        )
    };
    output.result(&json!(state), &[line]);
}

fn lines(status: &TwoFactorStatus) -> Vec<String> {
    let state = |status: &str, active_at: Option<&str>, expires_at: Option<&str>| match status {
        "none" => "none".to_owned(),
        "pending" => format!(
            "waits for its first code until {}",
            expires_at.unwrap_or("?")
        ),
        "cooling-off" => format!("cools off; counts from {} on", active_at.unwrap_or("?")),
        "active" => format!("counts since {}", active_at.unwrap_or("?")),
        other => other.to_owned(),
    };
    let TwoFactorStatus {
        active_at,
        expires_at,
        ..
    } = status;
    let first = state(&status.status, active_at.as_deref(), expires_at.as_deref());
    let mut lines = vec![format!("second factor   {first}")];
    if let Some(left) = status.recovery_codes_left {
        lines.push(format!("recovery codes  {left} left"));
    }
    if let Some(until) = &status.locked_until {
        let until = if until.starts_with("9999") {
            "until a recovery code opens it".to_owned()
        } else {
            format!("until {until}")
        };
        lines.push(format!(
            "locked          {until}, after too many wrong codes"
        ));
    }
    if let Some(next) = &status.next {
        let (active, expires) = (next.active_at.as_deref(), next.expires_at.as_deref());
        lines.push(format!(
            "next one        {}",
            state(&next.status, active, expires)
        ));
    }
    lines
}

/// A QR code in half blocks, two rows of it in a line; nothing if the text is too long for one.
fn drawn(text: &str) -> Vec<String> {
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else {
        return Vec::new();
    };
    let width = code.width();
    let colors = code.to_colors();
    let dark = |x: usize, y: usize| {
        let (Some(x), Some(y)) = (x.checked_sub(QUIET), y.checked_sub(QUIET)) else {
            return false;
        };
        x < width && colors.get(y * width + x) == Some(&Color::Dark)
    };
    let side = width + 2 * QUIET;
    let line = |y: usize| {
        (0..side)
            .map(|x| match (dark(x, y), dark(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            })
            .collect()
    };
    (0..side).step_by(2).map(line).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn the_qr_code_that_is_drawn_is_the_code_module_by_module() {
        let uri = "otpauth://totp/countersign:0190aaaa?secret=ABCDEFGHIJKLMNOPABCDEFGHIJKLMNOP&issuer=countersign";
        let code = QrCode::with_error_correction_level(uri, EcLevel::L).unwrap();
        let rows: Vec<Vec<char>> = drawn(uri).iter().map(|row| row.chars().collect()).collect();
        let side = code.width() + 2 * QUIET;
        assert_eq!(rows.len(), side.div_ceil(2));
        for y in 0..side {
            for x in 0..side {
                let glyph = rows[y / 2][x];
                let dark = if y % 2 == 0 {
                    "█▀".contains(glyph)
                } else {
                    "█▄".contains(glyph)
                };
                let inside = (QUIET..QUIET + code.width()).contains(&x)
                    && (QUIET..QUIET + code.width()).contains(&y);
                let expected = inside && code[(x - QUIET, y - QUIET)] == Color::Dark;
                assert_eq!(dark, expected, "{x} {y}");
            }
        }
        assert!(drawn(&"x".repeat(5000)).is_empty());
    }
}
