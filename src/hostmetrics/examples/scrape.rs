//! For looking and for measuring; no part of the product.
//!
//! - `scrape [--tree DIR] [--openmetrics]` prints one scrape of this host or of recorded trees;
//! - `scrape --serve PORT` answers every connection to a loopback port with one;
//! - `scrape --beside N` runs itself and node_exporter, asks them in turn N times for the same collectors, and prints
//!   what a scrape costs each: time until the text is there, and CPU time of the process.

use ci_runner_hostmetrics::{ClockState, Format, HostMetrics, Options, collector_names};
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut options = Options { clock_state: Some(|| Ok(ClockState::default())), ..Options::default() };
    let mut format = Format::Text;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--serve" => return serve(options, value()?.parse()?),
            "--beside" => return beside(value()?.parse()?),
            "--openmetrics" => format = Format::OpenMetrics,
            "--tree" => {
                let tree = PathBuf::from(value()?);
                (options.procfs, options.sysfs) = (tree.join("proc"), tree.join("sys"));
                (options.rootfs, options.udev_data) = (tree.join("root"), tree.join("udev"));
                options.textfile_directories = vec![tree.join("textfile")];
            }
            _ => return Err(format!("unknown word {word}").into()),
        }
    }
    let mut host = HostMetrics::new(options)?;
    host.collect(format, &mut std::io::stdout().lock())?;
    for report in host.reports() {
        if let Some(error) = &report.error {
            eprintln!("{}: {error}", report.name);
        }
    }
    Ok(())
}

fn serve(options: Options, port: u16) -> Result<()> {
    let mut host = HostMetrics::new(options)?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    loop {
        let (mut stream, _) = listener.accept()?;
        // Whoever only looks whether somebody listens gets nothing.
        if !matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
            continue;
        }
        let text = host.collect_to_string(Format::Text);
        let kind = Format::Text.content_type();
        let _ =
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    }
}

/// A program that answers on a port; ended with the value.
struct Peer(Child, u16);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Peer {
    fn start(command: &mut Command, port: u16) -> Result<Self> {
        let peer = Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?, port);
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                return Err(format!("nobody answers on port {port}").into());
            }
            std::thread::yield_now();
        }
        Ok(peer)
    }

    fn scrape(&self) -> Result<(Duration, usize)> {
        let began = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", self.1))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        Ok((began.elapsed(), text.len()))
    }

    /// Seconds of CPU time so far.
    fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let after = stat.rsplit_once(") ").ok_or("no stat")?.1;
        let ticks: Vec<f64> =
            after.split(' ').skip(11).take(2).map(str::parse).collect::<std::result::Result<_, _>>()?;
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }

    /// The largest resident size, kB.
    fn peak(&self) -> Result<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        Ok(line.trim().to_owned())
    }
}

fn beside(rounds: u32) -> Result<()> {
    let free = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
    let (our_port, their_port) = (free()?, free()?);
    let ours = Peer::start(Command::new(std::env::current_exe()?).args(["--serve", &our_port.to_string()]), our_port)?;
    let collectors = collector_names().into_iter().map(|name| format!("--collector.{name}"));
    let mut command = Command::new("prometheus-node-exporter");
    command.arg(format!("--web.listen-address=127.0.0.1:{their_port}"));
    command.args(["--web.disable-exporter-metrics", "--collector.disable-defaults", "--collector.cpu.info"]);
    let theirs = Peer::start(command.args(collectors), their_port)?;
    let peers = [("hostmetrics", ours), ("node_exporter", theirs)];
    let mut times = [Vec::new(), Vec::new()];
    let mut sizes = [0; 2];
    let before = [peers[0].1.cpu()?, peers[1].1.cpu()?];
    for _ in 0..rounds {
        for (at, (_, peer)) in peers.iter().enumerate() {
            let (time, size) = peer.scrape()?;
            times[at].push(time);
            sizes[at] = size;
        }
    }
    for (at, (name, peer)) in peers.iter().enumerate() {
        times[at].sort();
        let part = |percent: usize| times[at][(times[at].len() - 1) * percent / 100].as_secs_f64() * 1e3;
        let cpu = (peer.cpu()? - before[at]) * 1e3 / f64::from(rounds);
        let (half, slow, peak) = (part(50), part(99), peer.peak()?);
        println!("{name}: {half:.2} ms median, {slow:.2} ms p99, {cpu:.2} ms CPU, {peak} peak, {} bytes", sizes[at]);
    }
    Ok(())
}
