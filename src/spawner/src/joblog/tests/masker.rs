//! The masker against a search over the whole buffer, and the forms it finds.

use crate::skipped;
use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use proptest::prelude::*;

use crate::joblog::masker::forms_of;
use crate::joblog::{Masker, SECRET_BYTES_MIN, SECRETS_BYTES_MAX, SecretError, check_secrets};

type Secret<'a> = (&'a str, &'a [u8]);

fn masker(values: &[&[u8]]) -> Masker {
    let secrets: Vec<Secret<'_>> = values.iter().map(|value| ("S", *value)).collect();
    Masker::new(secrets.iter().copied()).unwrap().unwrap()
}

fn masked(values: &[&[u8]], chunks: &[&[u8]]) -> Vec<u8> {
    let mut masker = masker(values);
    let mut out = Vec::new();
    for chunk in chunks {
        masker.feed(chunk, &mut out);
    }
    masker.finish(&mut out);
    assert_eq!(masker.held_bytes(), 0);
    out
}

/// What masking means: every byte in any occurrence of any form is covered, each run of covered bytes is `***`.
fn oracle(forms: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
    let mut covered = vec![false; text.len()];
    for form in forms {
        for start in 0..text.len() {
            if text[start..].starts_with(form) {
                covered[start..start + form.len()].fill(true);
            }
        }
    }
    let mut out = Vec::new();
    for (index, &byte) in text.iter().enumerate() {
        if !covered[index] {
            out.push(byte);
        } else if index == 0 || !covered[index - 1] {
            out.extend_from_slice(b"***");
        }
    }
    out
}

/// Cuts `text` at these places (taken modulo its length).
fn cut<'a>(text: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let places: BTreeSet<usize> = places.iter().map(|place| place % (text.len() + 1)).collect();
    let mut chunks = Vec::new();
    let mut from = 0;
    for place in places.into_iter().chain([text.len()]) {
        chunks.push(&text[from..place]);
        from = place;
    }
    chunks
}

/// Secrets over a tiny alphabet overlap, nest and repeat.
fn dense_secret() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&b"ab/\n"[..]), SECRET_BYTES_MIN..14)
        .prop_filter("is a secret", |value| check_secrets([("S", &value[..])]).is_ok())
}

fn wild_secret() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), SECRET_BYTES_MIN..40)
        .prop_filter("is a secret", |value| check_secrets([("S", &value[..])]).is_ok())
}

/// Text made of whole forms, beginnings and ends of forms, and other bytes.
fn text_of(forms: &[Vec<u8>], picks: &[(usize, usize, u8)]) -> Vec<u8> {
    let mut text = Vec::new();
    for &(which, length, kind) in picks {
        let form = &forms[which % forms.len()];
        let part = length % (form.len() + 1);
        match kind % 5 {
            0 => text.extend_from_slice(form),
            1 => text.extend_from_slice(&form[..part]),
            2 => text.extend_from_slice(&form[part..]),
            3 => text.extend(std::iter::repeat_n(b"ab/ \n"[which % 5], length % 20)),
            _ => text.extend_from_slice(b"an ordinary line of output\n"),
        }
    }
    text
}

fn check(secrets: &[Vec<u8>], picks: &[(usize, usize, u8)], places: &[usize]) {
    let values: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
    let forms = forms_of(values.iter().map(|value| ("S", *value)));
    let text = text_of(&forms, picks);
    let expected = oracle(&forms, &text);
    assert_eq!(masked(&values, &[&text]), expected, "in one piece");
    assert_eq!(masked(&values, &cut(&text, places)), expected, "in several pieces");
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(masked(&values, &bytes), expected, "byte by byte");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_split_equals_the_whole_buffer_dense(
        secrets in prop::collection::vec(dense_secret(), 1..4),
        picks in prop::collection::vec((any::<usize>(), any::<usize>(), any::<u8>()), 0..12),
        places in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        check(&secrets, &picks, &places);
    }

    #[test]
    fn any_split_equals_the_whole_buffer_wild(
        secrets in prop::collection::vec(wild_secret(), 1..4),
        picks in prop::collection::vec((any::<usize>(), any::<usize>(), any::<u8>()), 0..12),
        places in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        check(&secrets, &picks, &places);
    }

    #[test]
    fn only_what_may_still_be_a_secret_is_held_back(
        secret in dense_secret(),
        picks in prop::collection::vec((any::<usize>(), any::<usize>(), any::<u8>()), 0..8),
    ) {
        let forms = forms_of([("S", &secret[..])]);
        let text = text_of(&forms, &picks);
        let mut masker = masker(&[&secret]);
        let mut out = Vec::new();
        for end in 0..text.len() {
            masker.feed(&text[end..=end], &mut out);
            let seen = &text[..=end];
            // The longest end of what was seen that begins a form.
            let may = (0..=seen.len()).rev().find(|&length| {
                forms.iter().any(|form| form.starts_with(&seen[seen.len() - length..]))
            });
            prop_assert!(masker.held_bytes() <= may.unwrap_or(0));
        }
    }

    #[test]
    fn inside_any_base64_text_the_value_is_gone(
        secret in wild_secret(), before in prop::collection::vec(any::<u8>(), 0..7),
        after in prop::collection::vec(any::<u8>(), 0..7),
    ) {
        for engine in [&STANDARD, &URL_SAFE] {
            let text = engine.encode([&before[..], &secret, &after].concat());
            let out = masked(&[&secret], &[text.as_bytes()]);
            prop_assert!(out.windows(3).any(|window| window == b"***"), "{text}");
            // At most one character of the secret is left on either side.
            let left = out.iter().filter(|&&byte| byte != b'*').count();
            prop_assert!(left <= (before.len() + after.len()) * 4 / 3 + 2 + 4, "{text}");
        }
    }
}

