//! What fails or hangs costs only itself. Each hang is a real one: a pipe that nobody writes, a mount whose server is dead.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../skipped.rs"]
mod skipped;

use ci_runner_hostmetrics::{CollectError, Format, HostMetrics, Options};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_millis(600);
/// Together, as the collector that asks them.
const MOUNT_LIMIT: Duration = Duration::from_millis(1600);
const SUCCESS: &str = "node_scrape_collector_success";

fn options(dir: &Path, collectors: &[&str]) -> Options {
    Options {
        procfs: dir.join("proc"),
        sysfs: dir.join("sys"),
        rootfs: dir.join("root"),
        enabled: Some(collectors.iter().map(|name| (*name).to_owned()).collect()),
        collector_time_max: LIMIT,
        mount_time_max: MOUNT_LIMIT,
        ..Options::default()
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Scrapes until the text has `wanted`; the last text if it never does.
fn scrape_until(host: &mut HostMetrics, wanted: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = host.collect_to_string(Format::Text);
        if text.contains(wanted) || Instant::now() > deadline {
            return text;
        }
    }
}

#[test]
fn a_hanging_collector_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("proc/loadavg");
    write(&dir.path().join("proc/meminfo"), "MemTotal: 4 kB\n");
    write(&dir.path().join("proc/sys/fs/file-nr"), "1 0\n");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut host = HostMetrics::new(options(dir.path(), &["filefd", "loadavg", "meminfo", "uname"])).unwrap();

    for _ in 0..3 {
        let began = Instant::now();
        let text = host.collect_to_string(Format::Text);
        assert!(began.elapsed() < LIMIT * 3, "the scrape waited {:?}", began.elapsed());
        assert!(text.contains("node_memory_MemTotal_bytes 4096\n") && text.contains("node_uname_info{"), "{text}");
        for (name, success) in [("filefd", 0), ("loadavg", 0), ("meminfo", 1), ("uname", 1)] {
            assert!(text.contains(&format!("{SUCCESS}{{collector=\"{name}\"}} {success}\n")), "{name}: {text}");
        }
        let report = host.reports().iter().find(|report| report.name == "loadavg").unwrap();
        assert!(matches!(report.error, Some(CollectError::Hangs { since }) if since >= LIMIT), "{report:?}");
    }
    // Asked once, not three times: one thread is left behind. (Those of the other tests in this process end.)
    let left = || {
        let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = threads.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default());
        names.filter(|name| name.trim() == "host-metrics").count()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while left() != 1 && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(left(), 1);

    // It answers: the figures come back. The open waits for a reader, which is the hanging thread.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    writer.write_all(b"0.5 0.25 0.125 1/2 3\n").unwrap();
    drop(writer);
    std::fs::remove_file(&pipe).unwrap();
    write(&pipe, "0.5 0.25 0.125 1/2 3\n");
    let text = scrape_until(&mut host, "node_load1 0.5\n");
    assert!(
        text.contains("node_load1 0.5\n") && text.contains(&format!("{SUCCESS}{{collector=\"loadavg\"}} 1\n")),
        "{text}"
    );
}

/// A FUSE mount whose server never speaks; the kernel lets statfs wait for ever. Gone with the value.
struct DeadMount<'a> {
    server: Option<std::os::fd::OwnedFd>,
    place: &'a Path,
}

impl<'a> DeadMount<'a> {
    fn new(place: &'a Path) -> rustix::io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        let server = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        rustix::mount::mount("dead", place, "fuse", rustix::mount::MountFlags::empty(), data.as_c_str())?;
        Ok(Self { server: Some(server), place })
    }

    /// The server is gone for good: the kernel answers ENOTCONN.
    fn bury(&mut self) {
        self.server = None;
    }
}

