//! What `run` draws on a terminal while jobs run, and that it draws nothing anywhere else.

use crate::support::{Host, program, wait_for};
use serde_json::json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Of the terminal.
const COLUMNS: usize = 80;

/// A terminal with somebody who reads what comes.
struct Terminal {
    line: OwnedFd,
    come: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Terminal {
    fn new() -> Terminal {
        let size = libc::winsize { ws_row: 24, ws_col: COLUMNS as u16, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut master, mut line) = (-1, -1);
        let none = std::ptr::null_mut();
        // SAFETY: both places and the size are there for the call; no name and no modes are asked for.
        let opened = unsafe { libc::openpty(&mut master, &mut line, none, std::ptr::null(), &size) };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: they were just made, and nobody else has them.
        let (mut master, line) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(line)) };
        for fd in [master.as_raw_fd(), line.as_raw_fd()] {
            // SAFETY: it is open; a flag of it is set.
            assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
        }
        let come = Arc::new(Mutex::new(Vec::new()));
        let shared = come.clone();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // An error is the end: nobody has the other side any more.
            while let Ok(count) = master.read(&mut bytes) {
                shared.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Terminal { line, come, reader }
    }

    fn writer(&self) -> Stdio {
        self.line.try_clone().unwrap().into()
    }

    /// The lines that one sees now.
    fn screen(&self) -> Vec<String> {
        screen(&String::from_utf8_lossy(&self.come.lock().unwrap()))
    }

    /// All that came, after the last process that writes has ended.
    fn end(self) -> String {
        drop(self.line);
        self.reader.join().unwrap();
        String::from_utf8(self.come.lock().unwrap().clone()).unwrap()
    }
}

