//! What a message advises can be done by who reads it, with the program that said it.

use super::server::{Answer, Asked, Fake, problem};
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

/// It said "no job was open" of every request that failed.
#[test]
fn no_job_was_open_is_said_of_cancel_all_only() {
    let fake = Fake::new(|asked: &Asked| match asked.route() {
        "/api/v1/jobs/cancel" if asked.body.contains("all") => {
            Answer::Json(200, r#"{"ids":[],"finished":[]}"#.to_owned())
        }
        "/api/v1/jobs/cancel" => problem(404, "there is no job 99"),
        "/api/v1/jobs/5/hold" | "/api/v1/jobs/5/retry" => problem(507, "the disk of the state directory is full"),
        "/api/v1/jobs/6/retry" => problem(409, "job 6 is queued: it has not finished"),
        "/api/v1/jobs/7/retry" => problem(409, "it has not finished"),
        _ => problem(404, "there is no job 9"),
    });
    let told = |words: &[&str]| {
        let (code, out, err) = text(&fake.run(words));
        assert_eq!(out, "", "{words:?}");
        (code, err)
    };
    for verb in [&["hold"][..], &["release"], &["priority", "5"]] {
        assert_eq!(told(&[verb, &["9"]].concat()), (1, "ci-runner: there is no job 9\n".to_owned()), "{verb:?}");
    }
    assert_eq!(told(&["hold", "5"]), (2, "ci-runner: the disk of the state directory is full\n".to_owned()));
    assert_eq!(told(&["cancel", "--all"]), (0, "no job was open\n".to_owned()));
    // All or none; of one there is nothing to add.
    let none = "ci-runner: there is no job 99; none of them was cancelled\n";
    assert_eq!(told(&["cancel", "7", "99"]), (1, none.to_owned()));
    assert_eq!(told(&["cancel", "99"]), (1, "ci-runner: there is no job 99\n".to_owned()));
    // Each failure names its job, once.
    let (_, err) = told(&["retry", "5", "9", "6", "7"]);
    let lines: Vec<&str> = err.lines().collect();
    let expected = [
        "ci-runner: there is no job 9",
        "ci-runner: job 6 is queued: it has not finished",
        "ci-runner: job 7: it has not finished",
        "ci-runner: the disk of the state directory is full",
    ];
    assert_eq!(lines, expected);
}

/// clap suggested `top` for `stop`, and nothing for the others.
#[test]
fn verbs_of_other_programs_lead_to_ours() {
    let fake = Fake::new(created);
    for (word, ours) in [
        ("kill", "`ci-runner cancel ID`"),
        ("stop", "`ci-runner cancel ID`"),
        ("rm", "`ci-runner gc`"),
        ("clean", "`ci-runner gc`"),
        ("ps", "`ci-runner list`"),
        ("jobs", "`ci-runner list`"),
        ("tail", "`ci-runner logs -f ID`"),
    ] {
        let (code, out, err) = text(&fake.run(&[word, "7"]));
        assert_eq!((code, out.as_str()), (3, ""), "{word}: {err}");
        assert!(err.starts_with(&format!("ci-runner: there is no verb '{word}': ")) && err.contains(ours), "{err}");
    }
    // The controls: a family has verbs of its own, and slips are found as ever.
    let (_, _, err) = text(&fake.run(&["schedule", "kill"]));
    assert!(!err.contains("there is no verb") && err.contains("kill"), "{err}");
    let (_, _, err) = text(&fake.run(&["lst"]));
    assert!(err.contains("list"), "{err}");
    assert!(fake.asked().is_empty());
}

#[test]
fn add_job_tells_its_version_and_queues_nothing() {
    let fake = Fake::new(created);
    for word in ["--version", "-V"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_add_job"));
        let told = text(&command.arg(word).env("CI_RUNNER_SOCKET", fake.socket()).output().unwrap());
        assert_eq!(told, (0, format!("add_job {}\n", env!("CARGO_PKG_VERSION")), String::new()));
    }
    assert!(fake.asked().is_empty());
}

/// All were one line, with `\n` written out.
#[test]
fn each_problem_of_a_configuration_is_a_line_of_the_log() {
    let fake = Fake::new(created);
    let file = fake.dir.path().join("bad.toml");
    std::fs::write(&file, "grace = \"soon\"\nnosuch = 1\n").unwrap();
    let (code, _, err) = text(&fake.run(&["daemon", "--config", file.to_str().unwrap()]));
    assert_eq!(code, 3, "{err}");
    let problems: Vec<&str> = err.lines().filter(|line| line.contains("bad.toml:")).collect();
    assert_eq!(problems.len(), 2, "{err}");
    assert!(problems.iter().all(|line| line.starts_with("<3>") && line.contains("Z ERROR ")), "{err}");
    assert!(!err.contains("\\n"), "{err}");
}
