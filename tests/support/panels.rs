//! Products as the device makes them: rows to panels, then tile after tile.

use jetspool::kernels::Kernels;
use jetspool::kernels::activations::{Codes, CodesMut, Panel, code_groups, f32_groups, interleave};
use jetspool::kernels::matmul::MatmulTask;
use jetspool::kernels::matrix::{Matrix, Partner};

/// Rows as matrices take them.
pub struct Panels {
    pub f32: Vec<f32>,
    pub codes: Vec<i8>,
    pub scale: Vec<f32>,
    pub sum: Vec<f32>,
}

impl Panels {
    pub fn new(kernels: &Kernels, x: &[f32], stride: usize) -> Self {
        let mut panels = Panels {
            f32: vec![f32::NAN; x.len()],
            codes: vec![0; x.len()],
            scale: vec![f32::NAN; x.len() / 32],
            sum: vec![f32::NAN; x.len() / 32],
        };
        for rows in f32_groups(0..x.len() / stride) {
            let elements = rows.start * stride..rows.end * stride;
            interleave(&x[elements.clone()], stride, &mut panels.f32[elements]);
        }
        for rows in code_groups(0..x.len() / stride, kernels.code_rows) {
            let elements = rows.start * stride..rows.end * stride;
            let blocks = elements.start / 32..elements.end / 32;
            let mut out = CodesMut {
                codes: &mut panels.codes[elements.clone()],
                scale: &mut panels.scale[blocks.clone()],
                sum: &mut panels.sum[blocks],
            };
            unsafe { (kernels.quantize)(&x[elements], stride, &mut out) };
        }
        panels
    }

    fn panel(&self, partner: Partner) -> Panel<'_> {
        match partner {
            Partner::F32 => Panel::F32(&self.f32),
            Partner::I8 => Panel::I8(Codes { codes: &self.codes, scale: &self.scale, sum: &self.sum }),
        }
    }
}

/// `[rows of x, rows of w]`
pub fn matmul(kernels: &Kernels, x: &[f32], w: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let n_rows = x.len() / w.stride();
    let panels = Panels::new(kernels, x, w.stride());
    let mut y = vec![f32::NAN; n_rows * w.n_rows()];
    // Two calls, as two threads would make them.
    let middle = w.n_tiles() / 2;
    for tiles in [0..middle, middle..w.n_tiles()] {
        let task = MatmulTask {
            x: panels.panel(w.partner()),
            n_rows,
            w,
            tiles,
            bias,
            y: y.as_mut_ptr(),
            y_stride: w.n_rows(),
        };
        unsafe { kernels.matmul(&task) };
    }
    y
}
