//! `limits.toml`: limits that containers get without being asked for, what `cgrulesengd` does for root.
//!
//! ```toml
//! [[rule]]
//! image = "*postgres*"
//! label = "tier=batch"
//! memory = "2g"
//! cpus = 1.5
//! ```
//!
//! The first rule that fits is the one that counts; a flag is stronger than its line. Text to rules is pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use toml::Spanned;

use super::resources::{self, ResourceArgs};
use super::values::glob;
use crate::error::Fail;
use crate::spec::{CgroupMode, ContainerSpec, Resources};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Spanned<Entry>>,
}

/// One `[[rule]]`, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    image: Option<String>,
    name: Option<String>,
    label: Option<String>,
    memory: Option<Spanned<Number>>,
    memory_reservation: Option<Spanned<Number>>,
    memory_swap: Option<Spanned<Number>>,
    cpus: Option<Spanned<Number>>,
    cpu_shares: Option<u64>,
    cpu_period: Option<u64>,
    cpu_quota: Option<i64>,
    cpuset_cpus: Option<String>,
    cpuset_mems: Option<String>,
    pids_limit: Option<i64>,
    blkio_weight: Option<u16>,
    #[serde(default)]
    cgroup_conf: BTreeMap<String, Number>,
}

/// `"2g"`, `2` or `1.5`.
#[derive(Debug, Clone, PartialEq)]
struct Number(String);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, or a number with a unit in quotes")
            }
            fn visit_str<E>(self, text: &str) -> Result<Number, E> {
                Ok(Number(text.to_owned()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number.to_string()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number.to_string()))
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// One rule, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    image: Option<String>,
    name: Option<String>,
    label: Option<String>,
    resources: Resources,
    line: usize,
}

/// Line and column of a byte, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[start..].chars().count() + 1,
    )
}

fn parse(path: &str, text: &str) -> Result<Vec<Rule>, Fail> {
    let wrong = |at: usize, why: &str| {
        let (line, column) = place(text, at);
        Fail::usage(format!("{path}:{line}:{column}: {why}")).hint("docs/limits.md has an example")
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let why: Vec<&str> = error.message().lines().collect();
        wrong(at, &why.join(", "))
    })?;
    let rules = file.rule.iter().map(|entry| {
        let at = entry.span().start;
        let rule = understand(entry.get_ref(), at, &wrong)?;
        if rule.image.is_none() && rule.name.is_none() && rule.label.is_none() {
            return Err(wrong(
                at,
                "the rule fits nothing: it has neither image, name nor label",
            ));
        }
        if rule.resources.is_empty() {
            return Err(wrong(at, "the rule has no limits"));
        }
        Ok(Rule {
            line: place(text, at).0,
            ..rule
        })
    });
    rules.collect()
}

fn understand(entry: &Entry, at: usize, wrong: &dyn Fn(usize, &str) -> Fail) -> Result<Rule, Fail> {
    let word =
        |number: &Option<Spanned<Number>>| number.as_ref().map(|one| one.get_ref().0.clone());
    let conf = entry.cgroup_conf.iter();
    let all = ResourceArgs {
        memory: word(&entry.memory),
        memory_reservation: word(&entry.memory_reservation),
        memory_swap: word(&entry.memory_swap),
        cpus: word(&entry.cpus),
        cpu_shares: entry.cpu_shares,
        cpu_period: entry.cpu_period,
        cpu_quota: entry.cpu_quota,
        cpuset_cpus: entry.cpuset_cpus.clone(),
        cpuset_mems: entry.cpuset_mems.clone(),
        pids_limit: entry.pids_limit,
        blkio_weight: entry.blkio_weight,
        cgroup_conf: conf
            .map(|(key, value)| format!("{key}={}", value.0))
            .collect(),
        ..ResourceArgs::default()
    };
    // Which of them is it that cannot be read?
    let spans: [(ResourceArgs, &Option<Spanned<Number>>); 4] = [
        (
            ResourceArgs {
                memory: all.memory.clone(),
                ..ResourceArgs::default()
            },
            &entry.memory,
        ),
        (
            ResourceArgs {
                memory_reservation: all.memory_reservation.clone(),
                ..ResourceArgs::default()
            },
            &entry.memory_reservation,
        ),
        (
            ResourceArgs {
                memory_swap: all.memory_swap.clone(),
                ..ResourceArgs::default()
            },
            &entry.memory_swap,
        ),
        (
            ResourceArgs {
                cpus: all.cpus.clone(),
                ..ResourceArgs::default()
            },
            &entry.cpus,
        ),
    ];
    for (one, value) in &spans {
        if let (Err(fail), Some(value)) = (resources::resources(one), value) {
            return Err(wrong(
                value.span().start,
                fail.message.trim_start_matches("--"),
            ));
        }
    }
    let understood = resources::resources(&all).map_err(|fail| wrong(at, &fail.message))?;
    Ok(Rule {
        image: entry.image.clone(),
        name: entry.name.clone(),
        label: entry.label.clone(),
        resources: understood,
        line: 0,
    })
}

