//! So many of something, for people: `1 job`, `2 jobs`.

use std::fmt;

/// A number and the noun for one.
#[derive(Debug, Clone, Copy)]
pub struct Count<N>(pub N, pub &'static str);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(n, noun) = self;
        let ending = if *n == N::from(1) { "" } else { "s" };
        write!(f, "{n} {noun}{ending}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_has_no_plural() {
        let texts = [0_usize, 1, 2].map(|n| Count(n, "job").to_string());
        assert_eq!(texts, ["0 jobs", "1 job", "2 jobs"]);
    }
}
