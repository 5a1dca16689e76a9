//! Resolving who may use a pool, and as whom and where its jobs run.
//!
//! Root's policy of the spawner is what counts. The same words stand here so that a job is sent to the right pool, and so
//! that what cannot be is refused when it is submitted. Whether a user exists is not asked: the file is also checked where
//! a system is built.

use std::path::{Component, PathBuf};

use super::Executor;
use super::check;
use super::file::PoolFile;
use super::resolve::Resolver;

/// What was read.
#[derive(Default)]
pub(super) struct Own {
    pub profiles: Vec<String>,
    pub user: Option<String>,
    pub paths: Vec<PathBuf>,
    pub submitters: Option<Vec<String>>,
}

impl Resolver<'_> {
    pub(super) fn own(&mut self, name: &str, file: &PoolFile, executor: Executor, profile: Option<&str>) -> Own {
        for (key, set) in [("profiles", !file.profiles.is_empty()), ("user", file.user.is_some())] {
            if set && executor == Executor::Native {
                let text = "is for the systemd executor: native jobs run as the daemon's user, without a sandbox";
                self.file_problem(&["pools", name, key], format!("{text}; leave it out"));
            }
        }
        for problem in file.profiles.iter().filter_map(|word| check::profile(word).err()) {
            self.file_problem(&["pools", name, "profiles"], problem);
        }
        if let Some(profile) = profile.filter(|profile| !file.profiles.is_empty() && !is_in(&file.profiles, profile)) {
            let text =
                format!("{profile:?} is not among the pool's profiles, {}; add it there", file.profiles.join(", "));
            self.file_problem(&["pools", name, "profile"], text);
        }
        for problem in file.paths.iter().filter_map(|path| absolute(path).err()) {
            self.file_problem(&["pools", name, "paths"], problem);
        }
        match (&file.user, file.paths.is_empty()) {
            (Some(_), true) => {
                let text = "stands without paths: name the directories that the jobs may write to".to_owned();
                self.file_problem(&["pools", name, "user"], text);
            }
            (None, false) => {
                self.file_problem(&["pools", name, "paths"], "stands without user: say whose they are".to_owned());
            }
            _ => {}
        }
        for (key, names) in [("user", file.user.as_slice()), ("submitters", file.submitters.as_deref().unwrap_or(&[]))]
        {
            for problem in names.iter().filter_map(|name| user(name).err()) {
                self.file_problem(&["pools", name, key], problem);
            }
        }
        // Who may write to the tree by hand may have it built.
        let submitters = file.submitters.clone().or_else(|| file.user.clone().map(|user| vec![user]));
        Own {
            profiles: file.profiles.clone(),
            user: file.user.clone(),
            paths: file.paths.iter().map(PathBuf::from).collect(),
            submitters,
        }
    }
}

fn is_in(words: &[String], word: &str) -> bool {
    words.iter().any(|known| known == word)
}

fn absolute(path: &str) -> Result<(), String> {
    let path = PathBuf::from(path);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    (path.is_absolute() && plain)
        .then_some(())
        .ok_or_else(|| format!("{:?} is not an absolute path without ..; write it like /home/ada/src", path.display()))
}

fn user(name: &str) -> Result<(), String> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.$".contains(&byte))
        && !name.starts_with('-');
    fits.then_some(()).ok_or_else(|| format!("{name:?} is not the name or number of a user"))
}