impl Rule {
    /// All that it names must fit.
    fn fits(&self, spec: &ContainerSpec) -> bool {
        let image = self.image.as_ref().is_none_or(|pattern| {
            let image = spec.image.as_ref();
            image.is_some_and(|image| names(&image.reference).any(|name| glob(pattern, name)))
        });
        let name = self
            .name
            .as_ref()
            .is_none_or(|pattern| glob(pattern, &spec.name));
        let label = self.label.as_ref().is_none_or(|wanted| {
            let (key, value) = match wanted.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (wanted.as_str(), None),
            };
            spec.labels
                .get(key)
                .is_some_and(|has| value.is_none_or(|value| glob(value, has)))
        });
        image && name && label
    }
}

/// What a pattern may mean by an image: all of its name, without its tag, without its registry and folder.
fn names(reference: &str) -> impl Iterator<Item = &str> {
    let untagged = reference.split('@').next().unwrap_or(reference);
    let untagged = match untagged.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => untagged,
    };
    let last = untagged.rsplit('/').next().unwrap_or(untagged);
    let tagged = reference.rsplit('/').next().unwrap_or(reference);
    [reference, untagged, last, tagged].into_iter()
}

/// Fills what no flag has said.
fn fill(resources: &mut Resources, rule: &Resources) {
    fn one<T: Clone>(kept: &mut Option<T>, found: &Option<T>) {
        if kept.is_none() {
            kept.clone_from(found);
        }
    }
    one(&mut resources.memory_reservation, &rule.memory_reservation);
    // A swap that the rule says belongs to its memory.
    if resources.memory.is_none() {
        one(&mut resources.memory_swap, &rule.memory_swap);
    }
    one(&mut resources.memory, &rule.memory);
    // Docker refuses --cpus beside a quota: whoever named one of them has said it all.
    if resources.cpu_quota.is_none()
        && resources.cpu_period.is_none()
        && resources.nano_cpus.is_none()
    {
        resources.nano_cpus = rule.nano_cpus;
        resources.cpu_quota = rule.cpu_quota;
        resources.cpu_period = rule.cpu_period;
    }
    one(&mut resources.cpu_shares, &rule.cpu_shares);
    one(&mut resources.cpuset_cpus, &rule.cpuset_cpus);
    one(&mut resources.cpuset_mems, &rule.cpuset_mems);
    one(&mut resources.pids, &rule.pids);
    one(&mut resources.blkio_weight, &rule.blkio_weight);
    for (key, value) in &rule.conf {
        resources
            .conf
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
}

/// Gives a container the limits of the first rule that fits.
///
/// # Errors
/// `Usage` with line and column of what is wrong in the file.
pub fn apply(spec: &mut ContainerSpec) -> Result<()> {
    // Whoever wants no group wants no limits.
    if spec.cgroup.mode == CgroupMode::Inherit {
        return Ok(());
    }
    let Some(path) = path() else { return Ok(()) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("reading `{}`", path.display())),
    };
    choose(spec, &path.display().to_string(), &text)?;
    Ok(())
}

fn choose(spec: &mut ContainerSpec, path: &str, text: &str) -> Result<(), Fail> {
    let rules = parse(path, text)?;
    if let Some(rule) = rules.iter().find(|rule| rule.fits(spec)) {
        let before = spec.cgroup.resources.clone();
        fill(&mut spec.cgroup.resources, &rule.resources);
        if spec.cgroup.resources != before {
            spec.cgroup.rule = Some(format!("{path}:{}", rule.line));
        }
    }
    Ok(())
}

