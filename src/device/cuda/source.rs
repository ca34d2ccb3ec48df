//! The text of all kernels, which are one module: what `build` gives the compiler.

/// The file that the kernels include: the language of a device.
pub const HEADER: (&str, &str) = ("gpu.h", include_str!("gpu.h"));

/// All kernels, in one text.
pub const SOURCE: &str = concat!(
    include_str!("common.cu"),
    include_str!("elementwise.cu"),
    include_str!("matmul.cu"),
    include_str!("gemm.cu"),
    include_str!("lora.cu"),
    include_str!("attention.cu"),
    include_str!("routing.cu"),
    include_str!("sampling.cu"),
);
