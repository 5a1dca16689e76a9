//! What a message advises can be done by who reads it, with the program that said it.

use super::server::Fake;
use super::{created, text};

/// Each used to advise, or to name, an option of another verb, or to call for another try of what never works.
#[test]
fn advice_fits_the_verb() {
    let fake = Fake::new(created);
    let long = format!("/tmp/{}", "x".repeat(120));
    for (words, code, part, never) in [
        (&["exporter", "--listen", "127.0.0.1:1x"][..], 3, "--listen: ", "--metrics"),
        (&["status", "--socket", &long], 3, "125 bytes, and a socket's path has at most 107", "try again"),
        (
            &["daemon", "--state-dir", "/proc", "--http", "off", "--metrics", "off"],
            1,
            "--state-dir names",
            "--runtime-dir",
        ),
    ] {
        let mut command = fake.command(words);
        command.env_remove("RUNTIME_DIRECTORY").env_remove("XDG_RUNTIME_DIR").env_remove("CI_RUNNER_SOCKET");
        let (got, _, err) = text(&command.output().unwrap());
        assert_eq!(got, code, "{words:?}: {err}");
        assert!(err.contains(part) && !err.contains(never), "{words:?}: {err}");
    }
    let gone = fake.dir.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "cd \"$1\" && rmdir \"$1\" && exec \"$2\" make", "sh"])
        .arg(&gone)
        .arg(env!("CARGO_BIN_EXE_add_job"));
    let (code, _, err) = text(&command.env("CI_RUNNER_SOCKET", fake.socket()).output().unwrap());
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("`ci-runner add --dir DIR --shell 'COMMAND'`") && fake.asked().is_empty(), "{err}");
}
