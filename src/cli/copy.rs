//! `cp`: files into a container, out of it, or between two.

use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::job::{Request, Work};
use super::progress::say;
use crate::container::copy::receive::{self, Owners, Received, Shape};
use crate::container::copy::send::{self, LastLink, Sent};
use crate::container::copy::{Reach, View, reach};
use crate::container::events::Event;
use crate::container::record::Record;
use crate::container::{emit, emulation};
use crate::error::Fail;
use crate::paths::Store;
use crate::stage::Job;
use crate::stage::parent;

/// `rl cp`.
#[derive(Debug, clap::Args)]
pub struct CopyArgs {
    /// Keep owners, by number; else files inside are root's
    #[arg(short, long)]
    pub archive: bool,

    /// Copy what SRC leads to when it is a link
    #[arg(short = 'L', long)]
    pub follow_link: bool,

    /// Do not say what was copied
    #[arg(short, long)]
    pub quiet: bool,

    /// CONTAINER:PATH, a path of the host, or `-` for a tar on standard input
    #[arg(value_name = "SRC")]
    pub from: String,

    /// CONTAINER:PATH, a path of the host, or `-` for a tar on standard output
    #[arg(value_name = "DEST")]
    pub to: String,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Stream,
    Host(&'a str),
    Container(&'a str, &'a str),
}

/// Docker's rule: what begins with a slash or a dot is the host's, whatever follows.
fn end(text: &str) -> Result<End<'_>, Fail> {
    if text == "-" {
        return Ok(End::Stream);
    }
    match text.split_once(':') {
        _ if text.is_empty() => Err(Fail::usage("an empty path names nothing")),
        Some((name, _)) if !text.starts_with(['/', '.']) && name.is_empty() => {
            Err(Fail::usage(format!("`{text}` names no container"))
                .hint("write CONTAINER:PATH, or ./PATH for a file of the host"))
        }
        Some((_, "")) if !text.starts_with(['/', '.']) => Err(Fail::usage(format!(
            "`{text}` names no path in the container"
        ))
        .hint(format!("its root directory is {text}/"))),
        Some((name, path)) if !text.starts_with(['/', '.']) => Ok(End::Container(name, path)),
        _ => Ok(End::Host(text)),
    }
}

