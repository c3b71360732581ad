//! `countersign send …`

use std::time::Duration;

use alloy_primitives::{Address, Bytes, U256};
use clap::Args;
use serde_json::json;

use super::{Context, second_factor::SecondFactor};
use crate::{
    Appliance, ClientError,
    api::Session,
    flows::{
        payment::{self, Abandoned, Resumed},
        send::{self, Proposal, Sent},
    },
    keystore::{Wallet, WalletName},
    output::Output,
    two_factor::TwoFactorCode,
    tx::{DEFAULT_FEE_CAP, Intent},
    units::{UnitError, parse_ether, parse_gwei},
};

/// Send ether or call a contract
///
/// Shows the exact transaction with the most it can cost and asks before anything is signed. A payment that was interrupted
/// is continued with --resume; it is never paid twice.
#[derive(Debug, Args)]
pub(super) struct Command {
    /// Name of the wallet
    name: WalletName,
    /// Recipient: 0x and 40 hex digits; mixed case must be a correct checksum
    #[arg(long, value_parser = address, required_unless_present_any = ["resume", "abandon"])]
    to: Option<Address>,
    /// Amount in ether, exact: 0.01, 5gwei, 100wei
    #[arg(long, value_parser = parse_ether, required_unless_present_any = ["resume", "abandon"])]
    value: Option<U256>,
    /// Chain id [default: the configuration's chain, if it has one]
    #[arg(long)]
    chain: Option<u64>,
    /// Call data: 0x-hex
    #[arg(long, default_value = "0x", hide_default_value = true)]
    data: Bytes,
    /// Insist on this gas limit
    #[arg(long)]
    gas: Option<u64>,
    /// Insist on this maximum fee per gas, in gwei
    #[arg(long, value_name = "GWEI", value_parser = fee)]
    max_fee_per_gas: Option<u128>,
    /// Insist on this priority fee per gas, in gwei
    #[arg(long, value_name = "GWEI", value_parser = fee)]
    priority_fee: Option<u128>,
    /// Refuse if the fees could exceed this many ether [default: 0.05]
    #[arg(long, value_name = "ETHER", value_parser = parse_ether)]
    max_fee: Option<U256>,
    /// Agree in advance: do not ask
    #[arg(long)]
    yes: bool,
    /// Wait until the transaction is mined
    #[arg(long)]
    wait: bool,
    /// Longest wait in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    wait_seconds: u64,
    /// Continue the payment that was interrupted
    #[arg(long, conflicts_with_all = ["to", "value", "abandon"])]
    resume: bool,
    /// Give the interrupted payment up; refused unless the appliance says that it is over and not signed
    #[arg(long, conflicts_with_all = ["to", "value"])]
    abandon: bool,
    /// Accept another account nonce than that of a payment you gave up: if that one was signed after all, both are paid
    #[arg(long, conflicts_with_all = ["resume", "abandon"])]
    other_nonce: bool,
    #[command(flatten)]
    second_factor: SecondFactor,
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> Result<(), ClientError> {
        let appliance = context.appliance()?;
        let mut wallet = context
            .keystore()
            .open(&self.name, &context.passphrase(&self.name)?)?;
        if self.abandon {
            let abandoned = payment::abandon(&mut wallet, &appliance).await?;
            report_abandoned(abandoned, context.output);
            return Ok(());
        }
        let found = if self.resume {
            let output = context.output;
            let resume = async |code: Option<&TwoFactorCode>| {
                let progress = &mut |step| output.step(&step);
                payment::resume_with(&mut wallet, &appliance, code, progress).await
            };
            self.second_factor.with(output, resume).await?
        } else {
            let intent = self.intent(&appliance)?;
            if self.other_nonce {
                wallet.forget_given_up(intent.chain_id)?;
            }
            let propose = async |code: Option<&TwoFactorCode>| {
                send::propose_with(&mut wallet, &appliance, intent.clone(), code).await
            };
            let proposal = self.second_factor.with(context.output, propose).await?;
            Resumed::Proposal(proposal)
        };
        let sent = match found {
            Resumed::Sent(sent) => sent,
            Resumed::Proposal(proposal) => {
                self.agree_and_sign(&mut wallet, &appliance, &proposal, context.output)
                    .await?
            }
        };
        let outcome = self
            .report(&wallet, &appliance, &sent, context.output)
            .await;
        // Only now: a run that ends before it has shown the hash must not look like a payment that can be made again.
        let noted = payment::reported(&mut wallet);
        outcome.and(noted)
    }

