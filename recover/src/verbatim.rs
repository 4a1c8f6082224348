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
            Err(err) => Self::Encoded { hex: hex::encode(err.as_bytes()) },
        }
    }
}

impl TryFrom<Written> for Verbatim {
    type Error = hex::FromHexError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written::Text(text) => Ok(Self(text.into_bytes())),
            Written::Encoded { hex } => hex::decode(hex).map(Self),
        }
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
