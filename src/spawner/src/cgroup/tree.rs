//! Where jobs' cgroups can have limits.
//!
//! A cgroup with processes in it cannot hand controllers on to cgroups below it. So limits can be kept where systemd has put
//! us into a subgroup of a unit that is delegated to us (`Delegate=yes`, `DelegateSubgroup=`): jobs' cgroups are then made
//! beside ours. In the kernel's own root, where that rule does not hold, they are made below it. Anywhere else our cgroup is
//! somebody's whose next process would have to enter it (systemd restarts a service there), so nothing is switched on.

use std::path::{Path, PathBuf};

/// Controllers that limits need.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "io"];

/// Where jobs' cgroups go, and why they cannot have limits there, if so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The directory.
    pub(super) path: PathBuf,
    /// None: controllers were switched on, as far as there are any.
    pub(super) why_not: Option<String>,
}

/// The place for jobs of a spawner whose own cgroup is `own`. `is_delegated` tells whether systemd gave a cgroup away.
pub(super) fn place(own: &Path, is_delegated: impl Fn(&Path) -> bool) -> Place {
    let beside = own.parent().filter(|parent| is_delegated(parent));
    let is_root = !own.join("cgroup.type").exists();
    let path = match beside {
        Some(parent) => parent,
        None if is_root => own,
        None => {
            let why = "this process is not in a subgroup of a delegated unit: run it as a service with Delegate=yes and \
                       DelegateSubgroup= (systemd 254), or use the executor systemd";
            return Place { path: own.to_owned(), why_not: Some(why.to_owned()) };
        }
    };
    Place { path: path.to_owned(), why_not: switch_on(path) }
}

/// Hands controllers on to the cgroups below; what is missing then, in words.
fn switch_on(path: &Path) -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    let available = read("cgroup.controllers");
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    let mut missing = Vec::new();
    for name in CONTROLLERS {
        if !has(&available, name) {
            missing.push(format!("{name} (not handed to {})", path.display()));
        } else if !has(&read("cgroup.subtree_control"), name)
            && let Err(error) = std::fs::write(path.join("cgroup.subtree_control"), format!("+{name}"))
        {
            missing.push(format!("{name} ({error})"));
        }
    }
    (!missing.is_empty()).then(|| format!("no cgroup controller {}", missing.join(", ")))
}

/// True when systemd marked a cgroup as given away.
pub(super) fn is_delegated(path: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].into_iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(path, name, &mut value).is_ok_and(|length| value[..length.min(8)] == *b"1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A delegated unit as far as files go.
    fn unit(controllers: &str) -> tempfile::TempDir {
        let unit = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(unit.path().join("supervisor")).expect("made");
        for (name, text) in [("cgroup.controllers", controllers), ("cgroup.subtree_control", "")] {
            std::fs::write(unit.path().join(name), text).expect("written");
        }
        std::fs::write(unit.path().join("supervisor/cgroup.type"), "domain").expect("written");
        unit
    }

    #[test]
    fn jobs_go_beside_a_subgroup_of_a_delegated_unit() {
        let unit = unit("cpuset cpu io memory pids\n");
        let own = unit.path().join("supervisor");
        let place = place(&own, |path| path == unit.path());
        assert_eq!(place, Place { path: unit.path().to_owned(), why_not: None });
        let written = std::fs::read_to_string(unit.path().join("cgroup.subtree_control")).expect("read");
        assert_eq!(written, "+io", "each by itself: one that is refused keeps no other out");
    }

    #[test]
    fn nowhere_else_is_anything_switched_on() {
        let unit = unit("cpu memory\n");
        let own = unit.path().join("supervisor");
        let elsewhere = place(&own, |_| false);
        assert_eq!(elsewhere.path, own);
        assert!(elsewhere.why_not.is_some_and(|why| why.contains("Delegate=yes")));
        let told = place(&own, |path| path == unit.path());
        assert!(told.why_not.is_some_and(|why| why.contains("pids") && why.contains("io")));
    }
}