/// `rl cp`.
///
/// # Errors
/// By docker's rules for sources and destinations; the system's.
pub fn copy(args: &CopyArgs, store: &Store) -> Result<u8> {
    let links = if args.follow_link {
        LastLink::Followed
    } else {
        LastLink::Kept
    };
    let copied = match (end(&args.from)?, end(&args.to)?) {
        (End::Container(from, path), End::Container(to, target)) => {
            let (from_name, from) = (from, Inside::find(store, from)?);
            let stopped = from.reach.borrow().mounting.is_some();
            if stopped && Record::find(store, to)?.id == from.record.id {
                return Err(Fail::unsupported(format!(
                    "container `{from_name}` does not run, and its files cannot be mounted twice"
                ))
                .hint(format!(
                    "start it first: rl start {from_name}; or copy by way of the host"
                ))
                .into());
            }
            let to = Inside::find(store, to)?;
            let source = from.source(path, links, b".")?;
            let work = to.target(target, shape(path), args.archive);
            let (reader, writer) = pipe()?;
            let (mut sent, mut received) = (None, None);
            let outer = from.ask::<Sent>(source, [None, Some(writer)], || {
                let title = to.ask::<Received>(work, [Some(reader), None], || Ok(()));
                received = Some(title);
                Ok(())
            });
            let outer = outer.map(|answer| sent = Some(answer));
            // Who receives breaks the pipe of who sends; who sends ends the archive too early.
            match (outer, received) {
                (Err(error), None) => return Err(error),
                (Err(sender), Some(Err(receiver))) => {
                    let cut = format!("{receiver:#}").contains("ends in the middle");
                    return Err(if cut { sender } else { receiver });
                }
                (Err(error), Some(Ok(_))) => return Err(error),
                (Ok(()), Some(received)) => {
                    from.emit(store, "archive-path", path);
                    to.emit(store, "extract-to-dir", target);
                    (sent, Some(received?))
                }
                (Ok(()), None) => return Err(Fail::system("nothing was received").into()),
            }
        }
        (End::Container(from, path), End::Host(target)) => {
            let from = Inside::find(store, from)?;
            let (reader, writer) = pipe()?;
            let view = View::host()?;
            let mut received = None;
            let sent = from.ask(
                from.source(path, links, b".")?,
                [None, Some(writer)],
                || {
                    let to = Path::new(target);
                    let input = std::fs::File::from(reader);
                    received = Some(receive::receive(
                        &view,
                        to,
                        &shape(path),
                        Owners::Mine,
                        input,
                    )?);
                    Ok(())
                },
            )?;
            from.emit(store, "archive-path", path);
            (Some(sent), received)
        }
        (End::Container(from, path), End::Stream) => {
            if std::io::stdout().is_terminal() {
                return Err(Fail::usage(
                    "standard output is a terminal, not a place for an archive",
                )
                .hint(format!("rl cp {} - >FILE", args.from))
                .into());
            }
            let from = Inside::find(store, from)?;
            let name = match shape(path) {
                Shape::Tree(name) if !name.is_empty() => name,
                Shape::Tree(_) | Shape::Content | Shape::Archive => b".".to_vec(),
            };
            let sent = from.ask(from.source(path, links, &name)?, [None, None], || Ok(()))?;
            from.emit(store, "archive-path", path);
            (Some(sent), None)
        }
        (End::Host(path), End::Container(to, target)) => {
            let to = Inside::find(store, to)?;
            let (reader, writer) = pipe()?;
            let view = View::host()?;
            let mut sent = None;
            let work = to.target(target, shape(path), args.archive);
            let received = to.ask(work, [Some(reader), None], || {
                let out = std::fs::File::from(writer);
                sent = Some(send::send(&view, Path::new(path), links, b".", &[], out)?);
                Ok(())
            })?;
            to.emit(store, "extract-to-dir", target);
            (sent, Some(received))
        }
        (End::Stream, End::Container(to, target)) => {
            if std::io::stdin().is_terminal() {
                return Err(Fail::usage("standard input is a terminal, not an archive")
                    .hint(format!("tar -c FILES | rl cp - {}", args.to))
                    .into());
            }
            let to = Inside::find(store, to)?;
            let work = to.target(target, Shape::Archive, args.archive);
            let received = to.ask(work, [None, None], || Ok(()))?;
            to.emit(store, "extract-to-dir", target);
            (None, Some(received))
        }
        (End::Stream | End::Host(_), End::Stream | End::Host(_)) => {
            return Err(Fail::usage("neither end of the copy is in a container")
                .hint("write one of them as CONTAINER:PATH")
                .into());
        }
    };
    tell(args, &copied);
    Ok(0)
}

fn tell(args: &CopyArgs, (sent, received): &(Option<Sent>, Option<Received>)) {
    let left_out = [
        (sent.map_or(0, |sent| sent.sockets), "sockets"),
        (
            received.map_or(0, |received| received.devices),
            "device nodes, which only root can make",
        ),
        (
            received.map_or(0, |received| received.lost_owners),
            "owners, for there is one id only",
        ),
    ];
    for (count, what) in left_out {
        if count > 0 {
            say(&format!("rl: left out: {count} {what}"));
        }
    }
    if let Some(received) = received
        && !args.quiet
        && std::io::stderr().is_terminal()
    {
        let size = super::output::size(received.bytes);
        say(&format!("Successfully copied {size} to {}", args.to));
    }
}

/// What a path of a source stands for: its last name, or `/.` for the content of a directory.
fn shape(path: &str) -> Shape {
    if path == "." || path.ends_with("/.") {
        return Shape::Content;
    }
    let name = Path::new(path).file_name();
    Shape::Tree(name.map_or_else(Vec::new, |name| name.as_encoded_bytes().to_vec()))
}

/// A pipe: what is read, and what is written.
///
/// # Errors
/// pipe2(2).
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("making a pipe")
}

/// A container's end.
struct Inside {
    record: Record,
    name: String,
    reach: std::cell::RefCell<Reach>,
}

