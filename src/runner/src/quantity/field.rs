//! Durations and sizes as fields of TOML and JSON: a number (seconds, bytes) or the command line's text.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use super::{DURATION_MAX, SIZE_MAX_BYTES, parse_duration, parse_size};

/// A duration: a number of seconds (whole or not) or a text such as `30m`. Written as seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationField(pub Duration);

/// A size: a whole number of bytes or a text such as `64M`. Written as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SizeField(pub u64);

/// A limit that may be lifted: `unlimited` (or `none`, `off`), or what `T` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitField<T> {
    /// No limit at all.
    Unlimited,
    /// This limit.
    Limit(T),
}

impl DurationField {
    /// In whole milliseconds, cut off. A duration is at most 100 years, so it always fits.
    pub fn millis(self) -> u64 {
        self.0.as_millis() as u64
    }

    fn from_seconds(seconds: f64) -> Result<Self, String> {
        if !(0.0..=DURATION_MAX.as_secs_f64()).contains(&seconds) {
            let bound = if seconds < 0.0 { "negative" } else { "longer than 100 years" };
            return Err(format!(
                "{seconds} seconds cannot be: a duration is never {bound} (write it like 1800 or \"30m\")"
            ));
        }
        Duration::try_from_secs_f64(seconds).map(DurationField).map_err(|error| error.to_string())
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = DurationField;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a duration: seconds like 1800 or a text like \"30m\"")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<DurationField, E> {
        DurationField::from_seconds(seconds as f64).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<DurationField, E> {
        DurationField::from_seconds(seconds as f64).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, seconds: f64) -> Result<DurationField, E> {
        DurationField::from_seconds(seconds).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<DurationField, E> {
        parse_duration(text).map(DurationField).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for DurationField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor)
    }
}

impl Serialize for DurationField {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.subsec_nanos() {
            0 => serializer.serialize_u64(self.0.as_secs()),
            _ => serializer.serialize_f64(self.0.as_secs_f64()),
        }
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = SizeField;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a size: whole bytes like 65536 or a text like \"64M\"")
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<SizeField, E> {
        if bytes > SIZE_MAX_BYTES {
            return Err(E::custom(format!("{bytes} bytes is more than 1 EiB (write it like 65536 or \"64M\")")));
        }
        Ok(SizeField(bytes))
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<SizeField, E> {
        let bytes = u64::try_from(bytes).map_err(|_| {
            E::custom(format!("{bytes} bytes cannot be: a size is never negative (write it like 65536 or \"64M\")"))
        })?;
        self.visit_u64(bytes)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SizeField, E> {
        parse_size(text).map(SizeField).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for SizeField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl Serialize for SizeField {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

struct LimitVisitor<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for LimitVisitor<V> {
    type Value = LimitField<V::Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)?;
        formatter.write_str(", or \"unlimited\"")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.0.visit_u64(value).map(LimitField::Limit)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        self.0.visit_i64(value).map(LimitField::Limit)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        self.0.visit_f64(value).map(LimitField::Limit)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        match text.trim() {
            "unlimited" | "none" | "off" => Ok(LimitField::Unlimited),
            _ => self.0.visit_str(text).map(LimitField::Limit),
        }
    }
}

impl<'de> Deserialize<'de> for LimitField<DurationField> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LimitVisitor(DurationVisitor))
    }
}

impl<'de> Deserialize<'de> for LimitField<SizeField> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LimitVisitor(SizeVisitor))
    }
}

impl<T> LimitField<T> {
    /// `None` where there is no limit.
    pub fn into_option(self) -> Option<T> {
        match self {
            LimitField::Unlimited => None,
            LimitField::Limit(limit) => Some(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(json: &str) -> Result<Duration, String> {
        serde_json::from_str::<DurationField>(json).map(|field| field.0).map_err(|error| error.to_string())
    }

    fn size(json: &str) -> Result<u64, String> {
        serde_json::from_str::<SizeField>(json).map(|field| field.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_number_or_a_text() {
        assert_eq!(duration("1800"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("\"30m\""), Ok(Duration::from_secs(1800)));
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("\"64M\""), Ok(64 << 20));
        assert_eq!(serde_json::to_string(&DurationField(Duration::from_millis(1500))).unwrap(), "1.5");
        assert_eq!(serde_json::to_string(&DurationField(Duration::from_secs(30))).unwrap(), "30");
        assert_eq!(serde_json::to_string(&SizeField(7)).unwrap(), "7");
    }

    #[test]
    fn limits_can_be_lifted() {
        let limit: LimitField<DurationField> = serde_json::from_str("\"unlimited\"").unwrap();
        assert_eq!(limit.into_option(), None);
        let limit: LimitField<SizeField> = serde_json::from_str("\"1K\"").unwrap();
        assert_eq!(limit.into_option(), Some(SizeField(1024)));
    }

    #[test]
    fn nonsense_is_refused_with_the_mend() {
        for (json, part) in [
            ("-1", "negative"),
            ("1e300", "100 years"),
            ("\"x\"", "not a duration"),
            ("true", "\"30m\""),
            ("[]", "\"30m\""),
        ] {
            let error = duration(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
        for (json, part) in [
            ("-1", "negative"),
            ("1e3", "\"64M\""),
            ("18446744073709551615", "1 EiB"),
            ("\"x\"", "not a size"),
            ("null", "\"64M\""),
        ] {
            let error = size(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
