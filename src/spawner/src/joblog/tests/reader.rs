//! Reading: lines, times, cursors, growing logs.

use std::io::Write;

use proptest::prelude::*;

use super::{Logs, START};
use crate::joblog::{LINE_PART_BYTES_MAX, LogReader, Partial, TICK_MS};

/// (offset, milliseconds after the start, text, begins, terminated)
type Got = (u64, i64, Vec<u8>, bool, bool);

fn rest(reader: &mut LogReader, partial: Partial) -> Vec<Got> {
    let mut lines = Vec::new();
    while let Some(line) = reader.next_line(partial).unwrap() {
        lines.push((line.offset, line.wall_ms - START, line.bytes.to_vec(), line.begins, line.terminated));
    }
    lines
}

fn texts(reader: &mut LogReader) -> Vec<String> {
    rest(reader, Partial::Give).into_iter().map(|line| String::from_utf8(line.2).unwrap()).collect()
}

#[test]
fn a_log_that_does_not_exist_yet_has_no_output_yet() {
    let logs = Logs::new();
    let mut reader = logs.reader();
    assert_eq!(reader.next_line(Partial::Give).unwrap(), None);
    assert_eq!(reader.size().unwrap(), 0);
    reader.seek_tail(10).unwrap();
    reader.seek_since(START + 5).unwrap();
    assert_eq!(reader.offset(), 0);
    let mut writer = logs.writer(1000);
    writer.write(0, b"first\n");
    assert_eq!(texts(&mut reader), ["first"]);
    assert_eq!(reader.next_line(Partial::Give).unwrap(), None);
    writer.write(30, b"second\nthi");
    assert_eq!(rest(&mut reader, Partial::Leave), [(6, 30, b"second".to_vec(), true, true)]);
    assert_eq!(rest(&mut reader, Partial::Give), [(13, 30, b"thi".to_vec(), true, false)]);
    writer.write(60, b"rd\n\n");
    let expected = [(16, 60, b"rd".to_vec(), false, true), (19, 60, b"".to_vec(), true, true)];
    assert_eq!(rest(&mut reader, Partial::Give), expected);
    writer.finish(60);
}

#[test]
fn a_long_line_comes_in_parts_of_bounded_size() {
    let logs = Logs::new();
    let mut writer = logs.writer(u64::MAX);
    let size = 3 * LINE_PART_BYTES_MAX + 100;
    for (index, chunk) in vec![b'x'; size].chunks(10_000).enumerate() {
        writer.write(index as u64 * 10, chunk);
    }
    writer.write(1000, b"\nnext\n");
    writer.finish(1000);
    let parts = rest(&mut logs.reader(), Partial::Leave);
    assert_eq!(parts.iter().map(|part| part.2.len()).collect::<Vec<_>>(), [65536, 65536, 65536, 100, 4]);
    assert_eq!(parts.iter().map(|part| part.3).collect::<Vec<_>>(), [true, false, false, false, true]);
    assert_eq!(parts.iter().map(|part| part.4).collect::<Vec<_>>(), [false, false, false, true, true]);
    assert_eq!(parts.iter().map(|part| part.1).collect::<Vec<_>>(), [0, 60, 130, 190, 1000]);
}

#[test]
fn tail_counts_whole_lines_and_an_unfinished_one() {
    for (log, lines, expected) in [
        ("", 3, vec![]),
        ("a\nb\nc\n", 0, vec![]),
        ("a\nb\nc\n", 1, vec!["c"]),
        ("a\nb\nc", 1, vec!["c"]),
        ("a\nb\nc\n", 2, vec!["b", "c"]),
        ("a\nb\nc\n", 3, vec!["a", "b", "c"]),
        ("a\nb\nc\n", 9, vec!["a", "b", "c"]),
        ("\n\n\n", 2, vec!["", ""]),
    ] {
        let logs = Logs::new();
        let mut writer = logs.writer(u64::MAX);
        writer.write(0, log.as_bytes());
        writer.finish(0);
        let mut reader = logs.reader();
        reader.seek_tail(lines).unwrap();
        assert_eq!(texts(&mut reader), expected, "last {lines} of {log:?}");
    }
}

#[test]
fn tail_goes_back_over_many_blocks() {
    let logs = Logs::new();
    let mut writer = logs.writer(u64::MAX);
    for line in 0..50_000 {
        writer.write(0, format!("line {line}\n").as_bytes());
    }
    writer.finish(0);
    let mut reader = logs.reader();
    reader.seek_tail(20_000).unwrap();
    let lines = texts(&mut reader);
    assert_eq!((lines.len(), lines[0].as_str()), (20_000, "line 30000"));
}

