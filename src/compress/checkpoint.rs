//! The weight file of a quantized checkpoint: where everything goes is known first, then each tensor is
//! written to its place, a few rows in memory at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::thread;

use half::f16;
use safetensors::Dtype;
use serde_json::json;

use super::awq::Member;
use super::codec::{Coder, pack};
use super::method::Method;
use super::packed_row::PackedRow;
use crate::format::Tensor;
use crate::format::header::Header;
use crate::tools::WriteError;
use crate::tools::weights::source::decoder;

/// Elements of a matrix that are coded at a time.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// A tensor to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Entry {
    pub fn new(name: String, dtype: Dtype, shape: Vec<usize>) -> Self {
        Self { name, dtype, shape }
    }
}

/// The tensors that stand for a quantized matrix: `MODULE.weight` and its companions.
pub fn entries_of(module: &str, shape: (usize, usize), method: Method) -> Vec<Entry> {
    let (weight, scale) = (method.weight(shape), method.scale(shape));
    let entry = |part: &str, dtype, shape| Entry::new(format!("{module}.{part}"), dtype, shape);
    let mut entries = vec![entry("weight", weight.0, weight.1), entry("weight_scale", scale.0, scale.1)];
    if method == Method::Nvfp4 {
        entries.push(entry("weight_scale_2", Dtype::F32, vec![]));
    }
    if method.input_divisor().is_some() {
        entries.push(entry("input_scale", Dtype::F32, vec![]));
    }
    if method.scales_inputs() {
        entries.push(entry("pre_quant_scale", Dtype::F16, vec![shape.1]));
    }
    entries
}

/// Where everything goes.
pub struct Plan {
    header: Vec<u8>,
    /// Places in the file by name.
    places: BTreeMap<String, Range<u64>>,
    n_bytes: u64,
}

impl Plan {
    /// Wide types first and then by name, so that each tensor is aligned to its type.
    pub fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name)));
        let mut header = Header::new(&json!({ "format": "pt" }));
        let ranges: Vec<(String, Range<usize>)> = entries
            .into_iter()
            .map(|entry| {
                let range = header.add(&entry.name, entry.dtype, &entry.shape);
                (entry.name, range)
            })
            .collect();
        let end = header.n_data_bytes();
        let header = header.finish(8);
        let start = header.len();
        let place = |range: Range<usize>| (start + range.start) as u64..(start + range.end) as u64;
        let places = ranges.into_iter().map(|(name, range)| (name, place(range))).collect();
        Self { header, places, n_bytes: (start + end) as u64 }
    }

    /// The bytes before the first tensor.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Size of the file.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

/// What a stored matrix differs by from the original.
#[derive(Debug, Clone, Copy, Default)]
pub struct WeightError {
    pub sum_differences: f64,
    pub sum_sizes: f64,
}

/// The file as it fills.
pub struct Writer<'a> {
    file: &'a File,
    plan: &'a Plan,
    n_threads: usize,
}

impl<'a> Writer<'a> {
    /// Writes the header and gives the file its size.
    ///
    /// # Errors
    /// The system's.
    pub fn start(file: &'a File, plan: &'a Plan, n_threads: usize) -> Result<Self, WriteError> {
        file.set_len(plan.n_bytes)?;
        file.write_all_at(&plan.header, 0)?;
        Ok(Self { file, plan, n_threads: n_threads.max(1) })
    }

    /// Writes bytes of a tensor, from byte `at` of it on.
    ///
    /// # Errors
    /// The system's.
    pub fn put(&self, name: &str, at: usize, bytes: &[u8]) -> Result<(), WriteError> {
        let place = &self.plan.places[name];
        let start = place.start + at as u64;
        assert!(start + bytes.len() as u64 <= place.end, "{name}: bytes beyond its place");
        Ok(self.file.write_all_at(bytes, start)?)
    }

    /// Writes a float tensor as f16, and one of another type as it is.
    ///
    /// # Errors
    /// [`WriteError::Range`] for what f16 cannot hold.
    pub fn copy(&self, name: &str, tensor: &Tensor) -> Result<(), WriteError> {
        let Some(decode) = decoder(tensor.dtype()) else { return self.put(name, 0, tensor.data()) };
        let element = tensor.dtype().bitsize() / 8;
        let mut values = vec![0.0; CHUNK_ELEMENTS.min(tensor.n_elements())];
        let mut at = 0;
        for bytes in tensor.data().chunks(CHUNK_ELEMENTS * element) {
            let values = &mut values[..bytes.len() / element];
            decode(bytes, values);
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            if let Some(index) = halves.iter().position(|half| !half.is_finite()) {
                let (name, found) = (name.to_owned(), values[index]);
                return Err(WriteError::Range { name, found, precision: "f16" });
            }
            let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            self.put(name, at, &bytes)?;
            at += bytes.len();
        }
        Ok(())
    }

