//! Many clients at once, on one thread, so that the clients take as little as possible of the machine that they measure.

use crate::api::{answer, request};
use anyhow::{Context, Result, ensure};
use rustix::event::epoll;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    /// What of the request is not yet sent.
    sent: usize,
    busy: bool,
}

/// Sends `requests` times this body to `POST /api/v1/jobs`, from `clients` clients which each wait for their answer before
/// they send again. Tells how long it took from the first request to the last answer.
pub fn load(socket: &Path, clients: usize, requests: usize, body: &str) -> Result<Duration> {
    let message = request("POST", "/api/v1/jobs", body);
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut all = Vec::new();
    for number in 0..clients {
        let stream = UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number as u64), flags)?;
        all.push(Client { stream, received: Vec::new(), sent: 0, busy: false });
    }
    let (mut begun, mut done) = (0, 0);
    let begin = Instant::now();
    for client in all.iter_mut().take(requests) {
        begun += 1;
        client.begin(&message)?;
    }
    let mut events = Vec::with_capacity(clients);
    while done < requests {
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let client = all.get_mut(event.data.u64() as usize).context("an event of nobody")?;
            client.send(&message)?;
            while client.take_answer()? {
                done += 1;
                if begun < requests {
                    begun += 1;
                    client.begin(&message)?;
                }
            }
        }
    }
    Ok(begin.elapsed())
}

impl Client {
    fn begin(&mut self, message: &[u8]) -> Result<()> {
        self.sent = 0;
        self.busy = true;
        self.send(message)
    }

    fn send(&mut self, message: &[u8]) -> Result<()> {
        while self.busy && self.sent < message.len() {
            match self.stream.write(&message[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// True: the answer is there and was a success.
    fn take_answer(&mut self) -> Result<bool> {
        let mut buffer = [0; 16_384];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(count) => {
                    ensure!(count > 0, "the daemon closed a connection");
                    self.received.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let Some((length, status, body)) = answer(&self.received)? else { return Ok(false) };
        ensure!(status == 201, "a submission was answered {status}: {}", String::from_utf8_lossy(body));
        self.received.drain(..length);
        self.busy = false;
        Ok(true)
    }
}
