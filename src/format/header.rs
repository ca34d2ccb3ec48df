//! The header of a safetensors file that is written tensor after tensor, before a byte of a tensor is known
//! (<https://github.com/huggingface/safetensors>, "Format").

use std::ops::Range;

use safetensors::Dtype;
use serde_json::{Value, json};

/// A header as it grows: tensors follow each other without a gap.
pub struct Header {
    /// Entries, each with a comma behind it.
    json: String,
    n_data_bytes: usize,
}

impl Header {
    /// With `metadata`, an object of strings.
    pub fn new(metadata: &Value) -> Self {
        Self { json: format!("{{\"__metadata__\":{metadata},"), n_data_bytes: 0 }
    }

    /// Without metadata.
    pub fn bare() -> Self {
        Self { json: "{".to_owned(), n_data_bytes: 0 }
    }

    /// Places a tensor behind the last; where it lies in the data section.
    pub fn add(&mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Range<usize> {
        let n_bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let range = self.n_data_bytes..self.n_data_bytes + n_bytes;
        self.n_data_bytes = range.end;
        let dtype = format!("{dtype:?}");
        let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [range.start, range.end] });
        self.json.push_str(&format!("{}:{info},", json!(name)));
        range
    }

    /// Bytes of all tensors so far.
    pub fn n_data_bytes(&self) -> usize {
        self.n_data_bytes
    }

    /// What stands before the data section: the length and the header, filled up with spaces so that the data
    /// section starts at a multiple of `align` bytes.
    pub fn finish(mut self, align: usize) -> Vec<u8> {
        if self.json.ends_with(',') {
            self.json.pop();
        }
        self.json.push('}');
        let padded = (self.json.len() + 8).next_multiple_of(align) - 8;
        let mut bytes = (padded as u64).to_le_bytes().to_vec();
        bytes.extend(self.json.bytes());
        bytes.resize(8 + padded, b' ');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_reads_what_was_laid_out() {
        for align in [8, 4096] {
            let mut header = Header::new(&json!({ "format": "pt" }));
            let ranges = [
                header.add("a \"quoted\" name", Dtype::F16, &[3, 2]),
                header.add("codes", Dtype::F4, &[4, 8]),
                header.add("nothing", Dtype::F32, &[0, 7]),
            ];
            assert_eq!(ranges, [0..12, 12..28, 28..28]);
            let n_data_bytes = header.n_data_bytes();
            let mut bytes = header.finish(align);
            assert!(bytes.len().is_multiple_of(align));
            let data: Vec<u8> = (1..).take(n_data_bytes).collect();
            bytes.extend(&data);
            let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(read.tensor("a \"quoted\" name").unwrap().data(), &data[..12]);
            assert_eq!(read.tensor("codes").unwrap().shape(), [4, 8]);
            assert_eq!(read.tensor("codes").unwrap().data(), &data[12..]);
            assert!(read.tensor("nothing").unwrap().data().is_empty());
        }
    }
}
