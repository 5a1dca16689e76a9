//! Part of `cpu`: what kind each CPU is, from `/proc/cpuinfo` (its x86 keys; on others most labels are empty).

use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::pattern::Matcher;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// (label, key of the file)
const LABELS: [(&str, &str); 9] = [
    ("package", "physical id"),
    ("core", "core id"),
    ("vendor", "vendor_id"),
    ("family", "cpu family"),
    ("model", "model"),
    ("model_name", "model name"),
    ("microcode", "microcode"),
    ("stepping", "stepping"),
    ("cachesize", "cache size"),
];

/// One series a CPU; of the flags and bugs those that the patterns take, once for all CPUs.
pub(crate) fn collect(
    path: &Path,
    flags: Option<&mut Matcher>,
    bugs: Option<&mut Matcher>,
    out: &mut Families,
) -> Result<(), CollectError> {
    let text = files::read(path)?;
    let mut first: Option<BTreeMap<&str, &str>> = None;
    for block in text.split("\n\n") {
        let pairs = block.lines().filter_map(|line| line.split_once(':'));
        let fields: BTreeMap<&str, &str> = pairs.map(|(key, value)| (key.trim(), value.trim())).collect();
        let Some(cpu) = fields.get("processor") else { continue };
        let field = |key: &str| fields.get(key).copied().unwrap_or_default();
        let mut labels = vec![("cpu", *cpu)];
        labels.extend(LABELS.iter().map(|(label, key)| (*label, field(key))));
        out.gauge("node_cpu_info", "CPU information from /proc/cpuinfo.").add(&labels, 1.0);
        first.get_or_insert(fields);
    }
    // All CPUs of a host have the same; the first speaks for them.
    let first = first.unwrap_or_default();
    let words = |key: &str| first.get(key).map(|text| text.split_whitespace().collect()).unwrap_or_default();
    shown(
        words("flags"),
        flags,
        out,
        (
            "flag",
            "node_cpu_flag_info",
            "The `flags` field of CPU information from /proc/cpuinfo taken from the first core.",
        ),
    );
    shown(
        words("bugs"),
        bugs,
        out,
        (
            "bug",
            "node_cpu_bug_info",
            "The `bugs` field of CPU information from /proc/cpuinfo taken from the first core.",
        ),
    );
    Ok(())
}

fn shown(
    words: BTreeSet<&str>,
    matcher: Option<&mut Matcher>,
    out: &mut Families,
    (label, name, help): (&'static str, &'static str, &'static str),
) {
    let Some(matcher) = matcher else { return };
    for word in words.into_iter().filter(|word| matcher.takes(word)) {
        out.gauge(name, help).add(&[(label, word)], 1.0);
    }
}
