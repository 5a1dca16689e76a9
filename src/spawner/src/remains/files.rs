//! Files of a user where others may write too, removed by a process that is that user.
//!
//! Directories of the user go whole, whatever their modes and however deep they are: what is below is moved up to the top
//! one, so that there is no recursion. Directories of others are looked into as far as [`is_worth_a_look`] says. No link is
//! followed.
//!
//! What lies in a directory of another who has closed it since can only be emptied. A directory of the user's in which
//! another has something stays with just that in it, open to look into, so that it can go when the other's goes.
//!
//! What others keep costs little, wherever it is: a system call for each thing in a shared directory and two for each in a
//! directory of the user's, for only they tell whose it is; whatever takes more is done [`LOOKED_MAX`] times.

use std::ffi::{CStr, CString};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::entries::{
    WRITABLE_DEPTH_MAX, as_path, each, empty, is_worth_a_look, open_of_another, open_shared, owner,
    removed_or_left_open,
};
use crate::tmpdir::{move_up, open_below, remove_leaf};

/// Where everybody may write.
const SHARED_DIRS: [&str; 4] = ["/dev/shm", "/dev/mqueue", "/tmp", "/var/tmp"];
/// So many directories of others are opened, and things looked at in them, in all: what neighbours keep there is not to hold
/// up a user's jobs.
pub(super) const LOOKED_MAX: u32 = 20_000;

/// Removes all that is `uid`'s. Err: something stays, and which.
pub(super) fn remove(uid: u32) -> Result<(), String> {
    remove_in(uid, SHARED_DIRS.map(Path::new))
}

pub(super) fn remove_in<'a>(uid: u32, shared_dirs: impl IntoIterator<Item = &'a Path>) -> Result<(), String> {
    let mut remover = Remover { uid, moved: 0, looked: 0, stays: None };
    let mut opened = Vec::new();
    for path in shared_dirs {
        match open_shared(path) {
            Ok(dir) => opened.extend(dir.map(|dir| (dir, path))),
            Err(error) => remover.stays(path, error),
        }
    }
    // What lies openly goes first, in all of them: no neighbour can use up what there is for it.
    for look in [Look::Own, Look::Below] {
        opened.iter().for_each(|(dir, path)| remover.look_at_all(dir, path, 0, look));
    }
    remover.stays.map_or(Ok(()), Err)
}

/// What a look at a directory is for.
#[derive(Clone, Copy, PartialEq)]
enum Look {
    /// What is the user's in it.
    Own,
    /// What is the user's in others' directories in it.
    Below,
    /// Both.
    All,
}

/// A look at what is in a directory of the user's, which is at `path`, so deep below a shared one.
#[derive(Clone, Copy)]
struct Pass<'a> {
    path: &'a Path,
    depth: u32,
    /// It was looked at before: only what is the user's is a reason to look once more. Else a neighbour that empties its
    /// directories there one at a time has all the others looked at each time.
    again: bool,
}

struct Remover {
    uid: u32,
    /// Names given so far.
    moved: u64,
    /// Directories of others, and things in them, that were looked at.
    looked: u32,
    /// The first thing of the user's that could be neither removed nor emptied.
    stays: Option<String>,
}

