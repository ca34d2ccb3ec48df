//! The id of a job: when it was claimed, in microseconds since 1970, as eleven characters that sort by time.
//!
//! The characters are those of Crockford's base 32: digits and small letters without i, l, o and u. An id lies
//! in the years 2020 to 2099, so that few names that a person gives can be taken for one.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::wire::Stamp;

/// Characters of an id.
pub const ID_LEN: usize = 11;

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const FIRST: u64 = 1_577_836_800_000_000;
const LAST: u64 = 4_102_444_799_999_999;

/// What no other job of the spool has, ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

/// A text that is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job's id has {ID_LEN} characters, digits and small letters, and begins with 1, 2 or 3")]
pub struct NotAnId;

impl JobId {
    /// The id of a job that is claimed now, after `last`. A clock that is far off does not matter: the id is
    /// then only greater than the last.
    pub fn next(last: Option<JobId>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::at(u64::try_from(now.as_micros()).unwrap_or(0), last)
    }

    /// The id of a moment, in microseconds since 1970, or the least one that is greater than `last`.
    pub fn at(micros: u64, last: Option<JobId>) -> Self {
        let at = if (FIRST..=LAST).contains(&micros) { micros } else { FIRST };
        Self(last.map_or(at, |last| at.max(last.0 + 1)))
    }

    /// Microseconds since 1970 at the claim, as the clock was then.
    pub fn micros(self) -> u64 {
        self.0
    }

    /// The id of which these are the [`JobId::micros`].
    pub fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Seconds since 1970 at the claim, as the clock was then.
    pub fn unix_time(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Whole seconds since 1970 at the claim.
    pub fn unix_seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// What the answers to a batch file of this job begin with.
    pub fn stamp(self) -> Stamp {
        Stamp { name: self.to_string(), created: self.unix_seconds() }
    }

    /// None for anything but an id.
    pub fn from_bytes(text: &[u8]) -> Option<Self> {
        let digit = |byte: &u8| (0_u64..).zip(DIGITS).find(|(_, digit)| *digit == byte);
        if text.len() != ID_LEN {
            return None;
        }
        let micros = text.iter().try_fold(0, |sum, byte| Some(sum << 5 | digit(byte)?.0))?;
        (FIRST..=LAST).contains(&micros).then_some(Self(micros))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..ID_LEN).rev() {
            let digit = DIGITS[usize::from((self.0 >> (5 * place)).to_le_bytes()[0] & 31)];
            fmt::Write::write_char(f, digit.into())?;
        }
        Ok(())
    }
}

impl FromStr for JobId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        Self::from_bytes(text.as_bytes()).ok_or(NotAnId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_sort_by_time() {
        let mut last: Option<JobId> = None;
        for micros in [FIRST, FIRST + 1, FIRST + 31, FIRST + 32, 1_764_115_200_000_000, LAST - 9] {
            let id = JobId::at(micros, last);
            assert_eq!((id.to_string().len(), id.to_string().parse()), (ID_LEN, Ok(id)));
            assert!((id.unix_time() - micros as f64 / 1e6).abs() < 1e-3);
            assert!(last.is_none_or(|last| last < id && last.to_string() < id.to_string()));
            last = Some(id);
        }
        // The same moment, an earlier one, and clocks that are far off.
        for micros in [LAST - 9, FIRST, 0, u64::MAX] {
            let id = JobId::at(micros, last);
            assert_eq!(Some(id.0), last.map(|last| last.0 + 1));
            last = Some(id);
        }
    }

    #[test]
    fn names_that_people_give_are_no_ids() {
        for text in [
            "",
            "benchmark01",
            "1",
            "report-2026",
            "1OOOOOOOOOO",
            "1000000000000",
            "zzzzzzzzzzz",
            "10000000000",
        ] {
            assert_eq!(text.parse::<JobId>(), Err(NotAnId), "{text}");
        }
    }
}
