//! `[metrics]`: what the exporter shows of the host, and to whom.

use super::file::MetricsFile;
use super::resolve::Resolver;
use super::show::{line, list, quoted};
use super::{Config, ExporterOverrides};
use crate::exporter::sources;
use ci_runner_hostmetrics::{Error, FILTERS, Options};
use std::path::PathBuf;

/// What the exporter shows of the host, and to whom.
#[derive(Clone, Debug)]
pub struct ExporterConfig {
    /// Whether it shows the host's figures.
    pub host: bool,
    /// Which, and from where; checked.
    pub options: Options,
    /// Where `ci_runner.prom` is written for another exporter.
    pub textfile_directory: Option<PathBuf>,
    /// Who may ask.
    pub protection: Protection,
}

/// Who may ask. All of them files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// The chain of certificates, PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Lines of `USER:PASSWORD`.
    pub basic_file: Option<PathBuf>,
    /// Lines that are each a token.
    pub bearer_file: Option<PathBuf>,
}

impl PartialEq for ExporterConfig {
    fn eq(&self, other: &Self) -> bool {
        let key =
            |of: &Self| (of.host, format!("{:?}", of.options), of.textfile_directory.clone(), of.protection.clone());
        key(self) == key(other)
    }
}

impl Resolver<'_> {
    pub(super) fn exporter(&mut self, mut file: MetricsFile, given: &ExporterOverrides) -> ExporterConfig {
        let mut options =
            Options { clock_state: Some(sources::clock_state), units: Some(sources::units), ..Options::default() };
        let current = self.host.current_dir.clone();
        for (key, place, given, file) in [
            ("procfs", &mut options.procfs, &given.procfs, &file.procfs),
            ("sysfs", &mut options.sysfs, &given.sysfs, &file.sysfs),
            ("rootfs", &mut options.rootfs, &given.rootfs, &file.rootfs),
            ("udev_data", &mut options.udev_data, &given.udev_data, &file.udev_data),
        ] {
            let of_file = self.metrics_path(key, file.as_deref());
            if let Some(path) = given.as_ref().map(|path| current.join(path)).or(of_file) {
                *place = path;
            }
        }
        options.enabled = given.collectors.clone().or(file.collectors.take());
        options.disabled = std::mem::take(&mut file.exclude_collectors);
        for (table, patterns) in [("include", &file.include), ("exclude", &file.exclude)] {
            for (name, pattern) in patterns {
                // An unknown name was told when the file was read.
                let Some(filter) = options.filter_mut(name) else { continue };
                *if table == "include" { &mut filter.include } else { &mut filter.exclude } = Some(pattern.clone());
            }
        }
        let sources = std::mem::take(&mut file.textfile_sources);
        options.textfile_directories =
            sources.iter().filter_map(|dir| self.metrics_path("textfile_sources", Some(dir))).collect();
        let of_file = self.metrics_path("textfile_directory", file.textfile_directory.as_deref());
        let textfile_directory = given.textfile_directory.as_ref().map(|path| current.join(path)).or(of_file);
        self.options(&file, &options);
        ExporterConfig {
            host: file.host.unwrap_or(true),
            options,
            textfile_directory,
            protection: self.protection(&file),
        }
    }

    /// Tells all that is wrong at once, patterns at their lines.
    fn options(&mut self, file: &MetricsFile, options: &Options) {
        let tables = [("include", &file.include), ("exclude", &file.exclude)];
        let patterns =
            tables.into_iter().flat_map(|(table, of)| of.iter().map(move |(name, text)| (table, name, text)));
        let mut patterns: Vec<_> = patterns.collect();
        for error in options.problems() {
            let told = crate::error::chain(&error);
            let place = match &error {
                Error::Pattern { pattern, .. } => patterns.iter().position(|(_, _, text)| *text == pattern),
                _ => None,
            };
            match place.map(|at| patterns.remove(at)) {
                Some((table, name, _)) => self.file_problem(&["metrics", table, name], told),
                None => self.file_problem(&["metrics"], told),
            }
        }
    }

    fn protection(&mut self, file: &MetricsFile) -> Protection {
        let protection = Protection {
            tls_certificate: self.metrics_path("tls_certificate", file.tls_certificate.as_deref()),
            tls_key: self.metrics_path("tls_key", file.tls_key.as_deref()),
            basic_file: self.metrics_path("basic_file", file.basic_file.as_deref()),
            bearer_file: self.metrics_path("bearer_file", file.bearer_file.as_deref()),
        };
        for (key, missing, other) in [
            ("tls_certificate", protection.tls_key.is_none(), &protection.tls_certificate),
            ("tls_key", protection.tls_certificate.is_none(), &protection.tls_key),
        ] {
            if other.is_some() && missing {
                self.file_problem(&["metrics", key], "needs tls_certificate and tls_key both".to_owned());
            }
        }
        protection
    }

    fn metrics_path(&mut self, key: &'static str, text: Option<&str>) -> Option<PathBuf> {
        let text = text?;
        if !text.starts_with('/') {
            self.file_problem(&["metrics", key], format!("{text:?} is relative; write an absolute path"));
        }
        Some(PathBuf::from(text))
    }
}

/// The table as text that is read back.
pub(super) fn show(config: &Config, text: &mut String) {
    let ExporterConfig { host, options, textfile_directory, protection } = &config.exporter;
    let path = |path: &PathBuf| quoted(&path.to_string_lossy());
    let some = |at: &Option<PathBuf>| at.as_ref().map(path);
    line(text, "\n[metrics]");
    line(text, &format!("listen = {}  # {}", quoted(&config.metrics.to_string()), config.source("metrics")));
    line(text, &format!("host = {host}"));
    let sources: Vec<String> =
        options.textfile_directories.iter().map(|dir| dir.to_string_lossy().into_owned()).collect();
    for (key, value) in [
        ("procfs", Some(path(&options.procfs))),
        ("sysfs", Some(path(&options.sysfs))),
        ("rootfs", Some(path(&options.rootfs))),
        ("udev_data", Some(path(&options.udev_data))),
        ("collectors", options.enabled.as_ref().map(|names| list(names))),
        ("exclude_collectors", Some(list(&options.disabled))),
        ("textfile_sources", Some(list(&sources))),
        ("textfile_directory", some(textfile_directory)),
        ("tls_certificate", some(&protection.tls_certificate)),
        ("tls_key", some(&protection.tls_key)),
        ("basic_file", some(&protection.basic_file)),
        ("bearer_file", some(&protection.bearer_file)),
    ] {
        if let Some(value) = value {
            line(text, &format!("{key} = {value}"));
        }
    }
    let mut options = options.clone();
    for table in ["include", "exclude"] {
        line(text, &format!("\n[metrics.{table}]"));
        for name in FILTERS {
            let Some(filter) = options.filter_mut(name) else { continue };
            let pattern = if table == "include" { &filter.include } else { &filter.exclude };
            if let Some(pattern) = pattern {
                line(text, &format!("{name} = {}", quoted(pattern)));
            }
        }
    }
}
