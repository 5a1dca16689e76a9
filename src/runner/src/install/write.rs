//! What shall be there, and writing it: each file aside, then renamed over the old one, so that a program that runs keeps its
//! own and nobody reads half a file.

use super::manifest::{self, Manifest, THEIRS, hash};
use super::plan::{Action, Content, Desired, Plan};
use super::unfinished::Unfinished;
use super::{InstallError, Place, template};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The programs of one build; they stand beside each other.
pub const PROGRAMS: [&str; 3] = ["ci-runner", "ci-runner-spawner", "add_job"];

/// Files of the service for a place: units and settings, programs unless they already run from there, and `pages` (path below
/// the prefix, text).
///
/// # Errors
/// A program of this build is not beside this one, or cannot be read.
pub fn desired(place: &Place, pages: Vec<(String, String)>) -> Result<Vec<Desired>, InstallError> {
    let mut files = template::files(&place.prefix, place.jobs);
    let bin = place.prefix.join("bin");
    let own = std::env::current_exe().map_err(InstallError::io("cannot look at", Path::new("/proc/self/exe")))?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    if !place.is_live() || beside != bin || Manifest::read(place)?.is_some_and(|ours| ours.files.contains_key(&own)) {
        for program in PROGRAMS {
            let from = beside.join(program);
            let bytes = std::fs::read(&from).map_err(InstallError::io("cannot read", &from))?;
            files.push(Desired { path: bin.join(program), content: Content { bytes, mode: 0o755 } });
        }
    }
    files.extend(pages.into_iter().map(|(path, text)| {
        let path = place.prefix.join(path);
        Desired { path, content: Content { bytes: text.into_bytes(), mode: 0o644 } }
    }));
    Ok(files)
}

/// The mark of what is at a path, as [`Desired::mark`] has it. Something that cannot be read is a person's.
pub fn found(place: &Place) -> impl Fn(&Path) -> Option<String> {
    move |path| {
        let path = place.at(path);
        let about = std::fs::symlink_metadata(&path).ok()?;
        if about.is_symlink() {
            return Some(std::fs::read_link(&path).map_or(String::new(), |target| format!("->{}", target.display())));
        }
        Some(std::fs::read(&path).map_or(String::new(), |bytes| hash(&bytes)))
    }
}

/// Root will execute and believe what is below the prefix: nobody else may write there.
///
/// # Errors
/// Somebody may.
pub fn check_prefix(place: &Place) -> Result<(), InstallError> {
    let bin = place.prefix.join("bin");
    for above in bin.ancestors() {
        let Ok(about) = std::fs::metadata(above) else { continue };
        if about.uid() != 0 || about.mode() & 0o022 != 0 {
            return Err(InstallError::Refused(format!(
                "{} belongs to user {} and has mode {:o}: root's programs cannot stand below it; `chown root` and \
                 `chmod go-w` it, or choose another --prefix",
                above.display(),
                about.uid(),
                about.mode() & 0o7777
            )));
        }
    }
    Ok(())
}

/// Writes the list of what is ours, with all that is new and the mark of an installation that has not ended: whatever ends this, a
/// removal finds everything. Until a file is replaced the list has it as it was: an installation that goes on later must not take it
/// for a person's. What is returned is what is true now.
///
/// # Errors
/// It cannot be written.
pub fn begin(
    place: &Place,
    desired: &[Desired],
    plan: &Plan,
    before: Option<Manifest>,
    unfinished: Unfinished,
) -> Result<Manifest, InstallError> {
    let mut ours = before.unwrap_or_default();
    ours.version = env!("CARGO_PKG_VERSION").to_owned();
    ours.prefix = place.prefix.clone();
    ours.set_jobs(place.jobs);
    ours.unfinished = Some(unfinished);
    make_directories(place, Path::new(manifest::PATH).parent().unwrap_or(Path::new("/")), &mut ours)?;
    keep(place, &with_all_that_is_new(place, desired, plan, &ours))?;
    Ok(ours)
}

