//! `logs --grep` against a daemon of paper: what is asked, what is printed, and when it is not all.

use crate::server::{Answer, Fake, Then, problem};
use crate::text;
use serde_json::json;

const END: &str = r#"{"searched":{"logs":2,"bytes":9,"lines":LINES,"removed":1,"unreadable":0,"more":MORE}}"#;

fn found(job: u64, text: &str) -> String {
    let at = "2026-11-21T12:00:00.250Z";
    format!("{}\n", json!({"job": job, "attempt": 2, "name": "build", "offset": 0, "next": 9, "at": at, "text": text}))
}

fn end(lines: usize, more: bool) -> String {
    format!("{}\n", END.replace("LINES", &lines.to_string()).replace("MORE", &more.to_string()))
}

/// Answers every search so, in pieces that do not end with lines.
fn answering(answer: &str, then: fn() -> Then) -> Fake {
    let pieces: Vec<Vec<u8>> = answer.as_bytes().chunks(7).map(<[u8]>::to_vec).collect();
    Fake::new(move |_| Answer::Stream { headers: vec![], pieces: pieces.clone(), then: then() })
}

#[test]
fn what_is_found_is_printed_and_decides_the_exit_code() {
    let answer = [found(8, "one\ttwo"), found(7, "three"), end(2, false)].concat();
    let fake = answering(&answer, || Then::End);
    assert_eq!(text(&fake.run(&["logs", "--grep", "t"])), (0, "8.2\tone\ttwo\n7.2\tthree\n".into(), String::new()));
    let (_, out, _) = text(&fake.run(&["logs", "--grep", "t", "--times"]));
    assert!(out.starts_with("8.2\t2026-11-21T12:00:00.250Z\tone\ttwo\n"), "{out}");
    let (code, out, _) = text(&fake.run(&["logs", "--grep", "t", "--output", "json"]));
    assert_eq!((code, out), (0, [found(8, "one\ttwo"), found(7, "three")].concat()), "an object a line, as logs");

    let fake = answering(&end(0, false), || Then::End);
    let none = "no line matches (logs searched: 2, removed before: 1)\n";
    assert_eq!(text(&fake.run(&["logs", "--grep", "t"])), (1, String::new(), none.into()));
    assert_eq!(text(&fake.run(&["logs", "--grep", "t", "-q"])), (1, String::new(), String::new()));

    let fake = answering(&[found(8, "x"), end(1, true)].concat(), || Then::End);
    let (code, _, said) = text(&fake.run(&["logs", "--grep", "t"]));
    assert!(code == 0 && said.contains("there may be more: --limit N"), "{said}");
    // Who gave a limit knows.
    assert_eq!(text(&fake.run(&["logs", "--grep", "t", "--limit", "1"])).2, "");
}

#[test]
fn all_that_is_wished_is_asked() {
    let fake = answering(&end(0, false), || Then::End);
    fake.run(&[
        "logs",
        "--grep",
        "-a b",
        "7",
        "8",
        "-iF",
        "--name",
        "build*",
        "--pool",
        "p",
        "--outcome",
        "failed,expired",
        "--since",
        "2026-11-21T12:00:00Z",
        "--until",
        "2026-11-21T13:00:00Z",
        "--limit",
        "5",
    ]);
    let asked = fake.asked().remove(0);
    assert_eq!((asked.method.as_str(), asked.route()), ("GET", "/api/v1/logs"));
    for (name, value) in [
        ("grep", "-a%20b"),
        ("job", "7%2C8"),
        ("fixed", "true"),
        ("ignore_case", "true"),
        ("name", "build%2A"),
        ("pool", "p"),
        ("outcome", "failed%2Cexpired"),
        ("since", "2026-11-21T12%3A00%3A00.000Z"),
        ("until", "2026-11-21T13%3A00%3A00.000Z"),
        ("limit", "5"),
    ] {
        assert_eq!(asked.query(name).as_deref(), Some(value), "{asked:?}");
    }
    fake.run(&["logs", "--grep", "a"]);
    assert_eq!(fake.asked().remove(1).path, "/api/v1/logs?grep=a");
}

#[test]
fn an_answer_that_is_not_whole_is_an_error() {
    for then in [|| Then::Break, || Then::End] {
        let fake = answering(&found(8, "one"), then);
        let (code, out, said) = text(&fake.run(&["logs", "--grep", "t"]));
        assert_eq!((code, out.as_str()), (2, "8.2\tone\n"), "{said}");
        assert!(said.contains("the search broke off, so this is not all"), "{said}");
    }
    // In the middle of the last line.
    let whole = [found(8, "one"), end(1, false)].concat();
    let fake = answering(&whole[..whole.len() - 1], || Then::End);
    assert_eq!(text(&fake.run(&["logs", "--grep", "t"])).0, 2);
    let fake = answering("nonsense\n", || Then::End);
    let (code, _, said) = text(&fake.run(&["logs", "--grep", "t"]));
    assert!(code == 1 && said.contains("not understood"), "{said}");
    let fake = Fake::new(|_| problem(400, "grep: is no regular expression: unclosed group"));
    let (code, _, said) = text(&fake.run(&["logs", "--grep", "("]));
    assert!(code == 3 && said.contains("unclosed group"), "{said}");
}

#[test]
fn what_does_not_go_together_is_told() {
    let fake = answering(&end(0, false), || Then::End);
    for (words, part) in [
        (&["logs"][..], "<ID>"),
        (&["logs", "-f"], "<ID>"),
        (&["logs", "7", "8"], "several can be followed, with -f, searched, with --grep, or exported, with --export"),
        (&["logs", "7", "-i"], "--grep <PATTERN>"),
        (&["logs", "7", "--limit", "5"], "--grep <PATTERN>"),
        (&["logs", "7", "-f", "--until", "1h"], "cannot be used with"),
        (&["logs", "7", "--name", "a"], "to follow (-f), to search in (--grep) or to export (--export)"),
        (&["logs", "7", "--outcome", "failed"], "to search in (--grep) or to export (--export)"),
        (&["logs", "-f", "--name", "a", "--outcome", "failed"], "--outcome chooses jobs"),
        (&["logs", "7", "--export", "a.tar", "-f"], "cannot be used with"),
        (&["logs", "7", "--export", "a.tar", "--raw"], "cannot be used with"),
        (&["logs", "7", "--export", "a.tar", "--tail", "5"], "cannot be used with"),
        (&["logs", "7", "--export", "a.zip"], ".tar.zst"),
        (&["logs", "--grep", "a", "--label", "b"], "cannot be used with"),
        (&["logs", "-f", "--name", "a", "--since", "1h"], "for one job"),
        (&["logs", "-f", "--grep", "a"], "cannot be used with"),
        (&["logs", "7", "--grep", "a", "--tail", "5"], "cannot be used with"),
        (&["logs", "7", "--grep", "a", "--attempt", "1"], "cannot be used with"),
        (&["logs", "7", "--grep", "a", "--raw"], "cannot be used with"),
        (&["logs", "--grep", "a", "--outcome", "bad"], "possible values: succeeded"),
        (&["logs", "--grep", "a", "--since", "soon"], "--since"),
        (&["logs", "--grep", "a", "seven"], "no job id"),
    ] {
        let (code, out, said) = text(&fake.run(words));
        assert_eq!((code, out.as_str()), (3, ""), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
    }
    assert!(fake.asked().is_empty());
}
