//! Logs of jobs whose store is here no more.

use super::*;
use crate::joblog::{change_owner, come_after, others_path, set_owner};
use std::os::unix::fs::PermissionsExt;

const OTHER: &str = "99887766";

fn others(logs: &Logs, path: PathBuf) -> String {
    std::fs::read_to_string(logs.0.path().join(others_path(STORE)).join(path)).unwrap()
}

#[test]
fn the_first_byte_goes_where_the_directory_is_the_jobs_own() {
    for owner in [None, Some(STORE)] {
        let logs = Logs::new();
        let mut writer = logs.writer(u64::MAX);
        owner.map_or(Ok(None), |owner| set_owner(logs.0.path(), owner)).unwrap();
        writer.write(0, b"mine");
        writer.finish(0);
        assert_eq!(logs.log_text(), "mine", "the control");
    }
}

#[test]
fn a_job_of_another_store_logs_where_nobody_looks() {
    let logs = Logs::new();
    let mut writer = logs.writer(u64::MAX);
    set_owner(logs.0.path(), STORE).unwrap();
    change_owner(logs.0.path(), OTHER).unwrap();
    std::fs::create_dir(logs.path().parent().unwrap()).unwrap();
    std::fs::write(logs.path(), "the other's\n").unwrap();
    writer.write(500, b"mine\n");
    set_owner(logs.0.path(), STORE).unwrap();
    writer.write(1_000, b"mine too\n");
    writer.finish(1_000);
    assert_eq!(logs.log_text(), "the other's\n");
    assert!(!logs.times_path().exists());
    assert_eq!(others(&logs, log_path(JOB, ATTEMPT)), "mine\nmine too\n", "what began there goes on there");
    assert!(logs.0.path().join(others_path(STORE)).join(times_path(JOB, ATTEMPT)).exists());
}

/// The times are made later than the log where that came within a tick of the start.
#[test]
fn the_times_of_a_log_that_was_made_before_go_aside_as_well() {
    let logs = Logs::new();
    let mut writer = logs.writer(u64::MAX);
    set_owner(logs.0.path(), STORE).unwrap();
    writer.write(0, b"before\n");
    assert!(logs.path().exists() && !logs.times_path().exists());
    set_owner(logs.0.path(), OTHER).unwrap();
    writer.write(500, b"after\n");
    writer.finish(500);
    assert_eq!(logs.log_text(), "before\nafter\n");
    assert!(!logs.times_path().exists());
}

#[test]
fn whose_a_directory_is_can_be_read_by_all_who_write_logs_and_is_changed_where_it_was_said() {
    let logs = Logs::new();
    let path = logs.0.path().join("store-id");
    change_owner(logs.0.path(), STORE).unwrap();
    assert!(!path.exists());
    assert_eq!(set_owner(logs.0.path(), STORE).unwrap(), None);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    change_owner(logs.0.path(), OTHER).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{OTHER}\n"));
    assert_eq!(std::fs::read_dir(logs.0.path()).unwrap().count(), 1);
    assert_eq!(set_owner(logs.0.path(), STORE).unwrap().as_deref(), Some(OTHER));
    assert_eq!(set_owner(logs.0.path(), STORE).unwrap(), None);
}

/// A link there would be followed by whoever writes logs.
#[test]
fn what_is_no_file_says_nothing() {
    let logs = Logs::new();
    std::fs::write(logs.0.path().join("elsewhere"), OTHER).unwrap();
    std::os::unix::fs::symlink("elsewhere", logs.0.path().join("store-id")).unwrap();
    let mut writer = logs.writer(u64::MAX);
    writer.write(0, b"mine");
    writer.finish(0);
    assert_eq!(logs.log_text(), "mine");
}

/// Whoever may write there could have any file of the daemon's user overwritten, or keep the daemon from starting.
#[test]
fn nothing_that_others_put_there_is_written_through_or_waited_for() {
    use rustix::fs::{CWD, FileType, Mode};
    let logs = Logs::new();
    let victim = logs.0.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let aside = |name: &str| logs.0.path().join(format!("{name}.tmp"));
    for name in ["store-id", "earlier-log-dirs"] {
        std::os::unix::fs::symlink(&victim, aside(name)).unwrap();
    }
    let write = |store| {
        set_owner(logs.0.path(), store).unwrap();
        come_after(std::path::Path::new("/"), logs.0.path()).unwrap();
    };
    write(OTHER);
    for name in ["store-id", "earlier-log-dirs"] {
        rustix::fs::mknodat(CWD, aside(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    write("0123abcd");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(std::fs::read_to_string(logs.0.path().join("store-id")).unwrap(), "0123abcd\n");
}
