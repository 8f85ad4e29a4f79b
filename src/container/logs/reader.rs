//! Reads a container's log, old files first, and goes with it while the container lives. Writes nothing.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::{Entry, Stream, path};
use crate::container::follow::{Identity, Lines, Watch, Woken};
use crate::container::state::State;

/// A hole in the row of files is the work of a crash; more of them are the end.
const HOLES: u32 = 8;
/// How often to look again while a rotation is under way, a millisecond apart.
const PATIENCE: u32 = 100;

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct Query<'a> {
    /// Go on until the container ends.
    pub follow: bool,
    /// With `follow`: end when nobody reads this pipe any more.
    pub sink: Option<BorrowedFd<'a>>,
    /// Only so many of the last records that the rest of the query wants.
    pub tail: Option<u64>,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// Nothing newer.
    pub until: Option<Timestamp>,
    /// Only this one.
    pub stream: Option<Stream>,
}

impl Query<'_> {
    fn wants(&self, entry: &Entry<'_>) -> bool {
        if self.stream.is_some_and(|stream| stream != entry.stream) {
            return false;
        }
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Ok(time) = entry.time.parse::<Timestamp>() else {
            return false;
        };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until)
    }

    fn wants_all(&self) -> bool {
        self.stream.is_none() && self.since.is_none() && self.until.is_none()
    }
}

/// What a reader comes upon.
#[derive(Debug)]
pub enum Item<'a> {
    /// A record.
    Entry(Entry<'a>),
    /// The log was rotated away faster than it was read: something is missing here.
    Gap,
    /// There is no more for now; what was collected should be shown.
    Pause,
}

/// Reads the log in a container's directory. Without `follow` up to what is there now; with it until the
/// container's owner ends.
///
/// # Errors
/// The system's; what `out` returns.
pub fn read(
    dir: &Path,
    query: &Query<'_>,
    out: &mut dyn FnMut(Item<'_>) -> Result<()>,
) -> Result<()> {
    let watch = if query.follow {
        let mut watch = Watch::new(dir, query.sink)?;
        watch.end = owner(dir);
        // Nobody is there who could write.
        watch.end.is_some().then_some(watch)
    } else {
        None
    };
    read_with(dir, query, watch, out)
}

/// The process that writes, if it lives.
fn owner(dir: &Path) -> Option<OwnedFd> {
    // A damaged state has no owner: the log can be read all the same.
    State::read(dir).ok()?.owner?.open().ok()?
}

/// With what to wait for; without, up to what is there now.
pub fn read_with(
    dir: &Path,
    query: &Query<'_>,
    watch: Option<Watch<'_>>,
    out: &mut dyn FnMut(Item<'_>) -> Result<()>,
) -> Result<()> {
    Reader {
        dir,
        query,
        out,
        current: None,
        stop: None,
    }
    .run(watch)
    .with_context(|| format!("reading the log in `{}`", dir.display()))
}

struct Reader<'a> {
    dir: &'a Path,
    query: &'a Query<'a>,
    out: &'a mut dyn FnMut(Item<'_>) -> Result<()>,
    /// Locked, so that it and all newer ones stay.
    current: Option<Lines>,
    /// Where the log ended when a reader came that does not follow.
    stop: Option<(Identity, u64)>,
}

