//! `textfile`: what others wrote into `*.prom` files of the chosen directories.
//!
//! A file is taken whole or not at all: one line that is not understood, or a time in a line, leaves it out and sets
//! `node_textfile_scrape_error`. Series of one family that lack a label get it with an empty value.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::{Families, Labels};
use crate::files;
use crate::options::Options;
use crate::textformat::{self, ParsedFamily};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(crate) struct Textfile {
    directories: Vec<PathBuf>,
}

/// A family and the files it came from.
struct Gathered {
    parsed: Vec<ParsedFamily>,
    help: Option<String>,
    files: Vec<String>,
}

impl Textfile {
    pub(crate) fn new(options: &Options) -> Self {
        Self { directories: options.textfile_directories.clone() }
    }
}

/// Reads one file: its families and the second in which it was written.
fn read(path: &Path) -> Result<(Vec<(String, ParsedFamily)>, f64), CollectError> {
    use std::os::unix::fs::MetadataExt as _;
    let fail = |source| CollectError::Read { path: path.to_owned(), source };
    let bytes = files::read_bytes(path)?;
    let families = textformat::parse(&bytes)
        .map_err(|detail| CollectError::Malformed { path: path.to_owned(), detail: detail.to_string() })?;
    let status = path.metadata().map_err(fail)?;
    Ok((families, status.mtime() as f64))
}

/// Adds the families of a file; `false` where one has another help text than in a file before.
fn gather(all: &mut BTreeMap<String, Gathered>, path: &str, families: Vec<(String, ParsedFamily)>) -> bool {
    let mut agreed = true;
    for (name, family) in families {
        let entry = all.entry(name).or_insert(Gathered { parsed: Vec::new(), help: None, files: Vec::new() });
        if let Some(help) = &family.help {
            if entry.help.as_ref().is_some_and(|known| known != help) {
                agreed = false;
                continue;
            }
            entry.help = Some(help.clone());
        }
        entry.files.push(path.to_owned());
        entry.parsed.push(family);
    }
    agreed
}

/// Every series gets all labels of the family.
fn fill(labels: Labels, names: &BTreeSet<Cow<'static, str>>) -> Labels {
    let given: BTreeMap<_, _> = labels.into_iter().collect();
    names.iter().map(|name| (name.clone(), given.get(name).cloned().unwrap_or_default())).collect()
}

impl Collector for Textfile {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let mut all = BTreeMap::new();
        let mut failed = false;
        for dir in &self.directories {
            let names = files::names(dir);
            failed |= names.is_err();
            for name in names.unwrap_or_default().into_iter().filter(|name| name.ends_with(".prom")) {
                let path = dir.join(name);
                let shown = path.display().to_string();
                match read(&path) {
                    Ok((families, written)) => {
                        failed |= !gather(&mut all, &shown, families);
                        out.gauge("node_textfile_mtime_seconds", "Unixtime mtime of textfiles successfully read.")
                            .add(&[("file", &shown)], written);
                    }
                    Err(_) => failed = true,
                }
            }
        }
        for (name, gathered) in all {
            let help = gathered.help.unwrap_or_else(|| format!("Metric read from {}", gathered.files.join(", ")));
            for parsed in gathered.parsed {
                let labels = parsed.series.iter().flat_map(|(labels, _)| labels.iter().map(|(label, _)| label.clone()));
                let labels: BTreeSet<_> = labels.collect();
                let mut one = Families::default();
                let family = one.family(name.clone(), parsed.kind, help.clone());
                for (given, value) in parsed.series {
                    family.add_owned(fill(given, &labels), value);
                }
                out.merge(one);
            }
        }
        out.gauge("node_textfile_scrape_error", "1 if there was an error opening or reading a file, 0 otherwise")
            .add(&[], f64::from(u8::from(failed)));
        Ok(())
    }
}
