//! Flags to container spec: pure but for what the [`Environment`] is asked.
//!
//! What the image decides (its variables, entry point, layers) is not known here yet: see
//! [`ContainerSpec::inherit`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::confinement::confinement;
use super::egress::egress;
use super::namespaces::{names, namespaces, refuse_conflicts, userns};
use super::networks::network;
use super::resources::cgroup;
use super::values::{file_lines, key_value};
use super::{RunArgs, life, long_mounts, mounts, proxy, publish};
use crate::error::Fail;
use crate::spec::{ContainerSpec, Image, Mount, Process, Rootfs, VERSION, is_name};

/// 64 MiB, docker's size of `/dev/shm`.
const SHM_SIZE: u64 = 64 << 20;

/// What translating flags may know of the world.
pub struct Environment<'a> {
    /// The caller's variables; those that are not UTF-8 are left out.
    pub variables: Vec<(String, String)>,
    /// The caller's working directory.
    pub cwd: PathBuf,
    /// SELinux decides what containers may read here.
    pub selinux: bool,
    /// What is hidden from containers on this machine.
    pub masked_paths: Vec<String>,
    /// A fresh container id: 64 hexadecimal digits.
    pub id: String,
    /// A fresh name, for a container that the user did not name.
    pub name: String,
    /// Reads a file of the user's: env files, label files, seccomp profiles.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// Whether a path of the host can be seen.
    pub look: &'a dyn Fn(&Path) -> io::Result<()>,
}

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("cwd", &self.cwd)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Environment<'_> {
    /// The absolute form of a host path that must be there.
    pub fn existing(&self, flag: &str, path: &str) -> Result<PathBuf, Fail> {
        let path = mounts::host_path(path, &self.cwd);
        match (self.look)(&path) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = path.display();
                Err(Fail::not_found(format!("{flag}: `{text}` does not exist"))
                    .hint(format!("make it first: mkdir -p {text}")))
            }
            Err(error) => Err(Fail::denied(format!(
                "{flag}: `{}` cannot be looked at: {error}",
                path.display()
            ))
            .hint("you need search permission on every directory above it: see namei -l")),
        }
    }

    /// A variable of the caller's.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The text of a file of the user's.
    pub fn text(&self, flag: &str, path: &Path) -> Result<String, Fail> {
        let shown = path.display();
        let bytes = (self.read)(&self.cwd.join(path))
            .map_err(|error| Fail::usage(format!("{flag}: cannot read `{shown}`: {error}")))?;
        String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            Fail::usage(format!("{flag}: `{shown}` line {line} is not UTF-8 text"))
        })
    }
}

/// The container that these flags describe.
///
/// The image is not looked at: `rootfs` has no layers yet, and what the image would add is missing.
///
/// # Errors
/// [`crate::error::Kind::Usage`] and others, with the flag and what is wrong with it.
pub fn spec(args: &RunArgs, environment: &Environment<'_>) -> Result<ContainerSpec, Fail> {
    let (image, rootfs, command) = root(args, environment)?;
    let namespaces = namespaces(args)?;
    let network = network(args)?;
    refuse_conflicts(args, &namespaces, &network)?;
    let mut confinement = confinement(args, environment, &namespaces, &network)?;
    let egress = egress(args, &network, &mut confinement)?;
    Ok(ContainerSpec {
        version: VERSION,
        id: environment.id.clone(),
        name: name(args, environment)?,
        image,
        rootfs,
        read_only: args.read_only,
        process: process(args, environment, command)?,
        init: args.init,
        hostname: args.hostname.clone(),
        domainname: args.domainname.clone(),
        mounts: all_mounts(args, environment)?,
        devices: args
            .device
            .iter()
            .map(|text| mounts::device(text, environment))
            .collect::<Result<_, _>>()?,
        userns: userns(args.userns.as_deref())?,
        publish: publish::all(&args.publish)?,
        publish_all: args.publish_all,
        expose: publish::exposed(&args.expose)?,
        names: names(args)?,
        confinement,
        egress,
        namespaces,
        network,
        shm_size: args.shm_size.unwrap_or(SHM_SIZE),
        annotations: pairs("--annotation", &args.annotation)?,
        labels: labels(args, environment)?,
        stop_signal: args
            .stop_signal
            .as_deref()
            .map(signal)
            .transpose()?
            .unwrap_or_default(),
        remove: args.rm,
        detached: args.detach,
        restart: restart(args)?,
        stop_timeout_s: args.stop_timeout.unwrap_or(10),
        log: life::log(args.log_driver.as_deref(), &args.log_opt)?,
        health: life::health(args)?,
        timeout_s: args.timeout,
        cgroup: cgroup(args)?,
        oci: None,
    })
}

