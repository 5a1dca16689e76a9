//! Every example that people are shown is a call that works, as far as that can be told without a daemon: each goes through
//! the real parser, those of `add` and `run` on to the jobs they mean. One of `run` was refused by `run` itself.

use super::super::add::AddArgs;
use super::super::run::RunArgs;
use super::super::verbs::{called, command, parse};
use super::leaves;
use crate::request::new_job;
use ci_runner_core::policy::Settings;
use clap::FromArgMatches;
use std::path::Path;

/// What stands for the output of `$(…)`: an id, a date, whatever a word may be.
const SUBSTITUTED: &str = "7";

/// The commands of a line of shell, those in `$(…)` among them. Two blanks end the line: behind them stand words for people.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut rest = line.chars().peekable();
    let mut quote = None;
    while let Some(next) = rest.next() {
        match (quote, next) {
            (Some(open), next) if open == next => quote = None,
            (None, '\'' | '"') => {
                quote = Some(next);
                word.get_or_insert_default();
            }
            (None | Some('"'), '$') if rest.peek() == Some(&'(') => {
                let inner: String = rest.by_ref().skip(1).take_while(|next| *next != ')').collect();
                found.splice(0..0, commands(&inner));
                word.get_or_insert_default().push_str(SUBSTITUTED);
            }
            (None, ' ') => {
                found.last_mut().unwrap().extend(word.take());
                if rest.peek().is_none_or(|next| *next == ' ' || *next == '#') {
                    break;
                }
            }
            (Some(_), next) => word.get_or_insert_default().push(next),
            (None, '|' | '&' | ';') => found.push(Vec::new()),
            (None, next) => word.get_or_insert_default().push(next),
        }
    }
    assert_eq!(quote, None, "a quote stays open: {line}");
    found.last_mut().unwrap().extend(word);
    for command in &mut found {
        command.truncate(command.iter().position(|word| word == ">").unwrap_or(command.len()));
    }
    found.retain(|command| !command.is_empty());
    found
}

/// Why a call would be refused, if it would.
fn refused(words: &[String], jobs: &Path) -> Option<String> {
    let words: Vec<String> =
        words.iter().map(|word| if word == "jobs.jsonl" { jobs.display().to_string() } else { word.clone() }).collect();
    let tell = |failure: super::Failure| failure.to_string();
    let matches = match parse(&words) {
        Ok(matches) => matches,
        Err(failure) if failure.code() == 0 => return None,
        Err(failure) => return Some(tell(failure)),
    };
    let (_, inner) = called(&matches).unwrap();
    let whole = match words[0].as_str() {
        "add" if !words.contains(&"-f".to_owned()) => {
            let request =
                AddArgs::from_arg_matches(inner).map_err(super::Failure::from).and_then(AddArgs::into_request);
            request.map_err(tell).and_then(|request| {
                let settings = Settings { notifiers: ["ops", "me"].map(str::to_owned).into(), ..Settings::default() };
                let job = new_job(request, &settings, &jiff::Zoned::now());
                job.map(|_| ()).map_err(|fault| fault.to_string())
            })
        }
        "run" => RunArgs::from_arg_matches(inner).unwrap().plan().map(|_| ()).map_err(tell),
        _ => Ok(()),
    };
    whole.err()
}

fn check(shown: &str, line: &str, jobs: &Path) -> usize {
    let mut checked = 0;
    for words in commands(line).iter().filter(|words| words[0] == "ci-runner") {
        if let Some(why) = refused(&words[1..], jobs) {
            panic!("{shown} shows `{line}`, which is refused: {why}");
        }
        checked += 1;
    }
    checked
}

fn jobs_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"command\":[\"true\"]}\n").unwrap();
    file
}

#[test]
fn every_example_of_the_help_works() {
    let jobs = jobs_file();
    let mut tree = command();
    tree.build();
    let mut found = Vec::new();
    leaves(&tree, "ci-runner".to_owned(), &mut found);
    for (path, mut command) in found {
        let help = command.render_long_help().to_string();
        let examples = help.split("Examples:\n").nth(1).unwrap();
        // Lines that go on are further in.
        let lines = examples.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
        let checked: usize = lines.map(|line| check(&path, line, jobs.path())).sum();
        assert!(checked > 0, "{path} has no example of its own:\n{examples}");
    }
}

/// A line without what a session or another user puts before a command.
fn commanded(line: &str) -> &str {
    let line = line.trim_start();
    let line = line.strip_prefix("$ ").unwrap_or(line);
    line.strip_prefix("sudo ").unwrap_or(line)
}

#[test]
fn every_command_of_the_documents_works() {
    let jobs = jobs_file();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    for dir in ["docs/operating", "docs/reference"] {
        pages.extend(std::fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path()));
    }
    let mut checked = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(page).unwrap();
        for line in text.lines().map(commanded).filter(|line| line.starts_with("ci-runner ")) {
            checked += check(&page.display().to_string(), line, jobs.path());
        }
    }
    assert!(checked >= 12, "{checked}");
}

/// The control: what was shown once is found.
#[test]
fn an_example_that_does_not_work_is_found() {
    let jobs = jobs_file();
    for (line, part) in [
        ("ci-runner run -P2 --retry 1 --timeout 10m -f jobs.jsonl    words", "--retry cannot stand beside -f"),
        ("ci-runner list --limt 5", "--limt"),
        ("ci-runner wait $(ci-runner add --timeout soon -- make)", "not a duration"),
        ("ci-runner add --retry-on never -- make", "retry_on"),
    ] {
        let found = commands(line).iter().find_map(|words| refused(&words[1..], jobs.path()));
        assert!(found.as_ref().is_some_and(|found| found.contains(part)), "{line}: {found:?}");
    }
    assert_eq!(commands("a 'b c'  d e"), [["a", "b c"]]);
    assert_eq!(commands("a && b > c"), [["a"], ["b"]]);
    assert_eq!(commands("a \"$(b c)\""), [vec!["b", "c"], vec!["a", "7"]]);
}
