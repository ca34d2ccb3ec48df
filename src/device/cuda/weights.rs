//! Weights on the device, in the engine's own layout.

use safetensors::Dtype;

use super::files::Place;
use super::gpu::whole;
use super::kernels::Kernels;
use super::operation::Part;
use crate::cuda::{Argument, CudaError, Function};
use crate::device::check::{check_shape, check_type};
use crate::format::{FormatError, StoredMatrix, Tensor};
use crate::numbers::kind::ScaleType;
use crate::numbers::precision::row_stride;
use crate::numbers::{KeptBlocks, Kind};

/// A matrix of the engine, or a stack of them.
pub struct Weights {
    pub kind: Kind,
    pub stride: usize,
    values: Place,
    scale: Option<Place>,
    row_scale: Option<Place>,
    zero: Option<Place>,
    levels: Option<Place>,
    input_scale: Option<Place>,
    input_order: Option<Place>,
}

impl Weights {
    /// # Errors
    /// What `place` says.
    pub fn new(
        stored: &StoredMatrix,
        place: impl Fn(&Tensor) -> Result<Place, FormatError>,
    ) -> Result<Self, FormatError> {
        let optional = |tensor: &Option<Tensor>| tensor.as_ref().map(&place).transpose();
        Ok(Self {
            kind: stored.kind,
            stride: row_stride(stored.shape.columns),
            values: place(&stored.values)?,
            scale: optional(&stored.scale)?,
            row_scale: optional(&stored.row_scale)?,
            zero: optional(&stored.zero)?,
            levels: optional(&stored.levels)?,
            input_scale: optional(&stored.input_scale)?,
            input_order: optional(&stored.input_order)?,
        })
    }

    /// As `Matrix` in common.cu: values, scales, what else belongs to a group or a row, stride, group.
    pub fn arguments(&self) -> [Argument; 5] {
        let Part { values, scale, more, group, .. } = self.part();
        let [values, scale, more] = [values, scale, more].map(Argument::Address);
        [values, scale, more, whole(self.stride), Argument::I32(group)]
    }

    /// What a product's part has of it: the same.
    pub fn part(&self) -> Part {
        let group = self.kind.group().unwrap_or(0);
        let more = match self.kind {
            Kind::Int4 { .. } | Kind::Int8Groups { .. } => &self.zero,
            Kind::Levels { .. } => &self.levels,
            _ => &self.row_scale,
        };
        Part {
            values: self.values.address(),
            scale: address(self.scale.as_ref()),
            more: address(more.as_ref()),
            group: i32::try_from(group).expect("sizes of a model have 31 bits"),
            ..Part::default()
        }
    }

    /// As `enum Kind` in common.cu.
    pub fn kind_number(&self) -> i32 {
        match self.kind {
            Kind::F32 => 0,
            Kind::F16 => 1,
            Kind::Int8 => 2,
            Kind::Int4 { scales: ScaleType::F16, .. } => 3,
            Kind::Int4 { scales: ScaleType::F32, .. } => 4,
            Kind::Affine => 5,
            Kind::Fp8 => 6,
            Kind::Mxfp8 => 7,
            Kind::Nvfp4 => 8,
            Kind::Fp8Groups { .. } => 9,
            Kind::Int8Groups { .. } => 10,
            Kind::Kept(KeptBlocks::Q4_1) => 11,
            Kind::Kept(KeptBlocks::Q5_0) => 12,
            Kind::Kept(KeptBlocks::Q5_1) => 13,
            Kind::Kept(KeptBlocks::Q4K) => 14,
            Kind::Kept(KeptBlocks::Q5K) => 15,
            Kind::Kept(KeptBlocks::Q6K) => 16,
            Kind::Levels { .. } => 17,
        }
    }

