//! A mail: header and body, for `sendmail -t`, which takes the receivers from the header.
//!
//! Nothing that a job or a user wrote can become a header line or end the message: the subject has no control characters and
//! is an encoded word where it is not plain ASCII, the body is base64.

use super::Event;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

/// Longest subject, characters.
const SUBJECT_MAX: usize = 160;
/// Bytes in one encoded word: RFC 2047 allows 75 characters with its frame.
const ENCODED_BYTES: usize = 39;
/// Characters in a line of base64, RFC 2045.
const LINE: usize = 76;

/// The whole message.
pub(super) fn message(to: &[String], from: Option<&str>, event: &Event, host: &str) -> String {
    let date = Timestamp::from_millisecond(event.at_ms).unwrap_or_default();
    let date = jiff::fmt::rfc2822::to_string(&date.to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default();
    let word = |text: &str| -> String {
        text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')).collect()
    };
    let mut text = format!("To: {}\n", to.join(",\n "));
    if let Some(from) = from {
        text.push_str(&format!("From: {from}\n"));
    }
    let pretty = serde_json::to_string_pretty(&event.data).unwrap_or_default();
    let body = STANDARD.encode(format!("{}\n\n{pretty}\n", event.title));
    text.push_str(&format!(
        "Subject: {}\nDate: {date}\nMessage-ID: <{}@{}>\nAuto-Submitted: auto-generated\nX-CI-Runner-Event: {}\n\
         MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n",
        subject(&event.title),
        word(&event.id),
        word(host),
        word(&event.kind),
    ));
    for line in body.as_bytes().chunks(LINE) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text
}

fn subject(title: &str) -> String {
    let plain: String = title.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SUBJECT_MAX).collect();
    if plain.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !plain.contains("=?") {
        return fold(&plain);
    }
    let mut words = Vec::new();
    let mut part = String::new();
    for c in plain.chars() {
        if part.len() + c.len_utf8() > ENCODED_BYTES {
            words.push(std::mem::take(&mut part));
        }
        part.push(c);
    }
    words.push(part);
    let encoded: Vec<String> = words.iter().map(|word| format!("=?UTF-8?B?{}?=", STANDARD.encode(word))).collect();
    encoded.join("\n ")
}

/// Lines of a header are at most 998 characters; a subject is short enough for one.
fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn event(title: &str) -> Event {
        Event {
            id: "job-1".into(),
            kind: "job.ended".into(),
            at_ms: 0,
            title: title.into(),
            data: json!({"name": title}),
        }
    }

    #[test]
    fn a_plain_subject_is_readable() {
        let text = message(&["ops@example.org".into()], None, &event("job 7 failed"), "host");
        assert!(text.starts_with("To: ops@example.org\nSubject: job 7 failed\nDate: Thu, 1 Jan 1970"), "{text}");
        assert!(subject("gr\u{fc}n").starts_with("=?UTF-8?B?"));
    }

    proptest! {
        #[test]
        fn no_title_makes_a_header(title in "(\\PC|\n|\r|\u{0}|:|\\.){0,300}") {
            let one = |text: &str| message(&["a@b".into()], Some("c@d"), &event(text), "host");
            let text = one(&title);
            let (header, body) = text.split_once("\n\n").unwrap();
            let names = |header: &str| -> Vec<String> {
                header.lines().filter(|line| !line.starts_with(' ')).map(|line| line.split(':').next().unwrap_or("").to_owned()).collect()
            };
            let expected = one("x");
            prop_assert_eq!(names(header), names(expected.split_once("\n\n").unwrap().0));
            prop_assert!(text.lines().all(|line| line.len() < 998 && line.is_ascii() && !line.contains('\r')));
            prop_assert!(body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=\n".contains(&byte)));
        }
    }
}
