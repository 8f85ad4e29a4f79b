//! Scopes and slices from systemd: all that `rl` says over D-Bus.
//!
//! It talks to the manager's own socket, as systemctl does, so no bus daemon is needed, and it says everything at
//! once: login and call go out in one write, and what comes back is the end of the job. Blocking, without a thread:
//! the caller forks afterwards. Source: the D-Bus specification, "Message Protocol" and "Authentication Protocol";
//! org.freedesktop.systemd1(5); systemd's `CGROUP_DELEGATION.md`.

use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::error::Fail;

/// The time a manager has to answer; D-Bus' own default.
const PATIENCE: Duration = Duration::from_secs(25);

/// No message about units is longer. D-Bus allows 128 MiB.
const MOST: usize = 1 << 20;

/// The manager that answers for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    socket: PathBuf,
}

/// A scope that is asked for.
#[derive(Debug)]
pub struct Scope<'a> {
    /// Its name, which ends in `.scope`.
    pub name: &'a str,
    /// For people.
    pub description: &'a str,
    /// Who is put into it.
    pub pids: &'a [i32],
    /// The slice it stands in; systemd's choice where there is none.
    pub slice: Option<&'a str>,
    /// Weights among the scopes beside it, from 1 to 10000, by the name of systemd's property. The container's own
    /// group has nobody beside it but our processes.
    pub weights: &'a [(&'static str, u64)],
}

/// The value of a unit's property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Yes or no.
    Flag(bool),
    /// A number; `u64::MAX` is without limit.
    Number(u64),
    /// Words for people.
    Text(String),
    /// A set of processors or memory nodes: one bit each, the lowest first.
    Mask(Vec<u8>),
    /// Numbers for block devices, by their paths.
    Devices(Vec<(String, u64)>),
}

