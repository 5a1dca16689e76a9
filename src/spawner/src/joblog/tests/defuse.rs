//! What a terminal may see.

use proptest::prelude::*;

use crate::joblog::{Defuse, defuse};

fn all(chunks: &[&[u8]]) -> Vec<u8> {
    let mut state = Defuse::default();
    let mut out: Vec<u8> = chunks.iter().flat_map(|chunk| defuse(&mut state, chunk)).collect();
    out.extend(state.finish());
    out
}

#[test]
fn sequences_become_harmless() {
    let long_title = [&b"\x1b]0;"[..], &[b'x'; 70_000], b"\x07end"].concat();
    for (input, expected) in [
        (&b"plain\ttext\n"[..], &b"plain\ttext\n"[..]),
        ("größer ∑ 🦀\n".as_bytes(), "größer ∑ 🦀\n".as_bytes()),
        (b"\x1b[1;31mred\x1b[0m\n", b"\x1b[1;31mred\x1b[0m\n"),
        (b"\x1b[38:2:1:2:3mrgb\x1b[m", b"\x1b[38:2:1:2:3mrgb\x1b[m"),
        (b"\x1b[31mleft on", b"\x1b[31mleft on\x1b[0m"),
        (b"a\x1b[2Jb\x1b[1;1Hc\x1b[?25ld\x1b[10Ae", b"abcde"),
        (b"a\x1b[>4;2mb\x1b[?4mc\x1b[1 md", b"abcd"),
        (b"a\x1b]0;title\x07b\x1b]52;c;aGk=\x1b\\c", b"abc"),
        (b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", b"link"),
        (b"a\x1bPq#0;1\x1b\\b\x1b_apc\x1b\\c\x1b^pm\x1b\\d\x1bXsos\x1b\\e", b"abcde"),
        (b"a\x1bcb\x1b7c\x1b(0d\x1b#8e", b"abcde"),
        (b"a\x1b]0;never ends\nb", b"a\nb"),
        (b"a\x1b]0;x\x1b[31mb\x1b[0m", b"a\x1b[31mb\x1b[0m"),
        (b"a\x1b\x1b[31m\x1b\x1b", b"a\x1b[31m\x1b[0m"),
        (b"bell\x07back\x08nul\0del\x7f", b"bell^Gback^Hnul^@del^?"),
        (b"dos\r\nline\r\r\n", b"dos\nline\n"),
        (b"10%\r20%\r\x1b[Kdone\r\x1b[0m\n", b"10%\n20%\ndone\x1b[0m\n"),
        (b"ends\r", b"ends\n"),
        (b"csi \x9b31m", "csi \u{fffd}31m".as_bytes()),
        ("csi \u{9b}31m".as_bytes(), "csi \u{fffd}31m".as_bytes()),
        ("a\u{202e}b\u{2066}c\u{e0041}d".as_bytes(), "a\u{fffd}b\u{fffd}c\u{fffd}d".as_bytes()),
        (b"\xff \xe2\x82 \xf0\x9f", "\u{fffd} \u{fffd} \u{fffd}".as_bytes()),
        (&[&b"\x1b["[..], &b"1;".repeat(40), b"mlong"].concat(), b"long"),
    ] {
        let shown = String::from_utf8_lossy(input);
        assert_eq!(String::from_utf8_lossy(&all(&[input])), String::from_utf8_lossy(expected), "{shown:?}");
    }
    assert!(all(&[&long_title]).ends_with(b"xxx^Gend"), "a string without an end hides so much and no more");
    let digits = [&b"\x1b["[..], &[b'1'; 1000], b"\n"].concat();
    assert!(all(&[&digits]).len() > 700);
}

/// Output holds no control character but tab, newline and whole colour sequences, and is UTF-8.
fn assert_harmless(out: &[u8]) {
    let text = std::str::from_utf8(out).unwrap();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char == '\x1b' {
            assert_eq!(chars.next(), Some('['));
            let last = chars.find(|char| !matches!(char, '0'..='9' | ';' | ':'));
            assert_eq!(last, Some('m'));
        } else {
            assert!(matches!(char, '\n' | '\t') || !char.is_control(), "{char:?}");
            assert!(!matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
        }
    }
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..6),
        prop::collection::vec(prop::sample::select(&b"\x1b[]P0;1:m\\\x07\r\n\x9b\xc2\xe2\x80\xae?A "[..]), 0..12),
        Just(b"\x1b[31m".to_vec()),
        Just(b"\x1b]52;c;x\x07".to_vec()),
        Just("é🦀\u{202e}\u{9b}".as_bytes().to_vec()),
        "\\PC{0,8}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn output_is_harmless_and_the_same_for_any_split(
        input in hostile(), places in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        let whole = all(&[&input]);
        assert_harmless(&whole);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(&all(&bytes), &whole);
        let mut places: Vec<usize> = places.iter().map(|place| place % (input.len() + 1)).collect();
        places.sort_unstable();
        let mut chunks = Vec::new();
        let mut from = 0;
        for place in places.into_iter().chain([input.len()]) {
            chunks.push(&input[from..place]);
            from = place;
        }
        prop_assert_eq!(&all(&chunks), &whole);
    }

    /// Without controls it is what the standard library does with bytes that are not UTF-8.
    #[test]
    fn broken_characters_are_replaced_as_the_standard_recommends(
        input in prop::collection::vec(prop_oneof![0x20_u8..0x7f, 0xa0_u8..=0xff], 0..40),
    ) {
        let text = String::from_utf8_lossy(&input).into_owned();
        prop_assume!(!text.chars().any(|char| char.is_control() || matches!(char, '\u{e0000}'..='\u{e007f}')));
        prop_assert_eq!(String::from_utf8(all(&[&input])).unwrap(), text);
    }
}
