//! What the writer puts into the files.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::{JOB, Logs, START, options};
use crate::joblog::{LogTotals, LogWriter, Partial, log_path};

#[test]
fn names_are_sharded_by_a_thousand_jobs() {
    assert_eq!(log_path(7, 1).to_str(), Some("0/7-1.log"));
    assert_eq!(log_path(1000, 12).to_str(), Some("1/1000-12.log"));
}

#[test]
fn nothing_is_made_before_the_first_byte() {
    let logs = Logs::new();
    let mut writer = logs.writer(1000);
    writer.write(0, b"");
    assert_eq!(writer.finish(5), LogTotals { bytes: 0, dropped_bytes: 0 });
    assert_eq!(std::fs::read_dir(logs.0.path()).unwrap().count(), 0);
}

#[test]
fn bytes_are_kept_as_they_are_and_modes_are_closed() {
    let logs = Logs::new();
    let mut writer = logs.writer(1000);
    let bytes: Vec<u8> = (0..=255).collect();
    writer.write(0, &bytes);
    writer.write(9, b"\xff\xfe tail");
    assert_eq!(writer.finish(5), LogTotals { bytes: 263, dropped_bytes: 0 });
    assert_eq!(logs.log(), [&bytes[..], b"\xff\xfe tail"].concat());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&logs.path()), 0o640);
    assert_eq!(mode(logs.path().parent().unwrap()) & 0o27, 0);
    assert!(!logs.times_path().exists(), "all of it came within a tick");
}

#[test]
fn times_cost_one_entry_a_tick_at_most() {
    let logs = Logs::new();
    let mut writer = logs.writer(u64::MAX);
    // A million short lines in a second, in chunks as a pipe gives them.
    let chunk = b"line\n".repeat(1000);
    for index in 0..1000 {
        writer.write(index, &chunk);
    }
    writer.finish(1000);
    let size = std::fs::metadata(logs.times_path()).unwrap().len();
    assert!(size <= 16 + 99 * 4, "{size}");
    assert_eq!(logs.log().len(), 5_000_000);
    let mut reader = logs.reader();
    let mut lines = 0;
    let mut last = 0;
    while let Some(line) = reader.next_line(Partial::Give).unwrap() {
        let chunk = lines / 1000;
        assert!((chunk - 9..=chunk).contains(&(line.wall_ms - START)), "line {lines}");
        assert!(line.wall_ms >= last);
        last = line.wall_ms;
        lines += 1;
    }
    assert_eq!(lines, 1_000_000);
}

#[test]
fn the_cap_keeps_the_first_bytes_and_says_so_twice() {
    let logs = Logs::new();
    let mut writer = logs.writer(64 * 1024);
    let line = b"0123456789abcde\n";
    for _ in 0..4096 {
        writer.write(0, line);
    }
    assert_eq!(logs.log().len(), 64 * 1024, "full, and nothing was dropped yet");
    writer.write(1, b"beyond");
    let at_once = logs.log_text();
    assert!(at_once.ends_with("\n[ci-runner] log truncated at 64.0 KiB; output from here on is dropped\n"));
    for _ in 0..1000 {
        writer.write(2, b"flood");
    }
    assert_eq!(logs.log_text(), at_once);
    let totals = writer.finish(3);
    let text = logs.log_text();
    assert_eq!(totals, LogTotals { bytes: text.len() as u64, dropped_bytes: 5006 });
    assert_eq!(text, at_once + "[ci-runner] log truncated at 64.0 KiB; 5006 bytes dropped\n");
}

#[test]
fn a_cap_in_the_middle_of_a_line_still_gives_the_mark_its_own() {
    let logs = Logs::new();
    let mut writer = logs.writer(10);
    writer.write(0, b"one\ntwo three four");
    writer.finish(0);
    let text = logs.log_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["one", "two th"]);
    assert!(lines[2].starts_with("[ci-runner] log truncated at 10 B"));
    assert_eq!(lines[3], "[ci-runner] log truncated at 10 B; 8 bytes dropped");
}

#[test]
fn a_cap_of_nothing_and_an_exact_fit() {
    let logs = Logs::new();
    let mut writer = logs.writer(0);
    writer.write(0, b"x");
    assert_eq!(writer.finish(0).dropped_bytes, 1);
    assert!(logs.log_text().starts_with("[ci-runner] "));

    let logs = Logs::new();
    let mut writer = logs.writer(4);
    writer.write(0, b"1234");
    assert_eq!(writer.finish(0), LogTotals { bytes: 4, dropped_bytes: 0 });
    assert_eq!(logs.log(), b"1234");
}

#[test]
fn marks_stand_on_a_line_of_their_own_and_are_one_line() {
    let logs = Logs::new();
    let mut writer = logs.writer(1000);
    writer.mark(0, "first");
    writer.write(0, b"half a line");
    writer.mark(0, "soft\ntimeout\x1b[31m");
    writer.write(0, b"rest\n");
    writer.mark(0, &"long".repeat(1000));
    writer.finish(0);
    let text = logs.log_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..4], ["[ci-runner] first", "half a line", "[ci-runner] soft timeout [31m", "rest"]);
    assert!(lines[4].len() <= 1024 && lines.len() == 5);
}

