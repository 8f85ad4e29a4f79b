//! `linux.resources` of an OCI `config.json`, as files of a group of version 2.
//!
//! Source: OCI runtime specification, config-linux.md, "Control groups"; cgroup-v2.rst; the conversions of weights are
//! those of runc 1.1 and crun 1.8.

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use super::Group;
use super::limits::Setting;
use crate::error::Fail;
use crate::spec::resources::{BlockIo, Cpu, DeviceRate, Memory, Resources};

/// What is written, in order.
///
/// # Errors
/// [`crate::error::Kind::Usage`] or `Unsupported` that names the field.
pub fn settings(resources: &Resources) -> Result<Vec<Setting>, Fail> {
    let mut all = Files::default();
    if resources.network.is_some() {
        return Err(Fail::unsupported(
            "linux.resources.network: there is no such limit in cgroups version 2",
        ));
    }
    if let Some(memory) = &resources.memory {
        all.memory(memory)?;
    }
    if let Some(cpu) = &resources.cpu {
        all.cpu(cpu)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit)
        && limit != 0
    {
        all.add("linux.resources.pids.limit", "pids.max", number(limit));
    }
    if let Some(io) = &resources.block_io {
        all.block_io(io)?;
    }
    for one in &resources.hugepage_limits {
        let field = "linux.resources.hugepageLimits";
        all.add(
            field,
            format!("hugetlb.{}.max", one.page_size),
            one.limit.to_string(),
        );
    }
    for (device, one) in &resources.rdma {
        let mut text = device.clone();
        if let Some(handles) = one.hca_handles {
            text += &format!(" hca_handle={handles}");
        }
        if let Some(objects) = one.hca_objects {
            text += &format!(" hca_object={objects}");
        }
        all.add("linux.resources.rdma", "rdma.max", text);
    }
    for (file, text) in &resources.unified {
        if file.is_empty() || file.contains('/') || !file.contains('.') {
            return Err(Fail::usage(format!(
                "linux.resources.unified[{file}]: is no file of a group"
            )));
        }
        for line in text.lines() {
            all.add("linux.resources.unified", file.clone(), line.to_owned());
        }
    }
    Ok(all.0)
}

/// Writes them.
///
/// # Errors
/// A controller that is not there, a value that the kernel refuses.
pub fn write(group: &Group, settings: &[Setting]) -> Result<()> {
    for setting in settings {
        match group.write(&setting.file, &setting.text) {
            Ok(()) => {}
            Err(error) if setting.optional && error.errno == Errno::NOENT => {}
            Err(error) if error.errno == Errno::NOENT => {
                return Err(Fail::unsupported(format!(
                    "{}: the controller `{}` is not handed down to `{}`",
                    setting.flag,
                    setting.controller(),
                    group.path().display()
                ))
                .hint("an administrator can: see docs/limits.md")
                .into());
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "{}: setting {} to `{}`",
                        setting.flag, setting.file, setting.text
                    )
                });
            }
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Files(Vec<Setting>);

