//! Asks a small program of the host (`getent`, a credential helper) and waits for its answer, but not for ever.
//!
//! Not for programs that talk for long: all output is held in memory, and is cut off at a limit.

use std::io::{ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Most bytes kept of either stream.
const MAX_OUTPUT: usize = 1 << 20;

/// What a program said.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, at most 1 MiB.
    pub stdout: Vec<u8>,
    /// Its standard error, at most 1 MiB.
    pub stderr: Vec<u8>,
}

/// Runs `command` with `input` on its standard input; after `limit` it is killed.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such program, [`ErrorKind::TimedOut`] after `limit`, else the
/// system's. `input` must fit into a pipe (64 KiB).
pub fn ask(command: &mut Command, input: &[u8], limit: Duration) -> std::io::Result<Answer> {
    let until = Instant::now() + limit;
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut running = Running(child);
    if let Some(mut stdin) = running.0.stdin.take() {
        match stdin.write_all(input) {
            // It may well answer without reading the question.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            done => done?,
        }
    }
    let (stdout, stderr) = collect(&mut running.0, until)?;
    // Both streams are closed, so that the end is near; nothing tells of it but asking.
    loop {
        if let Some(status) = running.0.try_wait()? {
            return Ok(Answer {
                status,
                stdout,
                stderr,
            });
        }
        if Instant::now() >= until {
            return Err(ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Killed and waited for when it is dropped before its end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill(); // it may have ended this moment
            let _ = self.0.wait(); // nobody asks for the status
        }
    }
}

fn collect(child: &mut Child, until: Instant) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    for fd in [
        out.as_ref().map(std::os::fd::AsFd::as_fd),
        err.as_ref().map(std::os::fd::AsFd::as_fd),
    ]
    .into_iter()
    .flatten()
    {
        fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
    }
    while out.is_some() || err.is_some() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        if let Some(stream) = &out {
            fds.push(PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN));
        }
        if let Some(stream) = &err {
            fds.push(PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN));
        }
        let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if out
            .as_mut()
            .is_some_and(|stream| ended(stream, &mut stdout))
        {
            out = None;
        }
        if err
            .as_mut()
            .is_some_and(|stream| ended(stream, &mut stderr))
        {
            err = None;
        }
    }
    Ok((stdout, stderr))
}

/// Takes what there is without waiting; true when no more will come.
fn ended(stream: &mut impl std::io::Read, into: &mut Vec<u8>) -> bool {
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return true,
            Ok(count) => {
                let room = MAX_OUTPUT.saturating_sub(into.len());
                into.extend_from_slice(&part[..count.min(room)]);
                if count > room {
                    return true;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_asked_and_answers() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat; echo why >&2; exit 3"]);
        let answer = ask(&mut command, b"question", Duration::from_secs(20)).unwrap();
        assert_eq!(answer.stdout, b"question");
        assert_eq!(answer.stderr, b"why\n");
        assert_eq!(answer.status.code(), Some(3));
    }

    #[test]
    fn a_program_that_never_answers_is_killed() {
        let mut command = Command::new("sleep");
        let error = ask(command.arg("600"), b"", Duration::from_millis(20)).expect_err("killed");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn output_without_end_is_cut() {
        let mut command = Command::new("cat");
        let answer = ask(command.arg("/dev/zero"), b"", Duration::from_secs(20)).unwrap();
        assert_eq!(answer.stdout.len(), MAX_OUTPUT);
    }

    #[test]
    fn a_missing_program_is_not_found() {
        let mut command = Command::new("/nonexistent/program");
        let error = ask(&mut command, b"", Duration::from_secs(1)).expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