fn restart(args: &RunArgs) -> Result<crate::spec::Restart, Fail> {
    let restart = life::restart(args.restart.as_deref().unwrap_or_default())?;
    if args.rm && restart != crate::spec::Restart::No {
        return Err(Fail::usage("--rm and --restart exclude each other")
            .hint("a container that is removed at its end cannot be started again"));
    }
    Ok(restart)
}

/// The image or directory, and the words after it.
type Root = (Option<Image>, Rootfs, Option<Vec<String>>);

fn root(args: &RunArgs, environment: &Environment<'_>) -> Result<Root, Fail> {
    let words = args.words.clone();
    let (first, rest) = match args.rootfs.as_deref() {
        Some(directory) if !directory.is_empty() => (directory.to_owned(), words),
        _ => {
            let mut words = words.into_iter();
            let first = words
                .next()
                .filter(|word| !word.is_empty())
                .ok_or_else(|| {
                    Fail::usage("no image given")
                        .hint("rl run IMAGE [COMMAND…], such as: rl run alpine sh")
                })?;
            (first, words.collect())
        }
    };
    let command = (!rest.is_empty()).then_some(rest);
    if args.rootfs.is_some() {
        if first.ends_with(":O") || first.ends_with(":idmap") {
            return Err(Fail::unsupported(format!(
                "--rootfs `{first}`: the suffixes `:O` and `:idmap` are not supported"
            )));
        }
        let path = environment.existing("--rootfs", &first)?;
        return Ok((None, Rootfs::Directory { path }, command));
    }
    let rootfs = if first == "host" {
        Rootfs::Host
    } else if ["/", "./", "../"]
        .iter()
        .any(|start| first.starts_with(start))
    {
        // No image's name begins so.
        Rootfs::Squash {
            path: mounts::host_path(&first, &environment.cwd),
        }
    } else {
        Rootfs::Layers {
            diff_ids: Vec::new(),
        }
    };
    let image = Image {
        reference: first,
        id: String::new(),
    };
    Ok((Some(image), rootfs, command))
}

fn name(args: &RunArgs, environment: &Environment<'_>) -> Result<String, Fail> {
    let Some(name) = &args.name else {
        return Ok(environment.name.clone());
    };
    let name = name.strip_prefix('/').unwrap_or(name);
    if !is_name(name) {
        return Err(Fail::usage(format!("`{name}` cannot name a container"))
            .hint("letters, digits, `_`, `.` and `-`, the first one a letter or digit"));
    }
    Ok(name.to_owned())
}

fn process(
    args: &RunArgs,
    environment: &Environment<'_>,
    command: Option<Vec<String>>,
) -> Result<Process, Fail> {
    if args.group_add.len() > 1 && args.group_add.iter().any(|group| group == "keep-groups") {
        return Err(Fail::usage(
            "--group-add keep-groups and other groups exclude each other",
        ));
    }
    // First, so that all that the user says of them comes after.
    let mut env = if args.http_proxy {
        proxy::variables(environment)
    } else {
        Vec::new()
    };
    env.extend(variables(&args.env_file, &args.env, environment)?);
    let umask = match args.umask.as_deref() {
        None => 0o022,
        Some(text) => u32::from_str_radix(text, 8)
            .ok()
            .filter(|mask| *mask <= 0o777)
            .ok_or_else(|| {
                Fail::usage(format!("--umask `{text}` is not an octal number up to 777"))
            })?,
    };
    Ok(Process {
        entrypoint: args.entrypoint.as_deref().map(entrypoint).transpose()?,
        command,
        env,
        cwd: args.workdir.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        groups: args.group_add.clone(),
        tty: args.tty,
        interactive: args.interactive,
        preserve_fds: args.preserve_fds,
        umask,
    })
}