    /// The product with it, and the sums of a block of inputs that it makes for each output.
    pub fn product<'a>(&self, kernels: &'a Kernels) -> (&'a Function, usize) {
        match self.kind {
            Kind::F32 => (&kernels.matmul_f32, 1),
            Kind::F16 => (&kernels.matmul_f16, 1),
            Kind::Int8 => (&kernels.matmul_int8, 1),
            Kind::Int8Groups { .. } => (&kernels.matmul_int8_groups, 1),
            Kind::Int4 { scales: ScaleType::F16, .. } => (&kernels.matmul_int4_f16, 1),
            Kind::Int4 { scales: ScaleType::F32, .. } => (&kernels.matmul_int4_f32, 1),
            Kind::Affine => (&kernels.matmul_affine, 1),
            Kind::Fp8 => (&kernels.matmul_fp8, 1),
            Kind::Fp8Groups { .. } => (&kernels.matmul_fp8_groups, 1),
            Kind::Mxfp8 => (&kernels.matmul_mxfp8, 1),
            Kind::Nvfp4 => (&kernels.matmul_nvfp4, 2),
            Kind::Kept(KeptBlocks::Q4_1) => (&kernels.matmul_q4_1, 1),
            Kind::Kept(KeptBlocks::Q5_0) => (&kernels.matmul_q5_0, 1),
            Kind::Kept(KeptBlocks::Q5_1) => (&kernels.matmul_q5_1, 1),
            Kind::Kept(KeptBlocks::Q4K) => (&kernels.matmul_q4_k, 1),
            Kind::Kept(KeptBlocks::Q5K) => (&kernels.matmul_q5_k, 1),
            Kind::Kept(KeptBlocks::Q6K) => (&kernels.matmul_q6_k, 2),
            Kind::Levels { .. } => (&kernels.matmul_levels, 1),
        }
    }

    /// The product of many rows with it, where it has one of its own.
    pub fn gemm<'a>(&self, kernels: &'a Kernels) -> Option<&'a Function> {
        match self.kind {
            Kind::Int8 => Some(&kernels.gemm_int8),
            Kind::Int4 { scales: ScaleType::F16, .. } => Some(&kernels.gemm_int4_f16),
            Kind::Int4 { scales: ScaleType::F32, .. } => Some(&kernels.gemm_int4_f32),
            Kind::Affine => Some(&kernels.gemm_affine),
            Kind::Nvfp4 => Some(&kernels.gemm_nvfp4),
            Kind::Int8Groups { .. } => Some(&kernels.gemm_int8_groups),
            Kind::Kept(KeptBlocks::Q4_1) => Some(&kernels.gemm_q4_1),
            Kind::Kept(KeptBlocks::Q5_0) => Some(&kernels.gemm_q5_0),
            Kind::Kept(KeptBlocks::Q5_1) => Some(&kernels.gemm_q5_1),
            Kind::Kept(KeptBlocks::Q4K) => Some(&kernels.gemm_q4_k),
            Kind::Kept(KeptBlocks::Q5K) => Some(&kernels.gemm_q5_k),
            Kind::Kept(KeptBlocks::Q6K) => Some(&kernels.gemm_q6_k),
            Kind::F32
            | Kind::F16
            | Kind::Fp8
            | Kind::Fp8Groups { .. }
            | Kind::Mxfp8
            | Kind::Levels { .. } => None,
        }
    }

    /// Whether it is multiplied with codes, and not with f32.
    pub fn takes_codes(&self) -> bool {
        matches!(
            self.kind,
            Kind::Int8
                | Kind::Int8Groups { .. }
                | Kind::Int4 { .. }
                | Kind::Affine
                | Kind::Nvfp4
                | Kind::Kept(_)
        )
    }

    /// Order and factors of its inputs, if they are changed before they meet the matrix.
    pub fn input_changes(&self) -> Option<[Argument; 2]> {
        let changes = [&self.input_order, &self.input_scale];
        changes
            .iter()
            .any(|tensor| tensor.is_some())
            .then(|| changes.map(|tensor| Argument::Address(address(tensor.as_ref()))))
    }
}

/// A norm's weight or a bias.
pub struct Vector {
    values: Place,
    len: usize,
}

impl Vector {
    /// # Errors
    /// Of another shape or type; what `place` says.
    pub fn new(
        name: &str,
        len: usize,
        values: &Tensor,
        place: impl Fn(&Tensor) -> Result<Place, FormatError>,
    ) -> Result<Self, FormatError> {
        check_shape(name, values, &[len])?;
        check_type::<f32>(name, values, Dtype::F32, "F32")?;
        Ok(Self { values: place(values)?, len })
    }

    pub fn at(&self) -> Argument {
        Argument::Address(self.address())
    }

    pub fn address(&self) -> u64 {
        self.values.address()
    }

    /// Elements.
    pub fn n_elements(&self) -> usize {
        self.len
    }
}

pub(super) fn device_error(error: CudaError) -> FormatError {
    FormatError::Device(error.to_string())
}

fn address(place: Option<&Place>) -> u64 {
    place.map_or(0, Place::address)
}
