//! The ways to quantize, as the workflow names them, and how each stores a matrix `[out, in]`.

use safetensors::Dtype;

/// How the projections are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// E4M3, one scale for the matrix.
    Fp8,
    /// 4-bit whole numbers, a scale for each group of a row, inputs scaled by channel (AWQ).
    Int4Awq { group: usize },
    /// 8-bit whole numbers, a scale for a row, inputs scaled by channel (SmoothQuant).
    Int8Sq,
    /// E2M1, an E4M3 scale for 16 of a row and one for the matrix.
    Nvfp4,
    /// E4M3, an E8M0 scale for 32 of a row.
    Mxfp8,
}

/// Sizes of int4 groups, the usual one first.
const INT4_GROUPS: [usize; 3] = [128, 64, SMALLEST_INT4_GROUP];
const SMALLEST_INT4_GROUP: usize = 32;

impl Method {
    /// Groups of 128, as the workflow's own kernels take them.
    pub const INT4_AWQ: Method = Method::Int4Awq { group: INT4_GROUPS[0] };
    pub const ALL: [Method; 5] =
        [Method::Fp8, Method::INT4_AWQ, Method::Int8Sq, Method::Nvfp4, Method::Mxfp8];
    /// What the head can be stored as.
    pub const OF_HEAD: [Method; 3] = [Method::Fp8, Method::Nvfp4, Method::Mxfp8];

    /// The value of `--quantization`.
    pub fn name(self) -> &'static str {
        match self {
            Method::Fp8 => "fp8",
            Method::Int4Awq { .. } => "int4_awq",
            Method::Int8Sq => "int8_sq",
            Method::Nvfp4 => "nvfp4",
            Method::Mxfp8 => "mxfp8",
        }
    }

    /// `quant_algo` of hf_quant_config.json.
    pub fn algorithm(self) -> &'static str {
        match self {
            Method::Fp8 => "FP8",
            Method::Int4Awq { .. } => "W4A16_AWQ",
            Method::Int8Sq => "W8A8_SQ_PER_CHANNEL",
            Method::Nvfp4 => "NVFP4",
            Method::Mxfp8 => "MXFP8",
        }
    }

    /// Elements of a row that share a scale, where it is not the whole row.
    pub fn block(self) -> Option<usize> {
        match self {
            Method::Fp8 | Method::Int8Sq => None,
            Method::Int4Awq { group } => Some(group),
            Method::Nvfp4 => Some(16),
            Method::Mxfp8 => Some(32),
        }
    }

    pub fn is_int4_awq(self) -> bool {
        matches!(self, Method::Int4Awq { .. })
    }

    /// The same with the largest groups that divide all these rows, of which some group divides any at all, where groups
    /// can be chosen.
    pub fn for_widths(self, widths: &[usize]) -> Self {
        let fits = |group: &usize| {
            let widths = widths.iter().filter(|width| width.is_multiple_of(SMALLEST_INT4_GROUP));
            widths.copied().all(|width| width.is_multiple_of(*group))
        };
        match INT4_GROUPS.into_iter().find(fits) {
            Some(group) if self.is_int4_awq() => Method::Int4Awq { group },
            _ => self,
        }
    }

    /// Whether inputs are multiplied by a scale for each channel first.
    pub fn scales_inputs(self) -> bool {
        matches!(self, Method::Int4Awq { .. } | Method::Int8Sq)
    }

    /// Whether the activations have a fixed scale too, and what it is for the largest magnitude 1.
    pub fn input_divisor(self) -> Option<f32> {
        match self {
            Method::Fp8 => Some(448.0),
            Method::Int8Sq => Some(127.0),
            Method::Nvfp4 => Some(6.0 * 448.0),
            Method::Int4Awq { .. } | Method::Mxfp8 => None,
        }
    }

    /// Why a matrix `[out, in]` cannot be stored so.
    pub fn obstacle(self, (n_rows, n_columns): (usize, usize)) -> Option<String> {
        let block = self.block().unwrap_or(1);
        if !n_columns.is_multiple_of(block) {
            let smallest = if self.is_int4_awq() { SMALLEST_INT4_GROUP } else { block };
            return Some(format!("{n_columns} inputs are no multiple of {smallest}"));
        }
        let is_odd = self.is_int4_awq() && !n_rows.is_multiple_of(2);
        is_odd.then(|| format!("{n_rows} outputs are an odd number"))
    }

    /// Type and shape of the stored weight.
    pub fn weight(self, (n_rows, n_columns): (usize, usize)) -> (Dtype, Vec<usize>) {
        match self {
            Method::Fp8 | Method::Mxfp8 => (Dtype::F8_E4M3, vec![n_rows, n_columns]),
            Method::Int8Sq => (Dtype::I8, vec![n_rows, n_columns]),
            Method::Int4Awq { .. } => (Dtype::U8, vec![n_rows / 2, n_columns]),
            Method::Nvfp4 => (Dtype::U8, vec![n_rows, n_columns / 2]),
        }
    }

    /// Type and shape of `weight_scale`.
    pub fn scale(self, (n_rows, n_columns): (usize, usize)) -> (Dtype, Vec<usize>) {
        let n_blocks = n_columns / self.block().unwrap_or(1);
        match self {
            Method::Fp8 => (Dtype::F32, vec![]),
            Method::Int8Sq => (Dtype::F32, vec![n_rows]),
            Method::Int4Awq { .. } => (Dtype::F32, vec![n_rows, n_blocks]),
            Method::Nvfp4 => (Dtype::F8_E4M3, vec![n_rows, n_blocks]),
            Method::Mxfp8 => (Dtype::U8, vec![n_rows, n_blocks]),
        }
    }
}
