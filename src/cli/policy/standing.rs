//! The limits that a request falls under, and how much of them is left. Reads the database, also beside a running
//! appliance, and changes nothing.

use std::slice;
use std::sync::Arc;

use alloy_primitives::{Address, Bytes, U256};

use super::super::{Failure, limits as shown, output};
use crate::chain::Unsigned1559;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::domain::{OwnerId, ProfileId, RateClass, RateSubject};
use crate::limits::file;
use crate::limits::spend::{Payer, Per, SpendLimit};
use crate::limits::{Limits, Rate};
use crate::policy::{Asked, Facts, TransactionFacts};
use crate::service::spends;
use crate::store::{Reader, Store, StoreError, profiles};

const WEI_PER_GWEI: u64 = 1_000_000_000;

/// A transaction, as far as limits are about it.
pub(super) struct Transaction {
    /// Its chain.
    pub(super) chain: u64,
    /// Whom it calls.
    pub(super) to: Address,
    /// With how many coins.
    pub(super) value: U256,
    /// With which data.
    pub(super) data: Bytes,
    /// Whether it was prepared: then what it takes is among what is claimed, as long as that stands.
    pub(super) prepared: bool,
}

impl Transaction {
    /// Of one that was prepared.
    pub(super) fn of(unsigned: &Unsigned1559) -> Self {
        Self {
            chain: unsigned.chain_id(),
            to: unsigned.to(),
            value: unsigned.value(),
            data: Bytes::copy_from_slice(unsigned.data()),
            prepared: true,
        }
    }
}

/// The limits, and what is used of them.
pub(super) struct Standing {
    limits: Arc<Limits>,
    /// What is used; or why nobody knows it.
    counted: Result<Counted, String>,
}

/// What is used of the limits, in a database.
struct Counted {
    reader: Reader,
    now: Timestamp,
    /// Whose requests are counted, if that is known.
    subject: Option<RateSubject>,
    /// Who pays; nobody when a wallet is made.
    payer: Option<Payer>,
}

impl Standing {
    /// The limits of a configuration, for whoever asks in `facts`.
    pub(super) async fn open(config: Option<&Config>, facts: &Facts) -> Result<Self, Failure> {
        let Some(config) = config else {
            return Ok(Self {
                limits: Arc::new(file::builtin()),
                counted: Err("name a configuration with --config".to_owned()),
            });
        };
        let limits = shown::of_configuration(config)?;
        let counted = match Store::inspect(Arc::clone(&config.store)).await {
            Ok(reader) => Counted::of(reader, config, facts).await?,
            Err(error) => Err(format!("the database cannot be read: {error}")),
        };
        Ok(Self { limits, counted })
    }

    /// Shows which of them a request falls under, and what is left.
    pub(super) async fn say(
        mut self,
        asked: &Asked,
        transaction: Option<&Transaction>,
    ) -> Result<(), Failure> {
        match &self.counted {
            Ok(_) => output::line("limits, and what is left of them now:"),
            Err(why) => output::line(format_args!("limits (what is left is not known: {why}):")),
        }
        let limits = Arc::clone(&self.limits);
        for class in classes(asked) {
            let rate = limits.rate(*class);
            let used = self.used(&rate).await?;
            let described = shown::described_rate(&rate);
            output::line(format_args!("  rate   {described}{used}"));
        }
        let (Asked::PrepareTransaction(content) | Asked::SignTransaction(content)) = asked else {
            return Ok(());
        };
        let mut any = false;
        for limit in limits.spends() {
            let lines = match transaction {
                Some(transaction) => self.spends(limit, transaction).await?,
                None => recorded(limit, content).into_iter().collect(),
            };
            for line in lines {
                any = true;
                let (described, per) = (shown::described(limit), limit.per.as_str());
                output::line(format_args!("  spend  {described} per {per}: {line}"));
            }
        }
        if !any {
            output::line("  spend  no limit is about what it spends");
        }
        Ok(())
    }

    async fn used(&mut self, rate: &Rate) -> Result<String, StoreError> {
        match &mut self.counted {
            Ok(Counted {
                reader,
                now,
                subject: Some(subject),
                ..
            }) => shown::used(reader, rate, *subject, *now).await,
            Ok(_) => Ok(": counted for the user whom the gateway's token named".to_owned()),
            Err(_) => Ok(String::new()),
        }
    }

