//! Retry rules and signals, in the words people write.
//!
//! `exit` means any exit code but 0, 3 and 64: usage errors are never worth a second try. Who wants them tried again names
//! them before it: `exit:3,exit`.

use super::fault;
use crate::suggest::did_you_mean;
use ci_runner_core::job::Fault;
use ci_runner_core::retry::{Pattern, Rule};

const KINDS: [&str; 6] = ["exit", "signal", "lost", "timeout", "oom", "start"];
/// Exit codes that `exit` leaves out.
const USAGE_CODES: [u8; 2] = [3, 64];
/// Largest signal number of Linux.
const SIGNAL_MAX: u8 = 64;

/// Names of the signals that have the same number on x86, arm and riscv.
const SIGNALS: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The number of a signal: `KILL`, `SIGKILL`, `kill` or `9`.
pub fn signal_number(word: &str) -> Option<u8> {
    if let Ok(number) = word.parse::<u8>() {
        return (1..=SIGNAL_MAX).contains(&number).then_some(number);
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// The name of a signal without `SIG`, or its number in digits.
pub fn signal_name(number: u8) -> String {
    let known = SIGNALS.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// Parses the rules of `retry_on`, first match wins. The fault names the word by its index.
pub fn parse_rules<S: AsRef<str>>(words: &[S]) -> Result<Vec<Rule>, Fault> {
    let mut rules = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        if let Err(why) = push_rule(word.as_ref(), &mut rules) {
            return fault(format!("retry_on[{index}]"), why);
        }
    }
    Ok(rules)
}

fn push_rule(word: &str, rules: &mut Vec<Rule>) -> Result<(), String> {
    let (retry, plain) = match word.strip_prefix('!') {
        Some(plain) => (false, plain),
        None => (true, word),
    };
    let (kind, detail) = match plain.split_once(':') {
        Some((kind, detail)) => (kind, Some(detail)),
        None => (plain, None),
    };
    let pattern = match (kind, detail) {
        ("exit", None) => {
            if retry {
                let never = |code| Rule { pattern: Pattern::Exit(Some(code)), retry: false };
                rules.extend(USAGE_CODES.map(never));
            }
            Pattern::Exit(None)
        }
        ("exit", Some(code)) => match code.parse() {
            Ok(code @ 1..=u8::MAX) => Pattern::Exit(Some(code)),
            _ => return Err(format!("{word:?}: an exit code is 1 to 255; write it like exit:2")),
        },
        ("signal", None) => Pattern::Signal(None),
        ("signal", Some(name)) => match signal_number(name) {
            Some(number) => Pattern::Signal(Some(number)),
            None => {
                return Err(format!("{word:?}: there is no signal {name:?}; write it like signal:KILL or signal:9"));
            }
        },
        ("lost", None) => Pattern::Lost,
        ("timeout", None) => Pattern::Timeout,
        ("oom", None) => Pattern::Oom,
        ("start", None) => Pattern::Start,
        (kind, Some(_)) if KINDS.contains(&kind) => {
            return Err(format!("{word:?}: {kind} takes nothing after a colon"));
        }
        _ => return Err(format!("{word:?} is no rule; {}", did_you_mean(kind, KINDS))),
    };
    rules.push(Rule { pattern, retry });
    Ok(())
}

/// The words of rules: what [`parse_rules`] reads back into rules that decide the same.
pub fn rule_words(rules: &[Rule]) -> Vec<String> {
    let never = |code| Rule { pattern: Pattern::Exit(Some(code)), retry: false };
    let any_exit = Rule { pattern: Pattern::Exit(None), retry: true };
    let exit = [never(USAGE_CODES[0]), never(USAGE_CODES[1]), any_exit];
    let mut words = Vec::new();
    let mut rest = rules;
    while let Some((first, others)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(exit.as_slice()) {
            words.push("exit".to_owned());
            rest = after;
            continue;
        }
        if *first == any_exit {
            // Rules from elsewhere may mean every code: the word alone would leave out two.
            words.extend(USAGE_CODES.map(|code| format!("exit:{code}")));
        }
        words.push(rule_word(*first));
        rest = others;
    }
    words
}

fn rule_word(rule: Rule) -> String {
    let word = match rule.pattern {
        Pattern::Exit(None) => "exit".to_owned(),
        Pattern::Exit(Some(code)) => format!("exit:{code}"),
        Pattern::Signal(None) => "signal".to_owned(),
        Pattern::Signal(Some(number)) => format!("signal:{}", signal_name(number)),
        Pattern::Lost => "lost".to_owned(),
        Pattern::Timeout => "timeout".to_owned(),
        Pattern::Oom => "oom".to_owned(),
        Pattern::Start => "start".to_owned(),
    };
    if rule.retry { word } else { format!("!{word}") }
}
