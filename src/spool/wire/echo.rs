//! A value of the producer's own that comes back as it was written: a number of any size, digits as they are.

use serde::Serialize;
use serde_json::value::RawValue;

/// JSON in one line, without space between its parts.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Echo(Box<RawValue>);

impl Echo {
    /// # Errors
    /// When the text is no JSON.
    pub fn new(text: &str) -> Result<Self, serde_json::Error> {
        let (mut in_string, mut is_escaped) = (false, false);
        let is_kept = |byte: &u8| {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = in_string,
                b'"' => in_string = !in_string,
                b' ' | b'\t' | b'\n' | b'\r' => return in_string,
                _ => {}
            }
            true
        };
        let bytes: Vec<u8> = text.bytes().filter(is_kept).collect();
        // Only ASCII was taken out.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        RawValue::from_string(text).map(Self)
    }

    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Echo {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        for text in ["123456789012345678901234567890", "1.50", "-0", "null", r#""a \" b\\ c""#, "[1e400]"] {
            let echo = Echo::new(text).unwrap();
            assert_eq!(serde_json::to_string(&echo).unwrap(), text);
        }
        let spread = Echo::new("{\"a\" : [1,\n\t2 ], \"b c\" : \" d \"}").unwrap();
        assert_eq!(spread.as_str(), r#"{"a":[1,2],"b c":" d "}"#);
        assert!(Echo::new("{").is_err());
    }
}
