//! A GGUF file: metadata and the places of its tensors, checked against the file's length.
//!
//! Source: docs/gguf.md of ggml. The bytes of tensors are not touched.

use std::collections::BTreeMap;
use std::ops::Range;

use super::cursor::{Cursor, damaged};
use super::metadata::Metadata;
use crate::format::FormatError;
use crate::format::error::unsupported;
use crate::numbers::gguf::BlockKind;

const MAGIC: [u8; 4] = *b"GGUF";
const MAX_TENSORS: usize = 1 << 16;
const MAX_DIMS: usize = 4;
/// The alignment of files that do not say it.
const USUAL_ALIGNMENT: usize = 32;
const MAX_ALIGNMENT: usize = 1 << 16;

/// Metadata and tensors by name.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufFile<'a> {
    pub version: u32,
    pub metadata: Metadata<'a>,
    tensors: BTreeMap<&'a str, GgufTensor>,
}

/// One tensor: whole rows of blocks, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    pub kind: BlockKind,
    /// Row-major, as in checkpoints: the last is the length of a row.
    pub shape: Vec<usize>,
    /// In the file.
    pub bytes: Range<usize>,
}

impl<'a> GgufFile<'a> {
    /// Reads all but the tensors' bytes.
    ///
    /// # Errors
    /// [`FormatError::Damaged`]; [`FormatError::Unsupported`] for another version, a part of a split file, or a kind of
    /// weights that is not read.
    pub fn parse(all: &'a [u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(all);
        let version = read_version(&mut cursor)?;
        // A name without letters, no dimensions, a type, a place.
        let n_tensors = cursor.count("tensors", 24, MAX_TENSORS)?;
        let n_keys = Metadata::count(&mut cursor)?;
        let metadata = Metadata::read(&mut cursor, n_keys)?;
        if let Some(count) = metadata.size("split.count")?.filter(|count| *count > 1) {
            let found = format!("one of {count} parts");
            return Err(unsupported(
                "a split GGUF file",
                found,
                "one file; join the parts with gguf-split --merge",
            ));
        }
        let alignment = metadata.size("general.alignment")?.unwrap_or(USUAL_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(damaged(format!(
                "general.alignment is {alignment}, wanted a power of two up to 65536"
            )));
        }
        let infos = (0..n_tensors).map(|_| read_info(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        let data_start = cursor.position().next_multiple_of(alignment);
        let tensors = place(infos, data_start..all.len(), alignment)?;
        Ok(Self { version, metadata, tensors })
    }

    /// Whether it holds what changes a model, and no model.
    pub fn is_adapter(&self) -> bool {
        self.metadata.text("general.type").ok().flatten() == Some("adapter")
    }

    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// Names in byte order, and their tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&'a str, &GgufTensor)> {
        self.tensors.iter().map(|(name, tensor)| (*name, tensor))
    }
}

fn read_version(cursor: &mut Cursor) -> Result<u32, FormatError> {
    let magic: [u8; 4] = cursor.array()?;
    if magic != MAGIC {
        return Err(damaged(format!("it begins with {:?}, wanted GGUF", String::from_utf8_lossy(&magic))));
    }
    match cursor.u32()? {
        version @ 2..=3 => Ok(version),
        version if version.swap_bytes() <= 3 => {
            Err(unsupported("order of bytes in a GGUF file", "big endian", "little endian"))
        }
        version => Err(unsupported("version of a GGUF file", version, "2, 3")),
    }
}

struct Info<'a> {
    name: &'a str,
    kind: BlockKind,
    shape: Vec<usize>,
    n_bytes: usize,
    /// From the start of the data.
    offset: u64,
}

fn read_info<'a>(cursor: &mut Cursor<'a>) -> Result<Info<'a>, FormatError> {
    let name = cursor.text("a tensor's name")?;
    let n_dims = cursor.u32()? as usize;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        return Err(damaged(format!("tensor {name:.60} has {n_dims} dimensions, wanted 1 to {MAX_DIMS}")));
    }
    let too_large = || damaged(format!("tensor {name:.60} is larger than any file"));
    let mut shape = Vec::with_capacity(n_dims);
    for _ in 0..n_dims {
        shape.push(usize::try_from(cursor.u64()?).map_err(|_| too_large())?);
    }
    // The file has the length of a row first.
    shape.reverse();
    let kind = BlockKind::from_id(cursor.u32()?).map_err(|found| {
        let names: Vec<&str> = BlockKind::ALL.into_iter().map(BlockKind::name).collect();
        unsupported("kind of weights", format!("{found} of tensor {name:.60}"), &names.join(", "))
    })?;
    let (n_columns, rows) = shape.split_last().expect("it has dimensions");
    let n_rows = rows.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim));
    if !n_columns.is_multiple_of(kind.block_len()) {
        let wanted = format!("a multiple of {} for {}", kind.block_len(), kind.name());
        return Err(damaged(format!("tensor {name:.60} has rows of {n_columns}, wanted {wanted}")));
    }
    let n_bytes = kind.row_bytes(*n_columns).zip(n_rows).and_then(|(row, n_rows)| row.checked_mul(n_rows));
    Ok(Info { name, kind, n_bytes: n_bytes.ok_or_else(too_large)?, shape, offset: cursor.u64()? })
}

/// Puts tensors into the file: aligned, inside, none over another.
fn place<'a>(
    infos: Vec<Info<'a>>,
    data: Range<usize>,
    alignment: usize,
) -> Result<BTreeMap<&'a str, GgufTensor>, FormatError> {
    let ends = infos.iter().map(|info| (info.offset.saturating_add(info.n_bytes as u64), info.name));
    let end = ends.max().unwrap_or_default();
    let n_missing = end.0.saturating_sub(data.len() as u64);
    if n_missing > 0 {
        return Err(damaged(format!(
            "{n_missing} bytes are missing at its end, where tensor {:.60} is",
            end.1
        )));
    }
    let mut tensors = BTreeMap::new();
    let mut taken = Vec::with_capacity(infos.len());
    for Info { name, kind, shape, n_bytes, offset } in infos {
        let offset = usize::try_from(offset).ok().filter(|offset| offset.is_multiple_of(alignment));
        let offset =
            offset.ok_or_else(|| damaged(format!("tensor {name:.60} is not aligned to {alignment}")))?;
        let start = data.start.checked_add(offset);
        let bytes = start.and_then(|start| Some(start..start.checked_add(n_bytes)?));
        let bytes = bytes.filter(|bytes| bytes.end <= data.end).ok_or_else(|| {
            let held = data.len();
            damaged(format!(
                "tensor {name:.60} of {n_bytes} bytes at {offset} leaves the file's {held} of data"
            ))
        })?;
        taken.push((bytes.start, bytes.end, name));
        if tensors.insert(name, GgufTensor { kind, shape, bytes }).is_some() {
            return Err(damaged(format!("tensor {name:.60} is there twice")));
        }
    }
    taken.sort_unstable();
    if let Some(pair) = taken.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        return Err(damaged(format!("tensors {:.60} and {:.60} lie over each other", pair[0].2, pair[1].2)));
    }
    Ok(tensors)
}
