//! Questions to the person at the terminal.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};

use crate::error::Fail;
use crate::sys::tty::{Raw, is_terminal};

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Whether somebody can be asked.
#[must_use]
pub fn can_ask() -> bool {
    is_terminal(&io::stdin()) && is_terminal(&io::stderr())
}

/// Asks for a line.
///
/// # Errors
/// `Usage` when the input ends.
pub fn line(question: &str) -> Result<String> {
    typed(question)?.ok_or_else(|| given_up().into())
}

/// Asks yes or no; no is the answer to everything but `y` and `yes`, and to the end of the input.
///
/// # Errors
/// When standard input cannot be read.
pub fn yes(question: &str) -> Result<bool> {
    let answer = typed(&format!("{question} [y/N] "))?.unwrap_or_default();
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn typed(question: &str) -> Result<Option<String>> {
    show(question);
    let mut answer = String::new();
    let mut input = io::stdin().lock().take(MAX_ANSWER as u64);
    let count = input.read_line(&mut answer).context("reading an answer")?;
    Ok((count > 0).then(|| answer.trim().to_owned()))
}

/// Asks for a secret, which is not shown while it is typed.
///
/// # Errors
/// `Usage` for Ctrl-C and Ctrl-D.
pub fn secret(question: &str) -> Result<String> {
    show(question);
    let stdin = io::stdin();
    let mut typed = Vec::new();
    {
        // Raw, so that Ctrl-C cannot end us while the terminal shows nothing.
        let _raw = Raw::enter(stdin.as_fd())?;
        let mut input = stdin.lock();
        let mut byte = [0];
        loop {
            let count = input.read(&mut byte).context("reading the answer")?;
            match byte[0] {
                _ if count == 0 => return Err(given_up().into()),
                b'\r' | b'\n' => break,
                0x03 | 0x04 => {
                    show("\r\n");
                    return Err(given_up().into());
                }
                0x08 | 0x7f => {
                    // A whole character.
                    while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
                }
                0x15 => typed.clear(),
                other if typed.len() < MAX_ANSWER => typed.push(other),
                _ => {}
            }
        }
    }
    show("\n");
    String::from_utf8(typed).map_err(|_| Fail::usage("the answer is not UTF-8 text").into())
}

fn show(text: &str) {
    let mut stderr = io::stderr().lock();
    // A closed stderr has nobody to ask.
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}

fn given_up() -> Fail {
    Fail::usage("no answer was given")
}
