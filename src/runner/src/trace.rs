//! Where a submission belongs in somebody else's trace: W3C trace context (www.w3.org/TR/trace-context) and `X-Request-Id`.
//!
//! Both become the correlation id, which goes with a job into its log records, its environment and its answers. What is not
//! valid is as if it were not there, as the W3C asks: a proxy's mistake must not keep a job out.

/// Longest `X-Request-Id` that is taken: that of a correlation id.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The trace of a valid `traceparent`, as a UUID; its parent and flags are those of another program's span and end here.
pub fn trace_of(traceparent: &str) -> Option<String> {
    let lower_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = traceparent.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (parent, flags) = (parts.next()?, parts.next()?);
    let lengths = [version.len(), trace.len(), parent.len(), flags.len()] == [2, 32, 16, 2];
    let hex = [version, trace, parent, flags].into_iter().all(lower_hex);
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    // Later versions may have more behind; version ff is none.
    let ended = parts.next().is_none() || version != "00";
    if !lengths || !hex || version == "ff" || zero(trace) || zero(parent) || !ended {
        return None;
    }
    uuid::Uuid::try_parse(trace).ok().map(|trace| trace.to_string())
}

/// An `X-Request-Id` of safe characters: none that a log, a shell or a query would read as its own.
pub fn request_id(text: &str) -> Option<String> {
    let safe =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=');
    let valid = (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(safe);
    valid.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_traceparent_is_taken() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let uuid = Some("0af76519-16cd-43dd-8448-eb211c80319c".to_owned());
        for (text, expected) in [
            (format!("00-{trace}-b7ad6b7169203331-01"), uuid.clone()),
            (format!("cc-{trace}-b7ad6b7169203331-01-what-the-future-brings"), uuid.clone()),
            (format!("cc-{trace}-b7ad6b7169203331-01"), uuid),
            (format!("00-{trace}-b7ad6b7169203331-01-more"), None),
            (format!("ff-{trace}-b7ad6b7169203331-01"), None),
            (format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()), None),
            (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), None),
            (format!("00-{trace}-0000000000000000-01"), None),
            (format!("00-{trace}-b7ad6b7169203331"), None),
            (format!("00-{trace}-b7ad6b7169203331-1"), None),
            (format!(" 00-{trace}-b7ad6b7169203331-01"), None),
            (format!("00-{}x-b7ad6b7169203331-01", &trace[1..]), None),
            (String::new(), None),
        ] {
            assert_eq!(trace_of(&text), expected, "{text}");
        }
    }

    #[test]
    fn a_request_id_is_short_and_harmless() {
        assert_eq!(request_id("req-7/a.b:c=+_Z").as_deref(), Some("req-7/a.b:c=+_Z"));
        for text in ["", "a b", "a\"b", "a\x1bb", "é", &"x".repeat(129)] {
            assert_eq!(request_id(text), None, "{text}");
        }
    }
}
