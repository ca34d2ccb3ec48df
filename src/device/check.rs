//! What every device asks of the tensors that it takes.

use safetensors::Dtype;

use crate::format::{FormatError, Tensor};

pub fn check_shape(name: &str, tensor: &Tensor, wanted: &[usize]) -> Result<(), FormatError> {
    if tensor.shape() == wanted {
        return Ok(());
    }
    let found = tensor.shape().to_vec();
    Err(FormatError::Shape { name: name.to_owned(), wanted: wanted.to_vec(), found })
}

/// Its type, and that its elements lie where such elements may.
pub fn check_type<T: bytemuck::Pod>(
    name: &str,
    tensor: &Tensor,
    dtype: Dtype,
    wanted: &'static str,
) -> Result<(), FormatError> {
    if tensor.dtype() == dtype && tensor.as_slice::<T>().is_some() {
        return Ok(());
    }
    Err(FormatError::Dtype { name: name.to_owned(), wanted, found: format!("{:?}", tensor.dtype()) })
}
