//! What one step computes: segments of sequences, laid out as consecutive rows.

use std::sync::Arc;

use super::lora::{Lora, LoraGroup};
use crate::backend::{AttendRow, Backend};

/// Some consecutive tokens of one sequence.
pub struct Segment<'a, B: Backend> {
    pub tokens: &'a [u32],
    /// Position of the first token.
    pub start: usize,
    /// Cache blocks of the sequence, enough for its last token.
    pub blocks: &'a [u32],
    /// Its adapter and the factor of the adapter's update.
    pub lora: Option<(&'a Arc<Lora<B>>, f32)>,
    pub logits: LogitRows,
}

/// Of which tokens of a segment the logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    None,
    Last,
    All,
}

/// The step's tokens, in row order.
pub fn tokens<B: Backend>(segments: &[Segment<'_, B>]) -> Vec<u32> {
    segments.iter().flat_map(|segment| segment.tokens).copied().collect()
}

/// Where each row stands and how far back it sees.
pub fn attend_rows<'a, B: Backend>(
    segments: &'a [Segment<'a, B>],
    window: Option<usize>,
) -> Vec<AttendRow<'a>> {
    segments
        .iter()
        .flat_map(|segment| {
            (segment.start..segment.start + segment.tokens.len()).map(move |position| AttendRow {
                position,
                start: window.map_or(0, |window| (position + 1).saturating_sub(window)),
                blocks: segment.blocks,
            })
        })
        .collect()
}

/// Runs of segments with the same adapter, as row ranges.
pub fn lora_groups<'a, B: Backend>(segments: &'a [Segment<'a, B>]) -> Vec<LoraGroup<'a, B>> {
    let mut groups: Vec<LoraGroup<'a, B>> = Vec::new();
    let mut first_row = 0;
    for segment in segments {
        let rows = first_row..first_row + segment.tokens.len();
        first_row = rows.end;
        let Some((lora, scale)) = segment.lora else { continue };
        match groups.last_mut() {
            Some(last)
                if last.rows.end == rows.start && Arc::ptr_eq(last.lora, lora) && last.scale == scale =>
            {
                last.rows.end = rows.end;
            }
            _ => groups.push(LoraGroup { rows, lora, scale }),
        }
    }
    groups
}

/// Rows whose logits are wanted, rising.
pub fn logit_rows<B: Backend>(segments: &[Segment<'_, B>]) -> Vec<usize> {
    let mut row_idx = Vec::new();
    let mut first_row = 0;
    for segment in segments {
        let end = first_row + segment.tokens.len();
        match segment.logits {
            LogitRows::None => {}
            LogitRows::Last => row_idx.push(end - 1),
            LogitRows::All => row_idx.extend(first_row..end),
        }
        first_row = end;
    }
    row_idx
}
