//! `-v`, `--tmpfs` and `--device`: text to mounts. `--mount` is in `long_mounts`.
//!
//! Whether a source exists is asked of the [`Environment`]; nothing is made and nothing is mounted.

use std::path::{Path, PathBuf};

use super::spec::Environment;
use super::values::clean_path;
use crate::error::Fail;
use crate::spec::{Device, Mount, MountSource, WritableLayer, is_name};

/// What docker gives a tmpfs unless it is told otherwise.
pub const TMPFS_DEFAULTS: [&str; 3] = ["noexec", "nosuid", "nodev"];

pub const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// One `-v`: `TARGET`, `SOURCE:TARGET` or `SOURCE:TARGET:OPTIONS`.
pub fn volume(text: &str, environment: &Environment<'_>) -> Result<Mount, Fail> {
    let wrong = |what: &str| Fail::usage(format!("-v `{text}`: {what}"));
    let mut parts = text.split(':');
    let (source, target, options) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(target), None, ..) => ("", target, ""),
        (Some(source), Some(target), None, _) => (source, target, ""),
        (Some(source), Some(target), Some(options), None) => (source, target, options),
        _ => {
            return Err(wrong("too many colons").hint(
                "a path with a colon can be mounted with --mount type=bind,source=…,target=…",
            ));
        }
    };
    let anonymous = !text.contains(':');
    if !anonymous && source.is_empty() {
        return Err(wrong("the source before the `:` is empty"));
    }
    let target = target_path(target)
        .ok_or_else(|| wrong(&format!("the target `{target}` is not an absolute path")))?;
    let mut mount = Mount::new(
        target,
        if anonymous || !is_path(source) {
            if !anonymous && !is_name(source) {
                return Err(wrong(&format!("`{source}` cannot name a volume"))
                    .hint("a directory of the host is written with a leading `/` or `./`"));
            }
            MountSource::volume(source)
        } else {
            MountSource::bind(environment.existing("-v", source)?)
        },
    );
    let mut words = Words::default();
    let named = |mut fail: Fail| {
        fail.message = format!("-v `{text}`: {}", fail.message);
        fail
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        volume_option(&mut mount, option, &mut words, environment).map_err(named)?;
    }
    words.lay(&mut mount, environment).map_err(named)?;
    if mount.own {
        refuse_to_give_away(&mount, environment).map_err(named)?;
    }
    Ok(mount)
}

/// What the words after the second colon of `-v` have said so far.
#[derive(Debug, Default)]
struct Words<'a> {
    /// `ro` or `rw`.
    access: Option<&'a str>,
    /// `O`.
    layer: bool,
    /// `upperdir=`.
    upper: Option<&'a str>,
    /// `workdir=`.
    work: Option<&'a str>,
}

impl Words<'_> {
    /// Gives the mount its writable layer.
    fn lay(&self, mount: &mut Mount, environment: &Environment<'_>) -> Result<(), Fail> {
        mount.layer = match (self.layer, self.upper, self.work) {
            (false, None, None) => None,
            (true, None, None) => Some(WritableLayer::Fresh),
            (true, Some(upper), Some(work)) => Some(WritableLayer::Kept {
                upper: environment.existing("upperdir", upper)?,
                work: environment.existing("workdir", work)?,
            }),
            (true, ..) => {
                return Err(Fail::usage("`upperdir=` and `workdir=` belong together")
                    .hint("give two directories on one file system, the second one empty"));
            }
            (false, ..) => {
                return Err(Fail::usage("`upperdir=` and `workdir=` go with `O`"));
            }
        };
        Ok(())
    }
}

/// Where `U` would change the owner of more than anybody means. Podman refuses these, too.
pub fn refuse_to_give_away(mount: &Mount, environment: &Environment<'_>) -> Result<(), Fail> {
    let MountSource::Bind { path, .. } = &mount.source else {
        return Ok(());
    };
    let home = environment.variable("HOME").map(Path::new);
    if mount.layer.is_none()
        && (path == Path::new("/") || home.is_some_and(|home| home.starts_with(path)))
    {
        return Err(Fail::usage(format!(
            "`U` would change the owner of all that is in `{}`",
            path.display()
        ))
        .hint("mount a directory below it, or leave `U` out"));
    }
    Ok(())
}

