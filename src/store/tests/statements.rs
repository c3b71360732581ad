//! The SQL statements of the store, read from its source: what is written there is found, without a list.
#![expect(clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A statement and the file it stands in, below `src`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) file: String,
    pub(super) sql: String,
}

/// What a text that is a statement begins with. Schema changes are no such statements: every test runs them.
const VERBS: [&str; 5] = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];

/// Every statement of `src/store.rs` and `src/store/`, without tests.
pub(super) fn of_the_store() -> Vec<Statement> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join("store.rs")];
    collect(&source.join("store"), &mut files);
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(&source).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        found.extend(of_source(name, &text));
    }
    found
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap();
        if name == "tests" || name.to_str().unwrap().ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Every statement in the text of a file: each string that begins like one, after macros are expanded.
pub(super) fn of_source(file: &str, text: &str) -> Vec<Statement> {
    let tokens: TokenStream = text.parse().unwrap();
    let mut reader = Reader::default();
    reader.read(tokens);
    let statement = |sql| Statement {
        file: file.to_owned(),
        sql,
    };
    reader.found.into_iter().map(statement).collect()
}

/// `macro_rules! name { ($first:literal, …) => { concat!(…) } }`: its parameters and its parts.
struct Template {
    parameters: Vec<String>,
    parts: Vec<TokenTree>,
}

#[derive(Default)]
struct Reader {
    templates: BTreeMap<String, Template>,
    found: Vec<String>,
}

impl Reader {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let (first, second) = (tokens.get(at + 1), tokens.get(at + 2));
            at += match (token, first, second) {
                (TokenTree::Punct(mark), Some(TokenTree::Group(group)), _)
                    if mark.as_char() == '#' =>
                {
                    2 + skipped(group, tokens.get(at + 2..).unwrap())
                }
                (TokenTree::Ident(name), Some(TokenTree::Punct(mark)), Some(_))
                    if mark.as_char() == '!' =>
                {
                    self.invocation(&name.to_string(), &tokens[at + 2..])
                }
                (TokenTree::Group(group), _, _) => {
                    self.read(group.stream());
                    1
                }
                (TokenTree::Literal(_), _, _) => {
                    self.keep(string(token));
                    1
                }
                _ => 1,
            };
        }
    }

    fn keep(&mut self, text: Option<String>) {
        let statement = text.filter(|text| VERBS.iter().any(|verb| text.starts_with(verb)));
        self.found.extend(statement);
    }

    /// After the name of a macro and its `!`; how many tokens that was, with them.
    fn invocation(&mut self, name: &str, rest: &[TokenTree]) -> usize {
        match (name, rest) {
            ("macro_rules", [TokenTree::Ident(defined), TokenTree::Group(rules), ..]) => {
                self.define(&defined.to_string(), rules);
                4
            }
            // Pieces, never a whole: a statement has to live for ever, which what `format!` makes does not.
            ("format" | "write", [TokenTree::Group(_), ..]) => 3,
            ("concat", [TokenTree::Group(parts), ..]) => {
                let parts: Vec<TokenTree> = parts.stream().into_iter().collect();
                let whole = joined(&parts, &BTreeMap::new());
                self.keep(whole);
                3
            }
            (_, [TokenTree::Group(arguments), ..]) => {
                let arguments: Vec<TokenTree> = arguments.stream().into_iter().collect();
                match self.templates.get(name) {
                    Some(template) => {
                        let whole = template.with(&arguments);
                        self.keep(Some(whole));
                    }
                    None => self.read(arguments.into_iter().collect()),
                }
                3
            }
            _ => 2,
        }
    }

    /// Macros that make strings are remembered; of others, the strings in them count as they stand.
    fn define(&mut self, name: &str, rules: &Group) {
        let rules: Vec<TokenTree> = rules.stream().into_iter().collect();
        let template = match rules.as_slice() {
            [TokenTree::Group(pattern), _, _, TokenTree::Group(body), ..] => {
                template(pattern, body)
            }
            _ => None,
        };
        match template {
            Some(template) => drop(self.templates.insert(name.to_owned(), template)),
            None => self.read(rules.into_iter().collect()),
        }
    }
}

impl Template {
    fn with(&self, arguments: &[TokenTree]) -> String {
        let literals = arguments.iter().filter_map(string);
        let values = self.parameters.iter().cloned().zip(literals).collect();
        joined(&self.parts, &values).expect("a statement is made of string literals")
    }
}

fn template(pattern: &Group, body: &Group) -> Option<Template> {
    let pattern: Vec<TokenTree> = pattern.stream().into_iter().collect();
    let body: Vec<TokenTree> = body.stream().into_iter().collect();
    let [
        TokenTree::Ident(concat),
        TokenTree::Punct(_),
        TokenTree::Group(parts),
    ] = &body[..]
    else {
        return None;
    };
    let parameters = pattern.windows(2).filter_map(parameter).collect();
    (concat == "concat").then(|| Template {
        parameters,
        parts: parts.stream().into_iter().collect(),
    })
}

/// `$name`, as two tokens.
fn parameter(tokens: &[TokenTree]) -> Option<String> {
    match tokens {
        [TokenTree::Punct(mark), TokenTree::Ident(name)] if mark.as_char() == '$' => {
            Some(name.to_string())
        }
        _ => None,
    }
}

/// What `concat!` makes of literals and parameters; nothing if something else is among them.
fn joined(parts: &[TokenTree], values: &BTreeMap<String, String>) -> Option<String> {
    let mut text = String::new();
    for part in parts {
        match part {
            TokenTree::Punct(_) => {}
            TokenTree::Literal(_) => text.push_str(&string(part)?),
            TokenTree::Ident(name) => text.push_str(values.get(&name.to_string())?),
            TokenTree::Group(_) => return None,
        }
    }
    Some(text)
}

/// The value of a string literal.
fn string(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Literal(literal) => syn::parse_str::<syn::LitStr>(&literal.to_string())
            .ok()
            .map(|literal| literal.value()),
        // What a macro passes on stands in invisible delimiters.
        TokenTree::Group(group) if group.delimiter() == Delimiter::None => {
            group.stream().into_iter().next().as_ref().and_then(string)
        }
        _ => None,
    }
}

/// How many of the tokens after an attribute belong to it: for `cfg(test)`, its whole item.
fn skipped(attribute: &Group, rest: &[TokenTree]) -> usize {
    let text: String = attribute.stream().to_string();
    if text.replace(' ', "") != "cfg(test)" {
        return 0;
    }
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(mark) => mark.as_char() == ';',
        _ => false,
    };
    rest.iter().position(ends).map_or(rest.len(), |end| end + 1)
}
