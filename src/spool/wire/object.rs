//! Fields of an object with their place, so that every fault names it: `requests[3].temperature: wanted …, found …`.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;

use super::fault::Fault;
use super::json::{Value, shortened};
use super::limits::UNKNOWN_NAMED;

/// The place of a value, as a chain to the root that costs nothing until it is printed.
#[derive(Clone, Copy)]
pub enum At<'p> {
    Root,
    Key(&'p At<'p>, &'p str),
    Index(&'p At<'p>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Root => Ok(()),
            At::Key(At::Root, key) => write!(f, "{}", shortened(key)),
            At::Key(parent, key) => write!(f, "{parent}.{}", shortened(key)),
            At::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A value and its place.
#[derive(Clone, Copy)]
pub struct Field<'a, 'p> {
    pub value: Value<'a>,
    pub at: At<'p>,
}

impl<'a> Field<'a, '_> {
    /// The fault of a value that is not what was wanted.
    pub fn wanted(&self, wanted: impl fmt::Display) -> Fault {
        Fault::bad(format!("{}: wanted {wanted}, found {}", self.at, self.value.describe()))
    }

    pub fn truth(&self) -> Result<bool, Fault> {
        self.value.truth().ok_or_else(|| self.wanted("true or false"))
    }

    pub fn string(&self) -> Result<Cow<'a, str>, Fault> {
        if !self.value.is_string() {
            return Err(self.wanted("a string"));
        }
        self.value.string().ok_or_else(|| self.wanted("a string of valid Unicode"))
    }

    /// A string of at most `limit` bytes. The text is looked at before anything is copied.
    pub fn string_within(&self, limit: usize) -> Result<Cow<'a, str>, Fault> {
        let too_long = |n: usize| Fault::bad(format!("{}: {n} bytes are over the limit of {limit}", self.at));
        // An escape takes at most 6 bytes for each byte it stands for.
        if self.value.is_string() && self.value.text().len() > limit.saturating_mul(6).saturating_add(2) {
            return Err(too_long(self.value.text().len() - 2));
        }
        let text = self.string()?;
        if text.len() > limit { Err(too_long(text.len())) } else { Ok(text) }
    }

    /// A finite number in `range`; `wanted` says the range in words.
    pub fn number(&self, range: impl Fn(f64) -> bool, wanted: &str) -> Result<f64, Fault> {
        let number = self.value.number().and_then(|text| text.parse::<f64>().ok());
        number.filter(|x| x.is_finite() && range(*x)).ok_or_else(|| self.wanted(wanted))
    }

    /// The same, rounded to f32.
    pub fn float(&self, range: impl Fn(f64) -> bool, wanted: &str) -> Result<f32, Fault> {
        self.number(range, wanted).map(round_to_f32)
    }

    /// A whole number in `range`, written as one or as a float without a fraction (`256.0`).
    pub fn integer<T>(&self, range: RangeInclusive<T>) -> Result<T, Fault>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let text = self.value.number();
        let whole = text.and_then(|text| text.parse::<i128>().ok().or_else(|| whole(text.parse().ok()?)));
        let number =
            whole.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        number.ok_or_else(|| {
            self.wanted(format_args!("a whole number from {} to {}", range.start(), range.end()))
        })
    }
}

/// The nearest f32, which is what a model computes with.
#[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
pub fn round_to_f32(number: f64) -> f32 {
    number as f32
}

/// A float as a whole number, as long as floats tell one whole number from the next: up to 2^53.
fn whole(number: f64) -> Option<i128> {
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "there is no fraction, and 2^53 is far below 2^127")]
    (number.fract() == 0.0 && number.abs() <= LIMIT).then_some(number as i128)
}

