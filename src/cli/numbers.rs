//! Numbers with a range, and names of what numbers are kept as; a wrong one is refused with what is right.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::numbers::{DeviceChoice, KvCacheDtype, round_to_f32};

/// A parser for whole numbers from `min` to `max`.
pub fn count(min: usize, max: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse::<usize>().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| format!("wanted a whole number from {min} to {max}"))
    }
}

/// A parser for numbers that `fits` takes; `wanted` says which.
pub fn number(
    fits: fn(f64) -> bool,
    wanted: &'static str,
) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse::<f64>().ok().filter(|number| fits(*number));
        // As in a request file: first the number, then its range, then f32.
        number.map(round_to_f32).ok_or_else(|| format!("wanted {wanted}"))
    }
}

/// A parser for times in seconds from `min` to `max`.
pub fn seconds(min: f64, max: f64) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse::<f64>().ok().filter(|number| (min..=max).contains(number));
        let time = number.and_then(|number| Duration::try_from_secs_f64(number).ok());
        time.ok_or_else(|| format!("wanted seconds from {min} to {max}"))
    }
}

/// A parser for what keys and values are kept as.
pub fn device_choice() -> impl TypedValueParser<Value = DeviceChoice> {
    PossibleValuesParser::new(DeviceChoice::ALL.map(DeviceChoice::name))
        .map(|name| DeviceChoice::from_name(&name).unwrap_or_default())
}

pub fn kv_cache_dtype() -> impl TypedValueParser<Value = KvCacheDtype> {
    PossibleValuesParser::new(KvCacheDtype::ALL.map(KvCacheDtype::name))
        .map(|name| KvCacheDtype::from_name(&name).unwrap_or_default())
}

/// Parses a token id.
pub fn token_id(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("wanted token ids from 0 to {}, separated by commas", u32::MAX))
}

/// Parses how much of an adapter.
pub fn scale(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| "wanted a finite number".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let parse = count(1, 16);
        for (text, wanted) in [("1", Some(1)), ("16", Some(16)), ("0", None), ("17", None), ("-1", None)] {
            assert_eq!(parse(text).ok(), wanted, "{text}");
        }
        for text in ["", " 3", "3.0", "0x3", "three", "18446744073709551617"] {
            assert_eq!(parse(text), Err("wanted a whole number from 1 to 16".to_owned()), "{text}");
        }
        let parse = seconds(0.1, 60.0);
        assert_eq!(parse("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "61", "nan", "inf", "-1", "", "1s"] {
            assert_eq!(parse(text), Err("wanted seconds from 0.1 to 60".to_owned()), "{text}");
        }
        assert_eq!((scale("0.7"), scale("-1")), (Ok(0.7), Ok(-1.0)));
        for text in ["", "inf", "nan", "1e39", "much"] {
            assert_eq!(scale(text), Err("wanted a finite number".to_owned()), "{text}");
        }
        assert_eq!(token_id("4294967295"), Ok(u32::MAX));
        for text in ["4294967296", "-1", ""] {
            assert!(token_id(text).is_err(), "{text}");
        }
    }
}
