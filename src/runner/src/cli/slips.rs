//! Slips on the command line that clap tells in a parser's words, or with advice that breaks the call: in words for people.
//! Everything else stays as clap says it.

use super::fail::Failure;
use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error as _;

/// A bound above this is the number's type, not a limit.
const BOUND_SHOWN_MAX: u64 = u32::MAX as u64 - 1;

/// What is wrong with the words; `tree` is every verb, and is built where it is needed only.
pub fn in_words(error: clap::Error, words: &[String], tree: fn() -> Command) -> Failure {
    let told = match error.kind() {
        ErrorKind::ValueValidation => bad_number(&error),
        ErrorKind::UnknownArgument => {
            value_with_a_dash(&error, words, tree).or_else(|| command_without_dashes(&error, words, tree))
        }
        ErrorKind::InvalidSubcommand => verb_of_others(&error, words, tree),
        _ => None,
    };
    told.map_or_else(|| error.into(), Failure::Usage)
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

/// Verbs that other programs have for what ours does.
const OF_OTHERS: [(&str, &str); 8] = [
    ("kill", "`ci-runner cancel ID` ends a job"),
    ("stop", "`ci-runner cancel ID` ends a job, `ci-runner drain` lets no more start"),
    ("rm", "`ci-runner cancel ID` ends a job; finished ones go by age, or now with `ci-runner gc`"),
    ("clean", "`ci-runner gc` removes old finished jobs and logs now"),
    ("ps", "`ci-runner list` lists jobs, `ci-runner list --state running` those that run"),
    ("jobs", "`ci-runner list` lists jobs"),
    ("tail", "`ci-runner logs -f ID` follows a job's output"),
    ("submit", "`ci-runner add -- COMMAND` queues a job"),
];

/// clap looks for words that are spelled alike: for `ps` it finds none, or the wrong one.
fn verb_of_others(error: &clap::Error, words: &[String], tree: fn() -> Command) -> Option<String> {
    let unknown = context(error, ContextKind::InvalidSubcommand)?;
    let (_, ours) = OF_OTHERS.iter().find(|(word, _)| *word == unknown)?;
    let tree = tree();
    // Behind a verb it is one of that family.
    let in_family = words.iter().take_while(|word| *word != unknown).any(|word| tree.find_subcommand(word).is_some());
    (!in_family).then(|| format!("there is no verb '{unknown}': {ours}"))
}

fn bad_number(error: &clap::Error) -> Option<String> {
    let wanted = number_in_words(&error.source()?.to_string())?;
    let (argument, value) = (context(error, ContextKind::InvalidArg)?, context(error, ContextKind::InvalidValue)?);
    Some(format!("invalid value '{value}' for '{argument}': {wanted}"))
}

/// What Rust's and clap's parsers of numbers say, as what is wanted.
fn number_in_words(said: &str) -> Option<String> {
    if let Some((_, bounds)) = said.split_once(" is not in ") {
        let (least, most) = bounds.split_once("..")?;
        let most = most.trim_start_matches('=');
        let up = most.parse::<u64>().map_or(true, |most| most > BOUND_SHOWN_MAX);
        return Some(match up {
            true => format!("give a whole number from {least} up"),
            false => format!("give a whole number from {least} to {most}"),
        });
    }
    let wanted = match said {
        "invalid digit found in string" | "cannot parse integer from empty string" => "give a whole number",
        "number too large to fit in target type" => "that number is too large",
        "number too small to fit in target type" => "that number is too small",
        "invalid float literal" | "cannot parse float from empty string" => "give a number, like 1.5",
        _ => return None,
    };
    Some(wanted.to_owned())
}

/// `--name -3`: clap takes `-3` for an option and advises `-- -3`, which makes a command of it.
fn value_with_a_dash(error: &clap::Error, words: &[String], tree: fn() -> Command) -> Option<String> {
    let unknown = context(error, ContextKind::InvalidArg)?;
    let at = words.iter().position(|word| word.starts_with('-') && word.starts_with(unknown)).filter(|at| *at > 0)?;
    let (option, value) = (&words[at - 1], &words[at]);
    is_option_with_a_value(&verb_of(words, tree), option)
        .then(|| format!("'{value}' behind {option} begins with a dash: write {option}={value} if that is the value"))
}

/// The verb that the words call, with its arguments.
fn verb_of(words: &[String], tree: fn() -> Command) -> Command {
    let mut command = tree();
    for word in words {
        if let Some(inner) = command.find_subcommand(word) {
            command = inner.clone();
        }
    }
    command.build();
    command
}

/// `--name`, whose value is the next word.
fn is_option_with_a_value(verb: &Command, word: &str) -> bool {
    let name = word.strip_prefix("--").filter(|name| !name.is_empty() && !name.contains('='));
    let short =
        word.strip_prefix('-').and_then(|rest| rest.chars().next().filter(|letter| rest.len() == letter.len_utf8()));
    let is_it = |argument: &&clap::Arg| match name {
        Some(name) => argument.get_long() == Some(name),
        None => short.is_some() && argument.get_short() == short,
    };
    (name.is_some() || short.is_some())
        && verb.get_arguments().any(|argument| is_it(&argument) && argument.get_action().takes_values())
}

/// Verbs that take a command behind `--`.
const TAKE_A_COMMAND: [&[&str]; 3] = [&["add"], &["run"], &["schedule", "add"]];

/// `add make test`: the command stands behind `--`, so that its options are its own.
fn command_without_dashes(error: &clap::Error, words: &[String], tree: fn() -> Command) -> Option<String> {
    let unknown = context(error, ContextKind::InvalidArg)?;
    let verb = TAKE_A_COMMAND
        .into_iter()
        .find(|verb| words.iter().zip(*verb).filter(|(word, of)| word == of).count() == verb.len())?;
    let called = verb_of(words, tree);
    // `add --name make make test`: the first `make` is a name.
    let is_value = |at: usize| at > 0 && is_option_with_a_value(&called, &words[at - 1]);
    let at = (verb.len()..words.len()).find(|at| words[*at] == unknown && !is_value(*at))?;
    if unknown.starts_with('-') || words.iter().any(|word| word == "--") {
        return None;
    }
    let line: Vec<String> = words[..at].iter().map(|word| quoted(word)).collect();
    let command: Vec<String> = words[at..].iter().map(|word| quoted(word)).collect();
    Some(format!("put the command behind `--`: ci-runner {} -- {}", line.join(" "), command.join(" ")))
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsers_of_numbers_are_put_into_words() {
        for (said, words) in [
            ("0 is not in 1..18446744073709551615", Some("give a whole number from 1 up")),
            ("0 is not in 1..4294967295", Some("give a whole number from 1 up")),
            ("0 is not in 1..=1024", Some("give a whole number from 1 to 1024")),
            ("invalid digit found in string", Some("give a whole number")),
            ("\"5x\" is not a duration", None),
        ] {
            assert_eq!(number_in_words(said).as_deref(), words, "{said}");
        }
        // The texts are not ours: this is what they are today.
        for (error, words) in [
            ("x".parse::<u64>().unwrap_err().to_string(), "give a whole number"),
            ("".parse::<i64>().unwrap_err().to_string(), "give a whole number"),
            ("300".parse::<u8>().unwrap_err().to_string(), "that number is too large"),
            ("-300".parse::<i8>().unwrap_err().to_string(), "that number is too small"),
            ("x".parse::<f64>().unwrap_err().to_string(), "give a number, like 1.5"),
        ] {
            assert_eq!(number_in_words(&error).as_deref(), Some(words), "{error}");
        }
    }
}
