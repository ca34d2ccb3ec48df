//! A safetensors file as shared bytes with an index (format: huggingface/safetensors, README "Format").
//!
//! [`TensorFile`] keeps the bytes alive and hands out [`Tensor`]s that do the same, so a tensor of a
//! mapped file can be held by a model without copying and without a lifetime.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;
use safetensors::{Dtype, SafeTensors};

use super::error::{FormatError, SAFETENSORS_FILE};

/// Immutable bytes with an owner: a file map in production, a `Vec<u8>` in tests.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Longest header that is read: tens of thousands of tensors. The index takes several times its size.
const MAX_HEADER: u64 = 8 << 20;

/// An indexed safetensors file.
#[derive(Clone)]
pub struct TensorFile {
    bytes: Bytes,
    entries: Arc<BTreeMap<String, Entry>>,
    metadata: Arc<BTreeMap<String, String>>,
    data_start: usize,
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl TensorFile {
    /// Reads the header; the tensors' bytes are not touched.
    ///
    /// # Errors
    /// [`FormatError::Damaged`] when the header is not JSON, offsets leave the file, overlap or leave holes.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use jetspool::format::TensorFile;
    ///
    /// // Eight bytes of length, a header of JSON, the data.
    /// let header = br#"{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}  "#;
    /// let mut file = (header.len() as u64).to_le_bytes().to_vec();
    /// file.extend_from_slice(header);
    /// file.extend_from_slice(&[0; 8]);
    /// let file = TensorFile::parse(Arc::new(file))?;
    /// assert_eq!(file.require("x")?.shape(), [2]);
    /// assert!(file.require("y").is_err());
    /// # Ok::<_, jetspool::format::FormatError>(())
    /// ```
    pub fn parse(bytes: Bytes) -> Result<Self, FormatError> {
        let all: &[u8] = (*bytes).as_ref();
        let damaged = |why: String| FormatError::Damaged { what: SAFETENSORS_FILE, why };
        if let Some(length) = all.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
            && length > MAX_HEADER
        {
            return Err(damaged(format!("its header claims {length} bytes, the limit is {MAX_HEADER}")));
        }
        let (header_len, header) = SafeTensors::read_metadata(all).map_err(|e| damaged(e.to_string()))?;
        let data_start = header_len.checked_add(8).ok_or_else(|| damaged("length overflows".into()))?;
        let mut entries = BTreeMap::new();
        for (name, info) in header.tensors() {
            let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
            if range.start > range.end || range.end > all.len() {
                return Err(damaged(format!("tensor {name} leaves the file")));
            }
            entries.insert(name, Entry { dtype: info.dtype, shape: info.shape.clone(), range });
        }
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { bytes, entries: Arc::new(entries), metadata: Arc::new(metadata), data_start })
    }

    /// Names in byte order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The file's own `__metadata__` table.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// All bytes of the file, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn as_bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// Bytes of the header: the tensors fill all that follows.
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// The tensor whose bytes this one is among, and where they begin.
    pub fn tensor_at(&self, byte: usize) -> Option<(&str, usize)> {
        let mut entries = self.entries.iter();
        let (name, entry) = entries.find(|(_, entry)| entry.range.contains(&byte))?;
        Some((name, entry.range.start))
    }

    /// The tensor of that name, if it is there.
    pub fn get(&self, name: &str) -> Option<Tensor> {
        self.entries.get(name).map(|entry| Tensor {
            bytes: Arc::clone(&self.bytes),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            range: entry.range.clone(),
        })
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`].
    pub fn require(&self, name: &str) -> Result<Tensor, FormatError> {
        self.get(name).ok_or_else(|| FormatError::MissingTensor { name: name.to_owned() })
    }
}

/// One tensor of a [`TensorFile`], row-major, keeping the file's bytes alive.
#[derive(Clone)]
pub struct Tensor {
    bytes: Bytes,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Tensor {
    /// Where its bytes lie in the file.
    pub fn place(&self) -> Range<usize> {
        self.range.clone()
    }

    /// A tensor at a place of other bytes; none where the range leaves them or is not the shape's size.
    pub fn at(bytes: Bytes, dtype: Dtype, shape: Vec<usize>, range: Range<usize>) -> Option<Self> {
        let n_elements = shape.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim))?;
        let n_bits = n_elements.checked_mul(dtype.bitsize())?;
        let fits = n_bits.is_multiple_of(8) && range.len() == n_bits / 8;
        let is_inside = range.start <= range.end && range.end <= (*bytes).as_ref().len();
        (fits && is_inside).then_some(Self { bytes, dtype, shape, range })
    }

    /// Some rows of a matrix, in place; none where it is no matrix or has not so many.
    pub fn rows(&self, rows: Range<usize>) -> Option<Self> {
        let &[n_rows, n_columns] = self.shape() else { return None };
        if rows.start > rows.end || rows.end > n_rows {
            return None;
        }
        let row_bits = n_columns * self.dtype.bitsize();
        let (start, end) = (rows.start * row_bits, rows.end * row_bits);
        if !start.is_multiple_of(8) || !end.is_multiple_of(8) {
            return None;
        }
        let range = self.range.start + start / 8..self.range.start + end / 8;
        let (bytes, shape) = (Arc::clone(&self.bytes), vec![rows.len(), n_columns]);
        Some(Self { bytes, dtype: self.dtype, shape, range })
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Raw little-endian bytes.
    pub fn data(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
    }

    /// The elements in place, when the bytes are aligned for `T`.
    /// The caller knows from [`Tensor::dtype`] that `T` is the element type.
    pub fn as_slice<T: Pod>(&self) -> Option<&[T]> {
        bytemuck::try_cast_slice(self.data()).ok()
    }
}
