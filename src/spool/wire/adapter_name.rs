//! A name that may be joined to the adapters directory without leaving it.

use super::fault::{Fault, FaultCode};

/// An adapter's name that is one plain path component: not empty, no `/`, no NUL, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterName(String);

impl AdapterName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for AdapterName {
    type Error = Fault;

    fn try_from(name: &str) -> Result<Self, Fault> {
        let why = match name {
            "" => "it is empty",
            "." | ".." => "it is a way, not a name",
            _ if name.contains('/') => "it contains '/'",
            _ if name.contains('\0') => "it contains a NUL character",
            _ if name.len() > 255 => "it is longer than 255 bytes",
            _ => return Ok(Self(name.to_owned())),
        };
        let message = format!(
            "adapter {:?} cannot be looked up in the adapters directory: {why}; give its path in available_lora_weights",
            super::json::shortened(name)
        );
        Err(Fault::new(FaultCode::UnknownAdapter, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_components_pass() {
        for name in ["french", "médical", "a.b", "..a", "a b", "-x", "..."] {
            assert_eq!(AdapterName::try_from(name).unwrap().as_str(), name);
        }
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "/etc", "../x", "a\0b", "a/", long.as_str()] {
            assert!(AdapterName::try_from(name).is_err(), "{name:?}");
        }
    }
}
