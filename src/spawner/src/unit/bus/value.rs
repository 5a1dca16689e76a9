//! D-Bus values: written one type at a time, read by their signature.
//!
//! The format is the "Marshaling" chapter of <https://dbus.freedesktop.org/doc/dbus-specification.html>, little endian only:
//! every value is aligned to its own size, counted from the start of the body (which itself starts at a multiple of 8).
//! Reading has bounds for depth and length, so that no message can make it run away.

use std::os::fd::OwnedFd;

/// Nesting of containers in a message that is read; systemd's own properties need 6.
const DEPTH_MAX: usize = 32;

/// The body of a message that is sent.
#[derive(Default)]
pub(crate) struct Body {
    /// Marshalled values.
    pub(crate) bytes: Vec<u8>,
    /// Descriptors that `h` values count into.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Body {
    /// Padding up to a multiple of `to`.
    pub(crate) fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    /// `y`
    pub(crate) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// `b`
    pub(crate) fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// `u`
    pub(crate) fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// `i`
    pub(crate) fn i32(&mut self, value: i32) {
        self.align(4);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// `t`
    pub(crate) fn u64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// `s` and `o`. A NUL cannot be in one: it and what follows is left out.
    pub(crate) fn string(&mut self, value: &str) {
        let value = value.split('\0').next().unwrap_or_default();
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
    }

    /// `g`
    pub(crate) fn signature(&mut self, value: &str) {
        self.bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
    }

    /// `h`
    pub(crate) fn fd(&mut self, value: OwnedFd) {
        self.u32(u32::try_from(self.fds.len()).unwrap_or(u32::MAX));
        self.fds.push(value);
    }

    /// An array whose elements are aligned to `element_align` and written by `fill`.
    pub(crate) fn array(&mut self, element_align: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.bytes.len() - 4;
        self.align(element_align);
        let start = self.bytes.len();
        fill(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// `as`
    pub(crate) fn strings<T: AsRef<str>>(&mut self, values: &[T]) {
        self.array(4, |body| values.iter().for_each(|value| body.string(value.as_ref())));
    }
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Every kind of whole number, and booleans; signed ones are extended.
    Number(u64),
    /// `s`, `o`, `g`.
    Text(String),
    /// Arrays, structures, dictionary entries.
    List(Vec<Value>),
    /// What nobody here reads: `d`.
    Other,
}

impl Value {
    /// As a number.
    pub(crate) fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// As a text.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// As a list.
    pub(crate) fn list(&self) -> &[Value] {
        if let Self::List(list) = self { list } else { &[] }
    }

    /// The value of a key of a dictionary with text keys.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.list().iter().find_map(|entry| match entry.list() {
            [name, value] if name.text() == Some(key) => Some(value),
            _ => None,
        })
    }
}

/// Reads values from a body.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// From the start of a body (or of a message, whose header follows the same rules).
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// All values of a signature; None when the bytes do not fit it.
    pub(crate) fn values(&mut self, signature: &str) -> Option<Vec<Value>> {
        let mut rest = signature.as_bytes();
        let mut values = Vec::new();
        while !rest.is_empty() {
            let (one, after) = split_type(rest, 0)?;
            values.push(self.value(one, 0)?);
            rest = after;
        }
        Some(values)
    }

    fn value(&mut self, signature: &[u8], depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match *signature.first()? {
            b'y' => Value::Number(u64::from(*self.take(1, 1)?.first()?)),
            b'n' => Value::Number(i64::from(i16::from_le_bytes(self.array()?)) as u64),
            b'q' => Value::Number(u64::from(u16::from_le_bytes(self.array()?))),
            b'i' => Value::Number(i64::from(i32::from_le_bytes(self.array()?)) as u64),
            b'b' | b'u' | b'h' => Value::Number(u64::from(u32::from_le_bytes(self.array()?))),
            b'x' | b't' => Value::Number(u64::from_le_bytes(self.array()?)),
            b'd' => {
                self.take(8, 8)?;
                Value::Other
            }
            b's' | b'o' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                Value::Text(self.text(length)?)
            }
            b'g' => {
                let length = usize::from(*self.take(1, 1)?.first()?);
                Value::Text(self.text(length)?)
            }
            b'v' => {
                let length = usize::from(*self.take(1, 1)?.first()?);
                let inner = self.text(length)?;
                self.value(inner.as_bytes(), depth + 1)?
            }
            b'a' => self.list(&signature[1..], depth)?,
            b'(' | b'{' => {
                self.take(8, 0)?;
                let mut rest = signature.get(1..signature.len() - 1)?;
                let mut values = Vec::new();
                while !rest.is_empty() {
                    let (one, after) = split_type(rest, 0)?;
                    values.push(self.value(one, depth + 1)?);
                    rest = after;
                }
                Value::List(values)
            }
            _ => return None,
        })
    }

    fn list(&mut self, element: &[u8], depth: usize) -> Option<Value> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        self.take(alignment(*element.first()?), 0)?;
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len())?;
        let mut values = Vec::new();
        while self.at < end {
            let before = self.at;
            values.push(self.value(element, depth + 1)?);
            if self.at == before {
                return None;
            }
        }
        (self.at == end).then_some(Value::List(values))
    }

    /// Aligns, then takes so many bytes.
    fn take(&mut self, align: usize, length: usize) -> Option<&'a [u8]> {
        let start = self.at.checked_next_multiple_of(align)?;
        let end = start.checked_add(length)?;
        let taken = self.bytes.get(start..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N, N)?.try_into().ok()
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = self.take(1, length)?;
        self.take(1, 1)?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

fn alignment(kind: u8) -> usize {
    match kind {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// The first complete type of a signature, and the rest.
fn split_type(signature: &[u8], depth: usize) -> Option<(&[u8], &[u8])> {
    if depth > DEPTH_MAX {
        return None;
    }
    let length = match signature.first()? {
        b'a' => 1 + split_type(&signature[1..], depth + 1)?.0.len(),
        b'(' | b'{' => {
            let mut open = 0_usize;
            let end = signature.iter().position(|&byte| {
                match byte {
                    b'(' | b'{' => open += 1,
                    b')' | b'}' => open = open.saturating_sub(1),
                    _ => {}
                }
                open == 0
            })?;
            end + 1
        }
        _ => 1,
    };
    Some(signature.split_at(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut body = Body::default();
        body.byte(7);
        body.string("ci-job");
        body.array(8, |body| {
            for (name, number) in [("A", 1_u64), ("BB", u64::MAX)] {
                body.align(8);
                body.string(name);
                body.signature("t");
                body.u64(number);
            }
        });
        body.strings(&["x", ""]);
        body.bool(true);
        body.i32(-1);
        let values = Reader::new(&body.bytes).values("ysa{sv}asbi").expect("reads");
        assert_eq!(values[1].text(), Some("ci-job"));
        assert_eq!(values[2].get("BB").and_then(Value::number), Some(u64::MAX));
        assert_eq!(values[3], Value::List(vec![Value::Text("x".to_owned()), Value::Text(String::new())]));
        assert_eq!(values[4].number(), Some(1));
        assert_eq!(values[5].number().map(|number| number as i32), Some(-1));
        for end in 0..body.bytes.len() {
            assert_eq!(Reader::new(&body.bytes[..end]).values("ysa{sv}asbi"), None, "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300),
                                       signature in "[ybnqiuxtdsogvha(){}]{0,12}") {
            drop(Reader::new(&bytes).values(&signature));
        }
    }
}
