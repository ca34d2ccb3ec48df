//! Python's `format % values` for strings, with the numbers as C writes them.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, Value};

use super::python::{to_python, to_repr, with_exponent};
use super::refusal::{MAX_WIDTH, refused};

/// `format % operand`: a tuple has the values, a map those that are named, anything else is the one value.
///
/// # Errors
/// What Python refuses, and fields that are too wide.
pub(super) fn percent(format: &str, operand: &Value) -> Result<String, Error> {
    let values: &[Value] = match operand.downcast_object_ref::<Tuple>() {
        Some(tuple) => tuple,
        None => std::slice::from_ref(operand),
    };
    let mut values = Values { operand, values, n_used: 0, has_names: false };
    let mut text = String::with_capacity(format.len());
    let mut rest = format;
    while let Some((before, field)) = rest.split_once('%') {
        text.push_str(before);
        let (field, behind) = Field::read(field, &mut values)?;
        field.write(&mut text, &mut values)?;
        rest = behind;
    }
    text.push_str(rest);
    values.check_end()?;
    Ok(text)
}

struct Values<'a> {
    operand: &'a Value,
    values: &'a [Value],
    n_used: usize,
    has_names: bool,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        let value = self.values.get(self.n_used).cloned();
        self.n_used += 1;
        value.ok_or_else(|| refused("not enough arguments for the format string"))
    }

    fn named(&mut self, name: &str) -> Result<Value, Error> {
        self.has_names = true;
        if self.operand.kind() != ValueKind::Map {
            return Err(refused("a format with names needs a mapping"));
        }
        let value = self.operand.get_item(&Value::from(name))?;
        if value.is_undefined() { Err(refused(format!("the mapping has no {name:?}"))) } else { Ok(value) }
    }

    /// All values must be written; only maps and lists may have more.
    fn check_end(&self) -> Result<(), Error> {
        let is_container =
            !self.operand.is_tuple() && matches!(self.operand.kind(), ValueKind::Map | ValueKind::Seq);
        if self.n_used < self.values.len() && !self.has_names && !is_container {
            return Err(refused("not all arguments are converted by the format string"));
        }
        Ok(())
    }
}

/// `%(name)-+ #0width.precision` and the letter of a conversion.
#[derive(Default)]
struct Field {
    name: Option<String>,
    is_left: bool,
    has_plus: bool,
    has_space: bool,
    is_alternate: bool,
    is_zero_padded: bool,
    width: usize,
    precision: Option<usize>,
    conversion: char,
}

