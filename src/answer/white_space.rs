//! Between the parts of JSON there may be white space without an end, and small models that are forced to write JSON
//! have been seen to write nothing else. After a long run of it something else must come.

use llguidance::toktrie::SimpleVob;

/// How much a run may weigh: a line's end and a deep indentation, which are all that well set JSON has.
const MAX_RUN: usize = 32;
/// What the end of a line weighs; other white space weighs one a byte.
const LINE_END: usize = 12;

/// Where an answer stands that is JSON.
#[derive(Debug, Clone, Default)]
pub struct WhiteSpace {
    in_string: bool,
    is_escaped: bool,
    /// What the white space weighs since the last part.
    run: usize,
}

impl WhiteSpace {
    /// More of the answer.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' if !self.in_string => {
                    self.run += if *byte == b'\n' { LINE_END } else { 1 };
                    continue;
                }
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = self.in_string,
                b'"' => self.in_string = !self.in_string,
                _ => {}
            }
            self.run = 0;
        }
    }

    /// Takes the tokens that begin with white space out of those that may come, where there was enough of it.
    pub fn limit(&self, allowed: &mut SimpleVob, spaces: &SimpleVob) {
        if self.run < MAX_RUN {
            return;
        }
        let mut rest = allowed.clone();
        rest.sub(spaces);
        // In JSON something else may always come; a vocabulary might lack it.
        if !rest.is_zero() {
            *allowed = rest;
        }
    }
}

/// Whether a token begins with white space.
pub fn begins_with_space(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_runs_between_parts_are_ended() {
        let mut spaces = SimpleVob::alloc(4);
        spaces.allow_token(1);
        let limited = |text: &str| {
            let mut allowed = SimpleVob::alloc(4);
            [1, 2].into_iter().for_each(|token| allowed.allow_token(token));
            let mut state = WhiteSpace::default();
            // Wherever it is cut into tokens.
            text.as_bytes().chunks(3).for_each(|bytes| state.take(bytes));
            state.limit(&mut allowed, &spaces);
            !allowed.is_allowed(1)
        };
        let run = " ".repeat(MAX_RUN);
        for (text, wanted) in [
            ("", false),
            (run.as_str(), true),
            (&run[1..], false),
            (&format!("{{\"a\": \"{run}"), false),
            (&format!("{{\"a\\\"{run}"), false),
            (&format!("{{\"a\\\\\":{run}"), true),
            (&format!("{{\"a\": 1{run},"), false),
            (&format!("{{\"a\": 1,\n{}", &run[LINE_END..]), true),
            (&format!("{{\"a\": 1,\n{}", &run[LINE_END + 1..]), false),
            ("{\n\n\n", true),
            ("{\n\n", false),
        ] {
            assert_eq!(limited(text), wanted, "{text:?}");
        }
        let mut only_spaces = spaces.clone();
        let mut state = WhiteSpace::default();
        state.take(run.as_bytes());
        state.limit(&mut only_spaces, &spaces);
        assert!(only_spaces.is_allowed(1), "nothing else may come");
    }
}
