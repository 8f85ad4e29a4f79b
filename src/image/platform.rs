//! Operating systems and processors, in the words of Go: which image runs on which machine. Pure.
//!
//! Source: OCI image specification, image-index.md (platform variants); the order of preference is
//! containerd's.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Fail;

/// What an image runs on, in the words of Go: `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`, `arm`, `386`, `ppc64le`, `s390x`, `riscv64`, …
    pub architecture: String,
    /// `v7`, `v8`; with amd64 `v2` to `v4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Windows builds only.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
}

impl Platform {
    /// The machine that `rl` runs on.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "mips64" if cfg!(target_endian = "little") => "mips64le",
            other => other,
        };
        let variant = if cfg!(all(target_arch = "arm", not(target_feature = "v7"))) {
            Some("v6")
        } else {
            None
        };
        Self::of("linux", architecture, variant).normal()
    }

    /// Whether this machine can execute what was made for it, as far as can be told: by its own processor, or because
    /// somebody has registered interpreters with the kernel.
    #[must_use]
    pub fn is_executable_here(&self) -> bool {
        // Not which level of a processor: images say more than they need.
        let any = Self {
            variant: None,
            ..self.normal()
        };
        any.os.is_empty() || Self::host().rank(&any).is_some() || has_interpreters()
    }

    /// Reads `OS/ARCH[/VARIANT]`, or an architecture or operating system alone, as `--platform` takes it.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`].
    pub fn parse(text: &str) -> Result<Self, Fail> {
        let wrong = || {
            Fail::usage(format!("`{}` is not a platform", text.escape_debug()))
                .hint("platforms are written as `linux/amd64`, `linux/arm64`, `linux/arm/v7`")
        };
        let is_word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(is_word) {
            return Err(wrong());
        }
        let platform = match parts.as_slice() {
            [os @ ("linux" | "windows" | "darwin" | "freebsd" | "wasip1" | "wasi")] => {
                let host = Self::host();
                Self::of(os, &host.architecture, host.variant.as_deref())
            }
            [architecture] => Self::of("linux", architecture, None),
            [os, architecture] => Self::of(os, architecture, None),
            [os, architecture, variant] => Self::of(os, architecture, Some(variant)),
            _ => return Err(wrong()),
        };
        Ok(platform.normal())
    }

    /// Exactly these words.
    #[must_use]
    pub fn of(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
            os_version: None,
        }
    }

    /// One spelling for each platform; the variants that need not be said are not.
    #[must_use]
    pub fn normal(&self) -> Self {
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.as_deref().unwrap_or("").to_ascii_lowercase();
        let variant = match variant.as_bytes() {
            [digit] if digit.is_ascii_digit() => format!("v{variant}"),
            _ => variant,
        };
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
            ("aarch64" | "arm64", "" | "v8") => ("arm64", ""),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "") => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("powerpc64le", variant) => ("ppc64le", variant),
            ("loongarch64", variant) => ("loong64", variant),
            other => other,
        };
        Self {
            os: self.os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: (!variant.is_empty()).then(|| variant.to_owned()),
            os_version: self.os_version.clone(),
        }
    }

    /// How well a program for `offered` runs here: 0 is best, `None` is not at all.
    ///
    /// A later level of a processor runs what was made for an earlier one; the 32-bit ancestors of
    /// amd64 and arm64 come last.
    #[must_use]
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        let (wanted, offered) = (self.normal(), offered.normal());
        if wanted.os != offered.os {
            return None;
        }
        let level = |platform: &Platform, silent: u32| match &platform.variant {
            None => Some(silent),
            Some(variant) => variant.strip_prefix('v')?.parse::<u32>().ok(),
        };
        let (silent, offset) = match (wanted.architecture.as_str(), offered.architecture.as_str()) {
            ("amd64", "amd64") => (1, 0),
            ("arm", "arm") => (7, 0),
            ("arm64", "arm64") => (8, 0),
            ("amd64", "386") | ("arm64", "arm") => {
                return level(&offered, 0).map(|level| 100 - level.min(99));
            }
            (wanted_name, offered_name) => {
                let same = wanted_name == offered_name
                    && (wanted.variant == offered.variant || offered.variant.is_none());
                return same.then_some(0);
            }
        };
        if wanted.variant == offered.variant {
            return Some(offset);
        }
        let (most, has) = (level(&wanted, silent)?, level(&offered, silent)?);
        most.checked_sub(has).map(|below| offset + below)
    }
}

/// Whether binfmt_misc has anything beside its own two files. Source: the kernel's binfmt-misc.rst.
fn has_interpreters() -> bool {
    let entries = std::fs::read_dir("/proc/sys/fs/binfmt_misc")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name != "register" && name != "status")
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn platforms_have_one_spelling() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64/v1", "linux/amd64"),
            ("amd64/v2", "amd64/v2"),
            ("arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/S390X", "linux/s390x"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), normal, "{text}");
        }
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/a b"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Platform::parse("linux").unwrap(), Platform::host());
    }

    proptest! {
        #[test]
        fn a_platform_comes_back_the_same(text in "[a-z0-9_]{1,6}(/[a-z0-9_]{1,6}){0,2}") {
            let platform = Platform::parse(&text).unwrap();
            prop_assert_eq!(Platform::parse(&platform.to_string()).unwrap(), platform.clone());
            prop_assert_eq!(platform.rank(&platform), Some(0));
        }
    }
}
