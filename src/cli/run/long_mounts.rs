//! `--mount`: text to mounts.
//!
//! As in `mounts`, nothing is made and nothing is mounted.

use std::collections::BTreeMap;

use super::mounts::{
    PROPAGATIONS, TMPFS_DEFAULTS, host_path, idmap, not_yet, octal, refuse_to_give_away, relabel,
    target_path,
};
use super::spec::Environment;
use super::values::{boolean, comma_fields, key_value, size};
use crate::error::Fail;
use crate::spec::{Image, Mount, MountSource, Rootfs, is_name};

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
            if let Some(word) = draft.below
                && !draft.read_only
            {
                return Err(wrong(format!(
                    "`bind-recursive={word}` goes with `readonly`"
                )));
            }
            MountSource::Bind {
                path: environment.existing("--mount", &source)?,
                recursive: draft.recursive,
                writable_below: draft.below == Some("writable"),
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
                subpath: draft.subpath,
                labels: draft.labels,
            }
        }
        "image" => {
            let reference = draft
                .source
                .filter(|source| !source.is_empty())
                .ok_or_else(|| wrong("`source=` is missing: the name of an image".to_owned()))?;
            MountSource::Image {
                files: files_of(&reference, environment),
                image: Image {
                    reference,
                    id: String::new(),
                },
                subpath: draft.subpath,
            }
        }
        "tmpfs" => {
            if draft.source.is_some() {
                return Err(wrong("a tmpfs has no source".to_owned()));
            }
            if draft.own && draft.read_only {
                return Err(wrong(
                    "a read-only tmpfs cannot be given to another user".to_owned(),
                ));
            }
            let given = std::mem::take(&mut draft.options);
            draft.options = TMPFS_DEFAULTS
                .iter()
                .filter(|word| !given.iter().any(|option| *option == word[2..]))
                .map(|word| (*word).to_owned())
                .collect();
            MountSource::Tmpfs {
                data: draft.data,
                copy_up: draft.copy_up.unwrap_or(false),
            }
        }
        "npipe" | "cluster" | "devpts" | "ramfs" | "glob" | "artifact" => {
            return Err(not_yet(&format!("--mount type={kind}")));
        }
        _ => {
            return Err(
                wrong(format!("unknown type `{kind}`")).hint("known: bind, volume, tmpfs, image")
            );
        }
    };
    let mount = Mount {
        // Docker's is never written to, podman's only where it says so.
        read_only: draft.read_only || kind == "image" && !draft.writable,
        options: draft.options,
        own: draft.own,
        ..Mount::new(target, source)
    };
    if mount.own {
        refuse_to_give_away(&mount, environment).map_err(|fail| Fail {
            message: format!("--mount `{text}`: {}", fail.message),
            ..fail
        })?;
    }
    Ok(mount)
}

