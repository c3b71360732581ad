//! What is the same in all decisions, done once.
//!
//! Cedar builds the set of a list such as `["0x12…", "0x34…"]` anew each time it comes to it, also that of `action in
//! […]`, which with many rules is most of a decision. So after a bundle was checked as its authors wrote it, each list of
//! texts becomes an attribute of one entity that never changes, and each action gets the rules that are about it, without
//! their saying so. Verdicts are the same: a test compares both.

use std::collections::{BTreeMap, HashMap, HashSet};

use cedar_policy::{
    ActionConstraint, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicySet,
    RestrictedExpression, Schema,
};
use serde_json::{Value, json};

use crate::problem::Problem;

/// The type of the entity; the schema has none of that name, so no rule can speak of it.
const TYPE: &str = "Written";
const ID: &str = "lists";

/// Rules as they are asked.
pub(crate) struct Prepared {
    /// Those that may say something about an action, by its id.
    pub(crate) by_action: HashMap<String, PolicySet>,
    /// What they ask of that is always the same: the actions and the lists.
    pub(crate) entities: Entities,
}

/// Prepares rules that were checked.
pub(crate) fn prepare(policies: &PolicySet, schema: &Schema) -> Result<Prepared, Problem> {
    let mut lists = Lists::default();
    let mut by_action: HashMap<String, PolicySet> = HashMap::new();
    let rules: Result<Vec<Rule>, Problem> = policies
        .policies()
        .map(|policy| lists.taken_from(policy))
        .collect();
    let rules = rules?;
    for action in schema.actions() {
        let of_action = by_action
            .entry(action.id().unescaped().to_owned())
            .or_default();
        for rule in rules.iter().filter(|rule| rule.is_about(action)) {
            let policy = rule.policy.clone();
            of_action.add(policy).map_err(|error| failed(&error))?;
        }
    }
    let entities = Entities::from_entities([], Some(schema)).map_err(|error| failed(&error))?;
    let entities = entities.add_entities([lists.entity()?], None);
    Ok(Prepared {
        by_action,
        entities: entities.map_err(|error| failed(&error))?,
    })
}

/// A rule that says no more which actions it is about.
struct Rule {
    policy: Policy,
    about: ActionConstraint,
}

impl Rule {
    /// The schema has no groups of actions (a test makes sure), so `in` means being one of them.
    fn is_about(&self, action: &EntityUid) -> bool {
        match &self.about {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(one) => one == action,
            ActionConstraint::In(some) => some.contains(action),
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> Problem {
    Problem::of_file(
        "bundle",
        format!("the rules could not be prepared: {error}"),
    )
}

/// The lists so far, each once, and their names.
#[derive(Default)]
struct Lists(BTreeMap<Vec<String>, String>);

impl Lists {
    fn taken_from(&mut self, policy: &Policy) -> Result<Rule, Problem> {
        let mut rule = policy.to_json().map_err(|error| failed(&error))?;
        if let Some(conditions) = rule.get_mut("conditions") {
            self.take(conditions);
        }
        if let Some(action) = rule.get_mut("action") {
            *action = json!({"op": "All"});
        }
        let made = Policy::from_json(Some(policy.id().clone()), rule);
        Ok(Rule {
            policy: made.map_err(|error| failed(&error))?,
            about: policy.action_constraint(),
        })
    }

    /// In Cedar's JSON a list is `{"Set": [{"Value": "…"}, …]}`. What is under `Value` is a value, not an expression.
    fn take(&mut self, expression: &mut Value) {
        if let Some(list) = list_of(expression) {
            let next = format!("l{}", self.0.len());
            let name = self.0.entry(list).or_insert(next);
            let lists = json!({"Value": {"__entity": {"type": TYPE, "id": ID}}});
            *expression = json!({".": {"left": lists, "attr": name}});
            return;
        }
        match expression {
            Value::Array(parts) => parts.iter_mut().for_each(|part| self.take(part)),
            Value::Object(parts) => {
                let parts = parts.iter_mut().filter(|(key, _)| *key != "Value");
                parts.for_each(|(_, part)| self.take(part));
            }
            _ => {}
        }
    }

    fn entity(self) -> Result<Entity, Problem> {
        let type_name: EntityTypeName = TYPE
            .parse()
            .map_err(|_| Problem::of_file("bundle", format!("{TYPE} is no entity type")))?;
        let uid = EntityUid::from_type_name_and_id(type_name, EntityId::new(ID));
        let attributes: HashMap<String, RestrictedExpression> = self
            .0
            .into_iter()
            .map(|(list, name)| {
                let values = list.into_iter().map(RestrictedExpression::new_string);
                (name, RestrictedExpression::new_set(values))
            })
            .collect();
        Entity::new(uid, attributes, HashSet::new()).map_err(|error| failed(&error))
    }
}

/// The texts of an expression that is a list of texts and of nothing else.
fn list_of(expression: &Value) -> Option<Vec<String>> {
    let parts = expression.as_object()?;
    let members = parts.get("Set")?.as_array()?;
    if parts.len() != 1 || members.is_empty() {
        return None;
    }
    let texts = members.iter().map(|member| {
        let value = member.as_object().filter(|member| member.len() == 1)?;
        value.get("Value")?.as_str().map(str::to_owned)
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn taken(condition: &str) -> (Value, Vec<Vec<String>>) {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let policy: Policy = text.parse().unwrap();
        let mut lists = Lists::default();
        let rule = lists.taken_from(&policy).unwrap();
        (
            rule.policy.to_json().unwrap(),
            lists.0.into_keys().collect(),
        )
    }

    #[test]
    fn lists_of_texts_are_taken_out_wherever_they_stand() {
        let nested = r#"!(["a", "b"].contains(context.x)) || (if context.y then ["c"] else ["a", "b"]).isEmpty()"#;
        let (rule, lists) = taken(nested);
        assert_eq!(lists, [vec!["a", "b"], vec!["c"]], "each once");
        assert!(!rule.to_string().contains("Set"));
    }

    #[test]
    fn what_is_no_list_of_texts_stays() {
        for condition in [
            r#"[1, 2].contains(context.x)"#,
            r#"[context.x].contains("a")"#,
            r#"["a", context.x].contains("a")"#,
            r#"[].contains("a")"#,
            r#"[User::"a"].contains(principal)"#,
            r#"context.x == "a""#,
            r#"{"Set": "a"} == context.x"#,
            r#"context.Set == "a""#,
        ] {
            let policy: Policy =
                format!("permit (principal, action, resource) when {{ {condition} }};")
                    .parse()
                    .unwrap();
            let (rule, lists) = taken(condition);
            assert!(lists.is_empty(), "{condition}");
            assert_eq!(rule, policy.to_json().unwrap(), "{condition}");
        }
    }
}
