//! What a machine cannot do is said by `src/skipped.rs` alone: whatever else a passing test prints is captured, and what it
//! left out would look like something shown.

use std::path::{Path, PathBuf};

/// The one place that may say it.
const TELLS: &str = "src/skipped.rs";

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("sources can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Whether a text in this line begins as one does that says that something was skipped.
fn says_so(line: &str) -> bool {
    let begins = |text: &str| {
        let text = text.trim_start_matches("\\n").to_lowercase();
        ["skipped ", "skipped:", "skipping ", "skip "].iter().any(|word| text.starts_with(word))
    };
    line.match_indices('"').any(|(at, _)| begins(&line[at + 1..]))
}

#[test]
fn no_test_says_it_in_a_way_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    assert!(files.iter().any(|file| file.ends_with(TELLS)), "{TELLS} was not found");
    files.retain(|file| !file.ends_with(TELLS) && !file.ends_with("src/sim/tests/skips.rs"));
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source can be read");
        let lines = text.lines().enumerate().filter(|(_, line)| says_so(line));
        wrong.extend(lines.map(|(at, line)| format!("{}:{}: {}", file.display(), at + 1, line.trim())));
    }
    assert!(wrong.is_empty(), "say it with `skipped::tell`:\n{}", wrong.join("\n"));
}

#[test]
fn ways_of_saying_it_are_found() {
    for line in [
        r#"println!("skipped: only root can be another user");"#,
        r#"eprintln!("SKIPPED {NAME}: no mount namespace can be had here");"#,
        r#"writeln!(out, "\nSkipping this").unwrap();"#,
        r#""SKIPPED a_test: on a line of its own""#,
    ] {
        assert!(says_so(line), "{line}");
    }
    for line in [r#"skipped::tell("a_test", "why");"#, r#"("missed", json!("skip"))"#, r#"// SKIPPED x"#] {
        assert!(!says_so(line), "{line}");
    }
}
