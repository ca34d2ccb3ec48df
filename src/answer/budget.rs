//! How much memory keys and values may take. What the engine needs whatever happens comes first; where even
//! that does not fit, the daemon does not start, and says the numbers.

use super::limits::{Bound, Covers};
use super::usage::mib;

/// For all that is not counted one by one: heap, stacks, texts of requests, pages of adapters, page tables.
const OTHERS: u64 = 24 << 20;

/// What an engine takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Mapped, and all of it read in every step.
    pub weights: u64,
    /// Activations of the largest step.
    pub workspace: u64,
    /// The longest answers of a whole batch, with as many log probabilities as may be asked for.
    pub answers: u64,
    /// Keys and values of one sequence of full length.
    pub sequence: u64,
    /// What other engines of this process may still come to take.
    pub promised: u64,
}

/// A limit that is too low for the engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it needs {} of memory (weights {}, activations {}, answers {}, one sequence of full length {}, \
     all else {}), but {} leaves {}; give it more, set a smaller max_step_rows, or build the engine with a smaller \
     --maxKVCacheCapacity",
    mib(self.needed()), mib(need.weights), mib(need.workspace), mib(need.answers), mib(need.sequence),
    mib(OTHERS + need.promised), bound.name, mib(self.found())
)]
pub struct TooLittle {
    need: Need,
    bound: Bound,
}

impl TooLittle {
    /// Bytes that the engine takes with one sequence of full length.
    pub fn needed(&self) -> u64 {
        self.need.weights + self.need.private()
    }

    /// Comparable with `needed`.
    fn found(&self) -> u64 {
        match self.bound.covers {
            Covers::Everything => self.bound.room,
            Covers::Private => self.bound.room + self.need.weights,
        }
    }

    /// Whether trying again cannot help before somebody changes a setting.
    pub fn is_lasting(&self) -> bool {
        self.bound.is_setting
    }
}

impl Need {
    fn private(&self) -> u64 {
        self.fixed() + self.sequence
    }

    /// Private memory besides keys and values.
    fn fixed(&self) -> u64 {
        self.workspace + self.answers + OTHERS + self.promised
    }

    /// Bytes that keys and values may take under all bounds, or the tightest bound that does not hold one
    /// sequence of full length.
    ///
    /// # Errors
    /// [`TooLittle`].
    pub fn kv_budget(&self, bounds: Vec<Bound>) -> Result<u64, TooLittle> {
        let private_room = |bound: &Bound| match bound.covers {
            Covers::Everything => bound.room.saturating_sub(self.weights),
            Covers::Private => bound.room,
        };
        let Some(bound) = bounds.into_iter().min_by_key(private_room) else { return Ok(u64::MAX) };
        let budget = private_room(&bound).saturating_sub(self.fixed());
        if budget < self.sequence { Err(TooLittle { need: *self, bound }) } else { Ok(budget) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const NEED: Need = Need {
        weights: 500 * MIB,
        workspace: 8 * MIB,
        answers: 2 * MIB,
        sequence: 20 * MIB,
        promised: 6 * MIB,
    };

    fn bound(name: &str, room: u64, covers: Covers) -> Bound {
        Bound { name: name.into(), room: room * MIB, covers, is_setting: name != "machine" }
    }

    #[test]
    fn the_tightest_bound_counts() {
        let budget = |bounds: Vec<Bound>| NEED.kv_budget(bounds);
        assert_eq!(budget(vec![]), Ok(u64::MAX));
        assert_eq!(budget(vec![bound("machine", 1000, Covers::Everything)]), Ok(460 * MIB));
        let both = vec![bound("machine", 1000, Covers::Everything), bound("data", 100, Covers::Private)];
        assert_eq!(budget(both), Ok(60 * MIB));
        assert_eq!(budget(vec![bound("group", 560, Covers::Everything)]), Ok(20 * MIB));
    }

    #[test]
    fn too_little_says_the_numbers() {
        let error = NEED.kv_budget(vec![bound("group", 559, Covers::Everything)]).unwrap_err();
        assert!(error.is_lasting());
        let text = error.to_string();
        for part in [
            "needs 560.0 MiB",
            "weights 500.0 MiB",
            "answers 2.0 MiB",
            "length 20.0 MiB",
            "group leaves 559.0 MiB",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        let error = NEED.kv_budget(vec![bound("machine", 3, Covers::Everything)]).unwrap_err();
        assert!(!error.is_lasting() && error.to_string().contains("machine leaves 3.0 MiB"), "{error}");
        let error = NEED.kv_budget(vec![bound("data", 59, Covers::Private)]).unwrap_err();
        assert!(error.to_string().contains("data leaves 559.0 MiB"), "{error}");
    }
}
