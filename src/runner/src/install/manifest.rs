//! The list of what `install` wrote: path, kind, hash. It is root's, in a directory that is root's, because a removal believes it.

use super::unfinished::Unfinished;
use super::{InstallError, Jobs, Place};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where the list is kept.
pub const PATH: &str = "/etc/ci-runner/installed.json";

/// In place of a hash: a person's file that we put aside.
pub const THEIRS: &str = "theirs";

/// What is ours on this system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of the program that wrote it.
    pub version: String,
    /// Where programs are.
    pub prefix: PathBuf,
    /// By path, the hash of what was written, or for a link its target behind `->`.
    pub files: BTreeMap<PathBuf, String>,
    /// How many slots of native jobs have users; 0: jobs are units.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slot_users: u32,
    /// With slots that have users: jobs may be units, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub units_too: bool,
    /// Directories that were made.
    pub directories: BTreeSet<PathBuf>,
    /// Users that were made.
    pub users: BTreeSet<String>,
    /// Groups that were made.
    pub groups: BTreeSet<String>,
    /// Only while an installation is under way, or where one did not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Unfinished>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// SHA-256 of a content, in hexadecimal digits.
pub fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    /// Reads the list; none where nothing is installed.
    ///
    /// # Errors
    /// It cannot be read, is not one, or somebody else than its owner's equal could have written it.
    pub fn read(place: &Place) -> Result<Option<Manifest>, InstallError> {
        let path = place.at(Path::new(PATH));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(InstallError::io("cannot read", &path)(error)),
        };
        let wrong = |why: String| InstallError::Manifest { path: path.display().to_string(), why };
        let about = std::fs::metadata(&path).map_err(InstallError::io("cannot look at", &path))?;
        let trusted = [0, rustix::process::geteuid().as_raw()];
        if !trusted.contains(&about.uid()) || about.mode() & 0o022 != 0 {
            return Err(wrong("others can write it".to_owned()));
        }
        serde_json::from_str(&text).map(Some).map_err(|error| wrong(error.to_string()))
    }

    /// How jobs run.
    pub fn jobs(&self) -> Jobs {
        match (self.slot_users, self.units_too) {
            (0, _) => Jobs::Units,
            (users, false) => Jobs::Native(users),
            (users, true) => Jobs::Both(users),
        }
    }

    /// Notes how jobs run.
    pub fn set_jobs(&mut self, jobs: Jobs) {
        self.slot_users = jobs.slot_users();
        self.units_too = matches!(jobs, Jobs::Both(_));
    }

    /// As it is kept.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("paths here are UTF-8: they come from our own texts");
        text.push('\n');
        text
    }
}