/// Applies one word after the second colon of `-v`; `words` remembers what goes with others.
fn volume_option<'a>(
    mount: &mut Mount,
    option: &'a str,
    words: &mut Words<'a>,
    environment: &Environment<'_>,
) -> Result<(), Fail> {
    match option {
        "ro" | "rw" => {
            if words.access.is_some_and(|before| before != option) {
                return Err(Fail::usage("`ro` and `rw` exclude each other"));
            }
            words.access = Some(option);
            mount.read_only = option == "ro";
        }
        "nocopy" | "copy" => match &mut mount.source {
            MountSource::Volume { copy_up, .. } => *copy_up = option == "copy",
            MountSource::Bind { .. } | MountSource::Image { .. } | MountSource::Tmpfs { .. } => {
                return Err(Fail::usage(format!("`{option}` is for volumes only")));
            }
        },
        "bind" | "rbind" => match &mut mount.source {
            MountSource::Bind { recursive, .. } => *recursive = option == "rbind",
            MountSource::Volume { .. } | MountSource::Image { .. } | MountSource::Tmpfs { .. } => {
                return Err(Fail::usage(format!("`{option}` is for host paths only")));
            }
        },
        "nosuid" | "nodev" | "noexec" => add_option(mount, option),
        // Nothing is forbidden by default; and docker's hints to its virtual machine mean nothing here.
        "suid" | "dev" | "exec" | "consistent" | "cached" | "delegated" => {}
        "z" | "Z" => relabel(option, environment)?,
        "U" => mount.own = true,
        "O" => words.layer = true,
        "idmap" => return Err(idmap()),
        propagation if PROPAGATIONS.contains(&propagation) => propagate(mount, propagation)?,
        other => match other.split_once('=') {
            Some(("upperdir", path)) => words.upper = Some(path),
            Some(("workdir", path)) => words.work = Some(path),
            _ => {
                return Err(Fail::usage(format!("unknown option `{other}`"))
                    .hint("known: ro rw nocopy bind rbind nosuid nodev noexec [r]private [r]shared [r]slave z Z U O upperdir= workdir="));
            }
        },
    }
    Ok(())
}

/// One `--tmpfs`: `TARGET[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<Mount, Fail> {
    let wrong = |what: String| Fail::usage(format!("--tmpfs `{text}`: {what}"));
    let (target, words) = text.split_once(':').unwrap_or((text, ""));
    let target = target_path(target)
        .ok_or_else(|| wrong(format!("the target `{target}` is not an absolute path")))?;
    let mut options: Vec<String> = TMPFS_DEFAULTS.map(str::to_owned).to_vec();
    let (mut read_only, mut copy_up, mut data) = (false, false, Vec::new());
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            None => match word {
                "rw" => read_only = false,
                "ro" => read_only = true,
                "exec" | "suid" | "dev" => options.retain(|option| option[2..] != *word),
                "noexec" | "nosuid" | "nodev" => {
                    options.retain(|option| option != word);
                    options.push(word.to_owned());
                }
                "tmpcopyup" => copy_up = true,
                "notmpcopyup" => copy_up = false,
                "noatime" | "nodiratime" | "relatime" | "strictatime" | "sync" | "dirsync" => {
                    options.push(word.to_owned());
                }
                "atime" | "diratime" | "async" | "defaults" | "private" | "rprivate" => {}
                _ => return Err(wrong(format!("unknown option `{word}`"))),
            },
            Some(("mode", mode)) => data.push(format!("mode={}", octal(mode)?)),
            // In tmpfs(5) units, which include per cent, so that the kernel reads them itself.
            Some(("size" | "nr_inodes" | "nr_blocks", number)) if is_tmpfs_number(number) => {
                data.push(word.to_owned());
            }
            Some(("uid" | "gid", id)) if id.parse::<u32>().is_ok() => data.push(word.to_owned()),
            Some(("mpol" | "huge", _)) => data.push(word.to_owned()),
            Some(("size" | "nr_inodes" | "nr_blocks" | "uid" | "gid", value)) => {
                return Err(wrong(format!("`{value}` in `{word}` is not a number"))
                    .hint("sizes are written as 64m, 1g, 50% or a number of bytes"));
            }
            Some(_) => return Err(wrong(format!("unknown option `{word}`"))),
        }
    }
    Ok(Mount {
        read_only,
        options,
        ..Mount::new(target, MountSource::Tmpfs { data, copy_up })
    })
}