/// One word, or several as a JSON list (podman's way); nothing clears the image's.
fn entrypoint(text: &str) -> Result<Vec<String>, Fail> {
    match text {
        "" => Ok(Vec::new()),
        json if json.starts_with('[') => serde_json::from_str(json).map_err(|error| {
            Fail::usage(format!(
                "--entrypoint `{json}` is not a JSON list of words: {error}"
            ))
        }),
        word => Ok(vec![word.to_owned()]),
    }
}

/// Files first, then `-e`, so that `-e` wins. An entry without `=` takes a variable of the image away,
/// as in docker when the caller has none of that name.
///
/// # Errors
/// A file that cannot be read, or a variable without a name.
pub fn variables(
    files: &[PathBuf],
    given: &[String],
    environment: &Environment<'_>,
) -> Result<Vec<String>, Fail> {
    let mut env = Vec::new();
    for path in files {
        let text = environment.text("--env-file", path)?;
        for (name, value) in file_lines(&path.display().to_string(), &text)? {
            if let Some(value) = value.as_deref().or_else(|| environment.variable(&name)) {
                env.push(format!("{name}={value}"));
            }
        }
    }
    for text in given {
        match text.split_once('=') {
            Some(("", _)) => {
                return Err(Fail::usage(format!(
                    "-e `{text}` has no name before the `=`"
                )));
            }
            None if text.is_empty() => return Err(Fail::usage("-e needs a name")),
            Some(_) => env.push(text.clone()),
            None => match (text.strip_suffix('*'), environment.variable(text)) {
                (Some(start), _) => env.extend(
                    environment
                        .variables
                        .iter()
                        .filter(|(name, _)| name.starts_with(start))
                        .map(|(name, value)| format!("{name}={value}")),
                ),
                (None, Some(value)) => env.push(format!("{text}={value}")),
                (None, None) => env.push(text.clone()),
            },
        }
    }
    Ok(env)
}

fn all_mounts(args: &RunArgs, environment: &Environment<'_>) -> Result<Vec<Mount>, Fail> {
    let mut all = Vec::new();
    for text in &args.mount {
        all.push(long_mounts::mount(text, environment)?);
    }
    for text in &args.volume {
        all.push(mounts::volume(text, environment)?);
    }
    for text in &args.tmpfs {
        all.push(mounts::tmpfs(text)?);
    }
    mounts::refuse_duplicates(&all)?;
    // A mount over a parent would hide the child, so parents go first; otherwise the order stays.
    all.sort_by_key(|mount| mount.target.matches('/').count());
    Ok(all)
}

fn pairs(flag: &str, list: &[String]) -> Result<BTreeMap<String, String>, Fail> {
    list.iter().map(|text| key_value(flag, text)).collect()
}

fn labels(args: &RunArgs, environment: &Environment<'_>) -> Result<BTreeMap<String, String>, Fail> {
    let mut labels = BTreeMap::new();
    for path in &args.label_file {
        let text = environment.text("--label-file", path)?;
        for (key, value) in file_lines(&path.display().to_string(), &text)? {
            labels.insert(key, value.unwrap_or_default());
        }
    }
    labels.extend(pairs("--label", &args.label)?);
    Ok(labels)
}