/// A property of a unit: systemd's name for it, and its value.
pub type Property = (&'static str, Value);

impl Manager {
    /// The one of the user, or for root the machine's; `None` where there is none.
    #[must_use]
    pub fn find() -> Option<Self> {
        let sockets = runtime_dirs()
            .into_iter()
            .map(|dir| dir.join("systemd/private"));
        sockets
            .filter(|socket| socket.exists())
            .map(|socket| Self { socket })
            .next()
    }

    /// Makes a scope that is handed over to us, and returns when the processes are in it.
    ///
    /// # Errors
    /// What systemd answers.
    pub fn start_scope(&self, scope: &Scope<'_>) -> Result<()> {
        let mut body = Text::default();
        body.string(scope.name);
        body.string("fail");
        body.array(|body| {
            body.property("Description", "s", |body| body.string(scope.description));
            body.property("Delegate", "b", |body| body.number(1));
            // A scope that failed would keep its name otherwise.
            body.property("CollectMode", "s", |body| body.string("inactive-or-failed"));
            body.property("PIDs", "au", |body| body.numbers(scope.pids));
            if let Some(slice) = scope.slice {
                body.property("Slice", "s", |body| body.string(slice));
            }
            for (name, weight) in scope.weights {
                body.property(name, "t", |body| body.long(*weight));
            }
        });
        body.array(|_| ());
        let call = call("StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
        self.converse(&call, Some(scope.name))
            .with_context(|| format!("asking systemd for the scope `{}`", scope.name))
    }

    /// Makes a slice with these properties. It stays without processes, until it is stopped.
    ///
    /// # Errors
    /// What systemd answers.
    pub fn start_slice(&self, name: &str, properties: &[Property]) -> Result<()> {
        let mut body = Text::default();
        body.string(name);
        body.string("fail");
        body.properties(properties);
        body.array(|_| ());
        let call = call("StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
        self.converse(&call, Some(name))
            .with_context(|| format!("asking systemd for the slice `{name}`"))
    }

    /// Changes properties of a unit until the machine's next start.
    ///
    /// # Errors
    /// What systemd answers.
    pub fn set_properties(&self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut body = Text::default();
        body.string(unit);
        body.number(1);
        body.properties(properties);
        let call = call("SetUnitProperties", "sba(sv)", &body);
        self.converse(&call, None)
            .with_context(|| format!("asking systemd to change `{unit}`"))
    }

    /// Ends a unit and all that runs in it, and returns when it has.
    ///
    /// # Errors
    /// What systemd answers.
    pub fn stop(&self, unit: &str) -> Result<()> {
        let mut body = Text::default();
        body.string(unit);
        body.string("replace");
        let call = call("StopUnit", "ss", &body);
        self.converse(&call, Some(unit))
            .with_context(|| format!("asking systemd to end `{unit}`"))
    }

    /// The group below which its units stand.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        let uid = rustix::process::getuid().as_raw();
        if uid == 0 {
            return PathBuf::from(super::MOUNT);
        }
        Path::new(super::MOUNT).join(format!("user.slice/user-{uid}.slice/user@{uid}.service"))
    }

    /// Puts processes of ours into the group `below` of a unit, such as `/rl-ID`.
    ///
    /// # Errors
    /// What systemd answers; it refuses processes of other users, subordinate ids among them.
    pub fn attach(&self, unit: &str, below: &str, pids: &[i32]) -> Result<()> {
        let mut body = Text::default();
        body.string(unit);
        body.string(below);
        body.numbers(pids);
        let call = call("AttachProcessesToUnit", "ssau", &body);
        self.converse(&call, None)
            .with_context(|| format!("asking systemd to move a process into `{unit}`"))
    }

    /// Says it, and waits for the answer, or where a `unit` is named for the end of its job.
    fn converse(&self, call: &[u8], unit: Option<&str>) -> Result<()> {
        let mut stream = self.say(call)?;
        loop {
            let message = Message::read(&mut stream)?;
            match message.kind {
                RETURN if message.reply_to == Some(SERIAL) && unit.is_none() => return Ok(()),
                ERROR if message.reply_to == Some(SERIAL) => {
                    return Err(refused(&message));
                }
                SIGNAL if message.member.as_deref() == Some("JobRemoved") => {
                    // uoss: number, path, unit, result.
                    let mut body = message.body();
                    let parts = (body.number(), body.string(), body.string(), body.string());
                    let (Some(_), Some(_), Some(of), Some(result)) = parts else {
                        continue;
                    };
                    if Some(of.as_str()) != unit {
                        continue;
                    }
                    if result == "done" {
                        return Ok(());
                    }
                    return Err(Fail::system(format!("systemd could not do it: {result}"))
                        .hint("its log says why: journalctl --user -n 20")
                        .into());
                }
                _ => {}
            }
        }
    }

    /// Logs in and says it.
    fn say(&self, call: &[u8]) -> Result<UnixStream> {
        let shown = self.socket.display();
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("connecting to `{shown}`"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let uid = rustix::process::getuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        let mut words = format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").into_bytes();
        // A call that is read whole with the login is left lying until more comes (systemd 252): its last byte does.
        let (call, last) = call.split_at(call.len().saturating_sub(1));
        words.extend_from_slice(call);
        stream.write_all(&words)?;
        let welcome = line(&mut stream)?;
        if !welcome.starts_with("OK") {
            return Err(
                Fail::denied(format!("systemd does not let us in: {}", welcome.trim())).into(),
            );
        }
        stream.write_all(last)?;
        Ok(stream)
    }
}

/// Systemd knows a unit of this name.
pub const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// An error that systemd has answered with.
#[derive(Debug)]
pub struct Refused {
    /// Its name, such as [`EXISTS`].
    pub name: String,
    text: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.text.is_empty() {
            &self.name
        } else {
            self.text.trim_end_matches('.')
        })
    }
}

impl std::error::Error for Refused {}

fn refused(message: &Message) -> anyhow::Error {
    Refused {
        name: message.error.clone().unwrap_or_default(),
        text: message.body().string().unwrap_or_default(),
    }
    .into()
}

/// Whether systemd has answered with this error.
#[must_use]
pub fn is_refusal(error: &anyhow::Error, name: &str) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<Refused>())
        .any(|refused| refused.name == name)
}

