//! Bytes of a configuration file in a journal: text where they are text, else in hexadecimal.

use serde::{Deserialize, Serialize};

/// Any bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub(crate) struct Verbatim(pub(crate) Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Encoded { hex: String },
}

impl From<Verbatim> for Written {
    fn from(Verbatim(bytes): Verbatim) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(err) => Self::Encoded { hex: err.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect() },
        }
    }
}

impl TryFrom<Written> for Verbatim {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let hex = match written {
            Written::Text(text) => return Ok(Self(text.into_bytes())),
            Written::Encoded { hex } => hex,
        };
        let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2));
        let bytes = digits.map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect::<Option<_>>();
        bytes.map(Self).ok_or_else(|| "these are no hexadecimal digits".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back(bytes: Vec<u8>, text: String) {
            for bytes in [bytes, text.into_bytes()] {
                let json = serde_json::to_string(&Verbatim(bytes.clone())).unwrap();
                prop_assert_eq!(serde_json::from_str::<Verbatim>(&json).unwrap(), Verbatim(bytes));
            }
        }

        #[test]
        fn never_panics(hex: String) {
            let json = serde_json::json!({ "hex": hex }).to_string();
            drop(serde_json::from_str::<Verbatim>(&json));
        }
    }
}
