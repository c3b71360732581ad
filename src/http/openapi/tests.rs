#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use super::*;

/// The document as it is checked in.
const FILE: &str = "docs/openapi.json";

#[test]
fn the_document_is_the_one_that_was_reviewed() {
    let path = format!("{}/{FILE}", env!("CARGO_MANIFEST_DIR"));
    let actual = format!("{:#}\n", document());
    if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == reviewed,
        "the routes differ from {FILE}: run this test with COUNTERSIGN_BLESS=1 and review the difference"
    );
}

#[test]
fn every_reference_has_its_component() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    found.insert(reference.clone());
                }
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 5);
    for reference in found {
        let target = document.pointer(reference.strip_prefix('#').unwrap());
        assert!(target.is_some(), "{reference}");
    }
}

#[test]
fn every_operation_says_who_may_use_it_and_what_it_answers() {
    let document = document();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            let name = operation["operationId"].as_str().unwrap().to_owned();
            assert!(
                names.insert(name),
                "{what} has the name of another operation"
            );
            assert!(
                operation["summary"].is_string(),
                "{what} says not what it does"
            );
            assert!(
                operation["security"].to_string().contains(CERTIFICATE),
                "{what}"
            );
            assert!(
                !operation["x-roles"].as_array().unwrap().is_empty(),
                "{what}"
            );
            assert!(operation["responses"]["403"].is_object(), "{what}");
            let signed = operation["security"].to_string().contains(DEVICE);
            assert_eq!(operation["responses"]["401"].is_object(), signed, "{what}");
        }
    }
}

/// The names of a schema's fields.
fn fields(document: &Value, schema: &str) -> BTreeSet<String> {
    let properties = &document["components"]["schemas"][schema]["properties"];
    properties.as_object().unwrap().keys().cloned().collect()
}

/// The names of an object's fields.
fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn what_is_described_beside_its_type_has_the_fields_of_its_type() {
    let document = document();
    let identity = countersign_mpc::identity::IdentityDocument {
        environment_id: [0; 32],
        environment_kind: String::new(),
        audience: String::new(),
        identity: countersign_mpc::identity::IdentityCertificate {
            environment_id: [0; 32],
            environment_kind: "development".to_owned(),
            key: [0; 65],
            serial: 0,
            not_before: 0,
            not_after: 0,
            signature: [0; 64],
        },
        kem: countersign_mpc::identity::KemDocument {
            kid: String::new(),
            public_key: [0; 32],
            not_before: 0,
            not_after: 0,
            signature: [0; 64],
        },
    };
    let identity = json!(identity);
    assert_eq!(fields(&document, "Identity"), keys(&identity));
    assert_eq!(fields(&document, "KemKey"), keys(&identity["kem"]));
    let unsigned = crate::chain::UnsignedFields {
        kind: "",
        chain_id: 1,
        nonce: String::new(),
        to: String::new(),
        value: String::new(),
        data: String::new(),
        gas: String::new(),
        max_fee_per_gas: String::new(),
        max_priority_fee_per_gas: String::new(),
        access_list: [],
        raw: String::new(),
        summary: String::new(),
    };
    assert_eq!(
        fields(&document, "UnsignedTransaction"),
        keys(&json!(unsigned))
    );
}

#[test]
fn requests_with_unknown_fields_are_described_as_errors() {
    let document = document();
    let closed = |name: &str| {
        document["components"]["schemas"][name]["additionalProperties"] == json!(false)
    };
    for name in [
        "ClientShare",
        "CreateProfileFirst",
        "CreateProfileNext",
        "PrepareTransactionRequest",
        "SignMessage",
        "SignRestart",
    ] {
        assert!(closed(name), "{name}");
    }
}
