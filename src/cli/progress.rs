//! What the user sees of image work: a bar for each layer on a terminal, lines elsewhere, on stderr.
//!
//! Knows nothing of what is transferred; it is told.

use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;
use crate::image::ingest::{LayerProgress, Phase, Progress, Silent};
use crate::image::reference::Digest;

/// What is being done, for the last word of each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// From a registry.
    Pull,
    /// From an archive of images.
    Load,
    /// From the tar of a root file system.
    Import,
    /// To a registry.
    Push,
}

impl Verb {
    fn complete(self) -> &'static str {
        match self {
            Verb::Pull => "Pull complete",
            Verb::Load => "Load complete",
            Verb::Import => "Import complete",
            Verb::Push => "Pushed",
        }
    }

    fn exists(self) -> &'static str {
        match self {
            Verb::Push => "Layer already exists",
            Verb::Pull | Verb::Load | Verb::Import => "Already exists",
        }
    }
}

/// What docker says where a blob came from another repository.
const MOUNTED: &str = "Mounted";

/// The display that fits standard error; nothing when `quiet`.
#[must_use]
pub fn display(verb: Verb, quiet: bool) -> Box<dyn Progress> {
    if quiet {
        Box::new(Silent)
    } else if output::is_live(&io::stderr()) {
        Box::new(Bars {
            verb,
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)),
        })
    } else {
        Box::new(Lines { verb })
    }
}

/// The first 12 digits, as docker names a layer; an import has no name for its layer yet.
fn short(verb: Verb, digest: &Digest) -> String {
    match verb {
        Verb::Import => "layer".to_owned(),
        Verb::Pull | Verb::Load | Verb::Push => digest.short().to_owned(),
    }
}

/// Bars on a terminal.
#[derive(Debug)]
struct Bars {
    verb: Verb,
    bars: MultiProgress,
}

impl Progress for Bars {
    fn layer(&self, digest: &Digest, total: Option<u64>) -> Box<dyn LayerProgress> {
        // Hidden until it has its place among the others: it would draw itself once on its own.
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        bar.set_prefix(short(self.verb, digest));
        bar.set_style(style(match total {
            Some(_) => "{prefix}: {msg:<11} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}",
            None => "{prefix}: {msg:<11} {spinner} {decimal_bytes}",
        }));
        bar.set_message("Waiting");
        let bar = self.bars.add(bar);
        bar.tick();
        Box::new(Bar {
            verb: self.verb,
            bar,
        })
    }

    fn message(&self, text: &str) {
        // A terminal that went away has nobody to tell.
        let _ = self.bars.println(text);
    }
}

/// A template of ours, or indicatif's own should it not be one.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// One layer's bar. Dropped before it is done, it vanishes: the error says what happened.
#[derive(Debug)]
struct Bar {
    verb: Verb,
    bar: ProgressBar,
}

impl LayerProgress for Bar {
    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn phase(&self, phase: Phase) {
        self.bar.set_message(match phase {
            Phase::Waiting => "Waiting",
            Phase::Downloading => "Downloading",
            Phase::Extracting => {
                self.bar.enable_steady_tick(Duration::from_millis(200));
                "Extracting"
            }
            Phase::Uploading => "Pushing",
            Phase::Exists => self.verb.exists(),
            Phase::Mounted => MOUNTED,
        });
    }

    fn done(&self) {
        let last = match self.bar.message().as_str() {
            MOUNTED => MOUNTED,
            shown if shown == self.verb.exists() => self.verb.exists(),
            _ => self.verb.complete(),
        };
        self.bar.set_style(style("{prefix}: {msg}"));
        self.bar.finish_with_message(last);
    }
}

/// A line for each event that matters, for logs.
#[derive(Debug)]
struct Lines {
    verb: Verb,
}

impl Progress for Lines {
    fn layer(&self, digest: &Digest, total: Option<u64>) -> Box<dyn LayerProgress> {
        Box::new(Line {
            name: short(self.verb, digest),
            total,
            verb: self.verb,
            last: Mutex::new(self.verb.complete()),
        })
    }

    fn message(&self, text: &str) {
        say(text);
    }
}

/// One layer's lines.
#[derive(Debug)]
struct Line {
    name: String,
    total: Option<u64>,
    verb: Verb,
    last: Mutex<&'static str>,
}

impl LayerProgress for Line {
    fn advance(&self, _: u64) {}

    fn phase(&self, phase: Phase) {
        match (phase, self.total) {
            (Phase::Downloading, Some(total)) if self.verb == Verb::Pull => {
                say(&format!(
                    "{}: Downloading {}",
                    self.name,
                    output::size(total)
                ));
            }
            (Phase::Uploading, Some(total)) => {
                say(&format!("{}: Pushing {}", self.name, output::size(total)));
            }
            (Phase::Exists, _) => self.will_say(self.verb.exists()),
            (Phase::Mounted, _) => self.will_say(MOUNTED),
            (Phase::Waiting | Phase::Downloading | Phase::Extracting | Phase::Uploading, _) => {}
        }
    }

    fn done(&self) {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        say(&format!("{}: {last}", self.name));
    }
}

impl Line {
    fn will_say(&self, last: &'static str) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

/// One line on standard error.
pub fn say(text: &str) {
    // A closed stderr has nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