#[test]
fn since_gives_the_lines_whose_time_is_not_earlier() {
    let logs = Logs::new();
    let mut writer = logs.writer(u64::MAX);
    writer.write(0, b"at 0\n");
    writer.write(1000, b"at 1000\nbegun at 1000, ");
    writer.write(2000, b"ended at 2000\nat 2000\n");
    writer.finish(3000);
    for (since, expected) in [
        (-5, &["at 0", "at 1000", "begun at 1000, ended at 2000", "at 2000"][..]),
        (0, &["at 0", "at 1000", "begun at 1000, ended at 2000", "at 2000"]),
        (1, &["at 1000", "begun at 1000, ended at 2000", "at 2000"]),
        (1000, &["at 1000", "begun at 1000, ended at 2000", "at 2000"]),
        (1001, &["at 2000"]),
        (2001, &[]),
    ] {
        let mut reader = logs.reader();
        reader.seek_since(START + since).unwrap();
        assert_eq!(texts(&mut reader), expected, "since {since}");
    }
}

#[test]
fn an_incomplete_entry_and_a_foreign_file_are_no_times() {
    let logs = Logs::new();
    let mut writer = logs.writer(u64::MAX);
    writer.write(0, b"a\n");
    writer.write(1000, &b"b\n".repeat(1000));
    writer.write(2000, b"c\n");
    writer.finish(2000);
    let times = std::fs::read(logs.times_path()).unwrap();
    let read = |bytes: &[u8]| {
        std::fs::write(logs.times_path(), bytes).unwrap();
        let lines = rest(&mut logs.reader(), Partial::Give);
        [lines[0].1, lines[1].1, lines[1001].1]
    };
    assert_eq!(read(&times), [0, 1000, 2000]);
    for cut in 1..4 {
        assert_eq!(read(&times[..times.len() - cut]), [0, 1000, 1000], "cut {cut}");
    }
    assert_eq!(read(&times[..7]), [0, 0, 0]);
    assert_eq!(read(b"something else, and longer than a header is"), [0, 0, 0]);
    assert_eq!(read(&[&times[..], &[0xff; 40]].concat()), [0, 1000, 2000]);
    // An incomplete entry becomes whole while a reader looks on.
    std::fs::write(logs.times_path(), &times[..times.len() - 1]).unwrap();
    let mut reader = logs.reader();
    assert_eq!(rest(&mut reader, Partial::Give)[1001].1, 1000);
    std::fs::write(logs.times_path(), &times).unwrap();
    std::fs::File::options().append(true).open(logs.path()).unwrap().write_all(b"d\n").unwrap();
    assert_eq!(rest(&mut reader, Partial::Give), [(2004, 2000, b"d".to_vec(), true, true)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Readers that stop anywhere and are replaced, while the log grows, see each byte once, with its time.
    #[test]
    fn nothing_is_lost_or_repeated_over_restarts_of_the_reader(
        chunks in prop::collection::vec(
            (prop::collection::vec(prop::sample::select(&b"abc\n"[..]), 1..40), 0_u64..40, any::<bool>(), 0_usize..6),
            1..40,
        ),
    ) {
        let logs = Logs::new();
        let mut writer = logs.writer(u64::MAX);
        let mut reader = logs.reader();
        let (mut now, mut written, mut seen) = (0, Vec::new(), Vec::new());
        // (offset, time) of each chunk.
        let mut model: Vec<(u64, u64)> = Vec::new();
        let mut last_entry = 0;
        for (bytes, pause, restart, count) in chunks {
            now += pause;
            if now >= last_entry + TICK_MS {
                last_entry = now;
            }
            model.push((written.len() as u64, last_entry));
            writer.write(now, &bytes);
            written.extend_from_slice(&bytes);
            let partial = if count % 2 == 0 { Partial::Give } else { Partial::Leave };
            for _ in 0..count {
                let Some(line) = reader.next_line(partial).unwrap() else { break };
                prop_assert_eq!(line.offset, seen.len() as u64);
                let begins = seen.last().is_none_or(|&byte| byte == b'\n');
                prop_assert_eq!(line.begins, begins);
                let time = model.iter().rev().find(|(offset, _)| *offset <= line.offset).unwrap().1;
                prop_assert_eq!(line.wall_ms - START, time as i64);
                seen.extend_from_slice(line.bytes);
                if line.terminated {
                    seen.push(b'\n');
                }
            }
            if restart {
                let cursor = reader.offset();
                reader = logs.reader();
                reader.seek(cursor).unwrap();
            }
        }
        writer.finish(now);
        for line in rest(&mut reader, Partial::Give) {
            seen.extend_from_slice(&line.2);
            if line.4 {
                seen.push(b'\n');
            }
        }
        prop_assert_eq!(seen, written);
    }
}
