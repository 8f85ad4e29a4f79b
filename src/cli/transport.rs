//! Prefixes that say where an image is: `oci:DIR[:NAME]`, `oci-archive:FILE[:NAME]`, `docker-archive:FILE[:NAME]`,
//! `dir:DIR`. Pure but for a look whether a path exists. Source: containers-transports(5).

use std::path::{Path, PathBuf};

use crate::error::Fail;
use crate::image::save::Form;

/// A place that is no registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// What is there.
    pub form: Form,
    /// Where.
    pub path: PathBuf,
    /// Which image of several, or its name when it is written.
    pub name: Option<String>,
}

impl Transport {
    /// Reads a destination; `None` when it has no such prefix.
    ///
    /// # Errors
    /// `Usage` when the path is missing.
    pub fn parse(text: &str) -> Result<Option<Self>, Fail> {
        let Some((prefix, rest)) = text.split_once(':') else {
            return Ok(None);
        };
        let form = match prefix {
            "oci" => Form::OciDir,
            "oci-archive" => Form::OciArchive,
            "docker-archive" => Form::DockerArchive,
            "dir" => Form::DockerDir,
            "docker-daemon" | "containers-storage" | "ostree" | "sif"
                if rest.starts_with(['/', '[']) =>
            {
                return Err(Fail::unsupported(format!("`{prefix}:` is not supported"))
                    .hint("known are docker://, oci:, oci-archive:, docker-archive: and dir:"));
            }
            _ => return Ok(None),
        };
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) if form != Form::DockerDir => (path, Some(name.to_owned())),
            Some(_) | None => (rest, None),
        };
        if path.is_empty() || name.as_deref() == Some("") {
            return Err(
                Fail::usage(format!("`{text}` has an empty part")).hint(format!(
                    "write {prefix}:PATH, perhaps with a name behind it"
                )),
            );
        }
        Ok(Some(Self {
            form,
            path: PathBuf::from(path),
            name,
        }))
    }

    /// Reads a source. `oci:1` and the like are images of a registry unless there is such a path.
    ///
    /// # Errors
    /// As [`Transport::parse`].
    pub fn parse_source(text: &str) -> Result<Option<Self>, Fail> {
        let is_path = |path: &Path| path.components().count() > 1 || path.exists();
        Ok(Self::parse(text)?.filter(|transport| is_path(&transport.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_told_from_names() {
        let read = |text: &str| {
            let found = Transport::parse(text).unwrap()?;
            Some((found.form, found.path.display().to_string(), found.name))
        };
        for (text, expected) in [
            ("oci:/a/b", Some((Form::OciDir, "/a/b", None))),
            ("oci:b:tag", Some((Form::OciDir, "b", Some("tag")))),
            (
                "oci-archive:a.tar:x.org/y:1",
                Some((Form::OciArchive, "a.tar", Some("x.org/y:1"))),
            ),
            (
                "docker-archive:a.tar",
                Some((Form::DockerArchive, "a.tar", None)),
            ),
            ("dir:/a:b", Some((Form::DockerDir, "/a:b", None))),
            ("docker://alpine", None),
            ("alpine:3", None),
            ("localhost:5000/oci:1", None),
            ("ostree:1", None),
        ] {
            let expected =
                expected.map(|(form, path, name)| (form, path.to_owned(), name.map(str::to_owned)));
            assert_eq!(read(text), expected, "{text}");
        }
        for bad in ["oci:", "dir:", "oci:a:", "containers-storage:/x"] {
            assert!(Transport::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Transport::parse_source("oci:no-such-path-here").unwrap(),
            None
        );
    }
}
