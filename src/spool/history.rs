//! What the lines of a journal add up to: the input it belongs to, the answers so far, and who ran when the
//! daemon crashed.
//!
//! | event                       | meaning                                                                   |
//! |-----------------------------|---------------------------------------------------------------------------|
//! | `open` boot                 | a life of the daemon begins to read the input                             |
//! | `claim` size crc            | the input as it is; what stands above counts for nothing if this differs  |
//! | `opened`                    | it was read without a crash                                               |
//! | `run` index alone boot      | a request enters its first step, with others or alone                     |
//! | `done` index failed answer  | a request has its answer                                                  |
//! | `pause`                     | the life ended in good order: its marks are taken back                    |
//!
//! Blame: a mark that its own life did not take back was followed by a crash. A request that was marked is a
//! suspect; each mark of it alone is a crash that it caused. Marks of another start of the machine count for
//! nothing: they may have been followed by a power cut.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lines::{Line, PREFIX_BYTES};
use super::order::Progress;

/// A line without an answer. Journals of the layout before ids have `start` and `publish` too, which are
/// passed over like everything unknown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    Claim(Claim),
    Open { boot: String },
    Opened,
    Run { index: usize, alone: bool, boot: String },
    Pause,
}

/// The bytes of the input: answers are of no use if the requests changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub size: u64,
    pub crc: u32,
}

/// Place of an answer's JSON in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    pub n_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Recorded {
    span: Span,
    is_failed: bool,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct History {
    claim: Option<Claim>,
    answers: BTreeMap<usize, Recorded>,
    /// Crashes while the input was read.
    n_opens: u32,
    /// Crashes alone of requests that ran at a crash.
    suspects: BTreeMap<usize, u32>,
    /// The life whose end is not known.
    life: Option<Life>,
}

#[derive(Debug, Default)]
struct Life {
    is_opening: bool,
    /// Requests that entered a step, true for those that were alone.
    running: BTreeMap<usize, bool>,
}

/// The JSON of a `done` line before and after the answer.
pub fn around_answer(index: usize, is_failed: bool) -> [String; 2] {
    [format!("{{\"event\":\"done\",\"index\":{index},\"failed\":{is_failed},\"answer\":"), "}".into()]
}

impl History {
    pub fn claim(&self) -> Option<Claim> {
        self.claim
    }

    pub fn n_opens(&self) -> u32 {
        self.n_opens
    }

    /// A life began here that has not ended.
    pub fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    pub fn has_answer(&self, index: usize) -> bool {
        self.answers.contains_key(&index)
    }

    pub fn answer(&self, index: usize) -> Option<Span> {
        self.answers.get(&index).map(|recorded| recorded.span)
    }

    pub fn progress(&self) -> Progress {
        let failed = self.answers.iter().filter(|(_, recorded)| recorded.is_failed).map(|(index, _)| *index);
        Progress {
            answered: self.answers.keys().copied().collect(),
            failed: failed.collect(),
            suspects: self.suspects.clone(),
        }
    }

    /// Takes a line up as it was read. One that has no meaning here is passed over.
    pub fn take_line(&mut self, line: &Line, boot: &str) {
        if let Some((index, is_failed, n_head)) = done_head(&line.head) {
            let span = Span {
                start: line.start + PREFIX_BYTES + n_head,
                // The last byte closes the line's object.
                n_bytes: line.n_bytes.saturating_sub(n_head + 1),
            };
            self.take_answer(index, is_failed, span);
        } else if let Ok(event) = serde_json::from_slice(&line.head) {
            self.take(&event, boot);
        }
    }

    pub fn take(&mut self, event: &Event, boot: &str) {
        match event {
            Event::Claim(claim) if self.claim == Some(*claim) => {}
            Event::Claim(claim) => {
                let life = self.life.take();
                *self = Self { claim: Some(*claim), life, ..Self::default() };
            }
            Event::Open { boot: at } => {
                self.crash();
                self.life = (at == boot).then(|| Life { is_opening: true, running: BTreeMap::new() });
            }
            Event::Opened => {
                if let Some(life) = &mut self.life {
                    life.is_opening = false;
                    self.n_opens = 0;
                }
            }
            Event::Run { index, alone, boot: at } => {
                if at == boot && !self.has_answer(*index) {
                    *self.life.get_or_insert_default().running.entry(*index).or_default() |= alone;
                }
            }
            Event::Pause => self.life = None,
        }
    }

    /// The first answer of a request stays.
    pub fn take_answer(&mut self, index: usize, is_failed: bool, span: Span) {
        if self.claim.is_some() {
            self.answers.entry(index).or_insert(Recorded { span, is_failed });
            self.suspects.remove(&index);
            if let Some(life) = &mut self.life {
                life.running.remove(&index);
            }
        }
    }

    /// The life that is still there ended without a word.
    pub fn crash(&mut self) {
        let Some(life) = self.life.take() else { return };
        self.n_opens += u32::from(life.is_opening);
        for (index, was_alone) in life.running {
            *self.suspects.entry(index).or_default() += u32::from(was_alone);
        }
    }
}

