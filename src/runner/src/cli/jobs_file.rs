//! A file of jobs, one JSON object a line. All of it is read and checked before anything is sent: one bad line and nothing
//! is queued. An error names file, line and field, and suggests for misspelt keys.

use super::fail::Failure;
use crate::api::JobRequest;
use crate::request::read_job;
use std::io::Read;

/// A file is at most this, as a request of the daemon is; more jobs go in several calls.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The jobs of a file and the line of each, so that the daemon's objections can be put to their lines.
#[derive(Debug)]
pub struct JobsFile {
    /// As given; `standard input` for `-`.
    pub name: String,
    /// In order.
    pub jobs: Vec<JobRequest>,
    lines: Vec<usize>,
}

impl JobsFile {
    /// Reads a file, or standard input for `-`.
    ///
    /// # Errors
    /// The first line that is wrong, or why the file cannot be read.
    pub fn read(path: &str) -> Result<JobsFile, Failure> {
        let mut bytes = Vec::new();
        let (name, read) = match path {
            "-" => ("standard input", std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)),
            path => {
                (path, std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)))
            }
        };
        if let Err(error) = read {
            return Err(Failure::Usage(format!("cannot read {name}: {error}")));
        }
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let text = format!("{name} has more than {FILE_BYTES_MAX} bytes; queue it in several calls");
            return Err(Failure::Usage(text));
        }
        JobsFile::parse(name, &bytes)
    }

    /// As [`JobsFile::read`], with the content given.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<JobsFile, Failure> {
        let mut file = JobsFile { name: name.to_owned(), jobs: Vec::new(), lines: Vec::new() };
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |what: String| Failure::Usage(format!("{name}:{}: {what}; nothing was queued", index + 1));
            let line = std::str::from_utf8(line).map_err(|_| wrong("the line is not UTF-8".to_owned()))?;
            // Editors of other systems begin a file with a mark.
            let line = if index == 0 { line.trim_start_matches('\u{feff}') } else { line };
            if line.trim().is_empty() {
                continue;
            }
            file.jobs.push(parse_job(line).map_err(wrong)?);
            file.lines.push(index + 1);
        }
        match file.jobs.is_empty() {
            true => Err(Failure::Usage(format!("{name} holds no job; write one JSON object a line"))),
            false => Ok(file),
        }
    }

    /// `FILE:LINE` of a job.
    pub fn place(&self, index: usize) -> String {
        match self.lines.get(index) {
            Some(line) => format!("{}:{line}", self.name),
            None => self.name.clone(),
        }
    }
}

fn parse_job(line: &str) -> Result<JobRequest, String> {
    const SHAPE: &str = r#"write one like {"command":["make","test"],"timeout":"30m"}"#;
    if !line.trim_start().starts_with('{') {
        return Err(format!("the line is no JSON object; {SHAPE}"));
    }
    let job = read_job(line.as_bytes()).map_err(|fault| match fault.field.is_empty() {
        // The daemon reads bodies, here it is a line.
        true => fault.why.replacen("the body is", "the line is", 1),
        false => fault.to_string(),
    })?;
    match (&job.command, &job.shell) {
        (Some(_), Some(_)) => Err("shell: stands beside `command`; give one of them".to_owned()),
        (None, None) => Err(format!("command: is missing; {SHAPE}")),
        _ => Ok(job),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_line_refuses_all_and_is_named() {
        let good = r#"{"command":["true"]}"#;
        for (bad, part) in [
            (
                r#"{"command":["true"],"timout":5}"#,
                "f:3: timout: there is no key \"timout\"; did you mean \"timeout\"?",
            ),
            (
                r#"{"command":["true"],"frobnicate":5}"#,
                "f:3: frobnicate: there is no key \"frobnicate\"; known are command",
            ),
            (r#"{"command":["true"],"timeout":"5 parsecs"}"#, "f:3: timeout: "),
            (r#"{"command":"true"}"#, "f:3: command: "),
            (r#"{"command":["true"],"retry":-1}"#, "f:3: retry: "),
            (r#"{"command":["true"],"command":["x"]}"#, "f:3: command: "),
            (r#"{"command":["true"]"#, "f:3: the line is no JSON: EOF"),
            (r#"["true"]"#, "f:3: the line is no JSON object"),
            (r#"{"name":"x"}"#, "f:3: command: is missing"),
            (r#"{"command":["true"],"shell":"true"}"#, "f:3: shell: stands beside"),
        ] {
            let content = format!("{good}\n\n{bad}\n{good}\n");
            let failure = JobsFile::parse("f", content.as_bytes()).unwrap_err();
            assert!(failure.to_string().contains(part), "{bad}: {failure}");
            assert!(failure.to_string().ends_with("nothing was queued"), "{failure}");
            assert_eq!(failure.code(), 3);
        }
        let failure = JobsFile::parse("f", b"{\"command\":[\"true\"]}\n\xff\n").unwrap_err();
        assert!(failure.to_string().contains("f:2: the line is not UTF-8"), "{failure}");
        assert!(JobsFile::parse("f", b"\n \n").unwrap_err().to_string().contains("holds no job"));
    }

    #[test]
    fn good_lines_become_jobs_and_keep_their_place() {
        let content = "\u{feff}{\"shell\":\"make\"}\r\n\n{\"command\":[\"a\"],\"in\":\"5m\",\"env\":{\"K\":\"V\"}}";
        let file = JobsFile::parse("f", content.as_bytes()).unwrap();
        assert_eq!(file.jobs.len(), 2);
        assert_eq!(file.place(1), "f:3");
        assert_eq!(file.place(9), "f");
        assert_eq!(file.jobs[1].delay.map(|delay| delay.0.as_secs()), Some(300));
    }
}
