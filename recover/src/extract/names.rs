//! Names of tables as people write them in SQL: `orders`, `sales.orders`, `"Weird Table"."x y"`.

use std::fmt;
use std::str::FromStr;

/// The name of a table, folded and unquoted as PostgreSQL would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// Its schema, when that was said.
    pub schema: Option<String>,
    /// Its own name.
    pub name: String,
}

/// The text is no name of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameError;

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write it as SCHEMA.NAME; what is more than letters, digits and _ goes into double quotes")
    }
}

impl std::error::Error for NameError {}

impl FromStr for TableName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (first, rest) = identifier(text)?;
        let Some(rest) = rest.strip_prefix('.') else {
            return if rest.is_empty() { Ok(Self { schema: None, name: first }) } else { Err(NameError) };
        };
        match identifier(rest)? {
            (name, "") => Ok(Self { schema: Some(first), name }),
            _ => Err(NameError),
        }
    }
}

/// Reads one identifier, quoted or not, and answers what comes after it.
fn identifier(text: &str) -> Result<(String, &str), NameError> {
    if let Some(quoted) = text.strip_prefix('"') {
        return quoted_identifier(quoted);
    }
    let end = text.find(|c: char| !is_plain(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.starts_with(|c: char| c.is_ascii_digit() || c == '$') || name.is_empty() {
        return Err(NameError);
    }
    // Other letters keep their case in every encoding of more than one byte.
    Ok((name.to_ascii_lowercase(), rest))
}

/// The rest of an identifier behind its opening quote; a quote in it is doubled.
fn quoted_identifier(text: &str) -> Result<(String, &str), NameError> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (piece, after) = rest.split_once('"').ok_or(NameError)?;
        name.push_str(piece);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None if name.is_empty() || name.contains('\0') => return Err(NameError),
            None => return Ok((name, after)),
        }
    }
}

/// Whether the character may stand in a name without quotes (`ident_cont` in `src/backend/parser/scan.l`).
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// As it would be written, with quotes where it needs them.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", written(schema))?;
        }
        f.write_str(&written(&self.name))
    }
}

fn written(name: &str) -> String {
    let plain = identifier(name).is_ok_and(|(folded, rest)| folded == name && rest.is_empty());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A pattern of `pg_dump` that means this table and no other, from the bytes of its names: in quotes nothing is special.
pub(super) fn pattern(schema: &[u8], name: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(schema.len() + name.len() + 5);
    for part in [schema, name] {
        if !pattern.is_empty() {
            pattern.push(b'.');
        }
        pattern.push(b'"');
        for byte in part {
            if *byte == b'"' {
                pattern.push(b'"');
            }
            pattern.push(*byte);
        }
        pattern.push(b'"');
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn name(schema: Option<&str>, name: &str) -> TableName {
        TableName { schema: schema.map(str::to_owned), name: name.to_owned() }
    }

    #[rstest]
    #[case("orders", name(None, "orders"))]
    #[case("Sales.Orders_2$", name(Some("sales"), "orders_2$"))]
    #[case("\"Weird Table\".\"x y\"", name(Some("Weird Table"), "x y"))]
    #[case("s.\"a\"\"b.c\"", name(Some("s"), "a\"b.c"))]
    #[case("\u{c4}rger.\u{fc}", name(Some("\u{c4}rger"), "\u{fc}"))]
    fn reads_names_as_sql_does(#[case] text: &str, #[case] expected: TableName) {
        assert_eq!(text.parse(), Ok(expected));
    }

    #[rstest]
    #[case("")]
    #[case("a b")]
    #[case("a.")]
    #[case(".a")]
    #[case("a.b.c")]
    #[case("1a")]
    #[case("\"a")]
    #[case("\"\"")]
    #[case("\"a\"b")]
    #[case("a*")]
    fn refuses_what_is_no_name(#[case] text: &str) {
        assert_eq!(text.parse::<TableName>(), Err(NameError));
    }

    #[test]
    fn a_pattern_is_quoted() {
        assert_eq!(pattern(b"s", b"x \"*y"), b"\"s\".\"x \"\"*y\"");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(schema in proptest::option::of("[^\\x00]{1,9}"), own in "[^\\x00]{1,9}") {
            let shown = TableName { schema, name: own };
            prop_assert_eq!(shown.to_string().parse(), Ok(shown));
        }

        #[test]
        fn never_panics(text in ".*", likely in "[a-z\".1* ]{0,9}") {
            for text in [text, likely] {
                if let Ok(name) = text.parse::<TableName>() {
                    prop_assert!(!name.name.is_empty());
                }
            }
        }
    }
}
