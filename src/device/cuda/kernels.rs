//! The kernels of a module by their names.

use std::sync::Arc;

use crate::cuda::{Context, CudaError, Function, Module};

macro_rules! kernels {
    ($($name:ident)+) => {
        /// Each kernel of the module; what they do stands in the .cu files.
        pub struct Kernels {
            $(pub $name: Function,)+
        }

        impl Kernels {
            /// # Errors
            /// [`CudaError`]: 209 when the image is for another device, 500 when it lacks a kernel.
            pub fn load(context: &Arc<Context>, image: &[u8]) -> Result<Self, CudaError> {
                let module = Module::load(context, image)?;
                Ok(Self { $($name: module.function(stringify!($name))?,)+ })
            }
        }
    };
}

kernels! {
    embed rms_norm change_inputs quantize add multiply_by silu_mul gelu_mul gather read_all
    matmul_f32 matmul_f16 matmul_fp8 matmul_fp8_groups matmul_mxfp8 matmul_int8 matmul_int8_groups
    matmul_int4_f16 matmul_int4_f32 matmul_affine matmul_nvfp4 matmul_levels
    matmul_q4_1 matmul_q5_0 matmul_q5_1 matmul_q4_k matmul_q5_k matmul_q6_k
    gemm_int8 gemm_int8_groups gemm_int4_f16 gemm_int4_f32 gemm_affine gemm_nvfp4
    gemm_q4_1 gemm_q5_0 gemm_q5_1 gemm_q4_k gemm_q5_k gemm_q6_k
    lora_shrink lora_expand
    prepare_heads attend combine_parts
    choose_experts sort_by_expert combine_experts
    score_tokens sum_weights draw_token
}
