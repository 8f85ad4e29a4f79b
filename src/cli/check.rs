//! `rl system check`: prints what is wrong with the store, and what was repaired.

use std::io::Write as _;

use anyhow::Result;

use super::job::{self, Work};
use super::output;
use crate::container::check;
use crate::image::verify::{Finding, How};
use crate::paths::Store;

/// The flags of `rl system check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,

    /// Do not read the layers of images: compare no digest and no file of theirs
    #[arg(short, long)]
    pub quick: bool,

    /// Repair what can be repaired without losing anything of yours
    #[arg(long)]
    pub repair: bool,
}

/// `rl system check`: 0 when all is well, 1 when something is wrong and stays so.
pub fn check(args: &CheckArgs, store: &Store) -> Result<u8> {
    let how = How {
        is_quick: args.quick,
        repairs: args.repair,
    };
    let mut findings = check::all(store, how)?;
    if store.images().exists() || store.layers().exists() {
        findings.extend(job::ask::<Vec<Finding>>(
            store,
            "check",
            true,
            Work::Verify { how },
        )?);
    }
    let mut out = output::stdout();
    if args.json {
        serde_json::to_writer(&mut out, &findings)?;
        writeln!(out)?;
    } else {
        for finding in &findings {
            let label = if finding.repaired {
                "repaired:"
            } else {
                "to fix:  "
            };
            writeln!(out, "{}\n    {label} {}", finding.problem, finding.remedy)?;
        }
        if findings.is_empty() {
            writeln!(out, "nothing is wrong")?;
        }
    }
    out.flush()?;
    Ok(u8::from(findings.iter().any(|finding| !finding.repaired)))
}