#[test]
fn marks_alone_cannot_fill_the_disk() {
    let logs = Logs::new();
    let mut writer = logs.writer(1000);
    for _ in 0..10_000 {
        writer.mark(0, "the same again and again");
    }
    assert!(writer.finish(0).bytes < 70_000);
}

#[test]
fn a_secret_in_two_writes_is_in_no_file_at_any_time() {
    let logs = Logs::new();
    let mut writer = logs.masking_writer(b"hunter2-hunter2");
    writer.write(0, b"password: hunter2-");
    assert_eq!(logs.log(), b"password: ");
    assert_eq!(writer.held_bytes(), 8);
    writer.mark(0, "warning");
    writer.write(0, b"hunter2\nand hunt");
    assert_eq!(logs.log_text(), "password: \n[ci-runner] warning\n***\nand ");
    writer.finish(0);
    assert_eq!(logs.log_text(), "password: \n[ci-runner] warning\n***\nand hunt");
}

#[test]
fn a_long_line_is_written_through_in_constant_memory() {
    let logs = Logs::new();
    let mut writer = logs.masking_writer(b"hunter2-hunter2");
    let chunk = vec![b'h'; 1024 * 1024];
    for index in 0..32 {
        writer.write(index * 20, &chunk);
        assert!(writer.held_bytes() <= 1, "what was let go is not kept");
    }
    let totals = writer.finish(1000);
    assert_eq!(totals, LogTotals { bytes: 32 * 1024 * 1024, dropped_bytes: 0 });
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let logs = Logs::new();
    let target = logs.0.path().join("target");
    std::fs::write(&target, b"precious").unwrap();
    std::fs::create_dir(logs.path().parent().unwrap()).unwrap();
    symlink(&target, logs.path()).unwrap();
    let mut writer = logs.writer(1000);
    writer.write(0, b"output");
    assert_eq!(writer.finish(0), LogTotals { bytes: 0, dropped_bytes: 6 });
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    assert!(logs.reader().next_line(Partial::Give).is_err());

    // The same for the directory above it.
    let logs = Logs::new();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), logs.0.path().join((JOB / 1000).to_string())).unwrap();
    let mut writer = logs.writer(1000);
    writer.write(0, b"output");
    assert_eq!(writer.finish(0).dropped_bytes, 6);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn a_pipe_in_place_of_the_log_blocks_nobody() {
    let logs = Logs::new();
    std::fs::create_dir(logs.path().parent().unwrap()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        logs.path(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let mut writer = logs.writer(1000);
    writer.write(0, b"output");
    assert_eq!(writer.finish(0).dropped_bytes, 6);
    assert!(logs.reader().next_line(Partial::Give).is_err());
}

#[test]
fn output_is_kept_again_once_the_log_can_be_opened() {
    let logs = Logs::new();
    let shard = logs.path().parent().unwrap().to_owned();
    std::fs::write(&shard, b"in the way").unwrap();
    let mut writer = logs.writer(1000);
    writer.write(0, b"lost 1\n");
    writer.mark(1, "meanwhile");
    writer.write(2, b"lost 2\n");
    std::fs::remove_file(&shard).unwrap();
    writer.write(3, b"kept\n");
    let totals = writer.finish(4);
    assert_eq!(totals.dropped_bytes, 14);
    let text = logs.log_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "[ci-runner] meanwhile");
    assert!(lines[1].starts_with("[ci-runner] 14 bytes of output lost here: "), "{text}");
    assert_eq!(lines[2..], ["kept"]);
}

#[test]
fn a_log_of_an_earlier_life_is_kept_and_its_times_stay_right() {
    let logs = Logs::new();
    let mut writer = logs.writer(100);
    writer.write(0, b"old 1\n");
    writer.write(500, b"old 2\n");
    writer.finish(500);
    let mut later = options(10, None);
    later.start_wall_ms += 60_000;
    // What a crash leaves behind.
    let torn = [std::fs::read(logs.times_path()).unwrap(), vec![0x80]].concat();
    std::fs::write(logs.times_path(), torn).unwrap();
    let mut writer = LogWriter::new(logs.dir(), later);
    writer.write(0, b"new 1\n");
    writer.write(700, b"new 2\n");
    assert_eq!(writer.finish(700).dropped_bytes, 2);
    let mut reader = logs.reader();
    let mut times = Vec::new();
    while let Some(line) = reader.next_line(Partial::Give).unwrap() {
        times.push((line.wall_ms - START, String::from_utf8_lossy(line.bytes).into_owned()));
    }
    let expected = [(0, "old 1"), (500, "old 2"), (60_000, "new 1"), (60_700, "new ")];
    assert_eq!(times[..4], expected.map(|(ms, text)| (ms, text.to_owned())));
}
