//! Rules, read and checked as a whole: either all of them are good, or none is used.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{
    Authorizer, Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator,
};
use countersign_mpc::lp::Lp;

use crate::decide::Names;
use crate::prepared::{self, Prepared};
use crate::problem::{Problem, Refused, line_of};

const SCHEMA: &str = include_str!("../../policies/schema.cedarschema");
const GUARDRAILS: (&str, &str) = (
    "builtin/guardrails.cedar",
    include_str!("../../policies/guardrails.cedar"),
);
const DEFAULT: (&str, &str) = (
    "builtin/default.cedar",
    include_str!("../../policies/default.cedar"),
);

/// What the ids of the built-in guardrails begin with; nobody else's may.
const RESERVED: &str = "builtin.";
/// The most bytes of a rules file, files, and rules.
const MAX_FILE: usize = 1024 * 1024;
const MAX_FILES: usize = 256;
const MAX_RULES: usize = 2000;
const MAX_NAME: usize = 64;

/// A rules file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name, for errors and for the bundle's hash.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// A rule, as far as people are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// Whether it forbids; else it permits.
    pub forbids: bool,
    /// What it says, in a sentence.
    pub description: String,
    /// Where it stands: file and line.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The reason a guardrail gives when it forbids.
    pub(crate) reason: Option<String>,
}

/// Rules that were checked and can be asked.
pub struct Bundle {
    pub(crate) schema: Schema,
    /// The rules as they are asked, and what they ask of that is always the same.
    pub(crate) prepared: Prepared,
    pub(crate) rules: BTreeMap<String, Rule>,
    pub(crate) authorizer: Authorizer,
    pub(crate) names: Names,
    /// Whether any rule looks at the second factor.
    pub(crate) asks_for_second_factor: bool,
    version: String,
    hash: [u8; 32],
}

impl Bundle {
    /// The guardrails and the default rules.
    ///
    /// # Errors
    /// [`Refused`], if the program was built with rules that do not hold; a test makes sure that it is not.
    pub fn builtin() -> Result<Self, Refused> {
        let (name, text) = DEFAULT;
        let default = Source {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        Self::compile(concat!("builtin-", env!("CARGO_PKG_VERSION")), &[default])
    }

    /// The guardrails and these files, which take the place of the default rules.
    ///
    /// # Errors
    /// [`Refused`] names file, line and rule of everything that is wrong.
    pub fn compile(version: &str, sources: &[Source]) -> Result<Self, Refused> {
        let whole = |message: String| Refused(vec![Problem::of_file("bundle", message)]);
        if sources.len() > MAX_FILES {
            return Err(whole(format!("more than {MAX_FILES} files")));
        }
        let schema = schema()?;
        let mut reading = Reading::default();
        reading.file(GUARDRAILS.0, GUARDRAILS.1, true);
        for source in sources {
            reading.file(&source.name, &source.text, false);
        }
        if reading.rules.len() > MAX_RULES {
            return Err(whole(format!("more than {MAX_RULES} rules")));
        }
        reading.check(&schema, sources);
        if !reading.problems.is_empty() {
            return Err(Refused(reading.problems));
        }
        let prepared = prepared::prepare(&reading.policies, &schema)
            .map_err(|problem| Refused(vec![problem]))?;
        let names = Names::new().map_err(|problem| Refused(vec![problem]))?;
        Ok(Self {
            schema,
            prepared,
            rules: reading.rules,
            authorizer: Authorizer::new(),
            names,
            asks_for_second_factor: sources
                .iter()
                .any(|source| source.text.contains("secondFactor")),
            version: version.to_owned(),
            hash: hash(version, sources),
        })
    }

    /// SHA-256 over schema, guardrails, files and version: stands in every decision.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// What its authors call it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The rules, by id.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values()
    }

    /// The rule with this id.
    #[must_use]
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules.get(id)
    }
}

fn schema() -> Result<Schema, Refused> {
    let name = "builtin/schema.cedarschema";
    Schema::from_cedarschema_str(SCHEMA)
        .map(|(schema, _warnings)| schema)
        .map_err(|error| {
            Refused(vec![Problem::of_cedar(
                (name, SCHEMA),
                (None, None),
                &error,
            )])
        })
}

fn hash(version: &str, sources: &[Source]) -> [u8; 32] {
    let start = Lp::new("bundle/1")
        .str(version)
        .str(SCHEMA)
        .str(GUARDRAILS.1);
    sources
        .iter()
        .fold(start, |lp, source| lp.str(&source.name).str(&source.text))
        .hash()
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    policies: PolicySet,
    rules: BTreeMap<String, Rule>,
    problems: Vec<Problem>,
}