/// A line of the login, byte by byte: what follows is not ours to take.
fn line(stream: &mut UnixStream) -> Result<String> {
    let mut text = Vec::new();
    let mut byte = [0_u8; 1];
    while !text.ends_with(b"\r\n") && text.len() < 512 {
        stream
            .read_exact(&mut byte)
            .context("listening to systemd")?;
        text.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// The number of our only message.
const SERIAL: u32 = 1;

/// A call to the manager.
fn call(member: &str, signature: &str, body: &Text) -> Vec<u8> {
    let mut fields = Text::default();
    for (code, kind, value) in [
        (1, "o", "/org/freedesktop/systemd1"),
        (2, "s", "org.freedesktop.systemd1.Manager"),
        (3, "s", member),
        (6, "s", "org.freedesktop.systemd1"),
        (8, "g", signature),
    ] {
        fields.align(8);
        fields.0.push(code);
        fields.signature(kind);
        if kind == "g" {
            fields.signature(value);
        } else {
            fields.string(value);
        }
    }
    let mut message = Text(vec![b'l', CALL, 0, 1]);
    message.number(length(&body.0));
    message.number(SERIAL);
    message.number(length(&fields.0));
    message.0.extend_from_slice(&fields.0);
    message.align(8);
    message.0.extend_from_slice(&body.0);
    message.0
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("our own messages are short")
}

/// D-Bus values, little-endian, in the order they are said.
#[derive(Debug, Default)]
struct Text(Vec<u8>);

impl Text {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn long(&mut self, number: u64) {
        self.align(8);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.number(length(text.as_bytes()));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0
            .push(u8::try_from(text.len()).expect("our own signatures are short"));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn numbers(&mut self, numbers: &[i32]) {
        self.number(u32::try_from(numbers.len() * 4).expect("there are fewer processes"));
        for number in numbers {
            self.number(number.unsigned_abs());
        }
    }

    /// An array of structures: the padding before the first does not count.
    fn array(&mut self, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.0.len() - 4;
        self.align(8);
        let begin = self.0.len();
        fill(self);
        let length = length(&self.0[begin..]);
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn properties(&mut self, all: &[Property]) {
        self.array(|body| {
            for (name, value) in all {
                let kind = match value {
                    Value::Flag(_) => "b",
                    Value::Number(_) => "t",
                    Value::Text(_) => "s",
                    Value::Mask(_) => "ay",
                    Value::Devices(_) => "a(st)",
                };
                body.property(name, kind, |body| body.value(value));
            }
        });
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Flag(yes) => self.number(u32::from(*yes)),
            Value::Number(number) => self.long(*number),
            Value::Text(text) => self.string(text),
            Value::Mask(bytes) => {
                self.number(length(bytes));
                self.0.extend_from_slice(bytes);
            }
            Value::Devices(devices) => self.array(|body| {
                for (path, number) in devices {
                    body.align(8);
                    body.string(path);
                    body.long(*number);
                }
            }),
        }
    }

    fn property(&mut self, name: &str, kind: &str, value: impl FnOnce(&mut Self)) {
        self.align(8);
        self.string(name);
        self.signature(kind);
        value(self);
    }
}

/// What systemd says.
#[derive(Debug)]
struct Message {
    kind: u8,
    big: bool,
    member: Option<String>,
    error: Option<String>,
    reply_to: Option<u32>,
    bytes: Vec<u8>,
}

impl Message {
    fn read(from: &mut impl Read) -> Result<Self> {
        let damaged = || Fail::corrupt("systemd says what is no D-Bus message");
        let mut head = [0_u8; 16];
        from.read_exact(&mut head).context("listening to systemd")?;
        let big = head[0] == b'B';
        let at = |position: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&head[position..position + 4]);
            if big {
                u32::from_be_bytes(four) as usize
            } else {
                u32::from_le_bytes(four) as usize
            }
        };
        let (body, fields) = (at(4), at(12));
        if body > MOST || fields > MOST {
            return Err(damaged().into());
        }
        let mut header = vec![0; fields.next_multiple_of(8)];
        from.read_exact(&mut header)
            .context("listening to systemd")?;
        let mut bytes = vec![0; body];
        from.read_exact(&mut bytes)
            .context("listening to systemd")?;
        let mut message = Self {
            kind: head[1],
            big,
            member: None,
            error: None,
            reply_to: None,
            bytes,
        };
        header.truncate(fields);
        let mut parts = Parts {
            bytes: &header,
            at: 0,
            big,
        };
        // Every element begins at a multiple of 8.
        while parts.align(8).is_some() && parts.at < fields {
            let code = parts.byte().ok_or_else(damaged)?;
            let kind = parts.signature().ok_or_else(damaged)?;
            match (code, kind.as_str()) {
                (3, "s") => message.member = parts.string(),
                (4, "s") => message.error = parts.string(),
                (5, "u") => message.reply_to = parts.number(),
                (_, "s" | "o") => drop(parts.string().ok_or_else(damaged)?),
                (_, "g") => drop(parts.signature().ok_or_else(damaged)?),
                (_, "u") => drop(parts.number().ok_or_else(damaged)?),
                _ => return Err(damaged().into()),
            }
        }
        Ok(message)
    }

    fn body(&self) -> Parts<'_> {
        Parts {
            bytes: &self.bytes,
            at: 0,
            big: self.big,
        }
    }
}

/// D-Bus values, one after the other; `None` where the bytes end.
struct Parts<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl Parts<'_> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.next_multiple_of(to);
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4)?;
        let big = self.big;
        let four = <[u8; 4]>::try_from(self.take(4)?).ok()?;
        Some(if big {
            u32::from_be_bytes(four)
        } else {
            u32::from_le_bytes(four)
        })
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.byte()?; // the NUL behind it
        Some(text)
    }

    /// A string, or the path of an object.
    fn string(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }
}

