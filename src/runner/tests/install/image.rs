//! Installation into an image (`--root`): what becomes of files, of changed ones above all.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Image(tempfile::TempDir);

impl Image {
    fn new() -> Image {
        Image(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn install(&self, words: &[&str]) -> Output {
        let root = self.0.path().to_str().expect("UTF-8");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ci-runner"));
        command.args(["install", "--systemd", "--output", "json", "--root", root]).args(words);
        command.output().expect("it runs")
    }

    fn actions(&self, words: &[&str]) -> BTreeMap<String, String> {
        let output = self.install(words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let files = report["files"].as_array().expect("a list").iter();
        files.map(|file| (word(&file["path"]), word(&file["action"]))).collect()
    }

    /// Path below the root, to mode and content.
    fn tree(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        walk(self.0.path(), &mut found);
        found
    }
}

fn word(value: &serde_json::Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        let about = std::fs::symlink_metadata(&path).expect("it is there");
        if about.is_dir() {
            walk(&path, into);
        }
        let content = match about.file_type() {
            kind if kind.is_dir() => Vec::new(),
            kind if kind.is_symlink() => {
                std::fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
            }
            _ => std::fs::read(&path).expect("a file"),
        };
        into.insert(path, (about.permissions().mode(), content));
    }
}

const UNIT: &str = "/etc/systemd/system/ci-runner.service";
const CONFIG: &str = "/etc/ci-runner/config.toml";

#[test]
fn installed_twice_and_removed_it_leaves_the_tree_as_it_was() {
    let image = Image::new();
    std::fs::create_dir_all(image.path("usr/local/share/man")).expect("made");
    std::fs::write(image.path("usr/local/share/man/theirs"), "x").expect("written");
    let before = image.tree();
    let dry = image.actions(&["--dry-run"]);
    assert_eq!(image.tree(), before, "a dry run");
    let first = image.actions(&[]);
    assert_eq!(dry, first);
    assert!(first.values().all(|action| action == "create"), "{first:?}");
    assert!(first.len() > 40, "{first:?}");
    let program = std::fs::metadata(image.path("usr/local/bin/ci-runner-spawner")).expect("installed");
    assert_eq!(program.permissions().mode() & 0o7777, 0o755);
    assert!(std::fs::symlink_metadata(image.path("usr/local/bin/add_job")).expect("installed").is_file());
    let second = image.actions(&[]);
    assert!(second.values().all(|action| action == "same"), "{second:?}");
    assert!(image.install(&["--uninstall"]).status.success());
    assert_eq!(image.tree(), before);
    let again = image.install(&["--uninstall"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was installed"));
}

/// Without a list, what came until then was of nobody: it stayed for ever, and units ran it.
#[test]
fn one_that_fails_half_way_is_removed_without_a_trace() {
    let image = Image::new();
    std::fs::create_dir_all(image.path("usr/local")).expect("made");
    // Pages come last, and cannot.
    std::fs::write(image.path("usr/local/share"), "x").expect("written");
    let before = image.tree();
    let failed = image.install(&[]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(image.path(UNIT).exists(), "it came half-way");
    // As a kill in the middle of a file leaves it.
    std::fs::write(image.path("/etc/systemd/system/.ci-runner.service.new"), "half").expect("written");
    assert!(image.install(&["--uninstall"]).status.success());
    assert_eq!(image.tree(), before);
    // And what went on instead is whole.
    assert_eq!(image.install(&[]).status.code(), Some(1));
    std::fs::remove_file(image.path("usr/local/share")).expect("removed");
    let rest = image.actions(&[]);
    assert!(rest.values().all(|action| action == "same" || action == "create"), "{rest:?}");
    assert_eq!(rest[UNIT], "same");
    assert!(image.actions(&[]).values().all(|action| action == "same"));
    let list = std::fs::read_to_string(image.path("/etc/ci-runner/installed.json")).expect("a list");
    assert!(!list.contains("unfinished"), "{list}");
}

#[test]
fn what_a_person_changed_is_not_lost() {
    let image = Image::new();
    image.actions(&[]);
    std::fs::write(image.path(CONFIG), "max_parallel_jobs = 7\n").expect("written");
    // The same words of ours as before: theirs stays.
    assert_eq!(image.actions(&[])[CONFIG], "keep");
    // Other words of ours: as an older version would have written.
    let list = image.path("/etc/ci-runner/installed.json");
    let older = |list: &Path, path: &str| {
        let text = std::fs::read_to_string(list).expect("a list");
        let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        value["files"][path] = "0".repeat(64).into();
        std::fs::write(list, value.to_string()).expect("written");
    };
    older(&list, CONFIG);
    std::fs::write(image.path(UNIT), "[Unit]\nDescription=Mine\n").expect("written");
    older(&list, UNIT);
    let before = image.tree();
    let refused = image.install(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains(UNIT) && told.contains(CONFIG) && told.contains("--changed overwrite"), "{told}");
    assert_eq!(image.tree(), before, "nothing was done");
    assert_eq!(image.actions(&["--changed", "keep"])[CONFIG], "keep");
    assert_eq!(std::fs::read_to_string(image.path(CONFIG)).expect("kept"), "max_parallel_jobs = 7\n");
    older(&list, CONFIG);
    assert_eq!(image.actions(&["--changed", "overwrite"])[CONFIG], "overwrite");
    let aside = std::fs::read_to_string(image.path(&format!("{CONFIG}.replaced"))).expect("beside it");
    assert_eq!(aside, "max_parallel_jobs = 7\n");
    assert!(image.actions(&[]).values().all(|action| action == "same"));

    std::fs::write(image.path(UNIT), "[Unit]\nDescription=Mine again\n").expect("written");
    assert!(image.install(&["--uninstall"]).status.success());
    let kept: Vec<PathBuf> = image.tree().into_keys().filter(|path| path.is_file()).collect();
    let names: Vec<_> =
        kept.iter().map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    assert!(kept.iter().all(|path| path.starts_with(image.path("/var/lib/ci-runner"))), "{kept:?}");
    for name in ["etc-ci-runner-config.toml.replaced", "etc-systemd-system-ci-runner.service"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
}

#[test]
fn what_an_older_version_had_goes_unless_somebody_changed_it() {
    let image = Image::new();
    image.actions(&[]);
    let list = image.path("/etc/ci-runner/installed.json");
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&list).expect("a list")).expect("JSON");
    for (path, text) in
        [("/etc/systemd/system/ci-runner-old.service", "old\n"), ("/etc/ci-runner/old.toml", "theirs\n")]
    {
        std::fs::write(image.path(path), text).expect("written");
        value["files"][path] = ci_runner::install::manifest::hash(b"old\n").into();
    }
    std::fs::write(&list, value.to_string()).expect("written");
    let actions = image.actions(&[]);
    assert_eq!(actions["/etc/systemd/system/ci-runner-old.service"], "remove");
    assert_eq!(actions["/etc/ci-runner/old.toml"], "keep");
    assert!(!image.path("/etc/systemd/system/ci-runner-old.service").exists());
    assert!(image.path("/etc/ci-runner/old.toml").exists());
}

#[test]
fn a_list_that_others_can_write_is_not_believed() {
    let image = Image::new();
    image.actions(&[]);
    let list = image.path("/etc/ci-runner/installed.json");
    std::fs::set_permissions(&list, std::fs::Permissions::from_mode(0o666)).expect("set");
    for words in [&["--uninstall"][..], &[]] {
        let output = image.install(words);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("others can write it"));
    }
}

#[test]
fn a_state_directory_with_a_trap_is_not_followed() {
    let image = Image::new();
    image.actions(&[]);
    std::fs::write(image.path(CONFIG), "mine\n").expect("written");
    // As a job of the daemon's user could have put it there: a link in place of the state directory itself.
    let target = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(image.path("/var/lib")).expect("made");
    std::os::unix::fs::symlink(target.path(), image.path("/var/lib/ci-runner")).expect("linked");
    let output = image.install(&["--uninstall"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(std::fs::read_dir(target.path()).expect("a directory").count(), 0);
    assert_eq!(std::fs::read_to_string(image.path(CONFIG)).expect("still there"), "mine\n");
}

#[test]
fn units_and_native_jobs_can_be_asked_for_at_once() {
    const POLICIES: [&str; 2] = ["/etc/ci-runner/policy.json", "/etc/ci-runner/jobs.json"];
    let image = Image::new();
    let refused = image.install(&["--units", "no"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--slot-users"));
    let both = image.actions(&["--slot-users", "2", "--units", "yes"]);
    assert!(POLICIES.iter().all(|path| both[*path] == "create"), "{both:?}");
    // Kept, until somebody says otherwise.
    assert!(image.actions(&[]).values().all(|action| action == "same"));
    let more = image.actions(&["--dry-run", "--slot-users", "3"]);
    assert_eq!(POLICIES.map(|path| more[path].as_str()), ["same", "update"]);
    let native = image.actions(&["--dry-run", "--units", "no"]);
    assert_eq!(POLICIES.map(|path| native[path].as_str()), ["remove", "update"]);
    let units = image.actions(&["--dry-run", "--slot-users", "0"]);
    assert_eq!(POLICIES.map(|path| units[path].as_str()), ["same", "remove"]);
}

#[test]
fn prefixes_that_units_could_not_use_are_refused() {
    let image = Image::new();
    for prefix in ["relative", "/opt/a b", "/opt/%n", "/home/x", "/tmp/x"] {
        let output = image.install(&["--prefix", prefix]);
        assert_eq!(output.status.code(), Some(3), "{prefix}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--prefix"));
    }
}
