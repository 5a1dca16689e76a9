//! The direction of imports: the architecture page as data, compared with every `use` line of the workspace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which of our crates a crate may name.
const CRATES: [(&str, &[&str]); 6] = [
    ("core", &[]),
    ("hostmetrics", &[]),
    ("spawner", &["ci_runner_spawner"]),
    ("runner", &["ci_runner_core", "ci_runner_spawner", "ci_runner_hostmetrics", "ci_runner"]),
    ("sim", &["ci_runner_core", "ci_runner_sim"]),
    ("bench", &["ci_runner_spawner"]), // the masker is measured alone
];

/// Modules of the runner that talk to the world; none of them knows another.
const ADAPTERS: [&str; 13] = [
    "store",
    "executor",
    "source",
    "forge",
    "pipeline",
    "http",
    "joblog",
    "telemetry",
    "systemd",
    "auth",
    "cron",
    "notify",
    "secrets",
];
/// Arrows between adapters that are meant, with the reason.
const MEANT: [(&str, &str); 5] = [
    ("http", "auth"),      // who may ask is decided before the request is read
    ("http", "joblog"),    // logs are served from their files, not through the loop
    ("http", "telemetry"), // `/metrics` is rendered there
    ("http", "store"),     // it reads through `Reader`; that it never commits is looked at below
    ("http", "cron"),      // a schedule's calendar is checked before it is asked for
];
/// Modules above the adapters: no adapter names them. `daemon::handle` and `daemon::words` are the way to the loop.
const ABOVE: [&str; 3] = ["main", "cli", "daemon"];
/// Adapters that send wishes to the loop.
const ASKS_THE_LOOP: [&str; 4] = ["http", "cron", "source", "forge"];
/// What `core` may never name.
const IMPURE: [&str; 16] = [
    "std::time",
    "std::fs",
    "std::net",
    "std::thread",
    "std::io",
    "std::env",
    "std::process",
    "std::os",
    "std::sync::Mutex",
    "std::sync::mpsc",
    "SystemTime",
    "async fn",
    "async move",
    "serde",
    "tokio",
    "println!",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Lines of code, comments left out, with line numbers.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(path).expect("a source can be read");
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.split("//").next().unwrap_or("").to_owned()));
    lines.filter(|(_, line)| !line.trim().is_empty()).collect()
}

/// All names that stand directly after `prefix::`, also in `use prefix::{a, b}`.
fn named_after(line: &str, prefix: &str) -> Vec<String> {
    let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut names = Vec::new();
    for (at, _) in line.match_indices(&format!("{prefix}::")) {
        let boundary = line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        if !boundary {
            continue;
        }
        let rest = &line[at + prefix.len() + 2..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(list.split(',').map(|part| word(part.trim()))),
            None => names.push(word(rest)),
        }
    }
    names
}

