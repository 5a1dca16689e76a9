//! Names of units and their objects on the bus.

use crate::protocol::AttemptKey;

pub(super) const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/";

/// The unit of an attempt.
pub(super) fn unit_name(key: &AttemptKey) -> String {
    format!("ci-job-{key}.service")
}

/// The attempt of a unit.
pub(super) fn key_of(unit: &str) -> Option<AttemptKey> {
    unit.strip_prefix("ci-job-")?.strip_suffix(".service")?.parse().ok()
}

/// D-Bus paths have letters and digits only; anything else is `_` and two hex digits.
pub(super) fn object_path(unit: &str) -> String {
    let mut path = UNIT_PATH.to_owned();
    for byte in unit.bytes() {
        if byte.is_ascii_alphanumeric() {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// The attempt behind an object path.
pub(super) fn key_of_path(path: &str) -> Option<AttemptKey> {
    let escaped = path.strip_prefix(UNIT_PATH)?;
    if !escaped.starts_with("ci_2djob_2d") {
        return None;
    }
    key_of(&escaped.replace("_2d", "-").replace("_2e", "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_and_its_path_name_one_attempt() {
        let key: AttemptKey = "0123abcd-7-12".parse().expect("a key");
        let unit = unit_name(&key);
        assert_eq!(unit, "ci-job-0123abcd-7-12.service");
        assert_eq!(key_of(&unit), Some(key.clone()));
        let path = object_path(&unit);
        assert_eq!(path, "/org/freedesktop/systemd1/unit/ci_2djob_2d0123abcd_2d7_2d12_2eservice");
        assert_eq!(key_of_path(&path), Some(key));
        for other in ["ci-job-x.service", "ssh.service", "ci-job-0123abcd-07-1.service"] {
            assert_eq!(key_of_path(&object_path(other)), None, "{other}");
        }
    }
}
