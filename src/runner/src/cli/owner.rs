//! What root is told where a directory is for its owner to work in.

use super::fail::Failure;
use super::slips::quoted;
use std::path::Path;

/// Root asked for a restore into a directory of another user: the same line, as that user.
pub fn refused_to_root(dir: &str, uid: u32, backup: &Path) -> Failure {
    let words = std::env::args_os().map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ");
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Failure::Usage(words_for_root(dir, uid, name_of(&users, uid).as_deref(), &words, backup))
}

fn words_for_root(dir: &str, uid: u32, name: Option<&str>, words: &str, backup: &Path) -> String {
    let backup = backup.display();
    let (whose, become_it, owner) = match name {
        Some(name) => (name.to_owned(), format!("runuser -u {name} --"), name.to_owned()),
        None => {
            (format!("user {uid}"), format!("setpriv --reuid {uid} --regid {uid} --clear-groups --"), uid.to_string())
        }
    };
    format!(
        "{dir} belongs to {whose}: root would follow links in it, and leave files there that the daemon cannot open. Nothing was \
         changed; say it as its owner: {become_it} {words}\n\
         If {whose} may not read the backup: install -m 600 -o {owner} {backup} /var/tmp/, and name that file"
    )
}

/// The name of a user in the text of `/etc/passwd`.
fn name_of(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_told_the_line_for_the_owner() {
        let users = "root:x:0:0:root:/root:/bin/sh\nci-runner:x:997:996::/var/lib/ci-runner:/usr/sbin/nologin\n";
        let name = name_of(users, 997);
        let text = words_for_root("/s", 997, name.as_deref(), "ci-runner restore b.db", Path::new("b.db"));
        assert!(text.contains("as its owner: runuser -u ci-runner -- ci-runner restore b.db\n"), "{text}");
        assert!(text.contains("install -m 600 -o ci-runner b.db /var/tmp/"), "{text}");
        let text = words_for_root("/s", 7, name_of(users, 7).as_deref(), "ci-runner restore b.db", Path::new("b.db"));
        assert!(text.contains("setpriv --reuid 7 --regid 7 --clear-groups -- ci-runner restore b.db"), "{text}");
    }
}