#[test]
fn every_form_is_masked() {
    let secret = "p@ss/w\"o'r d<\\é\n";
    let trimmed = secret.trim_end();
    for form in [
        secret.to_owned(),
        "cEBzcy93Im8nciBkPFzDqQo=".to_owned(),
        STANDARD.encode(format!("user:{trimmed}")),
        STANDARD.encode(trimmed),
        "p%40ss%2Fw%22o%27r%20d%3C%5C%C3%A9".to_owned(),
        "p%40ss%2fw%22o%27r+d%3c%5c%c3%a9".to_owned(),
        "p%40ss/w%22o%27r%20d%3C%5C%C3%A9".to_owned(),
        "p%40ss%2Fw%22o'r%20d%3C%5C%C3%A9".to_owned(),
        r#"p@ss/w\"o'r d<\\é"#.to_owned(),
        r#"p@ss\/w\"o'r d<\\\u00e9"#.to_owned(),
        r#"p@ss/w\"o'r d\u003c\\é"#.to_owned(),
        r#"p@ss/w\u0022o\u0027r d\u003C\\\u00E9"#.to_owned(),
        r#"p@ss/w"o'\''r d<\é"#.to_owned(),
        r#"p@ss/w"o'"'"'r d<\é"#.to_owned(),
        r#"p@ss/w\"o'r d<\\é"#.to_owned(),
        r#"p@ss/w\"o\'r\ d\<\\é"#.to_owned(),
        r#"p@ss/w"o\'r d<\\\303\251"#.to_owned(),
    ] {
        let out = String::from_utf8(masked(&[secret.as_bytes()], &[form.as_bytes()])).unwrap();
        let left: String = out.replace("***", "");
        assert!(out.contains("***") && left.len() <= 8, "{form} became {out}");
    }
}

#[test]
fn lines_of_a_key_are_masked_and_line_structure_stays() {
    let key = b"-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\n  indented-line\nab\n------\n-----END KEY-----\n";
    let out = masked(&[key], &[b"key: MIIEpAIBAAKCAQEA.\nindented-line\nab\n------\n"]);
    assert_eq!(out, b"key: ***.\n***\nab\n------\n");
    assert_eq!(masked(&[key], &[key]), b"***\n");
    let crlf = String::from_utf8(key.to_vec()).unwrap().replace('\n', "\r\n");
    assert_eq!(masked(&[key], &[crlf.as_bytes()]), b"***\r\n");
}

#[test]
fn wrapped_base64_is_masked() {
    let secret: Vec<u8> = (0..100_u8).map(|index| index.wrapping_mul(37) ^ 0x5a).collect();
    for columns in [76, 64] {
        let text = STANDARD.encode(&secret).into_bytes();
        let wrapped: Vec<u8> = text.chunks(columns).collect::<Vec<_>>().join(&b"\n"[..]);
        let out = masked(&[&secret], &[&wrapped, b"\n"]);
        assert!(out.iter().all(|byte| b"*\n".contains(byte)), "{}", String::from_utf8_lossy(&out));
    }
}

/// The control: a masker which forgets at the end of each chunk shows a secret that is cut in two.
#[test]
fn without_the_carried_state_a_cut_secret_is_shown() {
    let secret = b"token-12345";
    for place in 1..secret.len() {
        let (first, second) = secret.split_at(place);
        let apart = [masked(&[secret], &[first]), masked(&[secret], &[second])].concat();
        assert_eq!(apart, secret, "cut at {place}");
        assert_eq!(masked(&[secret], &[first, second]), b"***", "cut at {place}");
    }
}