/// `SIGTERM`, `term`, `15` or `RTMIN+3`, written as the kernel's headers do, numbers as they are.
fn signal(text: &str) -> Result<String, Fail> {
    let refused = || {
        Fail::usage(format!("--stop-signal `{text}` is not a signal"))
            .hint("give a name such as SIGINT, or a number from 1 to 64")
    };
    if crate::sys::signal::number(text).is_none() {
        return Err(refused());
    }
    let upper = text.to_ascii_uppercase();
    let named = upper.starts_with("SIG") || upper.parse::<u8>().is_ok();
    Ok(if named { upper } else { format!("SIG{upper}") })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::stage::confine;

    /// A world with `/have`, `/dev/fuse`, `/cwd` and a few files.
    pub fn environment() -> Environment<'static> {
        fn read(path: &Path) -> io::Result<Vec<u8>> {
            match path.to_str() {
                Some("/cwd/vars") => Ok(b"# c\nA=file\nHOME\nGONE\nB=2\n".to_vec()),
                Some("/cwd/labels") => Ok(b"a=file\nb\n".to_vec()),
                Some("/cwd/latin1") => Ok(b"A=1\nB=\xe9\n".to_vec()),
                Some("/cwd/seccomp.json") => Ok(br#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.to_vec()),
                Some("/cwd/other.json") => Ok(b"{}".to_vec()),
                _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
            }
        }
        fn look(path: &Path) -> io::Result<()> {
            match path.to_str() {
                Some("/closed") => Err(io::ErrorKind::PermissionDenied.into()),
                Some("/have" | "/" | "/cwd" | "/cwd/here" | "/dev/fuse") => Ok(()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
        Environment {
            variables: [("HOME", "/home/me"), ("LC_A", "1"), ("LC_B", "2")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            cwd: PathBuf::from("/cwd"),
            selinux: false,
            masked_paths: confine::DEFAULT_MASKED_PATHS.map(str::to_owned).to_vec(),
            id: "0".repeat(64),
            name: "calm_curie".to_owned(),
            read: &read,
            look: &look,
        }
    }

    pub fn args(line: &str) -> RunArgs {
        let words = ["rl", "run"].into_iter().chain(line.split(' '));
        let words = words.map(|word| word.replace('~', " "));
        match crate::cli::parse(&words.map(Into::into).collect::<Vec<_>>()).expect(line) {
            crate::cli::Parsed::Cli(cli) => {
                let crate::cli::Command::Run(args) = cli.command else {
                    panic!("{line} is another command")
                };
                *args
            }
            crate::cli::Parsed::Text(text) => panic!("{line} prints {text}"),
        }
    }

    pub fn translate(line: &str) -> Result<ContainerSpec, Fail> {
        spec(&args(line), &environment())
    }

    /// Rows of flags and what one piece of the spec is, or the message.
    pub fn table<T: std::fmt::Debug>(piece: impl Fn(ContainerSpec) -> T, rows: &[(&str, &str)]) {
        for (flags, expected) in rows {
            let got = match translate(format!("{flags} alpine").trim_start()) {
                Ok(spec) => format!("{:?}", piece(spec)),
                Err(fail) => format!("error: {}", fail.message),
            };
            assert_eq!(got, *expected, "for {flags}");
        }
    }

    #[test]
    fn everything_after_the_image_belongs_to_the_command() {
        let spec = translate("-it --rm alpine ls --rm -e A --help").expect("fine");
        assert_eq!(spec.process.args(), ["ls", "--rm", "-e", "A", "--help"]);
        assert!(spec.process.tty && spec.process.interactive && spec.remove);
        assert_eq!(spec.image.expect("there").reference, "alpine");
        assert_eq!(spec.name, "calm_curie");
        assert_eq!(spec.shm_size, 64 << 20);
        assert_eq!(spec.process.umask, 0o22);
    }

    #[test]
    fn booleans_and_repeated_flags_are_read_as_docker_reads_them() {
        let args = args(
            "--rm=false -i=true --init --sig-proxy=false -eA=1 -v/a:/b --name a --name b alpine",
        );
        assert!(!args.rm && args.interactive && args.init && !args.sig_proxy);
        assert_eq!(args.name.as_deref(), Some("b"));
    }

    #[test]
    fn roots_are_images_directories_or_the_host() {
        let rootfs = |line: &str| match translate(line) {
            Ok(spec) => format!("{:?} {:?}", spec.rootfs, spec.process.args()),
            Err(fail) => fail.message,
        };
        assert_eq!(rootfs("host ls"), r#"Host ["ls"]"#);
        assert_eq!(rootfs("alpine"), r#"Layers { diff_ids: [] } []"#);
        assert_eq!(
            rootfs("--rootfs ./here ls"),
            r#"Directory { path: "/cwd/here" } ["ls"]"#
        );
        assert_eq!(
            rootfs("--rootfs=/have ls"),
            r#"Directory { path: "/have" } ["ls"]"#
        );
        assert_eq!(
            rootfs("./a.sqsh ls"),
            r#"Squash { path: "/cwd/a.sqsh" } ["ls"]"#
        );
        assert_eq!(rootfs("/have/../a.sif"), r#"Squash { path: "/a.sif" } []"#);
        assert_eq!(
            rootfs("--rootfs /none ls"),
            "--rootfs: `/none` does not exist"
        );
        assert_eq!(rootfs("--rm"), "no image given");
    }

    #[test]
    fn variables_come_from_files_flags_and_the_caller() {
        table(
            |spec| spec.process.env,
            &[
                ("-e A=1 -e B= -e HOME", r#"["A=1", "B=", "HOME=/home/me"]"#),
                ("-e GONE", r#"["GONE"]"#),
                ("-e LC_*", r#"["LC_A=1", "LC_B=2"]"#),
                (
                    "-e A=flag --env-file vars",
                    r#"["A=file", "HOME=/home/me", "B=2", "A=flag"]"#,
                ),
                ("-e =x", "error: -e `=x` has no name before the `=`"),
                (
                    "--env-file none",
                    "error: --env-file: cannot read `none`: no such file",
                ),
                (
                    "--env-file latin1",
                    "error: --env-file: `latin1` line 2 is not UTF-8 text",
                ),
            ],
        );
    }

    #[test]
    fn programs_and_users_are_taken_as_given() {
        table(
            |spec| {
                (
                    spec.process.entrypoint,
                    spec.process.user,
                    spec.process.cwd,
                    spec.process.umask,
                )
            },
            &[
                (
                    "--entrypoint /bin/x -u 1:2 -w /w --umask 077",
                    r#"(Some(["/bin/x"]), "1:2", "/w", 63)"#,
                ),
                ("--entrypoint=", r#"(Some([]), "", "", 18)"#),
                (
                    r#"--entrypoint ["a","b"]"#,
                    r#"(Some(["a", "b"]), "", "", 18)"#,
                ),
                (
                    "--umask 9",
                    "error: --umask `9` is not an octal number up to 777",
                ),
                (
                    "--group-add a --group-add keep-groups",
                    "error: --group-add keep-groups and other groups exclude each other",
                ),
                ("--name a/b", "error: `a/b` cannot name a container"),
            ],
        );
    }

    #[test]
    fn labels_come_from_files_and_flags() {
        table(
            |spec| (spec.labels, spec.annotations),
            &[
                (
                    "-l a=1 -l b --annotation x=y",
                    r#"({"a": "1", "b": ""}, {"x": "y"})"#,
                ),
                (
                    "-l a=flag --label-file labels",
                    r#"({"a": "flag", "b": ""}, {})"#,
                ),
                ("-l =x", "error: --label `=x` has no name before the `=`"),
            ],
        );
    }

    #[test]
    fn stop_signals_are_names_or_numbers() {
        table(
            |spec| spec.stop_signal,
            &[
                ("", r#""""#),
                ("--stop-signal int", r#""SIGINT""#),
                ("--stop-signal 9", r#""9""#),
                ("--stop-signal SIGRTMIN+3", r#""SIGRTMIN+3""#),
                (
                    "--stop-signal RTMIN3",
                    "error: --stop-signal `RTMIN3` is not a signal",
                ),
                (
                    "--stop-signal 99",
                    "error: --stop-signal `99` is not a signal",
                ),
                (
                    "--stop-signal WHAT",
                    "error: --stop-signal `WHAT` is not a signal",
                ),
            ],
        );
    }

    #[test]
    fn mounts_are_sorted_so_that_none_hides_another() {
        let line = "-v a:/x/y -v b:/x --tmpfs /z/z/z alpine";
        let targets: Vec<String> = translate(line)
            .expect("fine")
            .mounts
            .into_iter()
            .map(|mount| mount.target)
            .collect();
        assert_eq!(targets, ["/x", "/x/y", "/z/z/z"]);
        let fail = translate("-v a:/x --tmpfs /x/ alpine").expect_err("refused");
        assert_eq!(fail.message, "two mounts have the same target `/x`");
    }

    #[test]
    fn the_flags_of_docker_are_known_or_refused_by_name() {
        for flags in ["--memori 1g alpine", "--what alpine"] {
            let words = ["rl", "run"].into_iter().chain(flags.split(' '));
            assert!(
                crate::cli::parse(&words.map(Into::into).collect::<Vec<_>>()).is_err(),
                "{flags}"
            );
        }
    }
}