fn is_tmpfs_number(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| "kmgtpeKMGTPE%".contains(c));
    text.len() - digits.len() <= 1
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
}

/// One `--device`: `HOST[:CONTAINER][:ACCESS]`.
pub fn device(text: &str, environment: &Environment<'_>) -> Result<Device, Fail> {
    let wrong = |what: &str| Fail::usage(format!("--device `{text}`: {what}"));
    if !text.starts_with(['/', '.']) && text.contains('=') {
        return Err(not_yet("a device by its CDI name").hint("name the nodes: --device /dev/…"));
    }
    let is_access = |word: &str| !word.is_empty() && word.bytes().all(|b| b"rwm".contains(&b));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, target, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, access] if is_access(access) => (host, host, access),
        [host, target] => (host, target, "rwm"),
        [host, target, access] if is_access(access) => (host, target, access),
        [_, _, _] => return Err(wrong("the access is made of `r`, `w` and `m`")),
        _ => return Err(wrong("too many colons")),
    };
    let target = target_path(target)
        .ok_or_else(|| wrong(&format!("the target `{target}` is not an absolute path")))?;
    Ok(Device {
        host: environment.existing("--device", host)?,
        target,
        access: access.to_owned(),
    })
}

/// Refuses two mounts at one place, naming both as docker does.
pub fn refuse_duplicates(mounts: &[Mount]) -> Result<(), Fail> {
    for (position, mount) in mounts.iter().enumerate() {
        if mounts[..position]
            .iter()
            .any(|before| before.target == mount.target)
        {
            return Err(Fail::usage(format!(
                "two mounts have the same target `{}`",
                mount.target
            )));
        }
    }
    Ok(())
}

/// The path, cleaned, if it is an absolute one.
pub fn target_path(text: &str) -> Option<String> {
    text.starts_with('/').then(|| clean_path(text))
}

/// Docker's rule: a volume's name cannot start with these.
fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.'])
}

/// The path on the host that `source` names, made absolute from `cwd`.
pub fn host_path(source: &str, cwd: &Path) -> PathBuf {
    PathBuf::from(clean_path(&cwd.join(source).to_string_lossy()))
}

fn add_option(mount: &mut Mount, option: &str) {
    if !mount.options.iter().any(|known| known == option) {
        mount.options.push(option.to_owned());
    }
}

fn propagate(mount: &mut Mount, propagation: &str) -> Result<(), Fail> {
    if !matches!(mount.source, MountSource::Bind { .. }) {
        return Err(Fail::usage(format!(
            "`{propagation}` is for host paths only"
        )));
    }
    if let Some(before) = mount
        .options
        .iter()
        .find(|option| PROPAGATIONS.contains(&option.as_str()))
    {
        return Err(Fail::usage(format!(
            "`{before}` and `{propagation}` exclude each other"
        )));
    }
    mount.options.push(propagation.to_owned());
    Ok(())
}

/// What `z`, `Z` and `relabel=` ask for: refused where it would mean something.
pub fn relabel(option: &str, environment: &Environment<'_>) -> Result<(), Fail> {
    if environment.selinux {
        return Err(not_yet(&format!("`{option}` (change the SELinux label)"))
            .hint("leave it out: containers of `rl` keep your own SELinux domain, so your files stay accessible"));
    }
    Ok(())
}

/// A mode in octal, of four digits.
pub fn octal(text: &str) -> Result<String, Fail> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .map(|mode| format!("{mode:04o}"))
        .ok_or_else(|| {
            Fail::usage(format!(
                "the mode `{text}` is not an octal number up to 7777"
            ))
        })
}

/// Something that docker or podman knows and `rl` does not.
pub fn not_yet(what: &str) -> Fail {
    Fail::unsupported(format!("{what} is not supported"))
}

