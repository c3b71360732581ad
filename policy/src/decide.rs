//! Asking the rules.

use std::collections::{BTreeSet, HashMap, HashSet};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request,
    RestrictedExpression as Value,
};

use crate::bundle::Bundle;
use crate::facts::{Asked, ChainFacts, Facts, TransactionFacts, TypedDataFacts};
use crate::problem::Problem;

/// The rule that stands for "nothing permits it".
const DEFAULT_DENY: &str = "builtin.default-deny";
/// The rule that stands for "Cedar could not be asked".
const NOT_ASKED: &str = "builtin.not-evaluated";

/// Why a request is denied. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is about somebody else's wallet.
    Owner,
    /// Its chain is not one of ours.
    Chain,
    /// A rule forbids it.
    Forbidden,
    /// No rule permits it.
    NotPermitted,
    /// With a second factor it would be allowed.
    SecondFactor,
    /// A rule could not be evaluated.
    Evaluation,
}

impl Reason {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Owner,
        Self::Chain,
        Self::Forbidden,
        Self::NotPermitted,
        Self::SecondFactor,
        Self::Evaluation,
    ];

    /// The name in decisions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Chain => "chain",
            Self::Forbidden => "forbidden",
            Self::NotPermitted => "not-permitted",
            Self::SecondFactor => "second-factor",
            Self::Evaluation => "evaluation-failed",
        }
    }

    /// The reason with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None` if allowed.
    pub denied: Option<Reason>,
    /// The ids of the rules that decided, in their order; never empty.
    pub rules: Vec<String>,
}

impl Verdict {
    fn denied(reason: Reason, rules: Vec<String>) -> Self {
        Self {
            denied: Some(reason),
            rules,
        }
    }
}

/// The names of the schema, parsed once.
pub(crate) struct Names {
    owner: EntityTypeName,
    device: EntityTypeName,
    profile: EntityTypeName,
    action: EntityTypeName,
}

impl Names {
    pub(crate) fn new() -> Result<Self, Problem> {
        let name = |text: &str| -> Result<EntityTypeName, Problem> {
            text.parse()
                .map_err(|_| Problem::of_file("bundle", format!("{text} is no entity type")))
        };
        Ok(Self {
            owner: name("Owner")?,
            device: name("Device")?,
            profile: name("Profile")?,
            action: name("Action")?,
        })
    }
}

/// A request could not be put to Cedar.
struct NotAsked;

impl Bundle {
    /// Judges facts: a forbidding rule wins, what cannot be evaluated denies, and without a permitting rule the answer
    /// is no. What is denied without a second factor is judged with one as well, to say so if that would change it.
    #[must_use]
    pub fn decide(&self, facts: &Facts) -> Verdict {
        let verdict = self.judge(facts, facts.second_factor);
        let may_change = matches!(
            verdict.denied,
            Some(Reason::Forbidden | Reason::NotPermitted)
        );
        if may_change && !facts.second_factor && self.asks_for_second_factor {
            let with = self.judge(facts, true);
            if with.denied.is_none() {
                return Verdict::denied(Reason::SecondFactor, verdict.rules);
            }
        }
        verdict
    }

    fn judge(&self, facts: &Facts, second_factor: bool) -> Verdict {
        let Ok((request, entities)) = self.question(facts, second_factor) else {
            return Verdict::denied(Reason::Evaluation, vec![NOT_ASKED.to_owned()]);
        };
        let Some(about) = self.prepared.by_action.get(facts.asked.action()) else {
            return Verdict::denied(Reason::Evaluation, vec![NOT_ASKED.to_owned()]);
        };
        let answer = self.authorizer.is_authorized(&request, about, &entities);
        let diagnostics = answer.diagnostics();
        let deciding: BTreeSet<String> = diagnostics.reason().map(ToString::to_string).collect();
        let deciding: Vec<String> = deciding.into_iter().collect();
        let rules = deciding.iter().filter_map(|id| self.rule(id));
        let forbidding = rules.filter(|rule| rule.forbids);
        let reason = forbidding.map(|rule| {
            let named = rule.reason.as_deref().and_then(Reason::parse);
            named.unwrap_or(Reason::Forbidden)
        });
        if let Some(reason) = reason.min() {
            return Verdict::denied(reason, deciding);
        }
        // SECURITY: Cedar passes over a rule that fails, also one that would have forbidden.
        let failed: BTreeSet<String> = diagnostics.errors().map(failing).collect();
        if !failed.is_empty() {
            return Verdict::denied(Reason::Evaluation, failed.into_iter().collect());
        }
        if answer.decision() == cedar_policy::Decision::Allow && !deciding.is_empty() {
            return Verdict {
                denied: None,
                rules: deciding,
            };
        }
        Verdict::denied(Reason::NotPermitted, vec![DEFAULT_DENY.to_owned()])
    }