impl Field {
    /// Reads what stands behind the percent sign; gives what follows it.
    fn read<'t>(text: &'t str, values: &mut Values) -> Result<(Self, &'t str), Error> {
        let mut field = Self::default();
        let mut rest = text;
        if let Some(named) = rest.strip_prefix('(') {
            let (name, behind) = named.split_once(')').ok_or_else(|| refused("a name without its end"))?;
            (field.name, rest) = (Some(name.to_owned()), behind);
        }
        while let Some(flag) = rest.chars().next().filter(|flag| "-+ #0".contains(*flag)) {
            match flag {
                '-' => field.is_left = true,
                '+' => field.has_plus = true,
                ' ' => field.has_space = true,
                '#' => field.is_alternate = true,
                _ => field.is_zero_padded = true,
            }
            rest = &rest[1..];
        }
        if let Some(behind) = rest.strip_prefix('*') {
            let width = i64::try_from(values.next()?)?;
            field.is_left |= width < 0;
            (field.width, rest) = (limited(width.unsigned_abs())?, behind);
        } else {
            (field.width, rest) = number(rest)?;
        }
        if let Some(behind) = rest.strip_prefix('.') {
            let precision;
            (precision, rest) = match behind.strip_prefix('*') {
                Some(behind) => (limited(i64::try_from(values.next()?)?.max(0).unsigned_abs())?, behind),
                None => number(behind)?,
            };
            field.precision = Some(precision);
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let mut rest = rest.chars();
        field.conversion = rest.next().ok_or_else(|| refused("an incomplete format"))?;
        Ok((field, rest.as_str()))
    }

    fn write(&self, text: &mut String, values: &mut Values) -> Result<(), Error> {
        if self.conversion == '%' {
            text.push('%');
            return Ok(());
        }
        let value = match &self.name {
            Some(name) => values.named(name)?,
            None => values.next()?,
        };
        match self.conversion {
            's' => self.pad_text(text, &to_python(&value)?),
            'r' | 'a' => self.pad_text(text, &to_repr(&value)?),
            'c' => self.pad_text(text, &character(&value)?),
            'd' | 'i' | 'u' => {
                let (sign, digits) = whole(&value)?;
                self.pad_number(text, sign, "", &digits);
            }
            'x' | 'X' | 'o' => {
                let number = integer(&value)?;
                let digits = match self.conversion {
                    'x' => format!("{:x}", number.unsigned_abs()),
                    'X' => format!("{:X}", number.unsigned_abs()),
                    _ => format!("{:o}", number.unsigned_abs()),
                };
                let prefix = if self.is_alternate { format!("0{}", self.conversion) } else { String::new() };
                self.pad_number(text, number < 0, &prefix, &digits);
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let number = real(&value)?;
                let digits = self.digits(number.abs());
                let digits =
                    if self.conversion.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
                self.pad_number(text, number.is_sign_negative() && !number.is_nan(), "", &digits);
            }
            other => return Err(refused(format!("a format has no conversion {other:?}"))),
        }
        Ok(())
    }

    fn pad_text(&self, text: &mut String, content: &str) {
        let content: String = content.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        let missing = self.width.saturating_sub(content.chars().count());
        let spaces = std::iter::repeat_n(' ', missing);
        if self.is_left {
            text.push_str(&content);
            text.extend(spaces);
        } else {
            text.extend(spaces);
            text.push_str(&content);
        }
    }

    fn pad_number(&self, text: &mut String, is_negative: bool, prefix: &str, digits: &str) {
        let sign = match (is_negative, self.has_plus, self.has_space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        // The precision of an integer is its least number of digits.
        let is_integer = "diuxXo".contains(self.conversion);
        let least = self.precision.filter(|_| is_integer).unwrap_or(0);
        let mut zeros = least.saturating_sub(digits.len());
        let length = sign.len() + prefix.len() + zeros + digits.len();
        if self.is_zero_padded && !self.is_left {
            zeros += self.width.saturating_sub(length);
        }
        let whole = format!("{sign}{prefix}{}{digits}", "0".repeat(zeros));
        Self { width: self.width, is_left: self.is_left, ..Self::default() }.pad_text(text, &whole);
    }

    /// A number that is not negative, without its sign.
    fn digits(&self, number: f64) -> String {
        let precision = self.precision.unwrap_or(6);
        if !number.is_finite() {
            return if number.is_nan() { "nan" } else { "inf" }.to_owned();
        }
        match self.conversion.to_ascii_lowercase() {
            'f' => format!("{number:.precision$}"),
            'e' => scientific(number, precision),
            _ => {
                let precision = precision.max(1);
                let rounded = scientific(number, precision - 1);
                let exponent: isize = rounded.rsplit_once('e').map_or(0, |(_, n)| n.parse().unwrap_or(0));
                // Digits behind the point; none where those before it are too many already.
                let n_behind = precision.checked_add_signed(-1 - exponent);
                let is_fixed = exponent >= -4 && n_behind.is_some();
                let n_behind = n_behind.unwrap_or(0);
                let text = if is_fixed { format!("{number:.n_behind$}") } else { rounded };
                if self.is_alternate { text } else { without_zeros(&text) }
            }
        }
    }
}

/// `1.5e+16`, the exponent with two digits at least.
fn scientific(number: f64, precision: usize) -> String {
    with_exponent(&format!("{number:.precision$e}"))
}

/// Zeros at the end of a fraction go, and the point with them.
fn without_zeros(text: &str) -> String {
    let (digits, exponent) = text.split_at(text.find('e').unwrap_or(text.len()));
    if !digits.contains('.') {
        return text.to_owned();
    }
    format!("{}{exponent}", digits.trim_end_matches('0').trim_end_matches('.'))
}

fn number(text: &str) -> Result<(usize, &str), Error> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let number = if digits.is_empty() { Ok(0) } else { digits.parse() };
    Ok((limited(number.unwrap_or(u64::MAX))?, rest))
}

fn limited(width: u64) -> Result<usize, Error> {
    let width = usize::try_from(width).unwrap_or(usize::MAX);
    if width > MAX_WIDTH { Err(refused(format!("a format wider than {MAX_WIDTH}"))) } else { Ok(width) }
}

/// Whether a number is negative, and the digits of its whole part.
fn whole(value: &Value) -> Result<(bool, String), Error> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        let number = real(value)?.trunc();
        if !number.is_finite() {
            return Err(refused("cannot write an infinite number as an integer"));
        }
        return Ok((number < 0.0, format!("{:.0}", number.abs())));
    }
    let number = integer(value)?;
    Ok((number < 0, number.unsigned_abs().to_string()))
}

fn integer(value: &Value) -> Result<i128, Error> {
    match value.kind() {
        ValueKind::Bool => Ok(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => Ok(i128::try_from(value.clone())?),
        kind => Err(refused(format!("the format wants an integer, not a value that is {kind}"))),
    }
}

fn real(value: &Value) -> Result<f64, Error> {
    match value.kind() {
        ValueKind::Bool => Ok(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => Ok(f64::try_from(value.clone())?),
        kind => Err(refused(format!("the format wants a number, not a value that is {kind}"))),
    }
}

fn character(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str().filter(|text| text.chars().count() == 1) {
        return Ok(text.to_owned());
    }
    let number = integer(value)?;
    let character = u32::try_from(number).ok().and_then(char::from_u32);
    character.map(String::from).ok_or_else(|| refused("%c wants one character"))
}
