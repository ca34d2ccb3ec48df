//! Filters of Jinja2 that minijinja lacks or has otherwise. Left out are those that nobody needs in a prompt (`urlize`,
//! `xmlattr`, `wordwrap`, `striptags`) or that depend on chance (`random`): they are unknown filters.

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use super::printf::percent;
use super::python::{to_json, to_python, to_repr};
use super::refusal::{MAX_WIDTH, refused};
use super::text_methods::{centred, is_space};

/// `pprint` breaks longer texts into lines.
const MAX_PRINTED: usize = 79;

pub(super) fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", |value: &Value, options: Kwargs| to_json(value, options));
    environment.add_filter("string", to_python);
    environment.add_filter("wordcount", word_count);
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_filter("forceescape", escape);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("center", |value: &Value, width: Option<i64>| {
        centred(&to_python(value)?, width.unwrap_or(80))
    });
    environment.add_filter("trim", trim);
    environment.add_filter("truncate", truncate);
    environment.add_filter("filesizeformat", file_size);
    environment.add_filter("format", format);
    environment.add_filter("pprint", pretty);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("indent", indent);
    environment.add_filter("dictsort", dict_sort);
    environment.add_filter(
        "unique",
        |state: &mut State, items: Value, places: Rest<Value>, named: Kwargs| {
            filters::unique(state, items, by_name(&["case_sensitive", "attribute"], places, &named)?)
        },
    );
}

/// Arguments by place as arguments by name.
fn by_name(names: &[&'static str], places: Rest<Value>, named: &Kwargs) -> Result<Kwargs, Error> {
    if places.len() > names.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let placed = names.iter().zip(places.0).map(|(name, value)| ((*name).to_owned(), value));
    let mut all: Vec<(String, Value)> = placed.collect();
    for name in named.args() {
        all.push((name.to_owned(), named.get(name)?));
    }
    Ok(all.into_iter().collect())
}

/// `(default_value='', boolean=False)`.
fn default(value: Value, places: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let named = by_name(&["default_value", "boolean"], places, &named)?;
    let otherwise: Option<Value> = named.get("default_value")?;
    let is_boolean: Option<Value> = named.get("boolean")?;
    named.assert_all_used()?;
    let is_missing = value.is_undefined() || is_boolean.is_some_and(|b| b.is_true()) && !value.is_true();
    Ok(if is_missing { otherwise.unwrap_or_else(|| Value::from("")) } else { value })
}

/// `(default=0, base=10)`.
fn int(value: &Value, places: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let named = by_name(&["default", "base"], places, &named)?;
    let otherwise = named.get::<Option<Value>>("default")?.unwrap_or_else(|| Value::from(0));
    let base = named.get::<Option<u32>>("base")?.unwrap_or(10);
    named.assert_all_used()?;
    let whole = |number: f64| {
        // Beyond these a number has no place as an integer.
        #[expect(clippy::cast_possible_truncation, reason = "1e36 is below 2^127, and there is no fraction")]
        (number.abs() < 1e36).then(|| integer(number.trunc() as i128))
    };
    let found = match (value.as_str(), value.kind()) {
        (Some(text), _) => {
            let number = parsed(text, base).map(integer);
            number.or_else(|| text.trim_matches(is_space).parse().ok().and_then(whole))
        }
        (None, ValueKind::Bool) => Some(Value::from(i64::from(value.is_true()))),
        (None, ValueKind::Number) if value.is_integer() => Some(value.clone()),
        (None, ValueKind::Number) => whole(f64::try_from(value.clone())?),
        _ => None,
    };
    Ok(found.unwrap_or(otherwise))
}

/// An integer as Python reads it: with a sign, with underscores, with the prefix of its base.
fn parsed(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    let lower = digits.to_ascii_lowercase();
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = lower.strip_prefix(prefix).unwrap_or(&lower).replace('_', "");
    if !(2..=36).contains(&base) || digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(&digits, base).ok()?;
    Some(if sign == "-" { -number } else { number })
}

fn integer(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

fn float(value: &Value, otherwise: Option<Value>) -> Value {
    let found = match (value.as_str(), value.kind()) {
        (Some(text), _) => text.trim_matches(is_space).parse().ok(),
        (None, ValueKind::Bool) => Some(f64::from(u8::from(value.is_true()))),
        (None, ValueKind::Number) => f64::try_from(value.clone()).ok(),
        _ => None,
    };
    found.map_or_else(|| otherwise.unwrap_or_else(|| Value::from(0.0)), Value::from)
}

/// `(width=4, first=False, blank=False)`; the width is a number of spaces, or the text itself.
fn indent(state: &mut State, value: &Value, places: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let named = by_name(&["width", "first", "blank"], places, &named)?;
    let width = named.get::<Option<Value>>("width")?.unwrap_or_else(|| Value::from(4));
    let [indents_first, indents_blank] = ["first", "blank"].map(|name| named.get::<Option<Value>>(name));
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let (indents_first, indents_blank) = (is_set(indents_first?), is_set(indents_blank?));
    named.assert_all_used()?;
    let indention = match width.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(width)?.min(MAX_WIDTH + 1)),
    };
    if indention.len() > MAX_WIDTH {
        return Err(refused(format!("indent wider than {MAX_WIDTH}")));
    }
    let text = to_python(value)?;
    let n_lines = text.split('\n').count();
    state.consume_fuel((n_lines.saturating_mul(indention.len()) / 64) as u64)?;
    let mut lines = Vec::with_capacity(n_lines);
    for (idx, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let is_indented = if idx == 0 { indents_first } else { indents_blank || !line.is_empty() };
        lines.push(format!("{}{line}", if is_indented { &indention } else { "" }));
    }
    Ok(lines.join("\n"))
}