/// What has been read of one `--mount`.
#[derive(Debug)]
struct Draft {
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    /// `rw`, in so many words.
    writable: bool,
    recursive: bool,
    /// What `bind-recursive` says of what is mounted below a read-only one.
    below: Option<&'static str>,
    copy_up: Option<bool>,
    options: Vec<String>,
    data: Vec<String>,
    subpath: String,
    labels: BTreeMap<String, String>,
    own: bool,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            source: None,
            target: None,
            read_only: false,
            writable: false,
            recursive: true,
            below: None,
            copy_up: None,
            options: Vec::new(),
            data: Vec::new(),
            subpath: String::new(),
            labels: BTreeMap::new(),
            own: false,
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
            (_, "readonly" | "ro") => {
                self.read_only = flag()?;
                self.writable = !self.read_only;
            }
            (_, "rw" | "readwrite") => {
                self.writable = flag()?;
                self.read_only = !self.writable;
            }
            (_, "consistency") => {}
            ("bind" | "volume" | "tmpfs", "u" | "chown") => self.own = flag()?,
            ("bind", "idmap") => return Err(idmap()),
            (_, "nosuid" | "nodev" | "noexec") if flag()? => self.options.push(key.to_owned()),
            // The default, but for a tmpfs.
            (_, "suid" | "dev" | "exec") if flag()? => {
                if kind == "tmpfs" {
                    self.options.push(key.to_owned());
                }
            }
            ("bind", word) if PROPAGATIONS.contains(&word) => self.options.push(word.to_owned()),
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
                "enabled" | "true" => self.recursive = true,
                "disabled" | "false" => self.recursive = false,
                "readonly" => self.below = Some("readonly"),
                "writable" => self.below = Some("writable"),
                other => {
                    return Err(
                        Fail::usage(format!("unknown value `bind-recursive={other}`"))
                            .hint("known: enabled, disabled, readonly, writable"),
                    );
                }
            },
            ("bind", "relabel") => relabel(needed()?, environment)?,
            ("volume", "volume-nocopy" | "nocopy") => self.copy_up = Some(!flag()?),
            ("volume", "volume-subpath" | "subpath") | ("image", "image-subpath" | "subpath") => {
                self.subpath = subpath(key, needed()?)?;
            }
            ("volume", "volume-label") => {
                let (name, value) = key_value("volume-label", needed()?)?;
                self.labels.insert(name, value);
            }
            ("volume", "volume-driver") if matches!(value, Some("local" | "")) => {}
            ("volume", "volume-driver") => {
                return Err(Fail::unsupported(format!(
                    "`volume-driver={}`: there are local volumes only",
                    value.unwrap_or_default()
                )));
            }
            ("volume", "volume-opt") => {
                return Err(Fail::unsupported(
                    "`volume-opt`: a volume is a plain directory, and takes no options",
                )
                .hint("mount what you need by other means, and use it: type=bind,source=DIR,…"));
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

/// A squash file, where the source is a path as that of `rl run ./FILE`; else layers, which are not known yet.
fn files_of(source: &str, environment: &Environment<'_>) -> Rootfs {
    match ["/", "./", "../"]
        .iter()
        .any(|start| source.starts_with(start))
    {
        true => Rootfs::Squash {
            path: host_path(source, &environment.cwd),
        },
        false => Rootfs::Layers {
            diff_ids: Vec::new(),
        },
    }
}

/// A path inside a volume or an image, without what leads nowhere.
fn subpath(key: &str, text: &str) -> Result<String, Fail> {
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        return Err(Fail::usage(format!("`{key}={text}` leads out with `..`")));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::mounts::tests::table;
    use super::super::spec::tests::environment;
    use super::*;

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
                ("type=image,source=a,target=/t", "image a `` at /t ro []"),
                (
                    "type=image,src=a:1,dst=/t,rw,subpath=/b/./c",
                    "image a:1 `b/c` at /t rw []",
                ),
                (
                    "type=image,target=/t",
                    "error: --mount `type=image,target=/t`: `source=` is missing: the name of an image",
                ),
                (
                    "type=image,source=a,target=/t,subpath=a/../../b",
                    "error: --mount `type=image,source=a,target=/t,subpath=a/../../b`: `subpath=a/../../b` leads out with `..`",
                ),
                (
                    "src=v,dst=/t,volume-subpath=a/b,volume-label=x=1,volume-label=y,volume-driver=local",
                    r#"volume `v`/a/b {"x": "1", "y": ""} at /t rw []"#,
                ),
                (
                    "src=v,dst=/t,volume-driver=nfs",
                    "error: --mount `src=v,dst=/t,volume-driver=nfs`: `volume-driver=nfs`: there are local volumes only",
                ),
                (
                    "src=v,dst=/t,volume-opt=o=x",
                    "error: --mount `src=v,dst=/t,volume-opt=o=x`: `volume-opt`: a volume is a plain directory, and takes no options",
                ),
                (
                    "type=bind,src=./here,dst=/t,ro,bind-recursive=writable,U=true",
                    "rbind /cwd/here (top) at /t ro [] own",
                ),
                (
                    "type=bind,src=/have,dst=/t,ro,bind-recursive=readonly,noexec,rslave",
                    r#"rbind /have at /t ro ["noexec", "rslave"]"#,
                ),
                (
                    "type=bind,src=/have,dst=/t,bind-recursive=readonly",
                    "error: --mount `type=bind,src=/have,dst=/t,bind-recursive=readonly`: `bind-recursive=readonly` goes with `readonly`",
                ),
                (
                    "type=bind,src=/,dst=/t,chown",
                    "error: --mount `type=bind,src=/,dst=/t,chown`: `U` would change the owner of all that is in `/`",
                ),
                (
                    "type=tmpfs,dst=/t,exec,U",
                    r#"tmpfs [] at /t rw ["nosuid", "nodev"] own"#,
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
}
