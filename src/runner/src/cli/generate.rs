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
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "ci-runner", &mut text);
    print(&String::from_utf8_lossy(&text))
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

fn page(command: &Command, name: &str) -> Result<String, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone().name(name.to_owned())).render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `ci-runner.1`, `ci-runner-schedule-add.1`, …
fn write_pages(command: &Command, name: &str, dir: &Path) -> Result<usize, Failure> {
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(command, name)?)
        .map_err(|error| Failure::Error(format!("cannot write {}: {error}", path.display())))?;
    let mut count = 1;
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        count += write_pages(inner, &format!("{name}-{}", inner.get_name()), dir)?;
    }
    Ok(count)
}

/// Prints the document.
pub fn openapi(context: &Context<'_>, _: NoArgs) -> Ended {
    let mut text = (context.hooks.openapi)();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    print(&text)
}