impl Remover {
    /// Removes what is the user's in another's directory, which is in `parent`.
    fn look_into(&mut self, parent: &OwnedFd, name: &CStr, path: &Path, depth: u32) {
        if self.looked >= LOOKED_MAX || !is_worth_a_look(parent, name, depth) {
            return;
        }
        self.looked += 1;
        match open_of_another(parent, name) {
            Ok(dir) => self.look_at_all(&dir, path, depth, Look::All),
            // Closed to the user, gone, or another file system, where nobody says how long a look takes.
            Err(Errno::ACCESS | Errno::PERM | Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
            Err(error) => self.stays(path, error),
        }
    }

    /// The same for one that is open; `depth` 0 is a shared one, in which all is looked at however much it is: whose a thing is
    /// takes a system call.
    fn look_at_all(&mut self, dir: &OwnedFd, path: &Path, depth: u32, look: Look) {
        let read = each(dir, |name, kind| {
            self.looked += u32::from(depth > 0);
            if self.looked > LOOKED_MAX && (depth > 0 || look == Look::Below) {
                return ControlFlow::Break(());
            }
            if look == Look::Below && !matches!(kind, FileType::Directory | FileType::Unknown) {
                return ControlFlow::Continue(());
            }
            let Some((uid, kind)) = owner(dir, name) else { return ControlFlow::Continue(()) };
            if uid == self.uid {
                if look != Look::Below {
                    self.remove(dir, name, kind, &path.join(as_path(name)), depth);
                }
            } else if look != Look::Own && kind == FileType::Directory {
                self.look_into(dir, name, &path.join(as_path(name)), depth + 1);
            }
            ControlFlow::Continue(())
        });
        // One of another's that cannot be read hides nothing that its owner could not hide otherwise, by closing it.
        if let Err(error) = read
            && depth == 0
        {
            self.stays(path, error);
        }
    }

    /// Removes one thing of the user's that is in another's directory, so deep below a shared one.
    fn remove(&mut self, dir: &OwnedFd, name: &CStr, kind: FileType, path: &Path, depth: u32) {
        let removed = match remove_leaf(dir, name, kind) {
            Ok(true) => Ok(()),
            Ok(false) => self.remove_tree(dir, name, path, depth),
            // The directory's owner has closed it.
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) if kind == FileType::Directory => {
                self.remove_tree(dir, name, path, depth)
            }
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => empty(dir, name, kind),
            Err(error) => Err(error),
        };
        if let Err(error) = removed
            // Whose the directory is may have put something of its own there meanwhile.
            && owner(dir, name).is_some_and(|(uid, _)| uid == self.uid)
        {
            self.stays(path, error);
        }
    }

