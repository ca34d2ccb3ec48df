//! Adapters as a request asks for them: several with their weights by `loras`, or one by `lora_name` and `lora_scale`.

use serde::Serialize;

use super::fault::Fault;
use super::limits;
use super::object::{At, Field, Object};

/// An adapter and how much of it. The order of the fields is that of the keys in an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraUse {
    /// Not empty. Whether it is known is for the daemon to say.
    pub name: String,
    /// Factor on the adapter's update, finite; 1 = as trained.
    pub scale: f32,
}

const FIELDS: [&str; 2] = ["name", "scale"];
/// What `loras` stands in place of.
const FIELDS_OF_ONE: [&str; 2] = ["lora_name", "lora_scale"];

/// `loras` of a request, in its order.
pub(super) fn read_loras(request: &Object, warnings: &mut Vec<String>) -> Result<Vec<LoraUse>, Fault> {
    let Some(field) = request.get("loras") else { return Ok(Vec::new()) };
    if let Some(name) = FIELDS_OF_ONE.into_iter().find(|name| request.get(name).is_some()) {
        let both = "either lora_name with lora_scale, or all adapters in loras";
        return Err(Fault::bad(format!("{}: stands beside {name}; give {both}", field.at)));
    }
    if !field.value.is_array() {
        return Err(field.wanted("an array of adapters, each with a name"));
    }
    let n = field.value.elements().count();
    if n > limits::LORAS {
        let message = format!("{}: {n} adapters are over the limit of {}", field.at, limits::LORAS);
        return Err(Fault::bad(message));
    }
    let entries = field.value.elements().enumerate();
    entries.map(|(i, value)| read_use(Field { value, at: At::Index(&field.at, i) }, warnings)).collect()
}

/// `lora_scale`, or `scale` of an entry.
pub(super) fn read_scale(field: Option<Field>) -> Result<f32, Fault> {
    let is_finite = |x: f64| x.abs() <= f64::from(f32::MAX);
    field.map_or(Ok(1.0), |field| field.float(is_finite, "a finite number"))
}

fn read_use(field: Field, warnings: &mut Vec<String>) -> Result<LoraUse, Fault> {
    let object = Object::read(field.value, &field.at, &FIELDS)?;
    object.warn_unknown(warnings);
    let name = object.get("name").ok_or_else(|| object.missing("name", "an adapter's name"))?;
    let text = name.string_within(limits::NAME_BYTES)?;
    if text.is_empty() {
        return Err(name.wanted("a name that is not empty"));
    }
    Ok(LoraUse { name: text.into_owned(), scale: read_scale(object.get("scale"))? })
}
