//! `os`: the distribution, from `etc/os-release` or `usr/lib/os-release` below rootfs.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// (label, key of the file)
const LABELS: [(&str, &str); 12] = [
    ("build_id", "BUILD_ID"),
    ("id", "ID"),
    ("id_like", "ID_LIKE"),
    ("image_id", "IMAGE_ID"),
    ("image_version", "IMAGE_VERSION"),
    ("name", "NAME"),
    ("pretty_name", "PRETTY_NAME"),
    ("variant", "VARIANT"),
    ("variant_id", "VARIANT_ID"),
    ("version", "VERSION"),
    ("version_codename", "VERSION_CODENAME"),
    ("version_id", "VERSION_ID"),
];
const INFO_HELP: &str = "A metric with a constant '1' value labeled by build_id, id, id_like, image_id, image_version, \
                         name, pretty_name, variant, variant_id, version, version_codename, version_id.";

pub(crate) struct Os {
    rootfs: PathBuf,
}

impl Os {
    pub(crate) fn new(options: &Options) -> Self {
        Self { rootfs: options.rootfs.clone() }
    }
}

/// os-release(5): a value as a shell reads it: bare, in single quotes, or in double quotes with backslashes.
fn unquote(text: &str) -> String {
    let text = text.trim();
    let inside = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(literal) = inside('\'') {
        return literal.to_owned();
    }
    let (mut value, mut escaped) = (String::with_capacity(text.len()), false);
    for letter in inside('"').unwrap_or(text).chars() {
        if letter == '\\' && !escaped {
            escaped = true;
            continue;
        }
        value.push(letter);
        escaped = false;
    }
    value
}

/// The digits at the start, with at most one point: `12.4` of `12.4 (quiet)`.
fn major_minor(version: &str) -> Option<f64> {
    let end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let major = end(version);
    let minor = version[major..].strip_prefix('.').map_or(0, |rest| 1 + end(rest));
    version[..major + minor].parse().ok().filter(|_| major > 0)
}

impl Collector for Os {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = match files::read_if_there(&self.rootfs.join("etc/os-release"))? {
            Some(text) => text,
            None => files::read(&self.rootfs.join("usr/lib/os-release"))?,
        };
        let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        let fields: BTreeMap<&str, String> = pairs.map(|(key, value)| (key.trim(), unquote(value))).collect();
        let get = |key: &str| fields.get(key).map_or("", String::as_str);
        let labels = LABELS.map(|(label, key)| (label, get(key)));
        out.gauge("node_os_info", INFO_HELP).add(&labels, 1.0);
        if let Some(version) = major_minor(get("VERSION")) {
            out.gauge("node_os_version", "Metric containing the major.minor part of the OS version.")
                .add(&[("id", get("ID")), ("id_like", get("ID_LIKE")), ("name", get("NAME"))], version);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_versions() {
        for (from, to) in [("x", "x"), ("'a\\b'", "a\\b"), ("\"a \\\"b\\\" \\$c\"", "a \"b\" $c"), ("\"\"", "")] {
            assert_eq!(unquote(from), to);
        }
        for (from, to) in
            [("12 (bookworm)", Some(12.0)), ("24.05.1", Some(24.05)), ("Rolling", None), ("", None), ("7.", Some(7.0))]
        {
            assert_eq!(major_minor(from), to, "{from}");
        }
    }
}
