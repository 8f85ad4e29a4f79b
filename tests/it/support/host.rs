//! What this machine can do, for `needs!`.

use std::path::{Path, PathBuf};

use super::UnderTest;

/// What a test needs; each says why it is not there.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// `rl` itself: another program under test does not know this or does it differently on purpose.
    Ours,
    /// Subordinate ids for the user, and the helpers that map them.
    Ranges,
    /// A user without subordinate ids.
    NoRanges,
    /// A program in PATH.
    Program(&'static str),
    /// A device or file that can be opened for writing.
    Writable(&'static str),
    /// An Alpine root.
    Alpine,
    /// A Debian root.
    Debian,
    /// The registry without encryption, and its two siblings.
    Registry,
    /// A host in a network of its own.
    TestHost,
    /// A name server on that host.
    TestDns,
    /// The right to start `scripts/as-user`.
    AsRoot,
    /// A small file system.
    SmallDisk,
    /// Something of the kernel: a file that shows it.
    Kernel(&'static str),
    /// A control group of ours into which this controller is handed down.
    Controller(&'static str),
}

impl Need {
    pub fn check(&self) -> Result<(), String> {
        let variable = |name: &str, what: &str| match std::env::var_os(name)
            .filter(|value| !value.is_empty())
        {
            Some(_) => Ok(()),
            None => Err(format!("{what} ({name} is not set)")),
        };
        match *self {
            Self::Ours if super::under_test() == UnderTest::Podman => {
                Err("this is about rl alone".to_owned())
            }
            Self::Ours => Ok(()),
            Self::Ranges if !has_ranges() => Err("no subordinate ids".to_owned()),
            Self::Ranges => Self::Program("newuidmap").check(),
            Self::NoRanges if has_ranges() => Err("this user has subordinate ids".to_owned()),
            Self::NoRanges => Ok(()),
            Self::Program(name) => find(name)
                .map(drop)
                .ok_or_else(|| format!("no program `{name}`")),
            Self::Writable(path) => std::fs::File::options()
                .read(true)
                .write(true)
                .open(path)
                .map(drop)
                .map_err(|error| format!("{path}: {error}")),
            Self::Alpine => variable("RL_TEST_ALPINE", "no Alpine root"),
            Self::Debian => variable("RL_TEST_DEBIAN", "no Debian root"),
            Self::Registry => variable("RL_TEST_REGISTRY", "no registry server"),
            Self::TestDns => variable("RL_TEST_DNS", "no name server on the test host"),
            Self::TestHost => variable("RL_TEST_HOST", "no test host"),
            Self::AsRoot => variable("RL_TEST_AS_ROOT", "root did not prepare this machine"),
            Self::SmallDisk => variable("RL_TEST_SMALL_DISK", "no small disk"),
            Self::Kernel(path) if !Path::new(path).exists() => {
                Err(format!("no {path} in this kernel"))
            }
            Self::Kernel(_) => Ok(()),
            Self::Controller(name) if !controllers().iter().any(|one| one == name) => {
                Err(format!("the controller {name} is not handed down to us"))
            }
            Self::Controller(_) => Ok(()),
        }
    }
}

/// The topmost control group that is ours.
pub fn top_group() -> Option<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let dir = Path::new("/sys/fs/cgroup").join(path.unwrap_or_default());
    let is_ours = |dir: &&Path| {
        rustix::fs::access(dir.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok()
    };
    dir.ancestors()
        .take_while(is_ours)
        .last()
        .map(Path::to_owned)
}

/// What that group may hand down; nothing where none is.
pub fn controllers() -> Vec<String> {
    let top = top_group();
    let text = top.and_then(|top| std::fs::read_to_string(top.join("cgroup.controllers")).ok());
    let text = text.unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The path of a program.
pub fn find(name: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
}

/// The user's name and first subordinate user id with the count, from `/etc/subuid`.
pub fn range() -> Option<(u32, u32)> {
    let user = std::env::var("USER").ok()?;
    let uid = nix::unistd::getuid().to_string();
    let text = std::fs::read_to_string("/etc/subuid").ok()?;
    let line = text.lines().find(|line| {
        let owner = line.split(':').next();
        owner == Some(&user) || owner == Some(&uid)
    })?;
    let mut words = line.split(':').skip(1);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn has_ranges() -> bool {
    range().is_some()
}