/// What a terminal shows after this: the few controls that are in use, and no other.
fn screen(text: &str) -> Vec<String> {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0_usize, 0);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                let Some('[') = characters.next() else { break };
                let mut number = String::new();
                let Some(control) = characters.find(|next| {
                    let is_parameter = next.is_ascii_digit() || ";?".contains(*next);
                    number.extend(Some(*next).filter(|_| is_parameter));
                    !is_parameter
                }) else {
                    break;
                };
                let count = number.parse().unwrap_or(1);
                match control {
                    'A' => row = row.saturating_sub(count),
                    'B' => row += count,
                    'K' if number == "2" => lines[row].clear(),
                    'K' => lines[row].truncate(column),
                    'J' => {
                        lines[row].truncate(column);
                        lines.truncate(row + 1);
                    }
                    'm' | 'h' | 'l' => {}
                    other => panic!("what is `{number}{other}`? {text:?}"),
                }
            }
            character => {
                // A full line is left with the next character only.
                if column == COLUMNS {
                    (row, column) = (row + 1, 0);
                    lines.resize(lines.len().max(row + 1), Vec::new());
                }
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = character;
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

/// Two jobs, `alpha` and `beta`, each of which ends when it is let.
struct Two {
    host: Host,
    child: Child,
}

impl Two {
    fn start(options: &[&str], term: &str, out: Stdio, err: Stdio) -> Two {
        let host = Host::new();
        let job = |name: &str, script: &str, code: u32| {
            let gate = host.path(&format!("end-{name}"));
            let shell = format!("{script}; while [ ! -e {} ]; do sleep 0.02; done; exit {code}", gate.display());
            let env = json!({ "E2E_MARKER": host.marker });
            format!("{}\n", json!({ "name": name, "shell": shell, "env": env }))
        };
        let jobs = job("alpha", "echo a word", 0) + &job("beta", ":", 3);
        let mut command = Command::new(program());
        command.args(["run", "-P", "2", "-f", "-"]).args(options);
        command.env_remove("NO_COLOR").env("TERM", term).env("XDG_RUNTIME_DIR", host.path(""));
        let mut child = command.stdin(Stdio::piped()).stdout(out).stderr(err).spawn().unwrap();
        child.stdin.take().unwrap().write_all(jobs.as_bytes()).unwrap();
        Two { host, child }
    }

    fn let_end(&self, name: &str) {
        fs::write(self.host.path(&format!("end-{name}")), "").unwrap();
    }

    /// Both are let, and it ends as it should when one of them failed.
    fn end(&mut self) {
        ["alpha", "beta"].iter().for_each(|name| self.let_end(name));
        let status = wait_for("the end of run", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(1));
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line of a job that runs: a sign that turns, its name, and for how long.
fn is_drawn(screen: &[String], name: &str) -> bool {
    let is_its = |line: &String| {
        let words: Vec<&str> = line.split(' ').collect();
        matches!(words[..], [sign, of, time] if !sign.is_ascii() && of == name && time.ends_with('s'))
    };
    screen.iter().any(is_its)
}

fn is_counted(screen: &[String], done: &str) -> bool {
    screen.iter().any(|line| line.contains(&format!(" {done} finished · ")))
}

#[test]
fn jobs_are_drawn_while_they_run_and_go_when_they_end() {
    let terminal = Terminal::new();
    let mut two = Two::start(&[], "xterm", terminal.writer(), terminal.writer());
    let shows = |what: &str, is_so: &dyn Fn(&[String]) -> bool| {
        let look = || is_so(&terminal.screen()).then_some(());
        wait_for(what, look);
    };
    shows("both", &|screen| is_drawn(screen, "alpha") && is_drawn(screen, "beta") && is_counted(screen, "0/2"));
    shows("what it printed", &|screen| screen.iter().any(|line| line == "alpha │ a word"));
    two.let_end("alpha");
    shows("one end", &|screen| !is_drawn(screen, "alpha") && is_drawn(screen, "beta") && is_counted(screen, "1/2"));
    assert!(terminal.screen().iter().any(|line| line.starts_with("alpha: succeeded ")), "{:#?}", terminal.screen());
    two.end();
    let came = terminal.end();
    let at_last: Vec<String> = screen(&came).into_iter().filter(|line| !line.is_empty()).collect();
    let [printed, first, second, summary] = &at_last[..] else { panic!("{at_last:#?}") };
    assert_eq!((printed.as_str(), summary.as_str()), ("alpha │ a word", "1 of 2 succeeded"));
    assert!(first.starts_with("alpha: succeeded ") && second.starts_with("beta: failed "), "{at_last:#?}");
    assert!(second.ends_with(" exit code 3"), "{second}");
}

/// Escapes in a file, or in a pipe, are nobody's wish.
#[test]
fn nothing_is_drawn_where_no_terminal_is() {
    let host = Host::new();
    let file = |name: &str| File::create(host.path(name)).unwrap().into();
    let read = |name: &str| fs::read_to_string(host.path(name)).unwrap();
    let check = |text: &str| {
        assert!(!text.contains(['\x1b', '\u{2801}']) && !text.contains("/2 finished"), "{text:?}");
    };

    Two::start(&[], "xterm", file("out"), file("err")).end();
    check(&(read("out") + &read("err")));
    assert_eq!(read("out"), "alpha │ a word\n");
    assert!(read("err").ends_with("1 of 2 succeeded\n"), "{}", read("err"));

    // Standard output has what jobs printed, and that only, also where one looks on.
    let terminal = Terminal::new();
    Two::start(&[], "xterm", file("out"), terminal.writer()).end();
    assert_eq!(read("out"), "alpha │ a word\n");
    assert!(terminal.end().contains("\x1b["), "the control: it is drawn on the terminal");

    // A terminal that prints line after line, and one whose owner wants to hear nothing.
    for (options, term) in [(&[][..], "dumb"), (&["-q"], "xterm")] {
        let terminal = Terminal::new();
        Two::start(options, term, file("out"), terminal.writer()).end();
        check(&terminal.end());
    }
}