/// Index, whether the request failed, and the bytes before the answer, of a `done` line.
fn done_head(head: &[u8]) -> Option<(usize, bool, u64)> {
    let text = head.utf8_chunks().next()?.valid();
    let rest = text.strip_prefix("{\"event\":\"done\",\"index\":")?;
    let (index, rest) = rest.split_once(',')?;
    let (is_failed, answer) = match rest.split_once("\"answer\":")? {
        ("\"failed\":true,", answer) => (true, answer),
        // Without the word: of the layout before ids.
        ("\"failed\":false," | "", answer) => (false, answer),
        _ => return None,
    };
    Some((index.parse().ok()?, is_failed, (text.len() - answer.len()) as u64))
}

#[cfg(test)]
mod tests {
    use super::super::lines::{read_lines, write_line};
    use super::*;

    const CLAIM: Claim = Claim { size: 7, crc: 9 };

    fn history(lines: &[String]) -> History {
        let mut bytes = Vec::new();
        for line in lines {
            write_line(&mut bytes, &[line]).unwrap();
        }
        let mut history = History::default();
        read_lines(&bytes[..], |line| history.take_line(line, "now")).unwrap();
        history.crash();
        for span in history.answers.values().map(|recorded| recorded.span) {
            let [start, n_bytes] = [span.start, span.n_bytes].map(|n| usize::try_from(n).unwrap());
            let answer = &bytes[start..][..n_bytes];
            assert_eq!(answer, b"{\"a\":\"\xc3\xa9}\"}");
        }
        history
    }

    fn event(event: Event) -> String {
        serde_json::to_string(&event).unwrap()
    }

    fn claim() -> String {
        event(Event::Claim(CLAIM))
    }

    fn open() -> String {
        event(Event::Open { boot: "now".into() })
    }

    fn run(index: usize, alone: bool, boot: &str) -> String {
        event(Event::Run { index, alone, boot: boot.into() })
    }

    fn done(index: usize, is_failed: bool) -> String {
        let [start, end] = around_answer(index, is_failed);
        format!("{start}{{\"a\":\"é}}\"}}{end}")
    }

    fn start_of_life() -> Vec<String> {
        vec![open(), claim(), event(Event::Opened)]
    }

    #[test]
    fn who_ran_at_a_crash_is_a_suspect_and_who_was_alone_is_counted() {
        let mut lines = start_of_life();
        lines.extend([run(0, false, "now"), run(1, false, "now"), run(2, false, "now"), done(1, false)]);
        let progress = history(&lines).progress();
        assert_eq!((progress.answered, progress.failed), ([1].into(), [].into()));
        assert_eq!(progress.suspects, [(0, 0), (2, 0)].into());
        for n_alone in 1..4 {
            lines.extend(start_of_life());
            lines.extend([run(0, true, "now"), run(0, true, "now")]);
            assert_eq!(history(&lines).progress().suspects, [(0, n_alone), (2, 0)].into());
        }
        // The daemon ends in good order: what its life before this one did stays.
        lines.extend(start_of_life());
        lines.extend([run(2, true, "now"), event(Event::Pause)]);
        assert_eq!(history(&lines).progress().suspects, [(0, 3), (2, 0)].into());
        lines.extend([done(0, true), done(2, false), done(0, false)]);
        let progress = history(&lines).progress();
        assert_eq!(progress.suspects, [].into());
        assert_eq!((progress.answered, progress.failed), ([0, 1, 2].into(), [0].into()));
    }

    #[test]
    fn a_power_cut_blames_nobody() {
        let before = event(Event::Open { boot: "before".into() });
        let lines = [before, claim(), run(0, true, "before"), open(), run(1, false, "before")];
        let history = history(&lines);
        assert_eq!(history.progress().suspects, [].into());
        assert_eq!(history.n_opens(), 1);
    }

    #[test]
    fn crashes_while_opening_are_counted_until_it_went_well() {
        let paused = event(Event::Pause);
        assert_eq!(history(&[open()]).n_opens(), 1);
        assert_eq!(history(&[open(), open(), paused.clone()]).n_opens(), 1);
        assert_eq!(history(&[open(), open(), open()]).n_opens(), 3);
        assert_eq!(history(&[open(), open(), claim(), event(Event::Opened)]).n_opens(), 0);
    }

    #[test]
    fn answers_count_for_the_claim_above_them_only() {
        let other = event(Event::Claim(Claim { size: 8, ..CLAIM }));
        let lines = [done(0, false), claim(), done(1, false), other, done(2, false), claim(), done(3, false)];
        assert_eq!(history(&lines[..1]).progress().answered, [].into());
        assert_eq!(history(&lines[..3]).progress().answered, [1].into());
        assert_eq!(history(&lines[..5]).progress().answered, [2].into());
        assert_eq!(history(&lines).progress().answered, [3].into());
    }

    #[test]
    fn lines_of_the_layout_before_ids_are_understood() {
        let lines = [
            r#"{"event":"claim","job":"0000123456789abc-fd01-2a","size":7,"crc":9}"#.to_owned(),
            r#"{"event":"start","attempt":1}"#.to_owned(),
            "{\"event\":\"done\",\"index\":4,\"answer\":{\"a\":\"é}\"}}".to_owned(),
            r#"{"event":"publish","to":"done"}"#.to_owned(),
        ];
        let history = history(&lines);
        assert_eq!((history.claim(), history.progress().answered), (Some(CLAIM), [4].into()));
    }
}
