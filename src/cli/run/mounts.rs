//! `-v`, `--mount`, `--tmpfs` and `--device`: text to mounts.
//!
//! Whether a source exists is asked of the [`Environment`]; nothing is made and nothing is mounted.

use std::path::{Path, PathBuf};

use super::spec::Environment;
use super::values::{boolean, clean_path, comma_fields, size};
use crate::error::Fail;
use crate::spec::{Device, Mount, MountSource, is_name};

/// What docker gives a tmpfs unless it is told otherwise.
const TMPFS_DEFAULTS: [&str; 3] = ["noexec", "nosuid", "nodev"];

const PROPAGATIONS: [&str; 6] = [
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
    let mut mount = Mount {
        target,
        source: if anonymous || !is_path(source) {
            if !anonymous && !is_name(source) {
                return Err(wrong(&format!("`{source}` cannot name a volume"))
                    .hint("a directory of the host is written with a leading `/` or `./`"));
            }
            MountSource::Volume {
                volume: source.to_owned(),
                copy_up: true,
            }
        } else {
            MountSource::Bind {
                path: environment.existing("-v", source)?,
                recursive: true,
            }
        },
        read_only: false,
        options: Vec::new(),
    };
    let mut access = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        volume_option(&mut mount, option, &mut access, environment).map_err(|mut fail| {
            fail.message = format!("-v `{text}`: {}", fail.message);
            fail
        })?;
    }
    Ok(mount)
}

/// Applies one word after the second colon of `-v`; `access` remembers an `ro` or `rw`.
fn volume_option<'a>(
    mount: &mut Mount,
    option: &'a str,
    access: &mut Option<&'a str>,
    environment: &Environment<'_>,
) -> Result<(), Fail> {
    match option {
        "ro" | "rw" => {
            if access.is_some_and(|before| before != option) {
                return Err(Fail::usage("`ro` and `rw` exclude each other"));
            }
            *access = Some(option);
            mount.read_only = option == "ro";
        }
        "nocopy" | "copy" => match &mut mount.source {
            MountSource::Volume { copy_up, .. } => *copy_up = option == "copy",
            MountSource::Bind { .. } | MountSource::Tmpfs { .. } => {
                return Err(Fail::usage(format!("`{option}` is for volumes only")));
            }
        },
        "bind" | "rbind" => match &mut mount.source {
            MountSource::Bind { recursive, .. } => *recursive = option == "rbind",
            MountSource::Volume { .. } | MountSource::Tmpfs { .. } => {
                return Err(Fail::usage(format!("`{option}` is for host paths only")));
            }
        },
        "nosuid" | "nodev" | "noexec" => add_option(mount, option),
        // Nothing is forbidden by default; and docker's hints to its virtual machine mean nothing here.
        "suid" | "dev" | "exec" | "consistent" | "cached" | "delegated" => {}
        "z" | "Z" => relabel(option, environment)?,
        "U" => {
            return Err(not_yet("`U` (change the owner of the source)")
                .hint("change it once from inside: rl run -v … IMAGE chown -R USER TARGET"));
        }
        "O" => {
            return Err(not_yet("`O` (a private overlay over the source)")
                .hint("`ro` protects the source; a copy of it can be changed freely"));
        }
        "idmap" => {
            return Err(not_yet("`idmap`").hint(
                "the kernel lets only root map the ids of a mount; --userns=keep-id may do",
            ));
        }
        propagation if PROPAGATIONS.contains(&propagation) => propagate(mount, propagation)?,
        other => {
            return Err(Fail::usage(format!("unknown option `{other}`"))
                .hint("known: ro rw nocopy bind rbind nosuid nodev noexec [r]private [r]shared [r]slave z Z"));
        }
    }
    Ok(())
}

