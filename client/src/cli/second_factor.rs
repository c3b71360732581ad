//! The code of the second factor: from an option, or asked for when the appliance asks for it.

use std::{convert::Infallible, fmt, io, io::IsTerminal, str::FromStr};

use clap::Args;
use zeroize::Zeroizing;

use crate::{
    ClientError,
    output::Output,
    two_factor::{TwoFactorCode, Why},
};

/// Codes that are asked for in one run. Five wrong ones in a row would lock the factor.
const MAX_ASKED: u32 = 3;

/// Where the code comes from.
#[derive(Debug, Args)]
pub(super) struct SecondFactor {
    /// Code of the second factor, where the appliance asks for one: the six digits that the authenticator shows, or a recovery
    /// code [default: a prompt without echo]. Who may list the processes of this device sees it: prefer the prompt
    #[arg(long, value_name = "CODE")]
    two_factor_code: Option<Typed>,
}

/// What was typed in place of a code; no error repeats it.
#[derive(Clone)]
struct Typed(Zeroizing<String>);

impl FromStr for Typed {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Typed")
    }
}

impl SecondFactor {
    /// The code of the option.
    pub(super) fn given(&self) -> Result<Option<TwoFactorCode>, ClientError> {
        let parsed = self
            .two_factor_code
            .as_ref()
            .map(|typed| TwoFactorCode::parse(&typed.0));
        parsed
            .transpose()
            .map_err(|error| ClientError::Usage(error.to_string()))
    }

    /// Does what may need a code: with that of the option, or with one that is asked for on a terminal once the appliance
    /// wants it.
    pub(super) async fn with<T>(
        &self,
        output: Output,
        mut act: impl AsyncFnMut(Option<&TwoFactorCode>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut code = self.given()?;
        let mut asked = 0;
        loop {
            let error = match act(code.as_ref()).await {
                Err(error) => error,
                done => return done,
            };
            let why = match &error {
                ClientError::TwoFactor(error) => Some(error.why),
                _ => None,
            };
            match why {
                // What was given was not looked at: it is another wallet's that is asked for.
                Some(Why::Required) if can_ask() && code.is_none() => {}
                Some(Why::Invalid) if can_ask() && asked < MAX_ASKED => {
                    output.note(&error.to_string());
                }
                _ => return Err(error),
            }
            code = Some(ask(
                output,
                "Code of the authenticator, or a recovery code: ",
            )?);
            asked += 1;
        }
    }
}

/// Whether there is somebody to ask.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks for a code, without echo, until it has the shape of one.
pub(super) fn ask(output: Output, question: &str) -> Result<TwoFactorCode, ClientError> {
    loop {
        let typed = rpassword::prompt_password(question).map_err(|error| {
            ClientError::Usage(format!(
                "cannot ask for a code ({error}): use --two-factor-code"
            ))
        })?;
        let typed = Zeroizing::new(typed);
        if typed.is_empty() {
            return Err(ClientError::Usage("no code was given".to_owned()));
        }
        match TwoFactorCode::parse(&typed) {
            Ok(code) => return Ok(code),
            Err(error) => output.note(&error.to_string()),
        }
    }
}
