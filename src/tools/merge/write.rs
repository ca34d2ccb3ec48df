//! One safetensors file, chunk after chunk: several threads compute, the caller's thread writes in order.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use serde_json::json;

use super::plan::{Content, OutTensor};
use super::rows::Arithmetic;
use crate::format::header::Header;
use crate::tools::WriteError;

/// Bytes of a chunk that is computed and written as one.
const CHUNK_BYTES: usize = 1 << 20;

/// A chunk's bytes, or the first value that does not fit.
type Computed = Result<Vec<u8>, f32>;

/// Units of one tensor: rows of a changed matrix, else elements.
struct Chunk {
    tensor_idx: usize,
    units: Range<usize>,
}

/// Size of the file with these tensors.
pub fn file_size(tensors: &[OutTensor]) -> u64 {
    header(tensors).len() as u64 + tensors.iter().map(OutTensor::n_bytes).sum::<u64>()
}

/// Writes a file. `progress` is called with the bytes written since the last call.
///
/// # Errors
/// [`WriteError`].
pub fn write_file<W: Write>(
    mut out: W,
    tensors: &[OutTensor],
    arithmetic: &Arithmetic,
    n_threads: usize,
    progress: &dyn Fn(&str, u64),
) -> Result<W, WriteError> {
    out.write_all(&header(tensors))?;
    let n_threads = n_threads.max(1);
    thread::scope(|scope| {
        let start = |worker_idx| {
            // One chunk waits while the next is computed.
            let (sender, receiver) = sync_channel(1);
            scope.spawn(move || work(tensors, arithmetic, worker_idx, n_threads, &sender));
            receiver
        };
        let receivers: Vec<Receiver<Computed>> = (0..n_threads).map(start).collect();
        for (chunk, receiver) in chunks(tensors).zip(receivers.iter().cycle()) {
            let tensor = &tensors[chunk.tensor_idx];
            let computed = receiver.recv().expect("a worker sends all its chunks");
            let bytes = computed.map_err(|found| {
                let precision = arithmetic.element.name();
                WriteError::Range { name: tensor.name.clone(), found, precision }
            })?;
            out.write_all(&bytes)?;
            progress(&tensor.name, bytes.len() as u64);
        }
        Ok(out)
    })
}

/// Computes every `n_threads`th chunk; ends early when nobody listens any more.
fn work(
    tensors: &[OutTensor],
    arithmetic: &Arithmetic,
    worker_idx: usize,
    n_threads: usize,
    sender: &SyncSender<Computed>,
) {
    let mut panel: Option<(usize, Arc<Vec<f32>>)> = None;
    for chunk in chunks(tensors).skip(worker_idx).step_by(n_threads) {
        let computed = match &tensors[chunk.tensor_idx].content {
            Content::Copied(tensor) => {
                let size = tensor.dtype().bitsize() / 8;
                Ok(tensor.data()[chunk.units.start * size..chunk.units.end * size].to_vec())
            }
            Content::Cast(floats) => arithmetic.cast(floats, chunk.units),
            Content::Bias { base, change, scale } => arithmetic.add_bias(base, change, *scale),
            Content::Merged(matrix) => {
                // The other tensor's panel is freed before this one is unpacked.
                panel = panel.filter(|(tensor_idx, _)| *tensor_idx == chunk.tensor_idx);
                let (_, panel) = panel.get_or_insert_with(|| (chunk.tensor_idx, matrix.delta.panel()));
                arithmetic.merge(matrix, panel, chunk.units)
            }
        };
        if sender.send(computed).is_err() {
            return;
        }
    }
}

/// All chunks of the file in order.
fn chunks(tensors: &[OutTensor]) -> impl Iterator<Item = Chunk> {
    tensors.iter().enumerate().flat_map(|(tensor_idx, tensor)| {
        let size = tensor.dtype.bitsize() / 8;
        let n_elements = tensor.shape.iter().product::<usize>();
        let (n_units, per_chunk) = match &tensor.content {
            Content::Merged(matrix) => {
                let row_bytes = matrix.delta.panel.len * size;
                (tensor.shape[0], (CHUNK_BYTES / row_bytes.max(1)).max(1))
            }
            // Biases are short, and computed as a whole.
            Content::Bias { .. } => (n_elements, n_elements.max(1)),
            Content::Copied(_) | Content::Cast(_) => (n_elements, CHUNK_BYTES / size),
        };
        (0..n_units)
            .step_by(per_chunk)
            .map(move |first| Chunk { tensor_idx, units: first..(first + per_chunk).min(n_units) })
    })
}

fn header(tensors: &[OutTensor]) -> Vec<u8> {
    let mut header = Header::new(&json!({ "format": "pt" }));
    for tensor in tensors {
        header.add(&tensor.name, tensor.dtype, &tensor.shape);
    }
    header.finish(8)
}