/// The automaton runs and jumps in turn over long texts, which short ones do not show.
#[test]
fn long_texts_equal_the_whole_buffer() {
    let secrets: [&[u8]; 4] = [b"abcabcab", b"bcabca", b"aaaaab", b"cabcabcabcabcabcabcabcabcd"];
    let forms = forms_of(secrets.map(|secret| ("S", secret)));
    let mut text = Vec::new();
    let mut random = 0x5eed_u32;
    while text.len() < 40_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let secret = secrets[(random >> 8) as usize % 4];
        match (random >> 16) % 4 {
            0 => text.extend_from_slice(secret),
            1 => text.extend_from_slice(&secret[..(random >> 20) as usize % secret.len()]),
            2 => text
                .extend_from_slice(&b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..(random >> 20) as usize % 40]),
            _ => text.push(b' '),
        }
    }
    let expected = oracle(&forms, &text);
    assert_eq!(masked(&secrets, &[&text]), expected);
    for size in [1, 7, 64, 1000] {
        let chunks: Vec<&[u8]> = text.chunks(size).collect();
        assert_eq!(masked(&secrets, &chunks), expected, "chunks of {size}");
    }
}

#[test]
fn a_found_secret_is_shown_at_once_and_a_prompt_up_to_the_beginning_of_one() {
    let mut masker = masker(&[b"token-12345"]);
    let mut out = Vec::new();
    masker.feed(b"it is token-12345", &mut out);
    assert_eq!((&out[..], masker.held_bytes()), (&b"it is ***"[..], 0));
    masker.feed(b" Password: tok", &mut out);
    assert_eq!((&out[..], masker.held_bytes()), (&b"it is *** Password: "[..], 3));
    masker.finish(&mut out);
    assert_eq!(out, b"it is *** Password: tok");
    // A new stream: neither the beginning nor the run of the old one goes on.
    masker.feed(b"en-12345token-12345", &mut out);
    masker.finish(&mut out);
    masker.feed(b"token-12345", &mut out);
    assert_eq!(out, b"it is *** Password: token-12345******");
}

#[test]
fn what_cannot_be_masked_is_refused_by_name() {
    let refused = |value: &[u8]| check_secrets([("TOKEN", value)]).unwrap_err();
    assert_eq!(refused(b"12345"), SecretError::TooShort { name: "TOKEN".into(), bytes: 5 });
    assert_eq!(refused(b"  1234 \n"), SecretError::TooShort { name: "TOKEN".into(), bytes: 4 });
    assert_eq!(refused(b"xxxxxxxxxx"), SecretError::Uniform { name: "TOKEN".into() });
    let large = [b"ab".repeat(SECRETS_BYTES_MAX / 2), b"c".to_vec()].concat();
    assert_eq!(refused(&large), SecretError::TooLarge { name: "TOKEN".into(), bytes: SECRETS_BYTES_MAX + 1 });
    assert!(refused(b"12345").to_string().contains("TOKEN"));
    assert!(!refused(b"12345").to_string().contains("12345"));
    assert!(Masker::new(std::iter::empty()).unwrap().is_none());
    assert!(check_secrets([("A", &b"123456"[..])]).is_ok());
}

/// The real `printf %q`, over all punctuation: alone, and inside of a word. bash quotes `#` and `~` in some places only.
#[test]
fn what_bash_quotes_is_masked() {
    let marks: Vec<char> = (' '..='~').filter(|char| !char.is_ascii_alphanumeric()).collect();
    let secrets: Vec<String> = marks
        .iter()
        .flat_map(|mark| marks.iter().map(move |other| format!("{mark}a{other}b{mark}{other}c:{mark}d={other}e")))
        .collect();
    for prefix in ["", "word"] {
        let words = secrets.iter().map(|secret| format!("{prefix}{secret}"));
        let asked =
            std::process::Command::new("bash").args(["-c", "printf '%q\\n' \"$@\"", "bash"]).args(words).output();
        let Ok(asked) = asked else {
            skipped::tell("what_bash_quotes_is_masked", "bash is not installed");
            return;
        };
        let lines: Vec<&[u8]> = asked.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), secrets.len());
        for (secret, line) in secrets.iter().zip(lines) {
            let forms = forms_of([("S", secret.as_bytes())]);
            let found = forms.iter().any(|form| line.windows(form.len()).any(|part| part == form));
            assert!(found, "{secret:?} is written {:?}", String::from_utf8_lossy(line));
        }
    }
}