    /// What a transaction takes of a limit, for each recipient that it adds up apart; nothing if it is about something
    /// else.
    async fn spends(
        &mut self,
        limit: &SpendLimit,
        transaction: &Transaction,
    ) -> Result<Vec<String>, StoreError> {
        let content = (transaction.to, transaction.value, transaction.data.as_ref());
        let spends = spends::of_content(slice::from_ref(limit), transaction.chain, content);
        let Ok(taken) = spends.and_then(|spends| limit.taken(&spends)) else {
            return Ok(vec![
                "denied: the call does not say how much it moves".to_owned(),
            ]);
        };
        let mut lines = Vec::new();
        for (recipient, amount) in taken {
            let to = recipient.map_or_else(String::new, |to| format!(" for 0x{}", hex::encode(to)));
            let counts = if transaction.prepared {
                ", which counts until it is given up or leaves the window"
            } else {
                ""
            };
            let asked = (!transaction.prepared).then_some(amount);
            let left = self.left(limit, recipient.as_ref(), asked).await?;
            lines.push(format!("takes {amount}{to}{counts}{left}"));
        }
        Ok(lines)
    }

    async fn left(
        &mut self,
        limit: &SpendLimit,
        recipient: Option<&[u8; 20]>,
        asked: Option<U256>,
    ) -> Result<String, StoreError> {
        let too_much = |left: U256| match asked {
            Some(amount) if amount > left => ": too much",
            _ => "",
        };
        if limit.per == Per::Transaction {
            return Ok(too_much(limit.amount).to_owned());
        }
        match &mut self.counted {
            Ok(Counted {
                reader,
                now,
                payer: Some(payer),
                ..
            }) => {
                let bucket = limit.bucket(payer, recipient);
                let sum = shown::sum(reader, limit, &bucket, *now).await?;
                let left = limit.left(sum);
                Ok(format!("; {sum} claimed, {left} left{}", too_much(left)))
            }
            _ => Ok(too_much(limit.amount).to_owned()),
        }
    }
}

impl Counted {
    async fn of(
        mut reader: Reader,
        config: &Config,
        facts: &Facts,
    ) -> Result<Result<Self, String>, StoreError> {
        let now = reader.server_clock().await?;
        let of = |reader, subject, payer| Self {
            reader,
            now,
            subject,
            payer,
        };
        if matches!(facts.asked, Asked::CreateProfile) {
            // With tokens it is the user that counts, whom no decision names.
            let owner = OwnerId::parse(&facts.device.owner).ok();
            let owner = owner.filter(|_| config.gateway_jwt.is_none());
            return Ok(Ok(of(reader, owner.map(RateSubject::Owner), None)));
        }
        let id = &facts.profile.id;
        let Ok(profile) = ProfileId::parse(id) else {
            return Ok(Err(format!("{id} is no profile id")));
        };
        let Some(row) = profiles::find(&mut reader, profile).await? else {
            return Ok(Err(format!("the database has no profile {id}")));
        };
        let payer = Payer {
            profile,
            tenant: row.tenant,
        };
        let subject = RateSubject::Profile(profile);
        Ok(Ok(of(reader, Some(subject), Some(payer))))
    }
}

/// The rates that a request falls under: its own, and those of what follows when it is allowed.
const fn classes(asked: &Asked) -> &'static [RateClass] {
    match asked {
        Asked::CreateProfile => &[RateClass::KeyOperations],
        Asked::PrepareTransaction(_) => &[RateClass::Transactions, RateClass::Signing],
        Asked::SignTransaction(_) | Asked::SignTypedData(_) => &[RateClass::Signing],
    }
}

/// What is known of what a request would have taken that was denied: its transaction was not recorded, only what the rules
/// saw of it.
fn recorded(limit: &SpendLimit, content: &TransactionFacts) -> Option<String> {
    if limit.asset.chain != content.chain.id {
        return None;
    }
    match limit.asset.token {
        None => {
            let most = U256::from(content.value_gwei.max(0)) * U256::from(WEI_PER_GWEI);
            Some(format!("would take at most {most}"))
        }
        Some(token) => {
            let name = format!("0x{}", hex::encode(token));
            let concerned = content.tokens.contains(&name) || content.contracts.contains(&name);
            concerned.then(|| "how much it would take was not recorded".to_owned())
        }
    }
}