/// `(case_sensitive=False, by='key', reverse=False)`: pairs in order.
fn dict_sort(value: &Value, places: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let named = by_name(&["case_sensitive", "by", "reverse"], places, &named)?;
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let minds_case = is_set(named.get("case_sensitive")?);
    let by = named.get::<Option<String>>("by")?.unwrap_or_else(|| "key".to_owned());
    let is_reversed = is_set(named.get("reverse")?);
    named.assert_all_used()?;
    if value.kind() != ValueKind::Map || !["key", "value"].contains(&by.as_str()) {
        return Err(refused("dictsort takes a mapping, and sorts by key or value"));
    }
    let rank = |value: &Value| match value.as_str() {
        Some(text) if !minds_case => Value::from(text.to_lowercase()),
        _ => value.clone(),
    };
    let mut pairs = Vec::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        pairs.push((rank(if by == "key" { &key } else { &item }), Value::from((key, item))));
    }
    pairs.sort_by(|(one, _), (other, _)| if is_reversed { other.cmp(one) } else { one.cmp(other) });
    Ok(pairs.into_iter().map(|(_, pair)| pair).collect())
}

/// Runs of letters, digits and underscores.
fn word_count(value: &Value) -> Result<usize, Error> {
    let text = to_python(value)?;
    let is_between = |character: char| !character.is_alphanumeric() && character != '_';
    Ok(text.split(is_between).filter(|word| !word.is_empty()).count())
}

fn trim(value: &Value, characters: Option<&str>) -> Result<String, Error> {
    let text = to_python(value)?;
    let goes = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    Ok(text.trim_matches(goes).to_owned())
}