impl Drop for DeadMount<'_> {
    fn drop(&mut self) {
        self.bury();
        let _ = rustix::mount::unmount(self.place, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn dead_mounts_cost_only_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let places = ["root/dead0", "root/dead1"].map(|name| dir.path().join(name));
    places.iter().for_each(|place| std::fs::create_dir_all(place).unwrap());
    std::fs::create_dir_all(dir.path().join("root/living")).unwrap();
    let dead: rustix::io::Result<Vec<_>> = places.iter().map(|place| DeadMount::new(place)).collect();
    let mut dead = match dead {
        Ok(dead) => dead,
        Err(error) => {
            skipped::tell("dead_mounts_cost_only_themselves", &format!("no FUSE mount: {error}"));
            return;
        }
    };
    let mounts =
        "/dev/z / ext4 rw 0 0\n/dev/a /dead0 ext4 rw 0 0\nnas:/x /dead1 nfs4 rw 0 0\n/dev/b /living ext4 rw 0 0\n";
    write(&dir.path().join("proc/1/mounts"), mounts);
    let options = options(dir.path(), &["filesystem", "uname"]);
    let mut host = HostMetrics::new(Options { collector_time_max: Duration::from_secs(5), ..options }).unwrap();
    let error = |device: &str, point: &str, kind: &str, value: u8| {
        format!(
            "node_filesystem_device_error{{device=\"{device}\",fstype=\"{kind}\",mountpoint=\"{point}\"}} {value}\n"
        )
    };
    let mut times = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let text = host.collect_to_string(Format::Text);
        times.push(began.elapsed());
        for line in [
            error("/dev/z", "/", "ext4", 0),
            error("/dev/a", "/dead0", "ext4", 1),
            error("nas:/x", "/dead1", "nfs4", 1),
            error("/dev/b", "/living", "ext4", 0),
            format!("{SUCCESS}{{collector=\"filesystem\"}} 1\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains("node_filesystem_size_bytes{device=\"/dev/b\""), "{text}");
        let report = host.reports().iter().find(|report| report.name == "filesystem").unwrap();
        let hanging: Vec<&str> = report.hanging.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(hanging, places.each_ref().map(|place| place.to_str().unwrap()));
    }
    // The first scrape waits for them (the control: they do hang), side by side; the others do not ask again.
    let one = MOUNT_LIMIT / 2;
    assert!(times[0] >= one && times[0] < MOUNT_LIMIT + one, "{times:?}");
    assert!(times[1] < one && times[2] < one, "{times:?}");

    dead.iter_mut().for_each(DeadMount::bury);
    drop(dead);
    let text = scrape_until(&mut host, &error("nas:/x", "/dead1", "nfs4", 0));
    assert!(text.contains(&error("nas:/x", "/dead1", "nfs4", 0)), "{text}");
    let text = scrape_until(&mut host, &error("/dev/a", "/dead0", "ext4", 0));
    assert!(text.contains(&error("/dev/a", "/dead0", "ext4", 0)), "{text}");
    assert!(host.reports().iter().all(|report| report.hanging.is_empty()));
}

/// A text file can neither take a name or a type from a figure of the host, nor be without bound.
#[test]
fn a_hostile_text_file_changes_no_figure() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("proc/loadavg"), "0.5 0.25 0.125 1/2 3\n");
    write(&dir.path().join("proc/vmstat"), "pgfault 7\n");
    write(&dir.path().join("text/a.prom"), "# TYPE node_vmstat_pgfault gauge\nnode_vmstat_pgfault 1\nnode_load1 99\n");
    write(&dir.path().join("text/b.prom"), "# TYPE node_load5 gauge\nnode_load5 99\nnode_load5{x=\"\\n\"} 98\n");
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("text/endless.prom")).unwrap();
    let textfile_directories = vec![dir.path().join("text")];
    let options = Options { textfile_directories, ..options(dir.path(), &["loadavg", "textfile", "vmstat"]) };
    let text = HostMetrics::new(options).unwrap().collect_to_string(Format::Text);
    for line in [
        "# TYPE node_vmstat_pgfault untyped\nnode_vmstat_pgfault 7\n",
        "# TYPE node_load1 gauge\nnode_load1 0.5\n",
        "node_load5 0.25\nnode_load5{x=\"\\n\"} 98\n",
        "node_textfile_scrape_error 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert!(!text.contains(" 99\n"), "{text}");
}

#[test]
fn wrong_options_are_refused_with_what_is_wrong() {
    let unknown = Options { enabled: Some(vec!["cpus".into()]), ..Options::default() };
    let text = HostMetrics::new(unknown).err().unwrap().to_string();
    assert!(text.contains("'cpus'") && text.contains("cpufreq"), "{text}");
    let pattern = Options { netdev_devices: ci_runner_hostmetrics::Filter::excluding("("), ..Options::default() };
    assert!(HostMetrics::new(pattern).err().unwrap().to_string().contains("'('"));
    let bare = Options { enabled: Some(vec!["timex".into()]), ..Options::default() };
    assert!(HostMetrics::new(bare).err().unwrap().to_string().contains("'timex'"));
    let disabled = Options { disabled: vec!["cpu".into()], ..Options::default() };
    let host = HostMetrics::new(disabled).unwrap();
    assert!(!host.enabled().contains(&"cpu") && host.enabled().contains(&"loadavg"));
    assert!(!host.enabled().contains(&"timex"), "nobody brought the call");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let both = ci_runner_hostmetrics::Filter { include: Some("(".into()), exclude: Some("[".into()) };
    let options = Options {
        enabled: Some(["cpus", "netdev", "timex", "vmstat"].map(str::to_owned).into()),
        disabled: vec!["disks".into(), "vmstat".into()],
        netdev_devices: both.clone(),
        // Of collectors that do not run.
        vmstat_fields: both.clone(),
        arp_devices: both,
        ..Options::default()
    };
    let told: Vec<String> = options.problems().iter().map(ToString::to_string).collect();
    let parts = ["'cpus'", "'disks'", "'('", "'['", "'timex'"];
    assert!(told.len() == parts.len() && told.iter().zip(parts).all(|(text, part)| text.contains(part)), "{told:?}");
    assert_eq!(Options::default().problems().len(), 0);
}