    fn intent(&self, appliance: &Appliance) -> Result<Intent, ClientError> {
        let missing = || ClientError::Usage("--to and --value are needed".to_owned());
        let only_chain = match appliance.config().chains.as_slice() {
            [chain] => Some(chain.id),
            _ => None,
        };
        let which = || {
            ClientError::Usage(
                "the configuration has several chains or none: use --chain".to_owned(),
            )
        };
        Ok(Intent {
            to: self.to.ok_or_else(missing)?,
            value: self.value.ok_or_else(missing)?,
            chain_id: self.chain.or(only_chain).ok_or_else(which)?,
            data: self.data.clone(),
            gas: self.gas,
            max_fee_per_gas: self.max_fee_per_gas,
            max_priority_fee_per_gas: self.priority_fee,
            fee_cap: self.max_fee.unwrap_or(DEFAULT_FEE_CAP),
        })
    }

    async fn agree_and_sign(
        &self,
        wallet: &mut Wallet,
        appliance: &Appliance,
        proposal: &Proposal,
        output: Output,
    ) -> Result<Sent, ClientError> {
        for (label, value) in proposal.agreed.summary(&proposal.from) {
            output.note(&format!("  {label:<8}{value}"));
        }
        if !self.yes && !output.confirm("Sign and send this transaction?") {
            // Only a payment of which no message ever left is dropped here.
            payment::decline(wallet)?;
            return Err(ClientError::Declined);
        }
        send::sign(wallet, appliance, proposal, &mut |step| output.step(&step)).await
    }

    async fn report(
        &self,
        wallet: &Wallet,
        appliance: &Appliance,
        sent: &Sent,
        output: Output,
    ) -> Result<(), ClientError> {
        let mut value =
            json!({"sessionId": sent.session_id, "txHash": sent.tx_hash, "status": sent.status});
        let mut lines = vec![format!("transaction {} {}", sent.tx_hash, sent.status)];
        if self.wait {
            output.note(&format!(
                "transaction {} {}, waiting until it is mined",
                sent.tx_hash, sent.status
            ));
            let progress = |session: &Session, waited: Duration| {
                let status = session.status.as_deref().unwrap_or("signed");
                output.note(&format!("      {status} after {} s", waited.as_secs()));
            };
            let limit = Duration::from_secs(self.wait_seconds);
            let session =
                payment::wait_until_mined(wallet, appliance, sent, limit, progress).await?;
            let block = session
                .block_number
                .and_then(|block| u64::try_from(block.0).ok());
            lines = vec![format!(
                "transaction {} mined in block {}",
                sent.tx_hash,
                block.map_or_else(|| "?".to_owned(), |block| block.to_string())
            )];
            value = json!({"sessionId": sent.session_id, "txHash": sent.tx_hash, "status": "mined", "blockNumber": block});
        }
        output.result(&value, &lines);
        Ok(())
    }
}

fn report_abandoned(abandoned: Abandoned, output: Output) {
    let (text, last_message_left) = match abandoned {
        Abandoned::Unsigned => ("given up: nothing was paid", false),
        Abandoned::SaidUnsigned => (
            "given up: the appliance says it was not signed; until its account nonce is used, no other one is accepted",
            true,
        ),
    };
    output.result(
        &json!({"abandoned": true, "lastMessageLeft": last_message_left}),
        &[text.to_owned()],
    );
}

/// An address, whose checksum is checked if it has one.
fn address(text: &str) -> Result<Address, String> {
    let digits = text.strip_prefix("0x").ok_or("an address starts with 0x")?;
    let parsed: Address = text
        .parse()
        .map_err(|_| "an address is 0x and 40 hex digits")?;
    let one_case = digits == digits.to_ascii_lowercase() || digits == digits.to_ascii_uppercase();
    let correct = one_case || Address::parse_checksummed(text, None).is_ok();
    correct
        .then_some(parsed)
        .ok_or_else(|| "the address has a typing error: its checksum is wrong".to_owned())
}

fn fee(text: &str) -> Result<u128, UnitError> {
    u128::try_from(parse_gwei(text)?).map_err(|_| UnitError::TooLarge(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_wrong_checksum_is_refused() {
        assert!(address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8").is_ok());
        assert!(address("0x70997970c51812dc3a010c7d01b50e0d17dc79c8").is_ok());
        assert!(address("0x70997970C51812dc3A010C7d01b50e0d17dc79c8").is_err());
        assert!(address("70997970C51812dc3A010C7d01b50e0d17dc79C8").is_err());
        assert!(address("0x1234").is_err());
    }
}
