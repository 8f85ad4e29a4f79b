//! `update`: other limits for a container that is there.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{Global, config, lifecycle};
use crate::error::Fail;
use crate::spec::resources::{BlockIo, Cpu, Memory, Pids, Resources};

/// Its flags, which are runc's.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct UpdateArgs {
    /// Read the resources from this file of JSON, or from standard input (-)
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight at block devices, from 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Microseconds of a period of the processors
    #[arg(long, value_name = "N")]
    cpu_period: Option<u64>,
    /// Microseconds of the processors in each period
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Microseconds that may be saved up
    #[arg(long, value_name = "N")]
    cpu_burst: Option<u64>,
    /// Weight at the processors, from 2 to 262144
    #[arg(long, visible_alias = "cpu-shares", value_name = "N")]
    cpu_share: Option<u64>,
    /// Of cgroups version 1
    #[arg(long, value_name = "N")]
    cpu_rt_period: Option<u64>,
    /// Of cgroups version 1
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Only what nobody else wants of the processors (1) or not (0)
    #[arg(long, value_name = "N")]
    cpu_idle: Option<i64>,
    /// Processors that may be used
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Of cgroups version 1 (accepted, nothing changes)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    /// Of cgroups version 1 (accepted, nothing changes)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// Memory, in bytes or with k, m, g
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that is protected, softly
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processes
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Of Intel RDT, which is not supported
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Of Intel RDT, which is not supported
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// The container's id
    pub id: String,
}

/// Does it.
///
/// # Errors
/// A value that is none, a limit that cannot be had.
pub fn update(args: &UpdateArgs, global: &Global) -> Result<()> {
    for (flag, given) in [
        ("--l3-cache-schema", args.l3_cache_schema.is_some()),
        ("--mem-bw-schema", args.mem_bw_schema.is_some()),
    ] {
        if given {
            return Err(Fail::unsupported(format!("{flag}: Intel RDT is not supported")).into());
        }
    }
    let change = match &args.resources {
        Some(path) if path.as_os_str() == "-" => {
            let text = std::io::read_to_string(std::io::stdin().lock())
                .context("--resources: reading standard input")?;
            config::parse(&text)
                .map_err(|fail| anyhow::Error::from(fail).context("--resources: standard input"))?
        }
        Some(path) => config::read(path).context("--resources")?,
        None => from_flags(args)?,
    };
    lifecycle::update(&args.id, &change, global)
}

fn from_flags(args: &UpdateArgs) -> Result<Resources> {
    let bytes = |flag: &str, text: &Option<String>| -> Result<Option<i64>> {
        let Some(text) = text else {
            return Ok(None);
        };
        bytes(text)
            .map(Some)
            .ok_or_else(|| Fail::usage(format!("{flag}: `{text}` is no size")).into())
    };
    let memory = Memory {
        limit: bytes("--memory", &args.memory)?,
        reservation: bytes("--memory-reservation", &args.memory_reservation)?,
        swap: bytes("--memory-swap", &args.memory_swap)?,
        ..Memory::default()
    };
    let cpu = Cpu {
        shares: args.cpu_share,
        quota: args.cpu_quota,
        burst: args.cpu_burst,
        period: args.cpu_period,
        realtime_runtime: args.cpu_rt_runtime,
        realtime_period: args.cpu_rt_period,
        cpus: args.cpuset_cpus.clone(),
        mems: args.cpuset_mems.clone(),
        idle: args.cpu_idle,
    };
    Ok(Resources {
        memory: Some(memory),
        cpu: Some(cpu),
        pids: args.pids_limit.map(|limit| Pids { limit: Some(limit) }),
        block_io: args.blkio_weight.map(|weight| BlockIo {
            weight: Some(weight),
            ..BlockIo::default()
        }),
        ..Resources::default()
    })
}

/// A size as docker's `units` reads it, in powers of 1024; -1 is without limit.
fn bytes(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (number, power) = match lower.chars().last()? {
        'k' => (&lower[..lower.len() - 1], 10),
        'm' => (&lower[..lower.len() - 1], 20),
        'g' => (&lower[..lower.len() - 1], 30),
        't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number: i64 = number.trim().parse().ok()?;
    number.checked_mul(1 << power)
}

/// Notes what has changed.
pub fn merge(old: &mut Resources, change: &Resources) {
    fn over<T: serde::Serialize + for<'de> serde::Deserialize<'de> + Clone>(
        old: &mut Option<T>,
        new: Option<&T>,
    ) {
        let Some(new) = new else {
            return;
        };
        let before = old.as_ref().and_then(|one| serde_json::to_value(one).ok());
        let (Some(serde_json::Value::Object(mut all)), Ok(serde_json::Value::Object(fields))) =
            (before, serde_json::to_value(new))
        else {
            *old = Some(new.clone());
            return;
        };
        all.extend(fields);
        if let Ok(merged) = serde_json::from_value(serde_json::Value::Object(all)) {
            *old = Some(merged);
        }
    }
    over(&mut old.memory, change.memory.as_ref());
    over(&mut old.cpu, change.cpu.as_ref());
    over(&mut old.pids, change.pids.as_ref());
    over(&mut old.block_io, change.block_io.as_ref());
    old.unified.extend(change.unified.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_runc_does() {
        for (text, expected) in [
            ("10", Some(10)),
            ("-1", Some(-1)),
            ("64m", Some(64 << 20)),
            ("1GiB", Some(1 << 30)),
            ("2kb", Some(2048)),
            ("x", None),
            ("", None),
            ("9999999999999t", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