/// Does what the plan says, and writes the list as it is then, after a failure too.
///
/// # Errors
/// A file cannot be written. What was done stays, and is in the list.
pub fn apply(place: &Place, desired: &[Desired], plan: &Plan, ours: &mut Manifest) -> Result<(), InstallError> {
    let done = carry_out(place, desired, plan, ours);
    done.and(keep(place, ours))
}

fn with_all_that_is_new(place: &Place, desired: &[Desired], plan: &Plan, ours: &Manifest) -> Manifest {
    let mut all = ours.clone();
    for file in desired.iter().filter(|file| plan.get(&file.path) == Some(&Action::Create)) {
        all.files.insert(file.path.clone(), file.mark());
        let above = file.path.ancestors().skip(1);
        all.directories.extend(above.take_while(|dir| !place.at(dir).exists()).map(Path::to_owned));
    }
    all
}

fn carry_out(place: &Place, desired: &[Desired], plan: &Plan, ours: &mut Manifest) -> Result<(), InstallError> {
    for file in desired {
        let action = plan.get(&file.path).copied().unwrap_or(Action::Keep);
        make_directories(place, file.path.parent().unwrap_or(Path::new("/")), ours)?;
        if action == Action::Overwrite {
            let aside = PathBuf::from(format!("{}.replaced", file.path.display()));
            let (from, to) = (place.at(&file.path), place.at(&aside));
            std::fs::rename(&from, &to).map_err(InstallError::io("cannot move", &from))?;
            ours.files.insert(aside, THEIRS.to_owned());
        }
        if matches!(action, Action::Create | Action::Update | Action::Overwrite) {
            write(&place.at(&file.path), &file.content)?;
        }
        ours.files.insert(file.path.clone(), file.mark());
    }
    for (path, action) in plan {
        if desired.iter().any(|file| file.path == *path) {
            continue;
        }
        if *action == Action::Remove {
            let path = place.at(path);
            std::fs::remove_file(&path).map_err(InstallError::io("cannot remove", &path))?;
        }
        ours.files.remove(path);
    }
    Ok(())
}

/// Writes the list.
///
/// # Errors
/// It cannot be written.
pub fn keep(place: &Place, ours: &Manifest) -> Result<(), InstallError> {
    let content = Content { bytes: ours.text().into_bytes(), mode: 0o644 };
    write(&place.at(Path::new(manifest::PATH)), &content)
}

/// Makes what is missing above a file, and remembers it.
fn make_directories(place: &Place, dir: &Path, ours: &mut Manifest) -> Result<(), InstallError> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|above| !place.at(above).exists()).collect();
    for dir in missing.into_iter().rev() {
        let path = place.at(dir);
        std::fs::create_dir(&path).map_err(InstallError::io("cannot make", &path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .map_err(InstallError::io("cannot open to all", &path))?;
        ours.directories.insert(dir.to_owned());
    }
    Ok(())
}

/// Aside, synced, renamed. Nothing is left aside.
pub(super) fn write(path: &Path, content: &Content) -> Result<(), InstallError> {
    let aside = aside_of(path);
    write_aside(&aside, content)
        .and_then(|()| std::fs::rename(&aside, path).map_err(InstallError::io("cannot write", path)))
        .inspect_err(|_| drop(std::fs::remove_file(&aside)))
}

/// Where a file is until it is whole. A kill leaves it there.
pub(super) fn aside_of(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()))
}

fn write_aside(aside: &Path, content: &Content) -> Result<(), InstallError> {
    match std::fs::remove_file(aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(InstallError::io("cannot remove", aside)(error));
        }
        _ => {}
    }
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside)?;
        file.write_all(&content.bytes)?;
        file.set_permissions(std::fs::Permissions::from_mode(content.mode))?;
        file.sync_all()
    };
    write().map_err(InstallError::io("cannot write", aside))
}
