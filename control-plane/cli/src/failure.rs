//! How a command ends when it cannot do what it was asked: a message, what it is about, and what to do next.
//!
//! Every command's error becomes a [`Failure`] at the very end; the exit codes are decided here and nowhere else.
//! Texts may hold what strangers sent (a server's answer), so they are escaped when printed.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::escape::printable;

/// Why the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// The command line or the configuration is wrong: 64, `EX_USAGE` of sysexits.h.
    Usage,
    /// It was understood, and did not work: 1.
    Failed,
    /// Whoever read our output went away, say `head`: 0, without a word.
    OutputClosed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Usage => ExitCode::from(64),
            Exit::Failed => ExitCode::FAILURE,
            Exit::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

/// What is told to the person who called.
#[derive(Debug)]
pub(crate) struct Failure {
    /// With which code.
    pub(crate) exit: Exit,
    /// What went wrong, one sentence without a full stop.
    pub(crate) message: String,
    /// Single violations, one line each.
    pub(crate) details: Vec<String>,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// The caller's mistake.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Something did not work: what, and all the reasons beneath it.
    pub(crate) fn because(message: &str, error: &dyn std::error::Error) -> Self {
        Self::failed(format!("{message}: {}", chain(error)))
    }

    /// Says what to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds single violations.
    #[must_use]
    pub(crate) fn details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }

    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            details: Vec::new(),
            hint: None,
        }
    }

    /// Writes it for people.
    pub(crate) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        if self.exit == Exit::OutputClosed {
            return Ok(());
        }
        writeln!(to, "error: {}", printable(&self.message))?;
        for detail in &self.details {
            writeln!(to, "  - {}", printable(detail))?;
        }
        if let Some(hint) = &self.hint {
            writeln!(to, "hint: {}", printable(hint))?;
        }
        Ok(())
    }
}

/// An error and its sources in one line, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = error.source();
    }
    text
}

/// Writing our own output failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::OutputClosed, String::new()),
            _ => Self::because("cannot write the output", &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_next_and_prints_no_control_characters() {
        let failure = Failure::usage("the \u{1b}[31mAPI refused it")
            .details(["code.name: too\nlong".to_owned()])
            .hint("say less");
        let mut text = Vec::new();
        failure.write(&mut text).unwrap();
        insta::assert_snapshot!(String::from_utf8(text).unwrap(), @r"
        error: the \u{1b}[31mAPI refused it
          - code.name: too\nlong
        hint: say less
        ");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        let mut text = Vec::new();
        failure.write(&mut text).unwrap();
        assert_eq!((failure.exit, text.len()), (Exit::OutputClosed, 0));
    }
}