impl Reading {
    fn file(&mut self, file: &str, text: &str, builtin: bool) {
        if text.len() > MAX_FILE {
            let message = format!("larger than {MAX_FILE} bytes");
            self.problems.push(Problem::of_file(file, message));
            return;
        }
        let parsed: PolicySet = match text.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                let error: cedar_policy::ParseErrors = error;
                let problem = |error| Problem::of_cedar((file, text), (None, None), error);
                self.problems
                    .extend(error.iter().map(|error| problem(error)));
                return;
            }
        };
        for template in parsed.templates() {
            let place: &cedar_policy::Template = template;
            self.problems.push(Problem {
                file: file.to_owned(),
                line: place
                    .as_ref()
                    .loc()
                    .map(|loc| line_of(text, loc.span.offset())),
                rule: place.annotation("id").map(str::to_owned),
                message: "a rule has no ?principal and no ?resource: write the rule out".to_owned(),
            });
        }
        // In the order of the file, which is the order of the numbers that Cedar gives them.
        let mut policies: Vec<&Policy> = parsed.policies().collect();
        policies.sort_by_key(|policy| policy.as_ref().loc().map(|loc| loc.span.offset()));
        for policy in policies {
            let start = policy.as_ref().loc().map_or(0, |loc| loc.span.offset());
            self.rule(policy, (file, line_of(text, start)), builtin);
        }
    }

    fn rule(&mut self, policy: &Policy, (file, line): (&str, usize), builtin: bool) {
        let id = policy.annotation("id").unwrap_or_default().to_owned();
        let found = self.wrong_with(policy, &id, builtin);
        if let Some(message) = found {
            self.problems.push(Problem {
                file: file.to_owned(),
                line: Some(line),
                rule: (!id.is_empty()).then_some(id),
                message,
            });
            return;
        }
        let rule = Rule {
            id: id.clone(),
            forbids: policy.effect() == Effect::Forbid,
            description: policy
                .annotation("description")
                .unwrap_or_default()
                .to_owned(),
            file: file.to_owned(),
            line,
            reason: policy.annotation("reason").map(str::to_owned),
        };
        // Cannot fail: the id was looked for before.
        drop(self.policies.add(policy.new_id(PolicyId::new(&id))));
        self.rules.insert(id, rule);
    }

    /// What is wrong with a rule's annotations.
    fn wrong_with(&self, policy: &Policy, id: &str, builtin: bool) -> Option<String> {
        if id.is_empty() {
            return Some("has no id: write @id(\"team.what-it-says\") above it".to_owned());
        }
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        if id.len() > MAX_NAME || !id.chars().all(good) {
            return Some(format!(
                "an id is at most {MAX_NAME} lower-case letters, digits, dots and dashes"
            ));
        }
        if !builtin && id.starts_with(RESERVED) {
            return Some(format!(
                "ids that begin with {RESERVED} are the program's own"
            ));
        }
        if let Some(earlier) = self.rules.get(id) {
            return Some(format!(
                "the id is taken: {}:{}",
                earlier.file, earlier.line
            ));
        }
        let known =
            |name: &str| matches!(name, "id" | "description") || builtin && name == "reason";
        let mut names = policy.annotations().map(|(name, _)| name);
        let unknown = names.find(|name| !known(name))?;
        Some(format!(
            "@{unknown} means nothing here: a rule has @id and @description"
        ))
    }

    /// Against the schema. What Cedar only warns of is refused as well: a rule that can never apply says something else
    /// than its author thinks, and a text with invisible or mixed letters is read wrongly.
    fn check(&mut self, schema: &Schema, sources: &[Source]) {
        let result =
            Validator::new(schema.clone()).validate(&self.policies, ValidationMode::Strict);
        let errors: Vec<(PolicyId, &dyn miette::Diagnostic)> = result
            .validation_errors()
            .map(|error| (error.policy_id().clone(), error as &dyn miette::Diagnostic))
            .collect();
        // Of a rule with an error, Cedar also says that it can never apply.
        let wrong: BTreeSet<PolicyId> = errors.iter().map(|(id, _)| id.clone()).collect();
        let warnings = result.validation_warnings().map(|warning| {
            (
                warning.policy_id().clone(),
                warning as &dyn miette::Diagnostic,
            )
        });
        let warnings = warnings.filter(|(id, _)| !wrong.contains(id));
        for (id, diagnostic) in errors.iter().cloned().chain(warnings) {
            let id: &str = id.as_ref();
            let Some(rule) = self.rules.get(id) else {
                self.problems
                    .push(Problem::of_file("bundle", diagnostic.to_string()));
                continue;
            };
            let text = sources
                .iter()
                .find(|source| source.name == rule.file)
                .map_or(GUARDRAILS.1, |source| source.text.as_str());
            let about = (Some(id), Some(rule.line));
            let problem = Problem::of_cedar((&rule.file, text), about, diagnostic);
            self.problems.push(problem);
        }
        self.problems
            .sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        self.problems.dedup();
    }
}