/// `$XDG_CONFIG_HOME/rl/limits.toml`.
fn path() -> Option<PathBuf> {
    Some(crate::paths::config_home()?.join("rl/limits.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::view::tests::seen;

    fn chosen(text: &str, change: impl FnOnce(&mut ContainerSpec)) -> (Resources, Option<String>) {
        let mut spec = seen(|_, _| {}).spec;
        change(&mut spec);
        choose(&mut spec, "limits.toml", text).unwrap();
        (spec.cgroup.resources, spec.cgroup.rule)
    }

    const RULES: &str = r#"
        [[rule]]
        image = "alp*"
        label = "app=x*"
        memory = "2g"
        cpus = 1.5
        pids-limit = 100
        cgroup-conf = { "memory.high" = "1G" }

        [[rule]]
        name = "w*"
        memory = 1048576
    "#;

    #[test]
    fn the_first_rule_that_fits_counts_and_flags_are_stronger() {
        let (got, rule) = chosen(RULES, |_| {});
        assert_eq!(rule.as_deref(), Some("limits.toml:2"));
        assert_eq!((got.memory, got.pids), (Some(2 << 30), Some(100)));
        assert_eq!(got.nano_cpus, Some(1_500_000_000));
        assert_eq!(got.conf["memory.high"], "1G");

        let (got, rule) = chosen(RULES, |spec| {
            spec.cgroup.resources.memory = Some(5);
            spec.cgroup.resources.cpu_quota = Some(7);
        });
        assert_eq!(rule.as_deref(), Some("limits.toml:2"));
        assert_eq!(
            (got.memory, got.cpu_quota, got.nano_cpus),
            (Some(5), Some(7), None)
        );

        let (got, rule) = chosen(RULES, |spec| spec.labels.clear());
        assert_eq!(rule.as_deref(), Some("limits.toml:10"));
        assert_eq!((got.memory, got.pids), (Some(1 << 20), None));

        let (got, rule) = chosen(RULES, |spec| {
            spec.labels.clear();
            spec.name = "db".to_owned();
        });
        assert_eq!((got, rule), (Resources::default(), None));
        // A rule that changes nothing is not announced.
        let (_, rule) = chosen("[[rule]]\nname='*'\nmemory='1g'\n", |spec| {
            spec.cgroup.resources.memory = Some(5);
        });
        assert_eq!(rule, None);
    }

    #[test]
    fn an_image_is_meant_by_any_of_its_names() {
        for (reference, pattern, expected) in [
            ("docker.io/library/postgres:16", "postgres", true),
            ("docker.io/library/postgres:16", "postgres:1*", true),
            ("docker.io/library/postgres:16", "docker.io/library/*", true),
            ("docker.io/library/postgres:16", "mysql*", false),
            ("localhost:5000/a/b", "localhost:5000/a/b", true),
            ("localhost:5000/a/b", "b", true),
            ("localhost:5000/a/b", "localhost", false),
        ] {
            let fits = names(reference).any(|name| glob(pattern, name));
            assert_eq!(fits, expected, "{reference} {pattern}");
        }
    }

    #[test]
    fn mistakes_are_named_with_line_and_column() {
        for (text, expected) in [
            ("[[rule]\n", "limits.toml:1:8: "),
            (
                "[[rule]]\nname = 'a'\nmemory = 'lots'\n",
                "limits.toml:3:10: memory `lots` makes no sense",
            ),
            (
                "[[rule]]\nname = 'a'\n  cpus = -1\n",
                "limits.toml:3:10: cpus `-1` is not a number",
            ),
            (
                "[[rule]]\nname = 'a'\nmemroy = '1g'\n",
                "limits.toml:3:1: unknown field `memroy`",
            ),
            (
                "[[rule]]\nname = 'a'\npids-limit = 'x'\n",
                "limits.toml:3:14: invalid type",
            ),
            ("[[rules]]\n", "limits.toml:1:3: unknown field `rules`"),
            (
                "\n[[rule]]\nmemory = '1g'\n",
                "limits.toml:2:1: the rule fits nothing",
            ),
            (
                "[[rule]]\nname = '*'\n",
                "limits.toml:1:1: the rule has no limits",
            ),
            ("[[rule]]\nname = 'ä' memory = 1\n", "limits.toml:2:12: "),
        ] {
            let message = parse("limits.toml", text).unwrap_err().message;
            assert!(message.starts_with(expected), "{text}: {message}");
        }
        assert_eq!(parse("limits.toml", "# nothing\n"), Ok(Vec::new()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,200}", at in 0usize..300) {
            let _ = parse("limits.toml", &text);
            place(&text, at);
        }
    }
}