    fn question(
        &self,
        facts: &Facts,
        second_factor: bool,
    ) -> Result<(Request, Entities), NotAsked> {
        let names = &self.names;
        let owner = uid(&names.owner, &facts.device.owner);
        let device = uid(&names.device, &facts.device.id);
        let profile = uid(&names.profile, &facts.profile.id);
        let owner_of_profile = uid(&names.owner, &facts.profile.owner);
        let of_device = HashMap::from([
            ("tenant".to_owned(), text(&facts.device.tenant)),
            (
                "ageSeconds".to_owned(),
                Value::new_long(facts.device.age_seconds),
            ),
        ]);
        let of_profile = HashMap::from([
            ("tenant".to_owned(), text(&facts.profile.tenant)),
            ("owner".to_owned(), Value::new_entity_uid(owner_of_profile)),
        ]);
        let parents = HashSet::from([owner.clone()]);
        let entities = [
            Entity::with_uid(owner),
            Entity::new(device.clone(), of_device, parents).map_err(|_| NotAsked)?,
            Entity::new(profile.clone(), of_profile, HashSet::new()).map_err(|_| NotAsked)?,
        ];
        let always = self.prepared.entities.clone();
        let entities = always
            .add_entities(entities, Some(&self.schema))
            .map_err(|_| NotAsked)?;
        let action = uid(&names.action, facts.asked.action());
        let context = context(facts, second_factor)?;
        let request = Request::new(device, action, profile, context, Some(&self.schema))
            .map_err(|_| NotAsked)?;
        Ok((request, entities))
    }
}

fn failing(error: &cedar_policy::AuthorizationError) -> String {
    let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
    error.policy_id().to_string()
}

fn uid(of: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
}

fn text(value: &str) -> Value {
    Value::new_string(value.to_owned())
}

fn set(values: &BTreeSet<String>) -> Value {
    Value::new_set(values.iter().map(|value| text(value)))
}

fn record<const N: usize>(fields: [(&str, Value); N]) -> Result<Value, NotAsked> {
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    Value::new_record(fields).map_err(|_| NotAsked)
}

fn context(facts: &Facts, second_factor: bool) -> Result<Context, NotAsked> {
    let client = record([("role", text(&facts.device.client_role))])?;
    let mut pairs = vec![
        ("environment".to_owned(), text(&facts.environment)),
        ("client".to_owned(), client),
        ("time".to_owned(), time(facts.at)?),
        ("secondFactor".to_owned(), Value::new_bool(second_factor)),
    ];
    if let Some(known) = facts.asked.chain() {
        pairs.push(("chain".to_owned(), chain(*known)?));
    }
    match &facts.asked {
        Asked::CreateProfile => {}
        Asked::PrepareTransaction(content) | Asked::SignTransaction(content) => {
            pairs.push(("transaction".to_owned(), transaction(content)?));
        }
        Asked::SignTypedData(content) => {
            pairs.push(("typedData".to_owned(), typed_data(content)?));
        }
    }
    Context::from_pairs(pairs).map_err(|_| NotAsked)
}

fn time(at: i64) -> Result<Value, NotAsked> {
    const DAY: i64 = 86_400;
    // 1970 began on a Thursday.
    let weekday = (at.div_euclid(DAY) + 3).rem_euclid(7) + 1;
    record([
        ("unix", Value::new_long(at)),
        ("hour", Value::new_long(at.rem_euclid(DAY) / 3600)),
        ("weekday", Value::new_long(weekday)),
    ])
}

fn chain(chain: ChainFacts) -> Result<Value, NotAsked> {
    // An id that Cedar's numbers cannot hold is nobody's chain.
    let id = i64::try_from(chain.id);
    record([
        ("id", Value::new_long(id.unwrap_or(i64::MAX))),
        (
            "configured",
            Value::new_bool(chain.configured && id.is_ok()),
        ),
        ("fitsEnvironment", Value::new_bool(chain.fits_environment)),
    ])
}

fn transaction(content: &TransactionFacts) -> Result<Value, NotAsked> {
    record([
        ("to", text(&content.to)),
        ("valueGwei", Value::new_long(content.value_gwei)),
        ("innerValueGwei", Value::new_long(content.inner_value_gwei)),
        ("kinds", set(&content.kinds)),
        ("contracts", set(&content.contracts)),
        ("selectors", set(&content.selectors)),
        ("tokens", set(&content.tokens)),
        ("recipients", set(&content.recipients)),
        ("spenders", set(&content.spenders)),
        ("sources", set(&content.sources)),
        (
            "unlimitedApproval",
            Value::new_bool(content.unlimited_approval),
        ),
        ("delegatecall", Value::new_bool(content.delegatecall)),
        ("calls", Value::new_long(content.calls)),
    ])
}

fn typed_data(content: &TypedDataFacts) -> Result<Value, NotAsked> {
    record([
        ("domainName", text(&content.domain_name)),
        ("domainVersion", text(&content.domain_version)),
        ("verifyingContract", text(&content.verifying_contract)),
        ("primaryType", text(&content.primary_type)),
        ("fields", set(&content.fields)),
        ("addresses", set(&content.addresses)),
        ("spenders", set(&content.spenders)),
        (
            "unlimitedApproval",
            Value::new_bool(content.unlimited_approval),
        ),
    ])
}