    /// Writes a matrix and its companions; `input_scale` where the method has one.
    ///
    /// # Errors
    /// [`WriteError::Range`] for a weight that is no finite number.
    pub fn quantize(
        &self,
        member: &Member<'_>,
        coder: &Coder,
        input_scale: f32,
    ) -> Result<WeightError, WriteError> {
        let module = module_of(&member.name);
        let named = |part: &str| format!("{module}.{part}");
        let (weight_name, scale_name) = (named("weight"), named("weight_scale"));
        let (n_rows, n_columns) = member.shape;
        let per_chunk = (CHUNK_ELEMENTS / n_columns).max(1).next_multiple_of(2 * self.n_threads);
        let (mut weights_at, mut scales_at) = (0, 0);
        let mut sums = WeightError::default();
        for first in (0..n_rows).step_by(per_chunk) {
            let rows = first..n_rows.min(first + per_chunk);
            let mut packed = Vec::with_capacity(rows.len());
            for row in self.map(rows, &|row_idx| code(member, coder, row_idx)) {
                let (row, error) = row?;
                sums.sum_differences += error.sum_differences;
                sums.sum_sizes += error.sum_sizes;
                packed.push(row);
            }
            let weights = pack(coder.method, &packed);
            self.put(&weight_name, weights_at, &weights)?;
            weights_at += weights.len();
            let scales: Vec<u8> = packed.iter().flat_map(|row| &row.scales).copied().collect();
            self.put(&scale_name, scales_at, &scales)?;
            scales_at += scales.len();
        }
        match coder.method {
            Method::Fp8 => self.put(&scale_name, 0, &coder.matrix_scale.to_le_bytes())?,
            Method::Nvfp4 => self.put(&named("weight_scale_2"), 0, &coder.matrix_scale.to_le_bytes())?,
            Method::Int4Awq { .. } | Method::Int8Sq | Method::Mxfp8 => {}
        }
        if coder.method.input_divisor().is_some() {
            self.put(&named("input_scale"), 0, &input_scale.to_le_bytes())?;
        }
        if let Some(scales) = &coder.pre_quant_scale {
            let bytes: Vec<u8> =
                scales.iter().flat_map(|scale| f16::from_f32(*scale).to_le_bytes()).collect();
            self.put(&named("pre_quant_scale"), 0, &bytes)?;
        }
        Ok(sums)
    }

    /// `work` of each row, in order.
    fn map<T: Send>(&self, rows: Range<usize>, work: &(dyn Fn(usize) -> T + Sync)) -> Vec<T> {
        let per_thread = rows.len().div_ceil(self.n_threads).max(1);
        thread::scope(|scope| {
            let handles: Vec<_> = (rows.clone())
                .step_by(per_thread)
                .map(|first| {
                    let part = first..rows.end.min(first + per_thread);
                    scope.spawn(move || part.map(work).collect::<Vec<T>>())
                })
                .collect();
            handles
                .into_iter()
                .flat_map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }
}

fn code(member: &Member<'_>, coder: &Coder, row_idx: usize) -> Result<(PackedRow, WeightError), WriteError> {
    let mut row = vec![0.0; member.shape.1];
    member.source.read_row(row_idx, &mut row);
    if let Some(found) = row.iter().find(|w| !w.is_finite()) {
        let (name, precision) = (member.name.clone(), coder.method.name());
        return Err(WriteError::Range { name, found: *found, precision });
    }
    let packed = coder.row(&row);
    let mut stored = vec![0.0; row.len()];
    coder.values(&packed, &mut stored);
    let mut error = WeightError::default();
    for (w, stored) in row.iter().zip(&stored) {
        error.sum_differences += f64::from((w - stored).abs());
        error.sum_sizes += f64::from(w.abs());
    }
    Ok((packed, error))
}

/// `X.weight` to `X`.
pub fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_is_aligned_to_its_type() {
        let mut entries = entries_of("a", (3, 7), Method::Int8Sq);
        entries.push(Entry::new("b".to_owned(), Dtype::F16, vec![3]));
        entries.extend(entries_of("c", (2, 32), Method::Nvfp4));
        let widths: BTreeMap<String, usize> =
            entries.iter().map(|entry| (entry.name.clone(), entry.dtype.bitsize() / 8)).collect();
        let plan = Plan::new(entries);
        assert!(plan.header.len().is_multiple_of(8));
        let mut places: Vec<_> = plan.places.iter().collect();
        places.sort_by_key(|(_, place)| place.start);
        let mut end = plan.header.len() as u64;
        for (name, place) in places {
            assert_eq!(place.start, end, "{name}: a gap");
            assert!(place.start.is_multiple_of(widths[name] as u64), "{name}");
            end = place.end;
        }
        assert_eq!(end, plan.n_bytes());
    }
}
