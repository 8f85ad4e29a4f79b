//! What went wrong, for people and for programs: a kind, a message, a way out.
//!
//! `anyhow::Error` carries the chain of causes; a [`Fail`] in that chain adds the kind, which alone
//! decides the exit code, and the hints. Nothing is printed here: [`report`] makes the text.

use std::fmt;

/// What sort of failure it is. Decides the exit code (`docker run`: 125, 126, 127).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// The command line or a file of the user's is wrong.
    Usage,
    /// A named image, container or file does not exist.
    NotFound,
    /// A name is taken, or a thing is in the wrong state for what was asked.
    Conflict,
    /// The user or the registry may not do this.
    Denied,
    /// This machine cannot do what was asked.
    Unsupported,
    /// A registry or the network did not deliver.
    Network,
    /// Stored or received data is not what it should be.
    Corrupt,
    /// A system call failed in a way nothing above explains.
    System,
    /// The program in the container exists but cannot be executed.
    NotExecutable,
    /// The program in the container was not found.
    CommandNotFound,
}

impl Kind {
    /// The exit code of `rl` for this kind.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::NotExecutable => 126,
            Kind::CommandNotFound => 127,
            Kind::Usage
            | Kind::NotFound
            | Kind::Conflict
            | Kind::Denied
            | Kind::Unsupported
            | Kind::Network
            | Kind::Corrupt
            | Kind::System => 125,
        }
    }
}

/// A failure with a kind and, where they are known, what happens instead, the remedies and the code.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fail {
    /// Decides the exit code.
    pub kind: Kind,
    /// One line, lower case, no full stop.
    pub message: String,
    /// What the user, or an administrator, can do; one line each.
    pub hints: Vec<String>,
    /// The stable code of `rl explain`, such as `RL-S02`.
    pub code: Option<String>,
}

impl Fail {
    /// A failure of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hints: Vec::new(),
            code: None,
        }
    }

    /// [`Kind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// [`Kind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// [`Kind::Denied`].
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(Kind::Denied, message)
    }

    /// [`Kind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// [`Kind::Network`].
    pub fn network(message: impl Into<String>) -> Self {
        Self::new(Kind::Network, message)
    }

    /// [`Kind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// [`Kind::System`].
    pub fn system(message: impl Into<String>) -> Self {
        Self::new(Kind::System, message)
    }

    /// Adds one line on what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the stable code of `rl explain`.
    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fail {}

/// The first [`Fail`] of the chain.
#[must_use]
pub fn find(error: &anyhow::Error) -> Option<&Fail> {
    error
        .downcast_ref::<Fail>()
        .or_else(|| error.chain().find_map(|cause| cause.downcast_ref()))
}

/// The kind of the first [`Fail`] in the chain, else [`Kind::System`].
#[must_use]
pub fn kind(error: &anyhow::Error) -> Kind {
    find(error).map_or(Kind::System, |fail| fail.kind)
}

/// The whole chain as one [`Fail`]: what travels from a stage to the command that started it.
#[must_use]
pub fn flatten(error: &anyhow::Error) -> Fail {
    let mut fail = find(error)
        .cloned()
        .unwrap_or_else(|| Fail::system(String::new()));
    fail.message = chain(error);
    fail
}

fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = cause.to_string();
        // A wrapper that prints its own source would say everything twice.
        if text.ends_with(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    text
}

/// The text for the user, without a final line break:
///
/// ```text
/// rl: pulling `alpin`: docker.io has no such image
///     to fix:  check the name, or `rl login docker.io` if it is private
///     more:    rl explain RL-I03
/// ```
#[must_use]
pub fn report(error: &anyhow::Error) -> String {
    match find(error) {
        Some(fail) => text(&chain(error), None, fail),
        None => format!("rl: {}", chain(error)),
    }
}

/// The same for a whole chain as one [`Fail`], with what was found to be wrong with the machine.
#[must_use]
pub fn report_found(fail: &Fail, found: &str) -> String {
    text(&fail.message, Some(found), fail)
}

fn text(message: &str, found: Option<&str>, fail: &Fail) -> String {
    let mut text = format!("rl: {message}");
    if let Some(found) = found {
        text.push_str(&format!("\n    found:   {found}"));
    }
    for (position, hint) in fail.hints.iter().enumerate() {
        let label = if position == 0 { "to fix:" } else { "" };
        text.push_str(&format!(
            "\n    {label:<8} {}",
            hint.replace('\n', "\n             ")
        ));
    }
    if let Some(code) = &fail.code {
        text.push_str(&format!("\n    more:    rl explain {code}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_report_has_the_chain_the_hints_and_the_code() {
        let error = Err::<(), _>(
            Fail::denied("no entry")
                .hint("ask")
                .hint("or wait")
                .code("RL-S01"),
        )
        .context("opening the door")
        .expect_err("it is an error");
        expect_test::expect![[r#"
            rl: opening the door: no entry
                to fix:  ask
                         or wait
                more:    rl explain RL-S01"#]]
        .assert_eq(&report(&error));
        assert_eq!(kind(&error).exit_code(), 125);
    }

    #[test]
    fn a_flattened_error_keeps_kind_and_says_everything_once() {
        let error = anyhow::Error::from(Fail::new(Kind::CommandNotFound, "`x` not found"))
            .context("starting");
        let flat = flatten(&error);
        assert_eq!(flat.message, "starting: `x` not found");
        assert_eq!(flat.kind.exit_code(), 127);
        let again = anyhow::Error::from(flat);
        assert_eq!(report(&again), "rl: starting: `x` not found");
    }
}