impl Inside {
    fn find(store: &Store, name: &str) -> Result<Self> {
        let record = Record::find(store, name)?;
        let reach = std::cell::RefCell::new(reach(&record)?);
        Ok(Self {
            record,
            name: name.to_owned(),
            reach,
        })
    }

    fn source(&self, path: &str, links: LastLink, name: &[u8]) -> Result<Work> {
        Ok(Work::Send {
            owners: emulation::owners(&self.record, &self.record.spec()?)?,
            mounting: self.reach.borrow().mounting.clone(),
            container: self.name.clone(),
            path: path_inside(path),
            links,
            name: name.to_vec(),
        })
    }

    fn target(&self, path: &str, shape: Shape, archive: bool) -> Work {
        let reach = self.reach.borrow();
        Work::Receive {
            mounting: reach.mounting.clone(),
            container: self.name.clone(),
            path: path_inside(path),
            shape,
            owners: if archive {
                Owners::Kept(reach.ids)
            } else {
                Owners::Root
            },
        }
    }

    fn ask<T: for<'de> serde::Deserialize<'de>>(
        &self,
        work: Work,
        stdio: [Option<OwnedFd>; 2],
        meanwhile: impl FnOnce() -> Result<()>,
    ) -> Result<T> {
        let mut reach = self.reach.borrow_mut();
        let mut aids = std::mem::take(&mut reach.aids);
        aids.stdio = stdio;
        let request = Request {
            store: self.record.store().root().to_owned(),
            ids: reach.ids,
            quiet: true,
            work,
        };
        let job = Job::Image {
            request: serde_json::to_string(&request).context("asking for work")?,
        };
        let helpers = reach.available.helpers.as_ref().ok();
        let answer = parent::job_with(job, "copy", &reach.plan, helpers, aids, meanwhile)
            .map_err(|error| self.record.or_gone(error))?;
        serde_json::from_str(&answer).context("reading a job's answer")
    }

    fn emit(&self, store: &Store, action: &str, path: &str) {
        if let Ok(spec) = self.record.spec() {
            emit(store, &Event::container(action, &spec).with("path", path));
        }
    }
}

/// Docker's containers take every path as one from the root.
fn path_inside(path: &str) -> PathBuf {
    if path.starts_with('/') {
        PathBuf::from(path)
    } else {
        PathBuf::from(format!("/{path}"))
    }
}

/// The job's part: sends.
///
/// # Errors
/// [`send::send`]'s.
pub fn send_here(
    view: &View,
    path: &Path,
    links: LastLink,
    name: &[u8],
    owners: &[PathBuf],
) -> Result<Sent> {
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let out = std::fs::File::from(out.context("taking standard output")?);
    send::send(view, path, links, name, owners, out)
}

/// The job's part: receives.
///
/// # Errors
/// [`receive::receive`]'s.
pub fn receive_here(view: &View, path: &Path, shape: &Shape, owners: Owners) -> Result<Received> {
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    let input = std::fs::File::from(input.context("taking standard input")?);
    receive::receive(view, path, shape, owners, input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_as_docker_does() {
        for (text, expected) in [
            ("-", End::Stream),
            ("/a:b", End::Host("/a:b")),
            ("./a:b", End::Host("./a:b")),
            ("../a:b", End::Host("../a:b")),
            ("a", End::Host("a")),
            ("c:/x", End::Container("c", "/x")),
            ("c:x:y", End::Container("c", "x:y")),
        ] {
            assert_eq!(end(text).unwrap(), expected, "{text}");
        }
        for bad in ["", ":x", "c:"] {
            assert!(end(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_source_names_itself_or_its_content() {
        for (path, expected) in [
            ("a/b", Shape::Tree(b"b".to_vec())),
            ("a/b/", Shape::Tree(b"b".to_vec())),
            ("a/b/.", Shape::Content),
            (".", Shape::Content),
            ("/", Shape::Tree(Vec::new())),
            ("..", Shape::Tree(Vec::new())),
        ] {
            assert_eq!(shape(path), expected, "{path}");
        }
    }
}