/// `(length=255, killwords=False, end='...', leeway=5)`, by place or by name.
fn truncate(value: &Value, places: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let text = to_python(value)?;
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        places.get(place).cloned().map_or_else(|| named.get(name), |value| Ok(Some(value)))
    };
    let number = |value: Option<Value>, otherwise| value.map_or(Ok(otherwise), usize::try_from);
    let length = number(argument(0, "length")?, 255)?;
    let cuts_words = argument(1, "killwords")?.is_some_and(|cuts| cuts.is_true());
    let end = argument(2, "end")?.map_or(Ok("...".to_owned()), |end| to_python(&end))?;
    let leeway = number(argument(3, "leeway")?, 5)?;
    named.assert_all_used()?;
    let end_length = end.chars().count();
    if length < end_length {
        return Err(refused(format!("truncate: length {length} is less than its end's")));
    }
    if text.chars().count() <= length + leeway {
        return Ok(text);
    }
    let start: String = text.chars().take(length - end_length).collect();
    let start = if cuts_words { start.as_str() } else { start.rsplit_once(' ').map_or(&*start, |(s, _)| s) };
    Ok(format!("{start}{end}"))
}

/// Bytes as people read them.
fn file_size(value: &Value, is_binary: Option<bool>) -> Result<String, Error> {
    let number = match value.as_str() {
        Some(text) => text.trim().parse().map_err(|_| refused("filesizeformat takes a number"))?,
        None => f64::try_from(value.clone())?,
    };
    let is_binary = is_binary.unwrap_or(false);
    let base: f64 = if is_binary { 1024.0 } else { 1000.0 };
    if number == 1.0 {
        return Ok("1 Byte".to_owned());
    }
    if number < base {
        return Ok(format!("{} Bytes", number.trunc()));
    }
    let prefixes = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut unit = base;
    let mut prefix = prefixes[0];
    for next in prefixes {
        (unit, prefix) = (unit * base, next);
        if number < unit {
            break;
        }
    }
    let size = base * number / unit;
    Ok(match is_binary {
        true => format!("{size:.1} {}iB", prefix.to_uppercase()),
        false => format!("{size:.1} {prefix}B"),
    })
}

/// `'%s %s' | format(a, b)`, or with names.
fn format(value: &Value, places: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let names: Vec<(String, Value)> =
        named.args().map(|name| Ok((name.to_owned(), named.get(name)?))).collect::<Result<_, Error>>()?;
    let text = to_python(value)?;
    match (places.0.is_empty(), names.is_empty()) {
        (true, false) => percent(&text, &Value::from_pairs(names)),
        (_, true) => percent(&text, &Tuple::new(places.0).into()),
        (false, false) => Err(refused("format takes values by place or by name, not both")),
    }
}

fn pretty(value: &Value) -> Result<String, Error> {
    let text = to_repr(value)?;
    if text.chars().count() > MAX_PRINTED {
        return Err(refused(format!("pprint of more than {MAX_PRINTED} characters is not done; use tojson")));
    }
    Ok(text)
}

/// The text in an address: letters, digits and `_.-~/` stay; of pairs, names and values with `&` between them.
fn urlencode(value: &Value) -> Result<String, Error> {
    let pair = |name: &Value, value: &Value| -> Result<String, Error> {
        Ok(format!("{}={}", quoted_plus(&to_python(name)?), quoted_plus(&to_python(value)?)))
    };
    match value.kind() {
        ValueKind::Map => {
            let pairs = value.try_iter()?.map(|name| pair(&name, &value.get_item(&name)?));
            Ok(pairs.collect::<Result<Vec<_>, _>>()?.join("&"))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let pairs =
                value.try_iter()?.map(|item| pair(&item.get_item_by_index(0)?, &item.get_item_by_index(1)?));
            Ok(pairs.collect::<Result<Vec<_>, _>>()?.join("&"))
        }
        _ => Ok(quoted(&to_python(value)?)),
    }
}

fn quoted(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// As in a query: a space is a plus sign, and `/` does not stay.
fn quoted_plus(text: &str) -> String {
    quoted(text).replace("%20", "+").replace('/', "%2F")
}

/// HTML escapes as markupsafe writes them.
fn escape(value: &Value) -> Result<String, Error> {
    let text = to_python(value)?;
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(text.replace('\'', "&#39;").replace('"', "&#34;"))
}
