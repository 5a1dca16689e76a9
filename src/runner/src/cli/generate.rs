//! What is made from the program itself: `completions`, `man`, `openapi`.

use super::context::{Context, print};
use super::fail::{EXIT_DONE, Ended, Failure};
use super::host::NoArgs;
use super::verbs::command;
use clap::{Args, Command};
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Write the pages of all verbs to this directory, one file each
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints completions.
pub fn completions(_: &Context<'_>, args: CompletionsArgs) -> Ended {
    print(&completion(args.shell))
}

fn completion(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command(), "ci-runner", &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    match shell {
        // clap_complete (4.6) sets one name and asks for another where the program's own has a dash: only verbs would be known.
        Shell::Bash => text.replace("ci__subcmd__runner", "ci__runner"),
        _ => text,
    }
}

/// Prints or writes manual pages.
pub fn man(context: &Context<'_>, args: ManArgs) -> Ended {
    let mut tree = command();
    tree.build();
    let Some(dir) = args.dir else {
        return print(&page(&tree, "ci-runner")?);
    };
    std::fs::create_dir_all(&dir).map_err(|error| Failure::Error(format!("cannot make {}: {error}", dir.display())))?;
    let count = write_pages(&tree, "ci-runner", &dir)?;
    context.note(&format!("{count} pages in {}", dir.display()));
    Ok(EXIT_DONE)
}

/// Completions and manual pages as an installation has them: path below the prefix, text.
///
/// # Errors
/// A page cannot be made.
pub fn installed_pages() -> Result<Vec<(String, String)>, Failure> {
    let shells = [
        (Shell::Bash, "share/bash-completion/completions/ci-runner"),
        (Shell::Zsh, "share/zsh/site-functions/_ci-runner"),
        (Shell::Fish, "share/fish/vendor_completions.d/ci-runner.fish"),
    ];
    let mut pages = Vec::new();
    for (shell, path) in shells {
        pages.push((path.to_owned(), completion(shell)));
    }
    let mut tree = command();
    tree.build();
    all_pages(&tree, "ci-runner", &mut |name, text| {
        pages.push((format!("share/man/man1/{name}.1"), text));
        Ok(())
    })?;
    Ok(pages)
}

fn page(command: &Command, name: &str) -> Result<String, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone().name(name.to_owned())).render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `ci-runner.1`, `ci-runner-schedule-add.1`, …
fn write_pages(command: &Command, name: &str, dir: &Path) -> Result<usize, Failure> {
    let mut count = 0;
    all_pages(command, name, &mut |name, text| {
        let path = dir.join(format!("{name}.1"));
        count += 1;
        std::fs::write(&path, text).map_err(|error| Failure::Error(format!("cannot write {}: {error}", path.display())))
    })?;
    Ok(count)
}

type Take<'a> = dyn FnMut(&str, String) -> Result<(), Failure> + 'a;

/// Hands out each page with its name.
fn all_pages(command: &Command, name: &str, take: &mut Take<'_>) -> Result<(), Failure> {
    take(name, page(command, name)?)?;
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        all_pages(inner, &format!("{name}-{}", inner.get_name()), take)?;
    }
    Ok(())
}

/// Prints the document.
pub fn openapi(context: &Context<'_>, _: NoArgs) -> Ended {
    let mut text = (context.hooks.openapi)();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The function first finds out which verb is called (`cmd="X"`) and then offers what that takes (`X)`).
    #[test]
    fn bash_offers_something_behind_every_verb() {
        let text = completion(Shell::Bash);
        let set: Vec<&str> =
            text.lines().filter_map(|line| line.trim().strip_prefix("cmd=\"")?.strip_suffix('"')).collect();
        let cases: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_suffix(')')).collect();
        let named: Vec<&str> = set.iter().copied().filter(|name| !name.is_empty()).collect();
        assert!(named.len() > 40, "{}", named.len());
        for name in named {
            assert!(cases.contains(&name), "nothing is offered behind {name}");
        }
        let installed = installed_pages().unwrap();
        assert!(installed.iter().any(|(path, page)| path.contains("bash-completion") && *page == text));
    }
}
