//! A `start` is checked word by word before anything of it is used.

use super::requests::MS_MAX;
use crate::protocol::Start;

const SLOT_MAX: u32 = 999_999;

/// Says what is wrong with a `start`.
pub(crate) fn check_start(start: &Start, fds: usize) -> Result<(), String> {
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
