//! `rl history`: how an image came about.

use std::io::Write as _;

use anyhow::Result;
use jiff::Timestamp;

use super::image::no_image;
use super::output::{self, Columns, Row};
use super::shared;
use crate::paths::Store;

/// The flags of `rl history`.
#[derive(Debug, Clone, clap::Args)]
pub struct HistoryArgs {
    /// Print as a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Print sizes in units and times as ages (default: true)
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = super::run::values::boolean)]
    pub human: Option<bool>,

    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,

    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,

    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

const COLUMNS: Columns = Columns {
    heads: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    shown: &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
};
/// Docker's for `--human=false`.
const MACHINE: Columns = Columns {
    shown: &["ID", "CreatedAt", "CreatedBy", "Size", "Comment"],
    ..COLUMNS
};

/// `rl history`: the last step first.
pub fn history(args: &HistoryArgs, store: &Store) -> Result<u8> {
    let (images, image) =
        shared::find_anywhere(store, &args.image)?.ok_or_else(|| no_image(&args.image))?;
    let human = args.human.unwrap_or(true);
    let now = Timestamp::now();
    let mut layers = image.config.rootfs.diff_ids.iter();
    let mut rows = Vec::new();
    for step in &image.config.history {
        let layer = if step.empty_layer {
            None
        } else {
            layers.next()
        };
        rows.push((step.clone(), layer));
    }
    // Some builders write no history, or not for all layers.
    rows.extend(layers.map(|layer| (Default::default(), Some(layer))));
    rows.reverse();
    let mut shown: Vec<Row> = Vec::new();
    for (place, (step, layer)) in rows.iter().enumerate() {
        let info = layer.map(|layer| images.layer(layer)).transpose()?;
        let bytes = info.flatten().map_or(0, |info| info.report.bytes);
        let id = match (place, args.no_trunc) {
            (0, true) => image.id.to_string(),
            (0, false) => image.id.short().to_owned(),
            _ => "<missing>".to_owned(),
        };
        let created = step.created.as_deref().unwrap_or_default();
        let mut by = step.created_by.clone().unwrap_or_default();
        by = by.replace(['\t', '\n'], " ");
        if !args.no_trunc && by.chars().count() > 45 {
            by = by.chars().take(44).chain(['…']).collect();
        }
        let fields = [
            ("ID", id),
            ("CreatedSince", output::since(created, now)),
            ("CreatedAt", created.to_owned()),
            ("CreatedBy", by),
            (
                "Size",
                if human {
                    output::size(bytes)
                } else {
                    bytes.to_string()
                },
            ),
            ("Comment", step.comment.clone().unwrap_or_default()),
        ];
        shown.push(
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect(),
        );
    }
    let mut out = output::stdout();
    if args.quiet && args.format.is_none() {
        for row in &shown {
            let id = row.get("ID").and_then(serde_json::Value::as_str);
            writeln!(out, "{}", id.unwrap_or_default())?;
        }
    } else {
        let columns = if human { &COLUMNS } else { &MACHINE };
        output::list(&mut out, &shown, columns, args.format.as_deref())?;
    }
    out.flush()?;
    Ok(0)
}