/// Whether systemd has handed this unit's group over to whoever runs in it; `None` where it does not say.
/// Source: systemd.resource-control(5), `Delegate=`. The machine's systemd notes it in an extended attribute; a
/// user's does not (252), but keeps units like those of `systemd-run` as files.
#[must_use]
pub fn is_delegated(group: &Path) -> Option<bool> {
    let mut value = [0_u8; 8];
    if let Ok(length) = rustix::fs::getxattr(group, "user.delegate", &mut value[..]) {
        return Some(&value[..length] == b"1");
    }
    let unit = group.file_name()?;
    let mut texts = runtime_dirs()
        .into_iter()
        .filter_map(|dir| std::fs::read_to_string(dir.join("systemd/transient").join(unit)).ok());
    texts.next_back().map(|text| hands_over(&text))
}

/// The last line counts, as in every unit file.
fn hands_over(unit: &str) -> bool {
    let mut values = unit
        .lines()
        .filter_map(|line| line.strip_prefix("Delegate="));
    values
        .next_back()
        .is_some_and(|value| !["no", "false", "off", "0"].contains(&value.trim()))
}

/// Where the runtime directories of the caller's systemd are: `/run` for root.
fn runtime_dirs() -> Vec<PathBuf> {
    let uid = rustix::process::getuid();
    if uid.is_root() {
        return vec![PathBuf::from("/run")];
    }
    let usual = PathBuf::from(format!("/run/user/{}", uid.as_raw()));
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let others = named.filter(|named| *named != usual);
    others.into_iter().chain([usual]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A signal as systemd sends it.
    fn job_removed(unit: &str, result: &str) -> Vec<u8> {
        let mut fields = Text::default();
        for (code, kind, value) in [
            (1, "o", "/org/freedesktop/systemd1"),
            (2, "s", "org.freedesktop.systemd1.Manager"),
            (3, "s", "JobRemoved"),
            (8, "g", "uoss"),
        ] {
            fields.align(8);
            fields.0.push(code);
            fields.signature(kind);
            if kind == "g" {
                fields.signature(value);
            } else {
                fields.string(value);
            }
        }
        let mut body = Text::default();
        body.number(7);
        body.string("/org/freedesktop/systemd1/job/7");
        body.string(unit);
        body.string(result);
        let mut message = Text(vec![b'l', SIGNAL, 0, 1]);
        message.number(length(&body.0));
        message.number(9);
        message.number(length(&fields.0));
        message.0.extend_from_slice(&fields.0);
        message.align(8);
        message.0.extend_from_slice(&body.0);
        message.0
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let bytes = job_removed("rl-x.scope", "done");
        let message = Message::read(&mut bytes.as_slice()).unwrap();
        assert_eq!(message.kind, SIGNAL);
        assert_eq!(message.member.as_deref(), Some("JobRemoved"));
        let mut body = message.body();
        assert_eq!(body.number(), Some(7));
        assert_eq!(
            body.string().as_deref(),
            Some("/org/freedesktop/systemd1/job/7")
        );
        assert_eq!(body.string().as_deref(), Some("rl-x.scope"));
        assert_eq!(body.string().as_deref(), Some("done"));
        assert_eq!(body.string(), None);
    }

    #[test]
    fn arrays_count_their_bytes_without_the_padding_before() {
        let mut body = Text::default();
        body.string("a");
        body.array(|body| body.property("K", "b", |body| body.number(1)));
        body.array(|_| ());
        // "a" ends at 6; the length stands at 8, the structure at 16: "K" 16..22, its signature 22..25, 1 at 28.
        assert_eq!(body.0[8..12], 16_u32.to_le_bytes());
        assert_eq!(body.0[28..32], 1_u32.to_le_bytes());
        assert_eq!(body.0.len(), 40);
    }

    #[test]
    fn a_unit_says_whether_it_is_handed_over() {
        for (unit, is) in [
            ("[Scope]\nDelegate=yes\n", true),
            ("[Scope]\nDelegate=cpu memory\n", true),
            ("[Scope]\nDelegate=yes\nDelegate=no\n", false),
            ("[Scope]\nSlice=app.slice\n", false),
        ] {
            assert_eq!(hands_over(unit), is, "{unit}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = Message::read(&mut bytes.as_slice()) {
                let mut body = message.body();
                let _ = (body.number(), body.string(), body.signature()); // whatever they are
            }
        }

        #[test]
        fn a_damaged_signal_makes_it_not_panic(at in 0_usize..160, byte in any::<u8>()) {
            let mut bytes = job_removed("rl-x.scope", "done");
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            let _ = Message::read(&mut bytes.as_slice()); // whatever it is
        }
    }
}
