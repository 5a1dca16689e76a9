//! Patterns against a look at each line alone, and logs larger than a piece.

use super::{Finder, Grep, PIECE_BYTES};
use ci_runner_spawner::joblog::{LINE_PART_BYTES_MAX, LogReader};
use proptest::prelude::*;
use std::io;
use std::time::{Duration, Instant};

fn lines(pattern: &str, text: &str) -> Vec<usize> {
    let grep = Grep::new(pattern, false, false).unwrap();
    grep.lines(text.as_bytes()).map(|(begin, _)| begin).collect()
}

#[test]
fn a_match_does_not_cross_lines() {
    for (pattern, text, expected) in [
        (r"a\s+b", "a\nb\na b\n", &[4][..]),
        (r"[^x]b", "a\nb\nab", &[4]),
        (r"(?s)a.*b", "a\nb\nacb\n", &[4]),
        (r"a\nb", "a\nb\n", &[]),
        (r"a\nb|c", "a\nb\nc\n", &[4]),
        (r"(?s-u:a.b)", "a\nb\na b\n", &[4]),
        ("^$", "a\n\nb\n", &[2]),
        ("$", "a\nb", &[0, 2]),
        ("$", "a\nb\n", &[0, 2]),
        ("^b", "ab\nb\n", &[3]),
        (r"\Ab", "ab\nb\nb\n", &[3, 5]),
        (r"a\z", "ab\na\nba\n", &[3, 5]),
        (r"(?-m)^b$", "ab\nb\n", &[3]),
        ("z*", "a\n", &[0]),
        ("a", "", &[]),
        ("", "a\nb\n", &[0, 2]),
    ] {
        assert_eq!(lines(pattern, text), expected, "{pattern:?} in {text:?}");
    }
}

#[test]
fn a_text_is_taken_as_it_is() {
    let grep = |fixed, fold| {
        let grep = Grep::new("A.c", fixed, fold).unwrap();
        grep.lines(b"abc\nA.c\na.c\n").map(|(begin, _)| begin).collect::<Vec<_>>()
    };
    assert_eq!((grep(true, false), grep(false, false)), (vec![4], vec![4]));
    assert_eq!((grep(true, true), grep(false, true)), (vec![4, 8], vec![0, 4, 8]));
}

#[test]
fn a_wrong_or_monstrous_pattern_is_told() {
    assert_eq!(Grep::new("ä(", false, false).unwrap_err(), "unclosed group (at character 2)");
    assert_eq!(Grep::new("(\\w{1000}){1000}", false, false).unwrap_err(), "it is too large");
    assert_eq!(Grep::new(&"[^\\wx]".repeat(1_000), false, false).unwrap_err(), "it is too large");
    assert!(Grep::new(&"(".repeat(1_000), false, false).is_err());
}

/// Without taking newlines out, each line of such a pattern would cost the reading of the whole piece.
#[test]
fn a_pattern_costs_each_line_once() {
    let text = "foo bar\n".repeat(PIECE_BYTES / 8);
    for (pattern, expected) in [("foo[^:]*", PIECE_BYTES / 8), ("foo[^:]*:", 0), ("(?s)foo.*x", 0)] {
        let started = Instant::now();
        assert_eq!(lines(pattern, &text).len(), expected, "{pattern}");
        // 131,072 lines of 1 MiB each would take minutes.
        assert!(started.elapsed() < Duration::from_secs(20), "{pattern}: {:?}", started.elapsed());
    }
}

proptest! {
    #[test]
    fn it_finds_what_a_look_at_each_line_finds(
        text in "[ab \n]{0,60}",
        pattern in prop::sample::select(vec![
            "a", "ab|b", r"a\s?b", "^a", "b$", "[^a]b", r"\Aa", r"a\z", "(?s)a.b", r"a\nb|b", r"\ba", r"b\b", "a*",
            r"(a|\s)b", r"(?-m)^b", r"\s$", r"a\s*?b",
        ]),
    ) {
        // As it was asked for, newlines and all, on a line alone.
        let alone = regex::bytes::RegexBuilder::new(pattern).multi_line(true).build().unwrap();
        let mut expected = Vec::new();
        let mut begin = 0;
        for line in text.split_inclusive('\n') {
            if alone.is_match(line.trim_end_matches('\n').as_bytes()) {
                expected.push(begin);
            }
            begin += line.len();
        }
        prop_assert_eq!(lines(pattern, &text), expected);
    }
}

/// Collects offsets, and stops after so many of them or so many pieces.
struct Collected {
    offsets: Vec<u64>,
    enough: usize,
    pieces: usize,
}

impl Finder for Collected {
    fn go_on(&mut self) -> bool {
        self.pieces = self.pieces.saturating_sub(1);
        self.pieces > 0
    }

    fn found(&mut self, offset: u64) -> io::Result<bool> {
        self.offsets.push(offset);
        Ok(self.offsets.len() < self.enough)
    }
}

fn search(text: &[u8], from: u64, enough: usize, pieces: usize) -> (Option<u64>, Vec<u64>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("0")).unwrap();
    std::fs::write(dir.path().join("0/1-1.log"), text).unwrap();
    let mut log = LogReader::new(std::fs::File::open(dir.path()).unwrap().into(), 1, 1, 0);
    let mut finder = Collected { offsets: Vec::new(), enough, pieces };
    let grep = Grep::new("needle", false, false).unwrap();
    let done = grep.search(&mut log, from, &mut Vec::new(), &mut finder).unwrap();
    (done, finder.offsets)
}

#[test]
fn pieces_end_with_lines() {
    // A line over the end of the first piece, one in the middle, and a last one without a newline.
    let mut text = vec![b'.'; PIECE_BYTES - 3];
    text[99] = b'\n';
    let begin = 100;
    text.extend_from_slice(b"needle\n");
    text[begin + 10] = b'\n';
    let on_seam = begin as u64 + 11;
    let second = text.len() as u64;
    text.extend_from_slice(b"a needle\n");
    let last = text.len() as u64;
    text.extend_from_slice(b"needle at the end");
    let size = text.len() as u64;
    // The match is far inside of its line: the part of the line that has it is given.
    let part = (PIECE_BYTES as u64 - 3 - on_seam) / LINE_PART_BYTES_MAX as u64 * LINE_PART_BYTES_MAX as u64;
    assert_eq!(search(&text, 0, 99, 99), (Some(size), vec![on_seam + part, second, last]));
    assert_eq!(search(&text, second, 99, 99), (Some(size - second), vec![second, last]));
    assert_eq!(search(&text, 0, 2, 99), (Some(second), vec![on_seam + part, second]));
    assert_eq!(search(&text, 0, 99, 2), (None, vec![]));
    assert_eq!(search(b"", 0, 99, 99), (Some(0), vec![]));
}
