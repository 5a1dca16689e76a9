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
    /// How many native jobs run at once, each under a user of its own; 0: jobs are units.
    pub slot_users: u32,
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