#[test]
fn crates_name_only_what_they_may() {
    let mut wrong = Vec::new();
    for (name, allowed) in CRATES {
        let mut files = Vec::new();
        sources(&root().join("src").join(name).join("src"), &mut files);
        for file in files {
            for (at, line) in code(&file) {
                for (other, _) in CRATES {
                    let other = if other == "runner" { "ci_runner".to_owned() } else { format!("ci_runner_{other}") };
                    if !named_after(&line, &other).is_empty() && !allowed.contains(&other.as_str()) {
                        wrong.push(format!("{}:{at}: {name} names {other}", file.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "new arrows:\n{}", wrong.join("\n"));
}

#[test]
fn core_is_pure() {
    let mut files = Vec::new();
    sources(&root().join("src/core/src"), &mut files);
    assert!(files.len() > 10, "core was not found");
    let mut wrong = Vec::new();
    for file in files {
        for (at, line) in code(&file) {
            if let Some(what) = IMPURE.iter().find(|what| line.contains(*what)) {
                wrong.push(format!("{}:{at}: {what}", file.display()));
            }
            let foreign = line.trim_start().strip_prefix("use ").map(str::to_owned).filter(|path| {
                !["std::", "core::", "crate", "super", "self", "proptest"].iter().any(|start| path.starts_with(start))
                    && path.contains("::")
                    && !path.starts_with(|c: char| c.is_uppercase())
                    && !is_own_module(&file, path)
            });
            wrong.extend(foreign.map(|path| format!("{}:{at}: use {path}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "core may not name:\n{}", wrong.join("\n"));
}

/// `use members::Members` in a file that has such a module beside it.
fn is_own_module(file: &Path, path: &str) -> bool {
    let module = path.split("::").next().unwrap_or_default();
    let beside = file.parent().map(|dir| dir.join(format!("{module}.rs"))).is_some_and(|path| path.exists());
    let below = file.with_extension("").join(format!("{module}.rs")).exists();
    beside || below
}

/// The module of the runner that a file belongs to: the first name of its path.
fn module_of(file: &Path, runner: &Path) -> String {
    let below = file.strip_prefix(runner).expect("it was found there");
    let first = below.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    first.unwrap_or_default().trim_end_matches(".rs").to_owned()
}

#[test]
fn adapters_do_not_know_each_other() {
    let runner = root().join("src/runner/src");
    let mut files = Vec::new();
    sources(&runner, &mut files);
    let adapters: BTreeSet<&str> = ADAPTERS.into_iter().collect();
    let mut wrong = Vec::new();
    for file in files {
        let module = module_of(&file, &runner);
        if !adapters.contains(module.as_str()) {
            continue;
        }
        for (at, line) in code(&file) {
            let named = named_after(&line, "crate").into_iter().chain(named_after(&line, "ci_runner"));
            for other in named.filter(|other| *other != module) {
                let pair = (module.as_str(), other.as_str());
                let meant = MEANT.contains(&pair);
                let asks = other == "daemon" && ASKS_THE_LOOP.contains(&module.as_str());
                let arrow = adapters.contains(other.as_str()) || ABOVE.contains(&other.as_str());
                if arrow && !meant && !asks {
                    wrong.push(format!("{}:{at}: {module} names {other}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "new arrows:\n{}", wrong.join("\n"));
}

/// What the daemon and the command line share lies below both: whoever is named by the loop does not name it, nor what is above it.
#[test]
fn what_lies_below_the_loop_does_not_name_it() {
    let runner = root().join("src/runner/src");
    let mut files = Vec::new();
    sources(&runner, &mut files);
    let (mut wrong, mut looked_at) = (Vec::new(), BTreeSet::new());
    for file in files {
        let module = module_of(&file, &runner);
        if ["lib", "bin"].contains(&module.as_str()) || ABOVE.contains(&module.as_str()) {
            continue;
        }
        for (at, line) in code(&file) {
            let named = named_after(&line, "crate").into_iter().chain(named_after(&line, "ci_runner"));
            for above in named.filter(|other| ABOVE.contains(&other.as_str())) {
                if !(above == "daemon" && ASKS_THE_LOOP.contains(&module.as_str())) {
                    wrong.push(format!("{}:{at}: {module} names {above}", file.display()));
                }
            }
        }
        looked_at.insert(module);
    }
    for module in ["api", "config", "request", "exporter", "store", "http"] {
        assert!(looked_at.contains(module), "{module} was not found");
    }
    assert!(wrong.is_empty(), "new arrows:\n{}", wrong.join("\n"));
}

#[test]
fn http_never_commits() {
    let mut files = Vec::new();
    sources(&root().join("src/runner/src/http"), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        for (at, line) in code(&file) {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let writes = line.contains("store") && words.any(|word| ["Store", "Write", "SqliteStore"].contains(&word));
            if writes {
                wrong.push(format!("{}:{at}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "http reads and sends wishes:\n{}", wrong.join("\n"));
}

#[test]
fn a_name_after_a_prefix_is_found() {
    assert_eq!(named_after("use crate::store::Store;", "crate"), ["store"]);
    assert_eq!(named_after("use crate::{http, store::Store};", "crate"), ["http", "store"]);
    assert_eq!(named_after("let x = other_crate::store::y();", "crate"), Vec::<String>::new());
}
