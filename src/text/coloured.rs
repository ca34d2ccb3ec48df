//! The filters and methods of templates on texts with colours (see special.rs): what they find and cut is what they
//! would find and cut without colours, and every character that comes from a coloured one has its colour.

use std::ops::Range;
use std::sync::Arc;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, Output, State, Value};

use super::methods::{method, print};
use super::special::Colours;

/// Filters and methods that write a text character by character.
const MAPPING: [&str; 4] = ["lower", "upper", "title", "capitalize"];
/// Methods that do, and are no filters.
const MAPPING_METHODS: [&str; 2] = ["casefold", "swapcase"];
/// Filters that write something else in place of a character.
const SPELLING: [&str; 4] = ["e", "escape", "tojson", "string"];
/// Filters that cut, and the methods that do the same.
const CUTTING: [(&str, &str); 3] = [("trim", "strip"), ("split", "split"), ("replace", "replace")];
/// Methods with an answer that has no characters of the text.
const ASKING: [&str; 19] = [
    "startswith",
    "endswith",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "isalnum",
    "isalpha",
    "isascii",
    "isdigit",
    "isnumeric",
    "islower",
    "isupper",
    "isspace",
    "isdecimal",
    "isidentifier",
    "isprintable",
    "istitle",
];

/// An environment whose filters and methods see through colours. `plain` is the one without.
pub(super) fn coloured_environment(plain: &Environment<'static>, colours: &Colours) -> Environment<'static> {
    let plain = Arc::new(plain.clone());
    let mut environment = (*plain).clone();
    for name in MAPPING {
        let filter = Painted::new(&plain, colours);
        environment.add_filter(name, move |value: &Value, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            filter.map(value, |value| filter.filter(name, value, &args))
        });
    }
    for name in SPELLING {
        let filter = Painted::new(&plain, colours);
        environment.add_filter(name, move |value: &Value, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            let written = filter.filter(name, &filter.strip(value), &args)?;
            Ok(if filter.has_colours(value) { filter.paint(&written) } else { filter.repaint(written) })
        });
    }
    for (name, method_name) in CUTTING {
        let filter = Painted::new(&plain, colours);
        environment.add_filter(name, move |state: &mut State, value: &Value, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            if filter.has_colours(value) {
                filter.cut(state, value, method_name, &args)
            } else {
                filter.filter(name, value, &args)
            }
        });
    }
    let painted = Painted::new(&plain, colours);
    environment.set_unknown_method_callback(move |state, value, name, args| {
        painted.method(state, value, name, args)
    });
    let painted = Painted::new(&plain, colours);
    environment.set_formatter(move |output: &mut Output, state: &mut State, value: &Value| {
        if matches!(value.kind(), ValueKind::Seq | ValueKind::Map) {
            let text = painted.repaint(Value::from(super::python::to_python(value)?));
            return print(output, state, &text);
        }
        print(output, state, value)
    });
    environment
}

/// Filters and methods that see through colours.
struct Painted {
    plain: Arc<Environment<'static>>,
    colours: Colours,
}

impl Painted {
    fn new(plain: &Arc<Environment<'static>>, colours: &Colours) -> Self {
        Self { plain: Arc::clone(plain), colours: colours.clone() }
    }

    /// The filter of the environment without colours.
    fn filter(&self, name: &str, value: &Value, args: &[Value]) -> Result<Value, Error> {
        let args: Vec<Value> = std::iter::once(value).chain(args).cloned().collect();
        self.plain.empty_state().apply_filter(name, &args)
    }

    fn has_colours(&self, value: &Value) -> bool {
        value.as_str().is_some_and(|text| self.colours.are_in(text))
    }

    /// A text as it reads; anything else as it is.
    fn strip(&self, value: &Value) -> Value {
        if self.has_colours(value) {
            Value::from(self.colours.strip(value.as_str().unwrap_or_default()))
        } else {
            value.clone()
        }
    }

    /// Where a text has any colour, all of it gets some: which character became which is not known.
    fn repaint(&self, value: Value) -> Value {
        if self.has_colours(&value) { self.paint(&value) } else { value }
    }

    fn paint(&self, value: &Value) -> Value {
        value.as_str().map_or_else(|| value.clone(), |text| Value::from(self.colours.paint(text)))
    }