    fn remove_tree(&mut self, dir: &OwnedFd, name: &CStr, path: &Path, depth: u32) -> Result<(), Errno> {
        let top = self.opened(dir, name)?;
        let mut below = Vec::new();
        let first = Pass { path, depth, again: false };
        let again = Pass { again: true, ..first };
        let mut pass = first;
        loop {
            let mut done = self.strip(&top, None, pass, &mut below)?;
            while let Some(name) = below.pop() {
                let sub = self.opened(&top, &name)?;
                let mut stripped = self.strip(&sub, Some(&top), pass, &mut below)?;
                while stripped > 0 {
                    done += 1;
                    stripped = self.strip(&sub, Some(&top), again, &mut below)?;
                }
                done += u64::from(removed_or_left_open(&top, &name, &sub)?);
            }
            match removed_or_left_open(dir, name, &top) {
                Ok(false) if done > 0 => pass = again,
                // It is empty, in a directory that its owner has closed.
                Ok(_) | Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes what is in a directory of the user's, but for directories that are not empty: those of the user's are moved to
    /// `top` if they are not there, and named in `below`. How much it removed or moved.
    fn strip(
        &mut self,
        dir: &OwnedFd,
        top: Option<&OwnedFd>,
        Pass { path, depth, again }: Pass<'_>,
        below: &mut Vec<CString>,
    ) -> Result<u64, Errno> {
        let mut done = 0;
        each(dir, |name, kind| {
            let is_own = || owner(dir, name).is_some_and(|(uid, _)| uid == self.uid);
            let counts = !again || is_own();
            let removed = remove_leaf(dir, name, kind);
            let result = match removed {
                Ok(true) => Ok(counts),
                Ok(false) if is_own() => match top {
                    None => {
                        below.push(name.to_owned());
                        Ok(false)
                    }
                    Some(top) => match self.moved_up(dir, name, top) {
                        // It must go where it is: another subvolume, say.
                        Err(Errno::XDEV) if depth < WRITABLE_DEPTH_MAX => {
                            let removed = self.remove_tree(dir, name, &path.join(as_path(name)), depth + 1);
                            removed.map(|()| owner(dir, name).is_none())
                        }
                        moved => moved.map(|name| {
                            below.push(name);
                            true
                        }),
                    },
                },
                Ok(false) => {
                    // Directories of two users in one another may go as deep as they like.
                    self.look_into(dir, name, &path.join(as_path(name)), depth + 1);
                    Ok(false)
                }
                Err(error) if is_own() => Err(error),
                Err(_) => Ok(false),
            };
            match result {
                Ok(counts) => done += u64::from(counts),
                Err(error) => self.stays(&path.join(as_path(name)), error),
            }
            ControlFlow::Continue(())
        })?;
        Ok(done)
    }

    fn moved_up(&mut self, dir: &OwnedFd, name: &CStr, top: &OwnedFd) -> Result<CString, Errno> {
        // Moving a directory rewrites its `..`, which takes write access to it.
        self.opened(dir, name)?;
        move_up(dir, name, top, &mut self.moved)
    }

    /// Opens a directory of the user's, who has all access to it then.
    fn opened(&self, dir: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
        let opened = open_below(dir.as_fd(), name)?;
        if rustix::fs::fstat(&opened)?.st_uid != self.uid {
            return Err(Errno::PERM);
        }
        rustix::fs::fchmod(&opened, Mode::RWXU)?;
        Ok(opened)
    }

    fn stays(&mut self, path: &Path, error: Errno) {
        self.stays.get_or_insert_with(|| format!("{}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::OFlags;

    use super::*;

    /// A shared directory, and who makes things in it.
    fn shared() -> (tempfile::TempDir, u32) {
        (tempfile::tempdir().expect("a directory"), rustix::process::geteuid().as_raw())
    }

    fn is_empty(dir: &Path) -> bool {
        std::fs::read_dir(dir).expect("readable").count() == 0
    }

    #[test]
    fn closed_directories_go_and_links_are_not_followed() {
        let (dir, uid) = shared();
        let outside = tempfile::tempdir().expect("a directory");
        std::fs::write(outside.path().join("precious"), "x").expect("written");
        let inner = dir.path().join("gomod/pkg/closed");
        std::fs::create_dir_all(&inner).expect("made");
        std::fs::write(inner.join("f"), "token").expect("written");
        symlink(outside.path(), inner.join("link")).expect("linked");
        symlink(outside.path(), dir.path().join("link")).expect("linked");
        for (path, mode) in [("gomod/pkg/closed", 0o000), ("gomod/pkg", 0o500), ("gomod", 0o100)] {
            std::fs::set_permissions(dir.path().join(path), std::fs::Permissions::from_mode(mode)).expect("closed");
        }
        assert_eq!(remove_in(uid, [dir.path()]), Ok(()));
        assert!(is_empty(dir.path()));
        assert!(outside.path().join("precious").exists());
    }

    #[test]
    fn deep_and_wide_trees_go() {
        let (dir, uid) = shared();
        let mut at: OwnedFd = std::fs::File::open(dir.path()).expect("opens").into();
        for _ in 0..300 {
            for name in ["d", ".wiped-1"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).expect("made");
            }
            at = rustix::fs::openat(&at, "d", OFlags::RDONLY, Mode::empty()).expect("opens");
        }
        std::fs::create_dir(dir.path().join("wide")).expect("made");
        for i in 0..300 {
            std::fs::create_dir_all(dir.path().join(format!("wide/{i}/x"))).expect("made");
        }
        assert_eq!(remove_in(uid, [dir.path()]), Ok(()));
        assert!(is_empty(dir.path()));
    }

    #[test]
    fn only_the_users_own_goes() {
        let (dir, uid) = shared();
        std::fs::create_dir_all(dir.path().join("a/b")).expect("made");
        assert_eq!(remove_in(uid + 1, [dir.path()]), Ok(()));
        assert!(dir.path().join("a/b").exists());
        assert_eq!(remove_in(uid, [&dir.path().join("missing"), dir.path()].map(|path: &Path| path)), Ok(()));
        assert!(is_empty(dir.path()));
    }

    /// A neighbour whose job runs could take the user away for as long as it liked.
    #[test]
    fn what_another_put_in_its_place_meanwhile_is_no_reason_to_refuse() {
        let (dir, uid) = shared();
        std::fs::create_dir_all(dir.path().join("swapped/x")).expect("made");
        let top: OwnedFd = std::fs::File::open(dir.path()).expect("opens").into();
        let mut remover = Remover { uid: uid + 1, moved: 0, looked: 0, stays: None };
        remover.remove(&top, c"swapped", FileType::Directory, dir.path(), 1);
        assert_eq!(remover.stays, None);
        assert!(dir.path().join("swapped/x").exists());
    }

    /// A user that is nobody's, with a file in this directory of ours. None: we cannot make one.
    fn neighbour_of(test: &str, dir: &Path) -> Option<(u32, std::path::PathBuf)> {
        const NOBODYS: u32 = 61_837;
        std::fs::create_dir_all(dir).expect("made");
        let path = dir.join("left");
        std::fs::write(&path, "x").expect("written");
        if std::os::unix::fs::chown(&path, Some(NOBODYS), None).is_err() {
            crate::skipped::tell(test, "only root can make files of another user");
            return None;
        }
        Some((NOBODYS, path))
    }

    /// Each start of a job of the user's looked at all that anybody kept there, which took seconds.
    #[test]
    fn what_neighbours_keep_is_looked_at_up_to_a_bound() {
        let (dir, _) = shared();
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        let test = "what_neighbours_keep_is_looked_at_up_to_a_bound";
        let Some((uid, beyond)) = neighbour_of(test, &second.join("neighbour")) else { return };
        let at_top = neighbour_of(test, &second).expect("as before").1;
        let full = first.join("neighbour");
        std::fs::create_dir_all(&full).expect("made");
        // Beside it and the other's directory, and what is in there.
        let room = LOOKED_MAX - 3;
        for number in 0..=room {
            std::fs::write(full.join(number.to_string()), "").expect("written");
        }
        let remove = || remove_in(uid, [first.as_path(), second.as_path()]);
        assert_eq!(remove(), Ok(()));
        assert!(beyond.exists());
        assert!(!at_top.exists(), "what lies openly goes, however much there is");
        std::fs::remove_file(full.join("0")).expect("removed");
        assert_eq!(remove(), Ok(()));
        assert!(!beyond.exists(), "the control: it was the bound that kept it");
    }

    /// What belongs to us, as a user sees it of whom nothing is there.
    fn as_another(dir: &Path, looked: u32) -> (Remover, OwnedFd) {
        let uid = rustix::process::geteuid().as_raw() + 1;
        (Remover { uid, moved: 0, looked, stays: None }, std::fs::File::open(dir).expect("opens").into())
    }

    /// Each start of a job of the user's opened every directory that anybody kept there.
    #[test]
    fn directories_of_others_are_opened_up_to_the_bound() {
        let (dir, _) = shared();
        for name in ["a", "b", "c", "d"] {
            std::fs::create_dir_all(dir.path().join(name).join("more")).expect("made");
        }
        let pass = Pass { path: dir.path(), depth: 0, again: false };
        // One is opened, for what is in it, and what that has in it.
        for (spent, want) in [(LOOKED_MAX - 3, LOOKED_MAX), (0, 12)] {
            let (mut remover, top) = as_another(dir.path(), spent);
            remover.strip(&top, None, pass, &mut Vec::new()).expect("stripped");
            assert_eq!(remover.looked, want, "in a directory of the user's");
            let (mut remover, top) = as_another(dir.path(), spent);
            remover.look_at_all(&top, dir.path(), 0, Look::Below);
            assert_eq!(remover.looked, want, "in a shared one");
        }
    }

    /// One that emptied its directories one at a time had all the others looked at as often as it had some.
    #[test]
    fn what_neighbours_empty_meanwhile_is_no_reason_to_look_again() {
        let (dir, uid) = shared();
        for (again, want) in [(false, 1), (true, 0)] {
            std::fs::create_dir_all(dir.path().join("emptied")).expect("made");
            let pass = Pass { path: dir.path(), depth: 0, again };
            let (mut remover, top) = as_another(dir.path(), 0);
            assert_eq!(remover.strip(&top, None, pass, &mut Vec::new()), Ok(want), "again: {again}");
            assert!(is_empty(dir.path()), "it goes all the same");
            std::fs::create_dir_all(dir.path().join("own")).expect("made");
            remover.uid = uid;
            assert_eq!(
                remover.strip(&top, None, pass, &mut Vec::new()),
                Ok(1),
                "the control: what is the user's counts"
            );
        }
    }
}
