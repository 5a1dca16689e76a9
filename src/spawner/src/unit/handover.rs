//! What passes between shim and helper over the unit's standard input, a SEQPACKET socket.
//!
//! ```text
//! helper                          shim
//!   "ready"                 ──▶    writes `began`
//!                           ◀──    "job" + sealed memory file, log pipe, status pipe; once, then it closes its end
//! ```
//!
//! PID 1 keeps a copy of the helper's end until the unit is released, and a unit of the same name may be started a second
//! time after that: a second helper finds nobody, exits 203, and nothing runs twice. A shim that has gone answers nobody
//! either.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::seals::Seal;
use crate::launch::{Program, Stage};
use crate::memfd;

/// The helper is there.
const READY: &[u8] = b"ready";
/// The job is attached.
const JOB: &[u8] = b"job";
/// First byte on the status pipe: a seal is missing, and the job runs all the same.
const DEGRADED: u8 = 4;
/// The same, and it does not.
const UNSEALED: u8 = 5;
/// Memory file, log pipe, status pipe.
const JOB_FDS: usize = 3;

/// What a helper gets.
pub(super) struct Job {
    /// What to run.
    pub(super) program: Program,
    /// Its output.
    pub(super) output: OwnedFd,
    /// Where a failure is told.
    pub(super) status: OwnedFd,
    /// What must hold here: [`super::seals`], [`super::places`].
    pub(super) checks: Vec<CString>,
}

/// Helper: says that it is there, and waits for the job. Err: nobody is there, or what came is no job.
pub(super) fn ask(socket: impl AsFd) -> io::Result<Job> {
    rustix::net::send(&socket, READY, SendFlags::NOSIGNAL)?;
    let mut text = [0; 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(JOB_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let mut fds = fds.into_iter();
    match (&text[..got.bytes], fds.next(), fds.next(), fds.next()) {
        (JOB, Some(memory), Some(output), Some(status)) => {
            let (program, checks) = decode(&memfd::read(memory)?).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Job { program, output, status, checks })
        }
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Shim: true when a helper said that it is there.
pub(super) fn is_asked(socket: impl AsFd) -> bool {
    let mut text = [0; 16];
    matches!(rustix::net::recv(&socket, &mut text, RecvFlags::DONTWAIT), Ok((got, _)) if &text[..got] == READY)
}

/// Shim: hands the job over.
pub(super) fn hand_over(
    socket: impl AsFd,
    (program, checks): (&Program, &[CString]),
    output: BorrowedFd<'_>,
    status: BorrowedFd<'_>,
) -> io::Result<()> {
    let memory = memfd::sealed("ci-job", &encode(program, checks))?;
    let fds = [memory.as_fd(), output, status];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(JOB_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(&socket, &[IoSlice::new(JOB)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Words, each ended by a NUL (no word can hold one), behind their numbers; the places are what is left.
fn encode(program: &Program, places: &[CString]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let lists = [&program.argv, &program.env, &program.candidates];
    for number in lists.iter().map(|list| list.len() as u32).chain([program.umask]) {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for word in lists.into_iter().flatten().chain([&program.dir]).chain(places) {
        bytes.extend_from_slice(word.as_bytes_with_nul());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Program, Vec<CString>)> {
    let (head, text) = bytes.split_at_checked(16)?;
    let number = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let mut words = text.split_inclusive(|&byte| byte == 0);
    let whole = |bytes: &[u8]| CString::from_vec_with_nul(bytes.to_vec()).ok();
    let mut word = || whole(words.next()?);
    let mut list = |count: u32| (0..count).map(|_| word()).collect::<Option<Vec<_>>>();
    let (argv, env, candidates) = (list(number(0)?)?, list(number(4)?)?, list(number(8)?)?);
    let dir = word()?;
    let program = Program { argv, env, candidates, dir, umask: number(12)? };
    let places = words.map(whole).collect::<Option<Vec<_>>>()?;
    Some((program, places))
}

/// What the helper writes on the status pipe when it could not execute.
pub(super) fn failure(stage: Stage, errno: i32) -> [u8; 5] {
    let mut bytes = [0; 5];
    bytes[0] = match stage {
        Stage::Prepare => 0,
        Stage::Directory => 1,
        Stage::Execute => 2,
        Stage::Place => 3,
    };
    bytes[1..].copy_from_slice(&errno.to_le_bytes());
    bytes
}

/// What the helper writes there about a seal that is missing.
pub(super) fn missing(seal: Seal, goes_on: bool) -> [u8; 5] {
    let mut bytes = [if goes_on { DEGRADED } else { UNSEALED }; 5];
    bytes[1..].copy_from_slice(&seal.number().to_le_bytes());
    bytes
}

/// What the shim reads on the status pipe.
pub(super) enum Word {
    /// End of file: it executed.
    Executed,
    /// Nothing yet.
    Nothing,
    /// It could not.
    Failed(Stage, io::Error),
    /// Its sandbox lacks this, and it goes on (true) or has ended.
    Lacks(Seal, bool),
}

/// The next of them.
pub(super) fn read_status(status: &OwnedFd) -> Word {
    let mut bytes = [0; 5];
    match rustix::io::read(status, &mut bytes) {
        Ok(5) => {}
        Ok(_) => return Word::Executed,
        Err(_) => return Word::Nothing,
    }
    let number = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    if let (DEGRADED | UNSEALED, Some(seal)) = (bytes[0], Seal::numbered(number)) {
        return Word::Lacks(seal, bytes[0] == DEGRADED);
    }
    let stage = match bytes[0] {
        0 => Stage::Prepare,
        1 => Stage::Directory,
        3 => Stage::Place,
        _ => Stage::Execute,
    };
    Word::Failed(stage, io::Error::from_raw_os_error(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_arrive_byte_for_byte(argv in proptest::collection::vec("[^\0]{0,40}", 0..5),
                                      env in proptest::collection::vec("[^\0]{0,40}", 0..5),
                                      places in proptest::collection::vec("[^\0]{1,40}", 0..3), umask in any::<u32>()) {
            let words = |list: &[String]| -> Vec<CString> {
                list.iter().map(|word| CString::new(word.as_str()).expect("no NUL")).collect()
            };
            let program = Program {
                argv: words(&argv), env: words(&env), candidates: vec![c"/bin/sh".to_owned()], dir: c"/".to_owned(), umask,
            };
            let places: Vec<CString> = words(&places);
            let bytes = encode(&program, &places);
            let (back, back_places) = decode(&bytes).expect("decodes");
            prop_assert_eq!(back_places, places);
            prop_assert_eq!((back.argv, back.env, back.dir, back.umask), (program.argv, program.env, program.dir, umask));
            prop_assert!(decode(&bytes[..bytes.len() - 1]).is_none());
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&bytes));
        }
    }
}
