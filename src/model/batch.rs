//! What one step computes: segments of sequences, laid out as consecutive rows.

use std::ops::Range;
use std::sync::Arc;

use super::rope::Rotation;
use crate::device::{AdapterRows, Device, RowPlace, StepPlan, View};

/// Some consecutive tokens of one sequence.
pub struct Segment<'a, D: Device> {
    pub tokens: &'a [u32],
    /// Position of the first token.
    pub start: usize,
    /// Cache blocks of the sequence, enough for its last token.
    pub blocks: &'a [u32],
    /// Its adapters and the factors of their updates, which are added in this order.
    pub loras: Vec<(&'a Arc<D::Lora>, f32)>,
    pub logits: LogitRows,
}

/// Some blocks of a cache, for a sequence that has them alone.
pub fn block_ids(blocks: Range<usize>) -> Vec<u32> {
    blocks
        .map(|block| u32::try_from(block).expect("a cache of 2^32 blocks is larger than any memory"))
        .collect()
}

/// Of which tokens of a segment the logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    None,
    Last,
    All,
}

/// How far layers see and how they turn queries and keys.
pub struct AttentionKind {
    pub window: Option<usize>,
    pub rotation: Rotation,
}

/// The step of some segments, for layers of these kinds.
pub fn plan<D: Device>(segments: &[Segment<'_, D>], kinds: &[AttentionKind]) -> StepPlan<D::Lora> {
    let places: Vec<RowPlace> = segments
        .iter()
        .enumerate()
        .flat_map(|(sequence, segment)| {
            let positions = segment.start..segment.start + segment.tokens.len();
            positions.map(move |position| RowPlace { sequence, position })
        })
        .collect();
    let view = |kind: &AttentionKind| {
        let start = |place: &RowPlace| match kind.window {
            Some(window) => (place.position + 1).saturating_sub(window),
            None => 0,
        };
        let (cos, sin) = kind.rotation.angles(places.iter().map(|place| place.position));
        View { starts: places.iter().map(start).collect(), cos, sin }
    };
    StepPlan {
        tokens: segments.iter().flat_map(|segment| segment.tokens).copied().collect(),
        blocks: segments.iter().map(|segment| segment.blocks.to_vec()).collect(),
        views: kinds.iter().map(view).collect(),
        adapters: adapters(segments),
        logit_rows: logit_rows(segments),
        places,
    }
}

/// The first adapter of each segment, then the second of those that have one, and so on.
fn adapters<D: Device>(segments: &[Segment<'_, D>]) -> Vec<Vec<AdapterRows<D::Lora>>> {
    let n_turns = segments.iter().map(|segment| segment.loras.len()).max().unwrap_or(0);
    (0..n_turns).map(|turn| adapter_rows(segments, turn)).collect()
}

/// Runs of segments that have the same adapter in this turn.
fn adapter_rows<D: Device>(segments: &[Segment<'_, D>], turn: usize) -> Vec<AdapterRows<D::Lora>> {
    let mut runs: Vec<AdapterRows<D::Lora>> = Vec::new();
    let mut first_row = 0;
    for segment in segments {
        let rows = first_row..first_row + segment.tokens.len();
        first_row = rows.end;
        let Some(&(adapter, scale)) = segment.loras.get(turn) else { continue };
        match runs.last_mut() {
            Some(last)
                if last.rows.end == rows.start
                    && Arc::ptr_eq(&last.adapter, adapter)
                    && last.scale.to_bits() == scale.to_bits() =>
            {
                last.rows.end = rows.end;
            }
            _ => runs.push(AdapterRows { rows, adapter: Arc::clone(adapter), scale }),
        }
    }
    runs
}

/// Rows whose logits are wanted, rising.
fn logit_rows<D: Device>(segments: &[Segment<'_, D>]) -> Vec<usize> {
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
