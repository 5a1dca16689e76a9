//! Parts of a log by `Range`, and conditions on what it is: RFC 9110, sections 13 and 14.
//!
//! The tag of a log changes with every byte that it grows by, as a strong validator must: `If-Range` gives the rest of what is
//! still the same log of the same length, or all of it. Bytes that are there never change, so a client may as well ask for the
//! rest of a growing log without `If-Range`. One range is served; several, other units and nonsense are answered with everything,
//! as the RFC allows.

use crate::http::Fail;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What is sent of a log of so many bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub begin: u64,
    /// The byte behind the last.
    pub end: u64,
    size: u64,
    /// `Range` was obeyed.
    partial: bool,
    tag: String,
}

/// The strong validator of a log as it is now. A number is never given again, but a store may be made from a backup: so the time of
/// the claim is in it.
pub fn tag(job: u64, attempt: u32, claimed_ms: i64, size: u64) -> String {
    format!("\"{job}-{attempt}-{claimed_ms:x}-{size}\"")
}

/// What to send; the error is an answer without a body of the log.
pub fn answer(headers: &HeaderMap, tag: &str, size: u64) -> Result<Part, Box<Response>> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let all = Part { begin: 0, end: size, size, partial: false, tag: tag.to_owned() };
    if text(header::IF_NONE_MATCH).is_some_and(|tags| names(tags, tag)) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        insert(&mut response, header::ETAG, tag);
        return Err(Box::new(response));
    }
    // A condition that is not met, or that we cannot judge (a date), means: all of it.
    if headers.contains_key(header::IF_RANGE) && text(header::IF_RANGE) != Some(tag) {
        return Ok(all);
    }
    match text(header::RANGE).map(|range| parse(range, size)) {
        None | Some(Asked::All) => Ok(all),
        Some(Asked::Part { begin, end }) => Ok(Part { begin, end, partial: true, ..all }),
        Some(Asked::Beyond) => {
            let why = format!("the log has {size} bytes");
            let fail = Fail::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", why);
            let mut response = fail.into_response();
            insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
            insert(&mut response, header::ETAG, tag);
            Err(Box::new(response))
        }
    }
}

impl Part {
    /// Status and headers of the answer that carries it.
    pub fn describe(&self, response: &mut Response) {
        let Part { begin, end, size, partial, tag } = self;
        if *partial {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            insert(response, header::CONTENT_RANGE, &format!("bytes {begin}-{}/{size}", end.saturating_sub(1)));
        }
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(end - begin));
        response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        insert(response, header::ETAG, tag);
    }
}

fn insert(response: &mut Response, name: header::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(name, value);
    }
}

/// Whether a list of tags names ours; weak ones count here.
fn names(tags: &str, ours: &str) -> bool {
    tags.trim() == "*" || tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == ours)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    All,
    Part { begin: u64, end: u64 },
    Beyond,
}

/// `bytes=0-99`, `bytes=100-`, `bytes=-50`.
fn parse(range: &str, size: u64) -> Asked {
    let Some((unit, spec)) = range.split_once('=') else { return Asked::All };
    let spec = spec.trim();
    let Some((first, last)) = spec.split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes")) else {
        return Asked::All;
    };
    // Numbers only: what Rust takes besides (`+5`) is no part of the grammar. One that is too large is beyond every log.
    let number = |text: &str| match text {
        "" => Some(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(Some(digits.parse().unwrap_or(u64::MAX))),
        _ => None,
    };
    match (number(first), number(last)) {
        (Some(Some(first)), Some(last)) if last.is_none_or(|last| first <= last) => {
            if first >= size {
                return Asked::Beyond;
            }
            Asked::Part { begin: first, end: last.map_or(size, |last: u64| last.saturating_add(1).min(size)) }
        }
        (Some(None), Some(Some(suffix))) => {
            if suffix == 0 || size == 0 {
                return Asked::Beyond;
            }
            Asked::Part { begin: size.saturating_sub(suffix), end: size }
        }
        _ => Asked::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_everything_else_is_all() {
        let part = |begin, end| Asked::Part { begin, end };
        for (range, size, expected) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=2-5", 10, part(2, 6)),
            ("bytes=2-", 10, part(2, 10)),
            ("BYTES=2-99999999999999999999999", 10, part(2, 10)),
            ("bytes=-3", 10, part(7, 10)),
            ("bytes=-30", 10, part(0, 10)),
            ("bytes=10-", 10, Asked::Beyond),
            ("bytes=99999999999999999999999-", 10, Asked::Beyond),
            ("bytes=-0", 10, Asked::Beyond),
            ("bytes=0-", 0, Asked::Beyond),
            ("bytes=-1", 0, Asked::Beyond),
            ("bytes=5-2", 10, Asked::All),
            ("bytes=0-1,3-4", 10, Asked::All),
            ("bytes=+1-2", 10, Asked::All),
            ("bytes=-", 10, Asked::All),
            ("bytes=", 10, Asked::All),
            ("lines=0-1", 10, Asked::All),
            ("0-1", 10, Asked::All),
        ] {
            assert_eq!(parse(range, size), expected, "{range} of {size}");
        }
    }

    #[test]
    fn conditions_come_first() {
        let tag = tag(7, 1, 255, 10);
        assert_eq!(tag, "\"7-1-ff-10\"");
        let asked = |pairs: &[(header::HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(name, value.parse().unwrap());
            }
            answer(&headers, &tag, 10).map_err(|response| response.status())
        };
        let range = (header::RANGE, "bytes=2-3");
        let begin = |part: Result<Part, StatusCode>| part.map(|part| (part.begin, part.end, part.partial));
        assert_eq!(begin(asked(&[])), Ok((0, 10, false)));
        assert_eq!(begin(asked(std::slice::from_ref(&range))), Ok((2, 4, true)));
        assert_eq!(begin(asked(&[range.clone(), (header::IF_RANGE, &tag)])), Ok((2, 4, true)));
        let older = "\"7-1-ff-9\"";
        assert_eq!(begin(asked(&[range.clone(), (header::IF_RANGE, older)])), Ok((0, 10, false)));
        let weak = format!("W/{tag}");
        assert_eq!(begin(asked(&[range.clone(), (header::IF_RANGE, &weak)])), Ok((0, 10, false)), "never a weak one");
        assert_eq!(begin(asked(&[(header::IF_NONE_MATCH, &weak)])), Err(StatusCode::NOT_MODIFIED));
        assert_eq!(begin(asked(&[(header::IF_NONE_MATCH, older)])), Ok((0, 10, false)));
        assert_eq!(begin(asked(&[(header::RANGE, "bytes=10-")])), Err(StatusCode::RANGE_NOT_SATISFIABLE));
    }
}