/// One `--mount`: `KEY=VALUE,…`.
pub fn mount(text: &str, environment: &Environment<'_>) -> Result<Mount, Fail> {
    let wrong = |what: String| Fail::usage(format!("--mount `{text}`: {what}"));
    let fields = comma_fields(text)?;
    let kind = fields
        .iter()
        .filter_map(|field| field.split_once('='))
        .rfind(|(key, _)| key.eq_ignore_ascii_case("type"))
        .map_or("volume", |(_, value)| value);
    let mut draft = Draft::default();
    for field in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        draft
            .set(kind, &key, value, environment)
            .map_err(|fail| Fail {
                message: format!("--mount `{text}`: {}", fail.message),
                ..fail
            })?;
    }
    let Some(target) = draft.target else {
        return Err(wrong("`target=` is missing".to_owned()));
    };
    let target = target_path(&target)
        .ok_or_else(|| wrong(format!("the target `{target}` is not an absolute path")))?;
    let source = match kind {
        "bind" => {
            let source = draft
                .source
                .ok_or_else(|| wrong("`source=` is missing".to_owned()))?;
            MountSource::Bind {
                path: environment.existing("--mount", &source)?,
                recursive: draft.recursive,
            }
        }
        "volume" => {
            let volume = draft.source.unwrap_or_default();
            if !volume.is_empty() && !is_name(&volume) {
                return Err(wrong(format!("`{volume}` cannot name a volume"))
                    .hint("type=bind mounts a directory of the host"));
            }
            MountSource::Volume {
                volume,
                copy_up: draft.copy_up.unwrap_or(true),
            }
        }
        "tmpfs" => {
            if draft.source.is_some() {
                return Err(wrong("a tmpfs has no source".to_owned()));
            }
            draft.options.extend(TMPFS_DEFAULTS.map(str::to_owned));
            MountSource::Tmpfs {
                data: draft.data,
                copy_up: draft.copy_up.unwrap_or(false),
            }
        }
        "image" | "npipe" | "cluster" | "devpts" | "ramfs" | "glob" | "artifact" => {
            return Err(not_yet(&format!("--mount type={kind}")));
        }
        _ => {
            return Err(wrong(format!("unknown type `{kind}`")).hint("known: bind, volume, tmpfs"));
        }
    };
    Ok(Mount {
        target,
        source,
        read_only: draft.read_only,
        options: draft.options,
    })
}

/// What has been read of one `--mount`.
#[derive(Debug)]
struct Draft {
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    recursive: bool,
    copy_up: Option<bool>,
    options: Vec<String>,
    data: Vec<String>,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            source: None,
            target: None,
            read_only: false,
            recursive: true,
            copy_up: None,
            options: Vec::new(),
            data: Vec::new(),
        }
    }
}