/// Why no ids are mapped for one mount. Source: mount_setattr(2), `MOUNT_ATTR_IDMAP`.
pub fn idmap() -> Fail {
    not_yet("`idmap`").hint("the kernel lets only the host's root map the ids of a mount of the host's")
        .hint("--userns=keep-id gives you your own id inside; `U` gives the files to the container's user")
}

#[cfg(test)]
pub mod tests {
    use super::super::spec::tests::environment;
    use super::*;

    fn shown(mount: &Mount) -> String {
        let source = match &mount.source {
            MountSource::Bind {
                path,
                recursive,
                writable_below,
            } => {
                format!(
                    "{}bind {}{}",
                    if *recursive { "r" } else { "" },
                    path.display(),
                    if *writable_below { " (top)" } else { "" }
                )
            }
            MountSource::Volume {
                volume,
                copy_up,
                subpath,
                labels,
            } => {
                let mut text =
                    format!("volume `{volume}`{}", if *copy_up { "" } else { " nocopy" });
                if !subpath.is_empty() {
                    text += &format!("/{subpath}");
                }
                if !labels.is_empty() {
                    text += &format!(" {labels:?}");
                }
                text
            }
            MountSource::Image { image, subpath, .. } => {
                format!("image {} `{subpath}`", image.reference)
            }
            MountSource::Tmpfs { data, copy_up } => {
                format!("tmpfs {data:?}{}", if *copy_up { " copyup" } else { "" })
            }
        };
        let mut text = format!(
            "{source} at {} {} {:?}",
            mount.target,
            if mount.read_only { "ro" } else { "rw" },
            mount.options
        );
        if mount.own {
            text += " own";
        }
        match &mount.layer {
            None => {}
            Some(WritableLayer::Fresh) => text += " layer",
            Some(WritableLayer::Kept { upper, work }) => {
                text += &format!(" layer {} {}", upper.display(), work.display());
            }
        }
        text
    }

    /// Compares what each text becomes.
    pub fn table(rows: &[(&str, &str)], parse: impl Fn(&str) -> Result<Mount, Fail>) {
        for (text, expected) in rows {
            let got = match parse(text) {
                Ok(mount) => shown(&mount),
                Err(fail) => format!("error: {}", fail.message),
            };
            assert_eq!(got, *expected, "for {text}");
        }
    }

    #[test]
    fn short_volumes_are_dockers() {
        let environment = environment();
        table(
            &[
                ("/data", "volume `` at /data rw []"),
                ("cache:/c", "volume `cache` at /c rw []"),
                ("cache:/c:ro,nocopy", "volume `cache` nocopy at /c ro []"),
                ("/have:/c", "rbind /have at /c rw []"),
                ("/have:/c/../d/:ro,Z", "rbind /have at /d ro []"),
                (
                    "./here:/c:rslave,nosuid",
                    r#"rbind /cwd/here at /c rw ["rslave", "nosuid"]"#,
                ),
                (".:/c:bind", "bind /cwd at /c rw []"),
                ("..:/c", "rbind / at /c rw []"),
                ("/missing:/c", "error: -v: `/missing` does not exist"),
                (
                    "/closed:/c",
                    "error: -v: `/closed` cannot be looked at: permission denied",
                ),
                (
                    "cache:c",
                    "error: -v `cache:c`: the target `c` is not an absolute path",
                ),
                ("a/b:/c", "error: -v `a/b:/c`: `a/b` cannot name a volume"),
                (":/c", "error: -v `:/c`: the source before the `:` is empty"),
                ("a:/b:ro:x", "error: -v `a:/b:ro:x`: too many colons"),
                (
                    "a:/b:ro,rw",
                    "error: -v `a:/b:ro,rw`: `ro` and `rw` exclude each other",
                ),
                (
                    "a:/b:rslave",
                    "error: -v `a:/b:rslave`: `rslave` is for host paths only",
                ),
                (
                    "/have:/b:rslave,shared",
                    "error: -v `/have:/b:rslave,shared`: `rslave` and `shared` exclude each other",
                ),
                ("/have:/b:U", "rbind /have at /b rw [] own"),
                ("/cwd/here:/b:U,O", "rbind /cwd/here at /b rw [] own layer"),
                ("./here:/b:U", "rbind /cwd/here at /b rw [] own"),
                (
                    "/:/b:U",
                    "error: -v `/:/b:U`: `U` would change the owner of all that is in `/`",
                ),
                ("v:/b:O,ro", "volume `v` at /b ro [] layer"),
                (
                    "/have:/b:O,upperdir=/cwd,workdir=here",
                    "rbind /have at /b rw [] layer /cwd /cwd/here",
                ),
                (
                    "/have:/b:O,upperdir=/cwd",
                    "error: -v `/have:/b:O,upperdir=/cwd`: `upperdir=` and `workdir=` belong together",
                ),
                (
                    "/have:/b:upperdir=/cwd,workdir=/cwd",
                    "error: -v `/have:/b:upperdir=/cwd,workdir=/cwd`: `upperdir=` and `workdir=` go with `O`",
                ),
                (
                    "/have:/b:O,upperdir=/no,workdir=/cwd",
                    "error: -v `/have:/b:O,upperdir=/no,workdir=/cwd`: upperdir: `/no` does not exist",
                ),
                (
                    "/have:/b:idmap",
                    "error: -v `/have:/b:idmap`: `idmap` is not supported",
                ),
                (
                    "/have:/b:nocopy",
                    "error: -v `/have:/b:nocopy`: `nocopy` is for volumes only",
                ),
                (
                    "/have:/b:what",
                    "error: -v `/have:/b:what`: unknown option `what`",
                ),
            ],
            |text| volume(text, &environment),
        );
    }

