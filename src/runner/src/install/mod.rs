//! Installing the service on a systemd distribution that is not NixOS, and removing it without a trace.
//!
//! What is installed is rendered from the NixOS module ([`template`]), so that there is one source of every directive. A list
//! of what was written, with hashes, stands in [`manifest::PATH`], which is root's: by it an upgrade knows which files a person
//! changed, and a removal what is ours. [`plan`] decides, [`write`] and [`services`] do, in this order:
//!
//! 1. programs and files, each written aside and renamed;
//! 2. users and directories (`systemd-sysusers`, `systemd-tmpfiles`), `daemon-reload`;
//! 3. the rules of a switch on NixOS: the daemon is restarted for a new program or unit and reloaded for new settings, what
//!    holds jobs executes itself anew and is never restarted.
//!
//! Before the first of that the list says that the installation is unfinished, and after the last that it is not: see [`unfinished`].
//!
//! Root trusts no path here that the daemon can write: only [`remove`] touches the state directory, by descriptors.

pub mod manifest;
pub mod plan;
pub mod remove;
pub mod repair;
pub mod services;
pub mod template;
pub mod unfinished;
pub mod write;

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Why something could not be installed or removed. The text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or directory.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done, as in `cannot write`.
        doing: &'static str,
        /// To which path.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A command of the system.
    #[error("`{command}` failed: {told}")]
    Command {
        /// Its words.
        command: String,
        /// What it said.
        told: String,
    },
    /// The list of installed files.
    #[error(
        "{path} is not a list of installed files ({why}); if it is damaged, remove it and install anew with --changed overwrite"
    )]
    Manifest {
        /// Where.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Anything that a person has to decide.
    #[error("{0}")]
    Refused(String),
}

impl InstallError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> InstallError {
        let path = path.display().to_string();
        move |source| InstallError::Io { doing, path, source }
    }
}

/// Where things go.
#[derive(Clone, Debug)]
pub struct Place {
    /// `/`, or the root of an image.
    pub root: PathBuf,
    /// Below it, where programs and their pages go: `/usr/local`.
    pub prefix: PathBuf,
    /// How jobs run.
    pub jobs: Jobs,
}

/// How jobs run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jobs {
    /// As units.
    #[default]
    Units,
    /// Natively, so many at once, each under a user of its own.
    Native(u32),
    /// As units in the pool `default`, and so many at once natively in the pool `native`.
    Both(u32),
}

impl Jobs {
    /// How many slots of native jobs have users.
    pub fn slot_users(self) -> u32 {
        match self {
            Jobs::Units => 0,
            Jobs::Native(users) | Jobs::Both(users) => users,
        }
    }

    /// Whether jobs can be units.
    pub fn has_units(self) -> bool {
        matches!(self, Jobs::Units | Jobs::Both(_))
    }

    /// The name of each slot's user.
    pub fn users(self) -> impl Iterator<Item = String> {
        let pool = if self.has_units() { "native-" } else { "" };
        (0..self.slot_users()).map(move |number| format!("ci-runner-job-{pool}{number}"))
    }

    /// Whether jobs that run so may lose their spawner or their user when they shall run as `next`.
    pub fn loses_with(self, next: Jobs) -> bool {
        let users: BTreeSet<String> = next.users().collect();
        (self.has_units() && !next.has_units()) || self.users().any(|user| !users.contains(&user))
    }

    /// The options of `install` that say it.
    pub fn options(self) -> String {
        let units = if matches!(self, Jobs::Both(_)) { " --units yes" } else { "" };
        format!("--slot-users {}{units}", self.slot_users())
    }
}

impl Place {
    /// Whether this is the running system, and not an image.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The path of `path` (absolute, as the installed system will see it) from here.
    pub fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}