/// What other programs call fields of ours.
const OTHER_NAMES: [(&str, &str); 22] = [
    ("max_tokens", "max_generate_length"),
    ("max_new_tokens", "max_generate_length"),
    ("max_completion_tokens", "max_generate_length"),
    ("max_length", "max_generate_length"),
    ("num_predict", "max_generate_length"),
    ("seed", "sampling_seed"),
    ("random_seed", "sampling_seed"),
    ("stop_sequences", "stop"),
    ("stop_words", "stop"),
    ("logprobs", "num_logprobs"),
    ("top_logprobs", "num_logprobs"),
    ("adapter", "lora_name"),
    ("lora", "lora_name"),
    ("lora_adapter", "lora_name"),
    ("adapters", "loras"),
    ("lora_name", "name"),
    ("adapter", "name"),
    ("lora_scale", "scale"),
    ("weight", "scale"),
    ("prompt", "messages"),
    ("grammar", "guided_decoding"),
    ("format", "response_format"),
];

/// The field that a person meant who wrote this one.
fn meant(name: &str, names: &[&'static str]) -> Option<&'static str> {
    let other = OTHER_NAMES.iter().find(|(other, ours)| *other == name && names.contains(ours));
    other.map(|(_, ours)| *ours).or_else(|| {
        let distance = |ours: &str| strsim::damerau_levenshtein(name, ours);
        let nearest = names.iter().copied().min_by_key(|ours| distance(ours))?;
        // A third of it may be wrong.
        (distance(nearest) * 3 <= nearest.len()).then_some(nearest)
    })
}

/// The known fields of one object, and the names of the others.
pub struct Object<'a, 'p> {
    at: &'p At<'p>,
    names: Vec<&'static str>,
    known: Vec<(&'static str, Value<'a>)>,
    unknown: Vec<String>,
    n_unknown: usize,
}

impl<'a, 'p> Object<'a, 'p> {
    /// Reads an object that may have the fields `names`. Of equal keys the last one counts.
    pub fn read(value: Value<'a>, at: &'p At<'p>, names: &[&'static str]) -> Result<Self, Fault> {
        if !value.is_object() {
            return Err(Field { value, at: *at }.wanted("an object"));
        }
        let mut object =
            Object { at, names: names.to_vec(), known: Vec::new(), unknown: Vec::new(), n_unknown: 0 };
        for (key, value) in value.entries() {
            let key = key.string().unwrap_or(Cow::Borrowed("\u{fffd}"));
            match names.iter().find(|name| **name == key) {
                Some(name) => object.put(name, value),
                None => object.note_unknown(&key),
            }
        }
        Ok(object)
    }

    /// The field, unless it is missing or null.
    pub fn get(&self, name: &'p str) -> Option<Field<'a, 'p>> {
        let (_, value) = self.known.iter().find(|(known, _)| *known == name)?;
        (!value.is_null()).then_some(Field { value: *value, at: At::Key(self.at, name) })
    }

    /// The fault of a field that must be there.
    pub fn missing(&self, name: &str, wanted: &str) -> Fault {
        Fault::bad(format!("{}: missing; wanted {wanted}", At::Key(self.at, name)))
    }

    /// One of the unknown fields, if there is any.
    pub fn unknown_name(&self) -> Option<&str> {
        self.unknown.first().map(String::as_str)
    }

    /// One warning for each unknown field, the first few by name.
    pub fn warn_unknown(&self, warnings: &mut Vec<String>) {
        for name in &self.unknown {
            let meant =
                meant(name, &self.names).map_or(String::new(), |meant| format!("; {meant} is meant?"));
            warnings.push(format!("{}: unknown field, ignored{meant}", At::Key(self.at, name)));
        }
        if self.n_unknown > self.unknown.len() {
            let more = self.n_unknown - self.unknown.len();
            warnings.push(format!("{}: {more} more unknown fields, ignored", At::Key(self.at, "…")));
        }
    }

    fn put(&mut self, name: &'static str, value: Value<'a>) {
        match self.known.iter_mut().find(|(known, _)| *known == name) {
            Some(slot) => slot.1 = value,
            None => self.known.push((name, value)),
        }
    }

    fn note_unknown(&mut self, key: &str) {
        let name = shortened(key).into_owned();
        if self.unknown.contains(&name) {
            return;
        }
        self.n_unknown += 1;
        if self.unknown.len() < UNKNOWN_NAMED {
            self.unknown.push(name);
        }
    }
}
