//! `hello` and `start` are checked word by word before anything of them is used.

use crate::protocol::{PROTOCOL_VERSION, Start, is_store_id};

/// No deadline, grace or slot number is larger: sums stay far from overflow, and nobody means a thousand years.
pub(super) const MS_MAX: u64 = 1000 * 365 * 24 * 3600 * 1000;
const SLOT_MAX: u32 = 999_999;

/// Whether a hello is to be taken: the highest generation that was seen so far, or why not. `highest` is asked only for a name
/// that is a store's.
pub(super) fn judge_hello(
    protocol: u32,
    store: &str,
    generation: u64,
    highest: impl FnOnce(&str) -> u64,
) -> Result<u64, String> {
    if protocol != PROTOCOL_VERSION {
        return Err(format!("the daemon speaks protocol {protocol}, this spawner {PROTOCOL_VERSION}"));
    }
    if !is_store_id(store) {
        return Err("a store id has 8 lower-case hex digits".to_owned());
    }
    let highest = highest(store);
    if generation < highest {
        return Err(format!("generation {generation} of store {store} is over: {highest} was here"));
    }
    Ok(highest)
}

/// Says what is wrong with a `start`.
pub(super) fn check_start(start: &Start, fds: usize) -> Result<(), String> {
    let pool = start.pool.as_bytes();
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = (1..=64).contains(&pool.len())
        && letter(pool[0])
        && pool.iter().all(|&byte| letter(byte) || byte == b'_' || byte == b'-');
    if !good {
        return Err("a pool name is [a-z0-9][a-z0-9_-]{0,63}".to_owned());
    }
    if start.slot > SLOT_MAX {
        return Err(format!("slot {} is beyond {SLOT_MAX}", start.slot));
    }
    for (name, ms) in [
        ("timeout_ms", start.timeout_ms),
        ("soft_timeout_ms", start.soft_timeout_ms),
        ("grace_ms", Some(start.grace_ms)),
    ] {
        if ms.is_some_and(|ms| ms > MS_MAX) {
            return Err(format!("{name} is beyond {MS_MAX}"));
        }
    }
    start.limits.check()?;
    match 1 + usize::from(start.secrets) {
        wanted if wanted == fds => Ok(()),
        wanted => Err(format!("{wanted} descriptors belong to it, {fds} came")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Limits;

    #[test]
    fn a_start_is_checked_word_by_word() {
        let good = Start {
            key: "0123abcd-1-1".parse().expect("a key"),
            pool: "default".to_owned(),
            slot: 0,
            timeout_ms: Some(1),
            soft_timeout_ms: None,
            grace_ms: 0,
            log_bytes_max: 0,
            secrets: true,
            profile: None,
            submitter: None,
            limits: Limits::default(),
        };
        assert_eq!(check_start(&good, 2), Ok(()));
        assert!(check_start(&good, 1).is_err_and(|why| why.contains("2 descriptors")));
        for pool in ["", "A", "-a", "a/b", "..", "a.b", &"a".repeat(65), "ä", "a\0"] {
            let start = Start { pool: pool.to_owned(), ..good.clone() };
            assert!(check_start(&start, 2).is_err_and(|why| why.contains("pool name")), "{pool:?}");
        }
        assert!(check_start(&Start { slot: u32::MAX, ..good.clone() }, 2).is_err());
        assert!(check_start(&Start { grace_ms: u64::MAX, ..good.clone() }, 2).is_err());
        assert!(check_start(&Start { timeout_ms: Some(u64::MAX), ..good }, 2).is_err());
    }
}
