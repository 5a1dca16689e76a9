//! `filesystem`: space and files of each mount, from the mounts of process 1 and statfs(2).
//!
//! A mount whose server is gone makes statfs wait for ever. Each mount is asked in a thread that can be left behind; a
//! silent mount shows `node_filesystem_device_error` 1 and is not asked again until it has answered.

use super::Collector;
use crate::crew::{Crew, Outcome, Work};
use crate::error::{CollectError, Error};
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use crate::pattern::Matcher;
use crate::scrape::Hanging;
use rustix::fs::StatFs;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Mounts that may hang at once, each holding a thread; then only those are asked that answered the last time.
const HANGING_MAX: usize = 64;
const ERROR_HELP: &str = "Whether an error occurred while getting statistics for the given device.";

pub(crate) struct Filesystem {
    procfs: PathBuf,
    rootfs: PathBuf,
    mount_points: Matcher,
    types: Matcher,
    crew: Crew<PathBuf, rustix::io::Result<StatFs>>,
    /// Places that answered the last time: they are asked first, before others take the time.
    answered: BTreeSet<PathBuf>,
}

struct Mount<'a> {
    device: &'a str,
    /// Without the prefix `rootfs`.
    point: String,
    kind: &'a str,
    read_only: bool,
}

impl Filesystem {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self {
            procfs: options.procfs.clone(),
            rootfs: options.rootfs.clone(),
            mount_points: options.filesystem_mount_points.compile()?,
            types: options.filesystem_types.compile()?,
            crew: Crew::new("statfs", options.mount_time_max / 2),
            answered: BTreeSet::new(),
        })
    }

    /// The chosen mounts, without those of the same device, place and type again. (`procfs-core` decodes the escapes of
    /// the device, too, which node_exporter's label keeps.)
    fn mounts<'a>(&mut self, text: &'a str, path: &Path) -> Result<Vec<Mount<'a>>, CollectError> {
        let (mut mounts, mut seen) = (Vec::new(), BTreeSet::new());
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [device, point, kind, options, ..] = words[..] else { return Err(files::malformed(path, line)) };
            let point = without_prefix(&unescape(point), &self.rootfs);
            if !self.mount_points.takes(&point)
                || !self.types.takes(kind)
                || !seen.insert((device, point.clone(), kind))
            {
                continue;
            }
            mounts.push(Mount { device, point, kind, read_only: options.split(',').any(|option| option == "ro") });
        }
        Ok(mounts)
    }

    /// Asks each place once; `None` is an error, silence or no time.
    fn ask(&mut self, mounts: &[Mount<'_>]) -> BTreeMap<PathBuf, Option<StatFs>> {
        drop(self.crew.returned());
        let mut answers = BTreeMap::new();
        let mut work: BTreeMap<PathBuf, Work<rustix::io::Result<StatFs>>> = BTreeMap::new();
        for mount in mounts {
            let place = self.place(mount);
            let hanging = self.crew.hanging();
            let full = hanging.len() >= HANGING_MAX && !self.answered.contains(&place);
            if full || hanging.contains_key(&place) {
                answers.insert(place, None);
                continue;
            }
            let asked = place.clone();
            work.insert(place, Box::new(move || rustix::fs::statfs(&asked)));
        }
        let mut work: Vec<_> = work.into_iter().collect();
        work.sort_by_key(|(place, _)| !self.answered.contains(place));
        self.answered.clear();
        for (place, outcome) in self.crew.run(work) {
            let Outcome::Done(answer) = outcome else {
                answers.insert(place, None);
                continue;
            };
            self.answered.insert(place.clone());
            answers.insert(place, answer.ok());
        }
        answers
    }

    fn place(&self, mount: &Mount<'_>) -> PathBuf {
        self.rootfs.join(mount.point.trim_start_matches('/'))
    }
}

/// fstab(5): white space and backslashes are octal.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\043", "#"), ("\\134", "\\")];
    if text.contains('\\') {
        escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    } else {
        text.to_owned()
    }
}

/// In a container the host's mounts are seen below `rootfs`; they are shown as the host names them.
fn without_prefix(point: &str, rootfs: &Path) -> String {
    let prefix = rootfs.to_string_lossy();
    let prefix = prefix.trim_end_matches('/');
    match point.strip_prefix(prefix) {
        Some("") => "/".to_owned(),
        Some(rest) if rest.starts_with('/') => rest.to_owned(),
        Some(_) | None => point.to_owned(),
    }
}

impl Collector for Filesystem {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        // Process 1's mounts are the host's, also where this process has a mount namespace of its own.
        let (first, own) = (self.procfs.join("1/mounts"), self.procfs.join("mounts"));
        let (path, text) = match files::read(&first) {
            Ok(text) => (first, text),
            Err(_) => (own.clone(), files::read(&own)?),
        };
        let mounts = self.mounts(&text, &path)?;
        let answers = self.ask(&mounts);
        for mount in mounts {
            let labels = [("device", mount.device), ("mountpoint", mount.point.as_str()), ("fstype", mount.kind)];
            let answer = answers.get(&self.place(&mount)).copied().flatten();
            let failed = f64::from(u8::from(answer.is_none()));
            out.gauge("node_filesystem_device_error", ERROR_HELP).add(&labels, failed);
            let Some(stat) = answer else { continue };
            let block = stat.f_bsize as f64;
            let read_only = f64::from(u8::from(mount.read_only));
            for (name, help, value) in [
                ("node_filesystem_size_bytes", "Filesystem size in bytes.", stat.f_blocks as f64 * block),
                ("node_filesystem_free_bytes", "Filesystem free space in bytes.", stat.f_bfree as f64 * block),
                (
                    "node_filesystem_avail_bytes",
                    "Filesystem space available to non-root users in bytes.",
                    stat.f_bavail as f64 * block,
                ),
                ("node_filesystem_files", "Filesystem total file nodes.", stat.f_files as f64),
                ("node_filesystem_files_free", "Filesystem total free file nodes.", stat.f_ffree as f64),
                ("node_filesystem_readonly", "Filesystem read-only status.", read_only),
            ] {
                out.gauge(name, help).add(&labels, value);
            }
        }
        Ok(())
    }

    fn hanging(&self) -> Vec<Hanging> {
        let hanging = self.crew.hanging().iter();
        hanging.map(|(place, since)| Hanging { what: place.display().to_string(), since: *since }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_prefixes_come_off() {
        for (from, to) in [("/a\\040b", "/a b"), ("/t\\011x\\134y", "/t\tx\\y"), ("/plain", "/plain")] {
            assert_eq!(unescape(from), to);
        }
        for (point, root, shown) in [
            ("/", "/", "/"),
            ("/host", "/host", "/"),
            ("/host/x", "/host/", "/x"),
            ("/hostel", "/host", "/hostel"),
            ("/x", "/", "/x"),
        ] {
            assert_eq!(without_prefix(point, Path::new(root)), shown);
        }
    }
}
