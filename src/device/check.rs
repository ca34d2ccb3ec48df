//! What every device asks of the tensors that it takes.

use half::f16;
use safetensors::Dtype;

use crate::format::{FormatError, LoraPair, Tensor};

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

/// The rank of an adapter's pair, and the columns of its B; both matrices are f16.
pub fn check_pair(pair: &LoraPair) -> Result<(usize, usize), FormatError> {
    let LoraPair { a, b, columns, .. } = pair;
    check_type::<f16>("lora_A.weight", a, Dtype::F16, "F16")?;
    check_type::<f16>("lora_B.weight", b, Dtype::F16, "F16")?;
    match (a.shape(), b.shape()) {
        (&[_, rank], &[same, n_columns])
            if rank == same && rank > 0 && columns.start <= columns.end && columns.end <= n_columns =>
        {
            Ok((rank, n_columns))
        }
        (wanted, found) => Err(FormatError::Shape {
            name: "lora_B.weight".into(),
            wanted: wanted.to_vec(),
            found: found.to_vec(),
        }),
    }
}