impl Draft {
    fn set(
        &mut self,
        kind: &str,
        key: &str,
        value: Option<&str>,
        environment: &Environment<'_>,
    ) -> Result<(), Fail> {
        let needed = || {
            value
                .filter(|value| !value.is_empty())
                .ok_or_else(|| Fail::usage(format!("`{key}` needs a value")))
        };
        let flag = || {
            value.map_or(Ok(true), |value| {
                boolean(value).map_err(|why| Fail::usage(format!("`{key}={value}`: {why}")))
            })
        };
        match (kind, key) {
            (_, "type") => {}
            (_, "source" | "src") => self.source = value.map(str::to_owned),
            (_, "target" | "dst" | "destination") => self.target = Some(needed()?.to_owned()),
            (_, "readonly" | "ro") => self.read_only = flag()?,
            (_, "rw") => self.read_only = !flag()?,
            (_, "consistency") => {}
            ("bind", "bind-propagation") => {
                let propagation = needed()?;
                if !PROPAGATIONS.contains(&propagation) {
                    return Err(Fail::usage(format!("unknown propagation `{propagation}`"))
                        .hint("known: [r]private, [r]shared, [r]slave"));
                }
                self.options.push(propagation.to_owned());
            }
            ("bind", "bind-nonrecursive") => self.recursive = !flag()?,
            ("bind", "bind-recursive") => match needed()? {
                // A read-only bind is read-only all the way down here, as in docker on kernels from 5.12.
                "enabled" | "readonly" | "true" => self.recursive = true,
                "disabled" | "false" => self.recursive = false,
                "writable" => return Err(not_yet("`bind-recursive=writable`")),
                other => {
                    return Err(
                        Fail::usage(format!("unknown value `bind-recursive={other}`"))
                            .hint("known: enabled, disabled, readonly"),
                    );
                }
            },
            ("bind", "relabel") => relabel(needed()?, environment)?,
            ("volume", "volume-nocopy" | "nocopy") => self.copy_up = Some(!flag()?),
            (
                "volume",
                "volume-label" | "volume-driver" | "volume-opt" | "volume-subpath" | "subpath",
            ) => {
                return Err(not_yet(&format!("`{key}`")));
            }
            ("tmpfs", "tmpfs-size" | "size") => {
                let text = needed()?;
                let bytes =
                    size(text).map_err(|why| Fail::usage(format!("`{key}={text}`: {why}")))?;
                self.data.push(format!("size={bytes}"));
            }
            ("tmpfs", "tmpfs-mode" | "mode") => {
                self.data.push(format!("mode={}", octal(needed()?)?));
            }
            ("tmpfs", "tmpcopyup") => self.copy_up = Some(flag()?),
            ("tmpfs", "notmpcopyup") => self.copy_up = Some(!flag()?),
            _ => {
                return Err(Fail::usage(format!("type={kind} has no key `{key}`")));
            }
        }
        Ok(())
    }
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
        target,
        source: MountSource::Tmpfs { data, copy_up },
        read_only,
        options,
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

fn target_path(text: &str) -> Option<String> {
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

fn relabel(option: &str, environment: &Environment<'_>) -> Result<(), Fail> {
    if environment.selinux {
        return Err(not_yet(&format!("`{option}` (change the SELinux label)"))
            .hint("leave it out: containers of `rl` keep your own SELinux domain, so your files stay accessible"));
    }
    Ok(())
}

fn octal(text: &str) -> Result<String, Fail> {
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

fn not_yet(what: &str) -> Fail {
    Fail::unsupported(format!("{what} is not supported"))
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::environment;
    use super::*;

    fn shown(mount: &Mount) -> String {
        let source = match &mount.source {
            MountSource::Bind { path, recursive } => {
                format!(
                    "{}bind {}",
                    if *recursive { "r" } else { "" },
                    path.display()
                )
            }
            MountSource::Volume { volume, copy_up } => {
                format!("volume `{volume}`{}", if *copy_up { "" } else { " nocopy" })
            }
            MountSource::Tmpfs { data, copy_up } => {
                format!("tmpfs {data:?}{}", if *copy_up { " copyup" } else { "" })
            }
        };
        format!(
            "{source} at {} {} {:?}",
            mount.target,
            if mount.read_only { "ro" } else { "rw" },
            mount.options
        )
    }

    fn table(rows: &[(&str, &str)], parse: impl Fn(&str) -> Result<Mount, Fail>) {
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
                (
                    "/have:/b:U",
                    "error: -v `/have:/b:U`: `U` (change the owner of the source) is not supported",
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
    fn long_mounts_are_dockers() {
        let environment = environment();
        table(
            &[
                (
                    "type=bind,source=/have,target=/t",
                    "rbind /have at /t rw []",
                ),
                (
                    "type=bind,src=/have,dst=/t,readonly,bind-propagation=rshared",
                    r#"rbind /have at /t ro ["rshared"]"#,
                ),
                (
                    "type=bind,src=/have,dst=/t,ro=false,bind-recursive=disabled",
                    "bind /have at /t rw []",
                ),
                ("target=/t", "volume `` at /t rw []"),
                (
                    "type=volume,source=v,destination=/t,volume-nocopy",
                    "volume `v` nocopy at /t rw []",
                ),
                (
                    "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700",
                    r#"tmpfs ["size=1048576", "mode=0700"] at /t rw ["noexec", "nosuid", "nodev"]"#,
                ),
                (
                    "type=bind,target=/t",
                    "error: --mount `type=bind,target=/t`: `source=` is missing",
                ),
                (
                    "type=bind,source=/have",
                    "error: --mount `type=bind,source=/have`: `target=` is missing",
                ),
                (
                    "type=bind,source=/have,target=t",
                    "error: --mount `type=bind,source=/have,target=t`: the target `t` is not an absolute path",
                ),
                (
                    "type=floppy,target=/t",
                    "error: --mount `type=floppy,target=/t`: unknown type `floppy`",
                ),
                (
                    "type=image,source=a,target=/t",
                    "error: --mount type=image is not supported",
                ),
                (
                    "type=tmpfs,target=/t,source=x",
                    "error: --mount `type=tmpfs,target=/t,source=x`: a tmpfs has no source",
                ),
                (
                    "type=tmpfs,target=/t,bind-propagation=x",
                    "error: --mount `type=tmpfs,target=/t,bind-propagation=x`: type=tmpfs has no key `bind-propagation`",
                ),
                (
                    "type=bind,src=/have,dst=/t,ro=maybe",
                    "error: --mount `type=bind,src=/have,dst=/t,ro=maybe`: `ro=maybe`: give true or false",
                ),
                (
                    "type=tmpfs,dst=/t,tmpfs-size=x",
                    "error: --mount `type=tmpfs,dst=/t,tmpfs-size=x`: `tmpfs-size=x`: give a size such as 512k, 64m, 1g or a number of bytes",
                ),
            ],
            |text| mount(text, &environment),
        );
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
