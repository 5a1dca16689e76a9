//! The exit record on disk: one line of JSON, then a line with its checksum.
//!
//! Written aside and renamed by the shim, read by whichever spawner is there. What is torn, damaged or of another attempt
//! is treated as absent. It needs no flush: the daemon's commit is the durable point.

use crate::protocol::{AttemptKey, ExitRecord, ExitResult};

/// A record never exceeds this: its only long part is the cause, which is cut at [`CAUSE_BYTES_MAX`].
pub(crate) const RECORD_BYTES_MAX: usize = 3 * 1024;
/// A cause is for people; a path can be 128 KiB.
pub(crate) const CAUSE_BYTES_MAX: usize = 400;

/// The file's content.
pub(crate) fn encode(record: &ExitRecord) -> Vec<u8> {
    let mut text = serde_json::to_vec(record).unwrap_or_default();
    let sum = checksum(&text);
    text.extend_from_slice(format!("\n{sum:016x}\n").as_bytes());
    text
}

/// The record, when `text` is whole and `key`'s.
pub(crate) fn decode(key: &AttemptKey, text: &[u8]) -> Option<ExitRecord> {
    let end = text.iter().position(|&byte| byte == b'\n')?;
    let (line, sum) = (&text[..end], text.get(end + 1..)?);
    if sum != format!("{:016x}\n", checksum(line)).as_bytes() {
        return None;
    }
    serde_json::from_slice(line).ok().filter(|record: &ExitRecord| record.key == *key)
}

/// FNV-1a, 64 bits (<https://www.rfc-editor.org/rfc/rfc9923>): finds torn and foreign bytes, not forgers.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A result with its cause cut to what a record may hold.
pub(crate) fn failed_to_start(cause: &str) -> ExitResult {
    ExitResult::FailedToStart { cause: shortened(cause) }
}

/// At most [`CAUSE_BYTES_MAX`] bytes, cut between characters; control characters (a newline in a path) as `\u{…}`.
pub(crate) fn shortened(text: &str) -> String {
    cut(text, CAUSE_BYTES_MAX)
}

/// A name inside a cause, so that there is room for what is wrong with it.
pub(crate) fn shortened_name(name: &str) -> String {
    cut(name, CAUSE_BYTES_MAX / 2)
}

fn cut(text: &str, bytes_max: usize) -> String {
    let mut short = String::new();
    for character in text.chars() {
        if character.is_control() {
            short.extend(character.escape_default());
        } else {
            short.push(character);
        }
        if short.len() > bytes_max {
            short.push('…');
            break;
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Used;

    /// The longest there is.
    fn used() -> Used {
        let most = Some(u64::MAX);
        Used {
            memory_peak: most,
            io_read_bytes: most,
            io_written_bytes: most,
            pids_peak: most,
            memory_stall_us: most,
            cpu_stall_us: most,
            io_stall_us: most,
            oom_kills: most,
            disk_bytes: most,
        }
    }

    fn record(cause: &str) -> ExitRecord {
        ExitRecord {
            key: "0123abcd-7-1".parse().expect("a key"),
            result: failed_to_start(cause),
            started_wall_ms: -1,
            ended_wall_ms: i64::MAX,
            run_us: u64::MAX,
            cpu_user_us: u64::MAX,
            cpu_system_us: u64::MAX,
            peak_memory_bytes: u64::MAX,
            log_bytes: u64::MAX,
            log_dropped_bytes: u64::MAX,
            leftovers: u32::MAX,
            used: Some(Box::new(used())),
            lacks: crate::protocol::SEALS.map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn a_record_survives_the_trip_and_has_a_bound() {
        for cause in ["x", &"\u{1}\"\\é\n".repeat(100_000)] {
            let record = record(cause);
            let text = encode(&record);
            assert!(text.len() < RECORD_BYTES_MAX, "{}", text.len());
            assert_eq!(decode(&record.key, &text), Some(record));
        }
    }

    #[test]
    fn torn_damaged_and_foreign_records_are_absent() {
        let record = record("x");
        let text = encode(&record);
        for end in 0..text.len() {
            assert_eq!(decode(&record.key, &text[..end]), None, "cut at {end}");
        }
        for at in 0..text.len() {
            let mut text = text.clone();
            text[at] ^= 1;
            assert_eq!(decode(&record.key, &text), None, "changed at {at}");
        }
        assert_eq!(decode(&"0123abcd-7-2".parse().expect("a key"), &text), None);
    }
}