    #[test]
    fn labels_are_refused_where_selinux_would_need_them() {
        let environment = Environment {
            selinux: true,
            ..environment()
        };
        let fail = volume("/have:/c:z", &environment).expect_err("refused");
        assert!(fail.message.contains("SELinux"), "{}", fail.message);
    }

    #[test]
    fn memory_mounts_start_from_dockers_defaults() {
        table(
            &[
                ("/t", r#"tmpfs [] at /t rw ["noexec", "nosuid", "nodev"]"#),
                (
                    "/t:rw,size=64m,mode=1777",
                    r#"tmpfs ["size=64m", "mode=1777"] at /t rw ["noexec", "nosuid", "nodev"]"#,
                ),
                (
                    "/t:exec,ro,size=50%",
                    r#"tmpfs ["size=50%"] at /t ro ["nosuid", "nodev"]"#,
                ),
                (
                    "/t:tmpcopyup",
                    r#"tmpfs [] copyup at /t rw ["noexec", "nosuid", "nodev"]"#,
                ),
                (
                    "t",
                    "error: --tmpfs `t`: the target `t` is not an absolute path",
                ),
                (
                    "/t:size=big",
                    "error: --tmpfs `/t:size=big`: `big` in `size=big` is not a number",
                ),
                (
                    "/t:mode=9",
                    "error: the mode `9` is not an octal number up to 7777",
                ),
                (
                    "/t:lowerdir=/x",
                    "error: --tmpfs `/t:lowerdir=/x`: unknown option `lowerdir=/x`",
                ),
            ],
            tmpfs,
        );
    }

    #[test]
    fn devices_have_a_target_and_an_access() {
        let environment = environment();
        for (text, expected) in [
            ("/dev/fuse", "/dev/fuse /dev/fuse rwm"),
            ("/dev/fuse:r", "/dev/fuse /dev/fuse r"),
            ("/dev/fuse:/dev/x", "/dev/fuse /dev/x rwm"),
            ("/dev/fuse:/dev/x:rw", "/dev/fuse /dev/x rw"),
            (
                "/dev/fuse:/dev/x:q",
                "--device `/dev/fuse:/dev/x:q`: the access is made of `r`, `w` and `m`",
            ),
            ("/missing", "--device: `/missing` does not exist"),
            (
                "nvidia.com/gpu=all",
                "a device by its CDI name is not supported",
            ),
        ] {
            let got = match device(text, &environment) {
                Ok(device) => format!(
                    "{} {} {}",
                    device.host.display(),
                    device.target,
                    device.access
                ),
                Err(fail) => fail.message,
            };
            assert_eq!(got, expected);
        }
    }
}