impl Reader<'_> {
    fn run(mut self, mut watch: Option<Watch<'_>>) -> Result<()> {
        if watch.is_none() {
            self.stop = self.end_now()?;
        }
        self.begin()?;
        let mut is_last_round = watch.is_none();
        loop {
            self.drain()?;
            (self.out)(Item::Pause)?;
            let Some(watch) = watch.as_mut().filter(|_| !is_last_round) else {
                return Ok(());
            };
            match watch.wait(self.query.until)? {
                Woken::Changed => {}
                Woken::Closed => return Ok(()),
                Woken::Late => is_last_round = true,
                Woken::Ended => {
                    watch.end = owner(self.dir);
                    is_last_round = watch.end.is_none();
                }
            }
        }
    }

    fn end_now(&self) -> Result<Option<(Identity, u64)>> {
        for _ in 0..PATIENCE {
            match File::open(path(self.dir, 0)) {
                Ok(file) => return Ok(Some((Identity::of(&file)?, file.metadata()?.len()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            if !path(self.dir, 1).exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }

    /// Finds where to begin.
    fn begin(&mut self) -> Result<()> {
        let Some(mut file) = self.oldest()? else {
            return Ok(());
        };
        let Some(wanted) = self.query.tail else {
            // What was last written to before `since` need not be read.
            while let Some(since) = self.query.since
                && Timestamp::try_from(file.metadata()?.modified()?).is_ok_and(|time| time < since)
                && let Next::File(next) = self.after(&file)?
            {
                file = next;
            }
            self.current = Some(Lines::new(file, 0));
            return Ok(());
        };
        let mut files = vec![file];
        while let Some(newest) = files.last() {
            let is_stop = self
                .stop
                .is_some_and(|(identity, _)| Identity::of(newest).is_ok_and(|it| it == identity));
            match self.after(newest)? {
                Next::File(next) | Next::Gap(next) if !is_stop => files.push(next),
                Next::File(_) | Next::Gap(_) | Next::None => break,
            }
        }
        let mut left = wanted;
        while let Some(file) = files.pop() {
            let mut size = file.metadata()?.len();
            if let Some((identity, stop)) = self.stop
                && Identity::of(&file)? == identity
            {
                size = size.min(stop);
            }
            let position = self.last_records(&file, size, &mut left)?;
            self.current = Some(Lines::new(file, position));
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The offset before the last `left` wanted records below `size`; `left` becomes what is missing.
    fn last_records(&self, file: &File, size: u64, left: &mut u64) -> io::Result<u64> {
        let mut block = 64 << 10;
        let mut bytes = Vec::new();
        // Everything from here on is looked at. The first round ends behind the last complete record.
        let mut known = size;
        let mut is_first = true;
        while known > 0 {
            let from = known.saturating_sub(block);
            bytes.resize(usize::try_from(known - from).unwrap_or(usize::MAX), 0);
            file.read_exact_at(&mut bytes, from)?;
            if std::mem::take(&mut is_first) {
                let end = bytes.iter().rposition(|byte| *byte == b'\n');
                bytes.truncate(end.map_or(0, |end| end + 1));
                known = from + bytes.len() as u64;
                if *left == 0 {
                    break;
                }
                if bytes.is_empty() {
                    is_first = from > 0;
                    known = from;
                    continue;
                }
            }
            // The first line of a block is a whole one only at the beginning of the file.
            let begin = match from {
                0 => 0,
                _ => match bytes.iter().position(|byte| *byte == b'\n') {
                    Some(end) if end + 1 < bytes.len() => end + 1,
                    _ => {
                        block *= 2;
                        continue;
                    }
                },
            };
            let mut end = bytes.len();
            while end > begin {
                let line = bytes[begin..end - 1]
                    .iter()
                    .rposition(|byte| *byte == b'\n');
                let start = line.map_or(begin, |line| begin + line + 1);
                let is_wanted = self.query.wants_all()
                    || Entry::parse(&bytes[start..end - 1])
                        .is_some_and(|entry| self.query.wants(&entry));
                end = start;
                if is_wanted {
                    *left -= 1;
                    if *left == 0 {
                        return Ok(from + start as u64);
                    }
                }
            }
            known = from + begin as u64;
        }
        Ok(known)
    }

    /// Gives out everything that is there, through all files.
    fn drain(&mut self) -> Result<()> {
        loop {
            if self.current.is_none() {
                self.current = self.oldest()?.map(|file| Lines::new(file, 0));
            }
            if self.drain_file()? {
                return Ok(());
            }
            let Some(lines) = &self.current else {
                return Ok(());
            };
            let (next, is_gap) = match self.after(lines.file())? {
                Next::None => return Ok(()),
                Next::File(next) => (next, false),
                Next::Gap(next) => (next, true),
            };
            // Now nobody adds to the old one any more: what was added before the rotation is all.
            if self.drain_file()? {
                return Ok(());
            }
            if is_gap {
                (self.out)(Item::Gap)?;
            }
            self.current = Some(Lines::new(next, 0));
        }
    }

    /// Gives out the rest of the current file; true at the end of what is to be read.
    fn drain_file(&mut self) -> Result<bool> {
        let Some(lines) = &mut self.current else {
            return Ok(true);
        };
        let stop = match self.stop {
            Some((identity, size)) if Identity::of(lines.file())? == identity => Some(size),
            Some(_) | None => None,
        };
        loop {
            if stop.is_some_and(|size| lines.position() >= size) {
                return Ok(true);
            }
            let Some(line) = lines.next_line()? else {
                return Ok(stop.is_some());
            };
            if let Some(entry) = Entry::parse(line)
                && self.query.wants(&entry)
            {
                (self.out)(Item::Entry(entry))?;
            }
        }
    }

    /// The oldest file, locked.
    fn oldest(&self) -> io::Result<Option<File>> {
        for _ in 0..PATIENCE {
            let (mut last, mut number, mut holes) = (None, 0, 0);
            while holes < HOLES {
                if path(self.dir, number).exists() {
                    (last, holes) = (Some(number), 0);
                } else {
                    holes += 1;
                }
                number += 1;
            }
            let Some(last) = last else { return Ok(None) };
            if let Some(file) = self.open(last)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Opens and locks; `None` when it is gone by then.
    fn open(&self, number: u32) -> io::Result<Option<File>> {
        let file = match File::open(path(self.dir, number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.lock_shared()?;
        Ok((file.metadata()?.nlink() > 0).then_some(file))
    }

    /// The file that was begun after this one, which is locked. When there is one, nothing is added to this.
    fn after(&self, file: &File) -> io::Result<Next> {
        let me = Identity::of(file)?;
        let at = |number| Identity::at(&path(self.dir, number));
        for round in 0..PATIENCE {
            if at(0)? == Some(me) {
                return Ok(Next::None);
            }
            if file.metadata()?.nlink() == 0 {
                return Ok(self.oldest()?.map_or(Next::None, Next::Gap));
            }
            if round > 0 {
                std::thread::sleep(Duration::from_millis(u64::from(round > 2)));
            }
            // A rotation moves every file up, the oldest first: counting up cannot pass one by.
            let (mut place, mut holes) = (1, 0);
            while holes < HOLES && at(place)? != Some(me) {
                holes = if path(self.dir, place).exists() {
                    0
                } else {
                    holes + 1
                };
                place += 1;
            }
            if holes == HOLES {
                continue;
            }
            let Some(before) = (0..place)
                .rev()
                .find(|number| path(self.dir, *number).exists())
            else {
                continue;
            };
            let Some(next) = self.open(before)? else {
                continue;
            };
            // While this one stayed in its place, so did what is before it, unless it moved into a hole.
            let identity = Identity::of(&next)?;
            let mut is_next = at(place)? == Some(me);
            for number in before + 1..place {
                is_next &= at(number)?.is_none_or(|other| other == identity);
            }
            if is_next {
                return Ok(Next::File(next));
            }
        }
        Ok(Next::None)
    }
}

enum Next {
    /// This is still the newest, or the newest has not come yet.
    None,
    /// Begun right after it.
    File(File),
    /// Others may have been between the two.
    Gap(File),
}
