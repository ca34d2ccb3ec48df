//! Stop strings: an answer ends before the first one that its decoded text holds.

/// Watches an answer's text as it grows.
///
/// ```
/// use jetspool::text::StopStrings;
///
/// let mut stops = StopStrings::new(["END".to_owned()]);
/// assert_eq!(stops.push("The E"), None);
/// assert_eq!(stops.n_open(), 1, "the E may begin a stop string");
/// assert_eq!(stops.push("ND."), Some(4));
/// ```
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Bytes of text before `tail`.
    before_tail: usize,
    /// The end of the text that a stop string may have begun in.
    tail: String,
}

impl StopStrings {
    /// Empty strings stop nothing and are left out.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, before_tail: 0, tail: String::new() }
    }

    /// Takes the next piece of the answer's text. Once the text holds a stop string, returns the byte position in the
    /// whole text where it must be cut: the earliest start of any stop string. A piece that completes two stop
    /// strings is cut at the one that starts first.
    pub fn push(&mut self, new_text: &str) -> Option<usize> {
        if self.stops.is_empty() || new_text.is_empty() {
            return None;
        }
        self.tail.push_str(new_text);
        if let Some(position) = self.stops.iter().filter_map(|stop| self.tail.find(stop.as_str())).min() {
            return Some(self.before_tail + position);
        }
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let done = self.tail.floor_char_boundary(self.tail.len().saturating_sub(longest - 1));
        self.tail.drain(..done);
        self.before_tail += done;
        None
    }

    /// Bytes at the end of the text that may be the beginning of a stop string: whether they stay, the next pieces
    /// tell.
    pub fn n_open(&self) -> usize {
        let starts = self.tail.char_indices().map(|(start, _)| &self.tail[start..]);
        let may_become_stop = |end: &&str| self.stops.iter().any(|stop| stop.starts_with(end));
        starts.into_iter().find(may_become_stop).map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_stop_cuts_however_the_text_arrives() {
        struct Case {
            stops: &'static [&'static str],
            text: &'static str,
            cut: Option<usize>,
        }
        let cases = [
            Case { stops: &[], text: "abc", cut: None },
            Case { stops: &[""], text: "abc", cut: None },
            Case { stops: &["c"], text: "abc", cut: Some(2) },
            Case { stops: &["\n\n"], text: "one\ntwo\n\nthree", cut: Some(7) },
            Case { stops: &["END", "STOP"], text: "go STOP and END", cut: Some(3) },
            Case { stops: &["aab"], text: "aaaab", cut: Some(2) },
            Case { stops: &["界。"], text: "世界 世界。", cut: Some(10) },
            Case { stops: &["xyz"], text: "xyxyxy", cut: None },
        ];
        for Case { stops, text, cut } in cases {
            let pieces: Vec<String> = text.chars().map(String::from).collect();
            for size in 1..=pieces.len() {
                let mut watch = StopStrings::new(stops.iter().map(|stop| stop.to_string()));
                let found = pieces.chunks(size).find_map(|chunk| watch.push(&chunk.concat()));
                assert_eq!(found, cut, "{stops:?} in {text:?} by {size}");
            }
        }
    }

    /// What is shown at once is never taken back, and all that need not wait is shown.
    #[test]
    fn only_what_may_become_a_stop_waits() {
        struct Case {
            stops: &'static [&'static str],
            text: &'static str,
            open: &'static [usize],
        }
        let cases = [
            Case { stops: &[], text: "ab", open: &[0, 0] },
            Case { stops: &["bcd"], text: "abcb", open: &[0, 1, 2, 1] },
            Case { stops: &["aab"], text: "aaac", open: &[1, 2, 2, 0] },
            Case { stops: &["\n\n", "界。"], text: "a\n世界 ", open: &[0, 1, 0, 3, 0] },
            Case { stops: &["x", "abab!"], text: "ababab", open: &[1, 2, 3, 4, 3, 4] },
        ];
        for Case { stops, text, open } in cases {
            let mut watch = StopStrings::new(stops.iter().map(|stop| stop.to_string()));
            let found: Vec<usize> = text
                .chars()
                .map(|character| {
                    assert_eq!(watch.push(&character.to_string()), None, "{stops:?} in {text:?}");
                    watch.n_open()
                })
                .collect();
            assert_eq!(found, open, "{stops:?} in {text:?}");
        }
    }

    #[test]
    fn two_stops_in_one_piece_cut_at_the_first() {
        let mut watch = StopStrings::new(["cd", "abcdef"].map(str::to_owned));
        assert_eq!(watch.push("..abcdef"), Some(2));
    }
}