    /// Writes a text character by character. Where one becomes another that special tokens have, it keeps its colour,
    /// and gets one if it could not have any before.
    fn map(&self, value: &Value, write: impl Fn(&Value) -> Result<Value, Error>) -> Result<Value, Error> {
        let written = write(&self.strip(value))?;
        let (Some(before), Some(after)) = (value.as_str(), written.as_str()) else { return Ok(written) };
        if before.chars().count() != after.chars().count() {
            return Ok(Value::from(self.colours.paint(after)));
        }
        let pairs = before.chars().zip(after.chars());
        let paint = |(before, after): (char, char)| {
            let is_own = before == after || self.colours.know(before);
            if is_own { after } else { self.colours.paint_character(after) }
        };
        Ok(Value::from(pairs.map(paint).collect::<String>()))
    }

    fn method(&self, state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
        let is_text = value.kind() == ValueKind::String;
        if !is_text || !self.has_colours(value) && !args.iter().any(|arg| self.has_colours(arg)) {
            return method(state, value, name, args);
        }
        if MAPPING.contains(&name) || MAPPING_METHODS.contains(&name) {
            return self.map(value, |value| self.plain_method(value, name, args));
        }
        if ASKING.contains(&name) {
            let args: Vec<Value> = args.iter().map(|arg| self.strip(arg)).collect();
            return method(state, &self.strip(value), name, &args);
        }
        match name {
            "strip" | "lstrip" | "rstrip" | "removeprefix" | "removesuffix" | "split" | "rsplit"
            | "splitlines" | "partition" | "rpartition" | "replace" => self.cut(state, value, name, args),
            _ => method(state, value, name, args),
        }
    }

    fn plain_method(&self, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
        method(&mut self.plain.empty_state(), value, name, args)
    }

    /// Cuts a text as it reads, and takes the same pieces of the coloured one.
    fn cut(&self, state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
        let whole = value.as_str().unwrap_or_default();
        let text = self.colours.strip(whole);
        let plain_value = Value::from(text.as_ref());
        let sought: Vec<Value> = args.iter().map(|arg| self.strip(arg)).collect();
        if name == "replace" {
            let sought = sought.first().and_then(Value::as_str).filter(|sought| !sought.is_empty());
            let (Some(sought), Some(put)) = (sought, args.get(1).and_then(Value::as_str)) else {
                return method(state, value, name, args);
            };
            let count = args.get(2).and_then(|count| usize::try_from(count.clone()).ok());
            let found = text.match_indices(sought).take(count.unwrap_or(usize::MAX));
            let mut ranges = Vec::new();
            let mut done = 0;
            for (start, found) in found {
                ranges.push(done..start);
                done = start + found.len();
            }
            ranges.push(done..text.len());
            let n_put = (ranges.len() - 1).saturating_mul(put.len());
            state.consume_fuel((n_put / 64) as u64)?;
            return Ok(Value::from(self.slices(whole, &ranges).join(put)));
        }
        let result = method(state, &plain_value, name, &sought)?;
        if let Some(piece) = result.as_str() {
            let skips_start = matches!(name, "strip" | "lstrip" | "removeprefix");
            let rest = if name == "strip" {
                method(state, &plain_value, "lstrip", &sought)?
            } else {
                result.clone()
            };
            let rest = rest.as_str().unwrap_or_default();
            let start = if skips_start { text.len() - rest.len() } else { 0 };
            let range = start..start + piece.len();
            return Ok(self.slices(whole, std::slice::from_ref(&range)).concat().into());
        }
        // The parts of a partition are the whole text.
        let is_partition = name.ends_with("partition");
        let separator = sought.first().and_then(Value::as_str).filter(|_| !is_partition).map_or(0, str::len);
        let mut ranges = Vec::new();
        let mut at = 0;
        for piece in result.try_iter()? {
            let piece = piece.as_str().unwrap_or_default();
            // White space that no separator names lies between pieces.
            let start = text.get(at..).and_then(|rest| rest.find(piece)).map_or(at, |skipped| at + skipped);
            ranges.push(start..start + piece.len());
            at = start + piece.len() + separator;
        }
        Ok(self.slices(whole, &ranges).into_iter().map(Value::from).collect())
    }

    /// Pieces of a coloured text. `ranges` rise and are those of the text as it reads.
    fn slices(&self, coloured: &str, ranges: &[Range<usize>]) -> Vec<String> {
        let mut characters = coloured.chars().peekable();
        let mut at = 0;
        let mut slice = |range: &Range<usize>| {
            let mut piece = String::new();
            while at < range.end
                && let Some(character) = characters.next()
            {
                if at >= range.start {
                    piece.push(character);
                }
                at += self.colours.below(character).unwrap_or(character).len_utf8();
            }
            piece
        };
        ranges.iter().map(&mut slice).collect()
    }
}
