//! What an installation will do: a pure comparison of what shall be there, what was written before, and what is there.

use super::InstallError;
use super::manifest::{Manifest, THEIRS, hash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One file as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Absolute, as the installed system sees it.
    pub path: PathBuf,
    /// What is there.
    pub content: Content,
}

/// What a file shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// 0644, or 0755 for a program.
    pub mode: u32,
}

impl Desired {
    /// A text with mode 0644.
    pub fn text(path: &str, text: String) -> Desired {
        Desired { path: path.into(), content: Content { bytes: text.into_bytes(), mode: 0o644 } }
    }

    /// What the manifest says of it.
    pub fn mark(&self) -> String {
        hash(&self.content.bytes)
    }
}

/// What is done with one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing is there.
    Create,
    /// Ours, and older.
    Update,
    /// Ours, and as it shall be.
    Same,
    /// A person's, and left alone.
    Keep,
    /// A person's, and replaced; theirs stays beside it as `.replaced`.
    Overwrite,
    /// Ours, and no longer part of the program.
    Remove,
}

/// What to do with files that a person has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Changed {
    /// Change nothing at all and name them
    #[default]
    Refuse,
    /// Leave them as they are
    Keep,
    /// Write ours; theirs stays beside it with the ending .replaced
    Overwrite,
}

/// What to do with each path.
pub type Plan = BTreeMap<PathBuf, Action>;

/// Compares. `found` gives the mark of what is at a path, as [`Desired::mark`] does, or nothing.
///
/// # Errors
/// A person changed a file that this version has other words for, and nobody said what to do with it.
pub fn plan(
    desired: &[Desired],
    before: Option<&Manifest>,
    found: impl Fn(&Path) -> Option<String>,
    changed: Changed,
) -> Result<Plan, InstallError> {
    let mut plan = Plan::new();
    let mut theirs = Vec::new();
    for file in desired {
        let (new, written) = (file.mark(), before.and_then(|before| before.files.get(&file.path)));
        let action = match found(&file.path) {
            None => Action::Create,
            Some(there) if there == new => Action::Same,
            Some(there) if written == Some(&there) => Action::Update,
            // Theirs, but our words are the ones that they have seen and changed.
            Some(_) if written == Some(&new) && changed != Changed::Overwrite => Action::Keep,
            Some(_) => match changed {
                Changed::Keep => Action::Keep,
                Changed::Overwrite => Action::Overwrite,
                Changed::Refuse => {
                    theirs.push(file.path.display().to_string());
                    continue;
                }
            },
        };
        plan.insert(file.path.clone(), action);
    }
    for (path, written) in before.map(|before| &before.files).into_iter().flatten() {
        if written != THEIRS && !plan.contains_key(path) && !desired.iter().any(|file| file.path == *path) {
            let action = match found(path) {
                Some(there) if there == *written => Action::Remove,
                _ => Action::Keep,
            };
            plan.insert(path.clone(), action);
        }
    }
    if theirs.is_empty() {
        return Ok(plan);
    }
    Err(InstallError::Refused(format!(
        "somebody changed, and this version has other words for: {}. Nothing was done. Put changes of units into drop-ins \
         (`systemctl edit`), then: --changed overwrite writes ours and keeps theirs as FILE.replaced, --changed keep leaves them",
        theirs.join(", ")
    )))
}
