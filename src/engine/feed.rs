//! What a session reads: the caller's standard input, taken from there only as far as the program has taken it, as if that had read it
//! itself. So the rest of a list is still there for the next command of a loop.
//!
//! The program's end is a pipe with room for one page: when it can be written to again, all has been taken. What is in it when the
//! session ends was never read. The caller's own pipes are looked into with tee(2), files with pread(2).

use crate::rooted::own_path;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::pipe::{PipeFlags, SpliceFlags};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Room in the program's pipe, in bytes.
const PAGE: usize = 4096;

/// A program that has taken so many bytes reads for good, and is given [`LOT`]s: of a pipe the last one may be lost when it ends early.
const MANY: usize = 1 << 20;
const LOT: usize = 1 << 16;

/// Why nothing more is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// There is no more, and the program has taken all.
    Eof,
    /// The session is over, or nobody reads.
    Over,
}

/// A thread that feeds, and what ends it.
#[derive(Debug)]
pub(super) struct Feed {
    stop: OwnedFd,
    thread: tokio::task::JoinHandle<()>,
}

impl Feed {
    /// Feeds the process `pid` from `input`. The second value tells why that ended.
    pub(super) fn begin(input: Arc<OwnedFd>, pid: u32) -> io::Result<(Self, oneshot::Receiver<End>)> {
        let (stopped, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (told, end) = oneshot::channel();
        // One that has something else in its place, or has ended, takes nothing.
        let pipe = input_of(pid);
        let thread = tokio::task::spawn_blocking(move || {
            // What cannot be read is at its end, such as what nohup gives a program for a terminal.
            let fed = pipe.map(|pipe| feed(&input, &pipe, &stopped).unwrap_or(End::Eof));
            let _ = told.send(fed.unwrap_or(End::Over));
        });
        Ok((Self { stop, thread }, end))
    }

    /// The session is over: waits for the last account. What the program has not taken stays with the caller.
    pub(super) async fn end(self) {
        drop(self.stop);
        let _ = self.thread.await;
    }
}

/// The pipe that is a process's standard input, for writing.
fn input_of(pid: u32) -> Option<OwnedFd> {
    let handle = rustix::fs::open(format!("/proc/{pid}/fd/0"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // A FIFO with a name is of the process's own choice.
    let name = std::fs::read_link(own_path(&handle)).ok()?;
    if !name.to_str()?.starts_with("pipe:") {
        return None;
    }
    rustix::fs::open(own_path(&handle), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn feed(input: &OwnedFd, pipe: &OwnedFd, stopped: &OwnedFd) -> io::Result<End> {
    rustix::pipe::fcntl_setpipe_size(pipe, PAGE)?;
    let mut source = Source::of(input)?;
    let mut page = [0; PAGE];
    let mut taken = 0;
    while taken < MANY {
        if !wait(input, PollFlags::POLLIN, pipe, stopped)? {
            return Ok(End::Over);
        }
        let n = match source.peek(input, &mut page) {
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => continue,
            peeked => peeked?,
        };
        if n == 0 {
            return Ok(End::Eof);
        }
        // There is room: nobody else writes to it.
        rustix::io::write(pipe, &page[..n])?;
        let all = wait(pipe, PollFlags::POLLOUT, pipe, stopped)?;
        let left = usize::try_from(rustix::io::ioctl_fionread(pipe)?).unwrap_or(n);
        source.took(input, n.saturating_sub(left))?;
        taken += n.saturating_sub(left);
        if !all {
            return Ok(End::Over);
        }
    }
    pour(input, pipe, stopped)
}

/// The same without an account of each page.
fn pour(input: &OwnedFd, pipe: &OwnedFd, stopped: &OwnedFd) -> io::Result<End> {
    rustix::pipe::fcntl_setpipe_size(pipe, LOT)?;
    let mut lot = vec![0; LOT];
    loop {
        if !wait(input, PollFlags::POLLIN, pipe, stopped)? {
            return Ok(End::Over);
        }
        let n = match rustix::io::read(input, &mut *lot) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Ok(0) => return Ok(End::Eof),
            n => n?,
        };
        let mut rest = &lot[..n];
        while !rest.is_empty() {
            if !wait(pipe, PollFlags::POLLOUT, pipe, stopped)? {
                let left = rest.len() + usize::try_from(rustix::io::ioctl_fionread(pipe)?).unwrap_or(0);
                // A file's offset can go back.
                let _ = rustix::fs::seek(input, SeekFrom::Current(-i64::try_from(left).unwrap_or(0)));
                return Ok(End::Over);
            }
            match rustix::io::write(pipe, rest) {
                Ok(n) => rest = &rest[n..],
                Err(rustix::io::Errno::AGAIN) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Waits for something; false when nobody reads from `pipe` any more, or the session is over.
fn wait(fd: &OwnedFd, event: PollFlags, pipe: &OwnedFd, stopped: &OwnedFd) -> io::Result<bool> {
    let mut fds = [
        PollFd::new(fd.as_fd(), event),
        PollFd::new(pipe.as_fd(), PollFlags::empty()),
        PollFd::new(stopped.as_fd(), PollFlags::empty()),
    ];
    while let Err(e) = poll(&mut fds, PollTimeout::NONE) {
        if e != nix::Error::EINTR {
            return Err(e.into());
        }
    }
    let came = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(!came(&fds[1]) && !came(&fds[2]))
}

/// How the caller's standard input is looked into.
#[derive(Debug)]
enum Source {
    /// At the offset that it shares with its other users.
    File,
    /// By a copy of its first bytes.
    Pipe { reader: OwnedFd, writer: OwnedFd },
    /// A terminal, a socket, a device: what was read cannot be given back.
    Other,
}

impl Source {
    fn of(input: &OwnedFd) -> io::Result<Self> {
        Ok(match FileType::from_raw_mode(rustix::fs::fstat(input)?.st_mode) {
            FileType::RegularFile | FileType::BlockDevice => Self::File,
            FileType::Fifo => {
                let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                Self::Pipe { reader, writer }
            }
            _ => Self::Other,
        })
    }

    /// What comes next, without taking it; nothing at the end.
    fn peek(&mut self, input: &OwnedFd, page: &mut [u8]) -> io::Result<usize> {
        Ok(match self {
            Self::File => rustix::io::pread(input, &mut *page, rustix::fs::tell(input)?)?,
            Self::Pipe { reader, writer } => {
                match rustix::pipe::tee(input, writer, page.len(), SpliceFlags::NONBLOCK)? {
                    0 => 0,
                    n => rustix::io::read(reader, &mut page[..n])?,
                }
            }
            Self::Other => rustix::io::read(input, page)?,
        })
    }

    /// Takes so many bytes of what was looked at.
    fn took(&mut self, input: &OwnedFd, n: usize) -> io::Result<()> {
        match self {
            Self::File => {
                rustix::fs::seek(input, SeekFrom::Current(i64::try_from(n).unwrap_or(0)))?;
            }
            Self::Pipe { .. } => {
                let mut left = n;
                // Somebody else with the same pipe may have been faster.
                while left > 0 && poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)? > 0 {
                    match rustix::io::read(input, &mut [0; PAGE][..left])? {
                        0 => break,
                        n => left -= n,
                    }
                }
            }
            Self::Other => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::process::{Child, Command, Stdio};

    /// A program with a pipe of which we forget our end, as an engine does at the end of its input.
    fn program(line: &str) -> Child {
        Command::new("sh").args(["-c", line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Feeds a program that ends by itself; what it said.
    async fn fed(line: &str, input: OwnedFd) -> String {
        let mut child = program(line);
        let (feed, end) = Feed::begin(Arc::new(input), child.id()).unwrap();
        let engine_s = child.stdin.take();
        if line.starts_with("cat") {
            assert_eq!(end.await, Ok(End::Eof));
            drop(engine_s);
        }
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        feed.end().await;
        said
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_taken_stays() {
        let lines: String = (1..=9000).map(|i| format!("{i}\n")).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        file.rewind().unwrap();
        let rest = |mut from: File| {
            let mut rest = String::new();
            from.read_to_string(&mut rest).unwrap();
            rest
        };
        assert_eq!(fed("sleep 0.1; echo ok", file.try_clone().unwrap().into()).await, "ok\n");
        assert_eq!(fed("read a; read b; sleep 0.1; echo $a $b", file.try_clone().unwrap().into()).await, "1 2\n");
        assert!(rest(file.try_clone().unwrap()).starts_with("3\n4\n"), "a shell reads byte by byte");
        file.rewind().unwrap();
        assert_eq!(fed("cat | md5sum", file.try_clone().unwrap().into()).await.len(), 36);
        assert_eq!(rest(file), "");

        let (reader, writer) = std::io::pipe().unwrap();
        let pipe = || OwnedFd::from(reader.try_clone().unwrap());
        (&writer).write_all(b"1\n2\n3\n").unwrap();
        assert_eq!(fed("sleep 0.1; echo ok", pipe()).await, "ok\n");
        assert_eq!(fed("read a; echo $a", pipe()).await, "1\n");
        drop(writer);
        assert_eq!(fed("cat", pipe()).await, "2\n3\n");
    }
}