/// -1 is without limit.
fn number(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

impl Files {
    fn add(&mut self, flag: &'static str, file: impl Into<String>, text: String) {
        self.0.push(Setting {
            flag,
            file: file.into(),
            text,
            optional: false,
        });
    }

    fn memory(&mut self, memory: &Memory) -> Result<(), Fail> {
        for (field, given) in [
            (
                "kernelTCP",
                memory.kernel_tcp.is_some_and(|limit| limit > 0),
            ),
            ("disableOOMKiller", memory.disable_oom_killer == Some(true)),
        ] {
            if given {
                return Err(Fail::unsupported(format!(
                    "linux.resources.memory.{field}: there is no such thing in cgroups version 2"
                )));
            }
        }
        // Swappiness and the kernel's limit are of version 1 too; what starts containers sends them to either.
        for (field, value) in [
            ("limit", memory.limit),
            ("reservation", memory.reservation),
            ("swap", memory.swap),
        ] {
            if value.is_some_and(|value| value < -1) {
                return Err(Fail::usage(format!(
                    "linux.resources.memory.{field}: must not be less than -1"
                )));
            }
        }
        if let Some(swap) = memory.swap.filter(|swap| *swap != 0) {
            let text = match memory.limit {
                _ if swap == -1 => "max".to_owned(),
                // Memory and swap together, in version 1's words.
                Some(limit) if limit > 0 && swap >= limit => (swap - limit).to_string(),
                Some(limit) if limit > 0 => {
                    return Err(Fail::usage(
                        "linux.resources.memory.swap: must not be less than the limit of memory, which is part of it",
                    ));
                }
                Some(_) | None => {
                    return Err(Fail::usage(
                        "linux.resources.memory.swap: needs linux.resources.memory.limit, which is part of it",
                    ));
                }
            };
            let optional = text == "max" || text == "0";
            self.add("linux.resources.memory.swap", "memory.swap.max", text);
            // A machine without swap has no such file, and what was asked for holds.
            if let Some(last) = self.0.last_mut() {
                last.optional = optional;
            }
        }
        if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
            self.add("linux.resources.memory.limit", "memory.max", number(limit));
        }
        if let Some(reservation) = memory.reservation.filter(|limit| *limit != 0) {
            let field = "linux.resources.memory.reservation";
            self.add(field, "memory.low", number(reservation));
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<(), Fail> {
        for (field, given) in [
            (
                "realtimeRuntime",
                cpu.realtime_runtime.is_some_and(|time| time != 0),
            ),
            (
                "realtimePeriod",
                cpu.realtime_period.is_some_and(|time| time != 0),
            ),
        ] {
            if given {
                return Err(Fail::unsupported(format!(
                    "linux.resources.cpu.{field}: there is no such thing in cgroups version 2"
                )));
            }
        }
        if let Some(idle) = cpu.idle {
            self.add("linux.resources.cpu.idle", "cpu.idle", idle.to_string());
        }
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
            let shares = shares.clamp(2, 262_144);
            let weight = 1 + (shares - 2) * 9_999 / 262_142;
            self.add(
                "linux.resources.cpu.shares",
                "cpu.weight",
                weight.to_string(),
            );
            // The usual share is what a group has anyway; containerd asks for it always.
            if let Some(last) = self.0.last_mut() {
                last.optional = shares == 1024;
            }
        }
        let quota = cpu.quota.filter(|quota| *quota != 0);
        let period = cpu.period.filter(|period| *period != 0);
        if quota.is_some() || period.is_some() {
            let text = format!(
                "{} {}",
                quota.map_or_else(|| "max".to_owned(), number),
                period.unwrap_or(100_000)
            );
            self.add("linux.resources.cpu.quota", "cpu.max", text);
        }
        if let Some(burst) = cpu.burst {
            self.add(
                "linux.resources.cpu.burst",
                "cpu.max.burst",
                burst.to_string(),
            );
        }
        for (field, file, list) in [
            ("linux.resources.cpu.cpus", "cpuset.cpus", &cpu.cpus),
            ("linux.resources.cpu.mems", "cpuset.mems", &cpu.mems),
        ] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                if super::limits::numbers(list).is_none() {
                    return Err(Fail::usage(format!(
                        "{field}: `{list}` is no list such as 0-2,4"
                    )));
                }
                self.add(field, file, list.clone());
            }
        }
        Ok(())
    }

    fn block_io(&mut self, io: &BlockIo) -> Result<(), Fail> {
        // 10 to 1000 becomes 1 to 10000.
        let weight = |weight: u16| 1 + (u32::from(weight.clamp(10, 1000)) - 10) * 9_999 / 990;
        if let Some(one) = io.weight.filter(|one| *one != 0) {
            if !(10..=1000).contains(&one) {
                return Err(Fail::usage(
                    "linux.resources.blockIO.weight: must be from 10 to 1000",
                ));
            }
            self.add(
                "linux.resources.blockIO.weight",
                "io.weight",
                weight(one).to_string(),
            );
        }
        for one in &io.weight_device {
            if let Some(given) = one.weight {
                let text = format!("{}:{} {}", one.major, one.minor, weight(given));
                self.add("linux.resources.blockIO.weightDevice", "io.weight", text);
            }
        }
        let rates: [(&'static str, &str, &Vec<DeviceRate>); 4] = [
            (
                "linux.resources.blockIO.throttleReadBpsDevice",
                "rbps",
                &io.throttle_read_bps_device,
            ),
            (
                "linux.resources.blockIO.throttleWriteBpsDevice",
                "wbps",
                &io.throttle_write_bps_device,
            ),
            (
                "linux.resources.blockIO.throttleReadIOPSDevice",
                "riops",
                &io.throttle_read_iops_device,
            ),
            (
                "linux.resources.blockIO.throttleWriteIOPSDevice",
                "wiops",
                &io.throttle_write_iops_device,
            ),
        ];
        for (field, key, devices) in rates {
            for one in devices {
                // 0 takes the limit away.
                let rate = if one.rate == 0 {
                    "max".to_owned()
                } else {
                    one.rate.to_string()
                };
                self.add(
                    field,
                    "io.max",
                    format!("{}:{} {key}={rate}", one.major, one.minor),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str) -> String {
        let resources: Resources = serde_json::from_str(json).unwrap();
        match settings(&resources) {
            Ok(all) => {
                let shown = all.iter().map(|one| format!("{}={}", one.file, one.text));
                shown.collect::<Vec<_>>().join("; ")
            }
            Err(fail) => fail.message,
        }
    }

    #[test]
    fn resources_become_files() {
        for (json, expected) in [
            (r"{}", ""),
            (
                r#"{"memory":{"limit":1000,"swap":3000}}"#,
                "memory.swap.max=2000; memory.max=1000",
            ),
            (
                r#"{"memory":{"limit":-1,"reservation":5}}"#,
                "memory.max=max; memory.low=5",
            ),
            (r#"{"cpu":{"shares":1024}}"#, "cpu.weight=39"),
            (r#"{"cpu":{"quota":50000}}"#, "cpu.max=50000 100000"),
            (r#"{"cpu":{"quota":-1,"period":1000}}"#, "cpu.max=max 1000"),
            (r#"{"cpu":{"cpus":"0-1"}}"#, "cpuset.cpus=0-1"),
            (r#"{"pids":{"limit":-1}}"#, "pids.max=max"),
            (r#"{"pids":{"limit":7}}"#, "pids.max=7"),
            (r#"{"blockIO":{"weight":500}}"#, "io.weight=4950"),
            (
                r#"{"blockIO":{"throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":9}]}}"#,
                "io.max=8:0 riops=9",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4096}]}"#,
                "hugetlb.2MB.max=4096",
            ),
            (
                r#"{"rdma":{"mlx":{"hcaHandles":3}}}"#,
                "rdma.max=mlx hca_handle=3",
            ),
            (r#"{"unified":{"memory.high":"9"}}"#, "memory.high=9"),
            (
                r#"{"unified":{"../x":"9"}}"#,
                "linux.resources.unified[../x]: is no file of a group",
            ),
            (
                r#"{"memory":{"swap":3}}"#,
                "linux.resources.memory.swap: needs linux.resources.memory.limit, which is part of it",
            ),
            (
                r#"{"network":{"classID":1}}"#,
                "linux.resources.network: there is no such limit in cgroups version 2",
            ),
        ] {
            assert_eq!(texts(json), expected, "{json}");
        }
    }
}
