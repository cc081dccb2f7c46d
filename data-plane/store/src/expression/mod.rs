//! Filter and template expressions: CEL, bounded so that no tenant's text can stall or crash a process.
//!
//! [`compile`] takes any text and answers in bounded time; what it accepts is a boolean filter
//! ([`Expression::matches`]) or a value for a template ([`Expression::evaluate`]) over an event ([`Subject`]). The
//! bounds are in [`crate::limits`]. Against hostile text:
//! - parsing runs on a thread of its own with a stack that the longest source cannot use up;
//! - no macros but `has`: nested comprehensions cost time exponential in the text. Without them an expression has no
//!   loops, so evaluation is linear in its nodes and the values they make, whose size is capped as they are made;
//! - the pattern of `matches` is a literal, compiled once, with a bound on its automaton and on what it is matched
//!   against;
//! - a panic inside the CEL library is an error here.
//!
//! What an error at evaluation means (a field that an event lacks, a division by zero) is left to the caller.
//!
//! The variables are the event's own fields: `type`, `id`, `created_at` and `data`; in a template also `code`, the
//! code as it stood.

mod check;
mod environment;
mod functions;
mod subject;
#[cfg(test)]
mod tests;
mod texts;

pub use subject::Subject;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cel::common::ast::IdedExpr;
use cel::common::types::CelBool;
use cel::{Context, ExecutionError, ParseErrors};

use crate::limits::{EXPRESSION_BYTES_MAX, EXPRESSION_OUTPUT_BYTES_MAX};
use environment::Pattern;
use subject::Scope;

/// What an expression can refer to: the fields of an event.
pub const VARIABLES: [&str; 4] = ["type", "id", "created_at", "data"];
/// What an expression of a template or a filter can refer to: the fields of an event, and its code.
pub const TEMPLATE_VARIABLES: [&str; 5] = ["type", "id", "created_at", "data", "code"];

/// The stack of the parser's thread. Measured in a debug build: the deepest trees that 2 KiB of source can make fit
/// into an eighth of it. Only what is used is ever backed by memory.
const PARSER_STACK_BYTES: usize = 8 * 1024 * 1024;

/// A place in a source text, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl std::fmt::Display for Position {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

/// Why a text is no expression that is accepted. Public text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Longer than [`EXPRESSION_BYTES_MAX`].
    #[error("the expression is longer than {EXPRESSION_BYTES_MAX} bytes")]
    TooLong,
    /// Not CEL, or a part of CEL that is not accepted here.
    #[error("{position}: {reason}")]
    Refused {
        /// Where.
        position: Position,
        /// What is wrong there.
        reason: String,
    },
    /// Brackets and conditionals within each other, more than the parser takes.
    #[error(
        "the expression is nested more than {} levels deep",
        environment::PARSER_NESTING_MAX
    )]
    TooDeep,
    /// The parser gave up without saying where.
    #[error("the expression cannot be parsed")]
    Unparsable,
    /// No thread could be started to parse it: not the text's fault, try again.
    #[error("the expression could not be parsed now")]
    Busy,
}

/// Why an expression has no value for an event. The text is short and holds nothing of the event but names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// A filter whose value is not a boolean.
    #[error("the expression's value is not a boolean")]
    NotBoolean,
    /// The value is larger than [`EXPRESSION_OUTPUT_BYTES_MAX`].
    #[error("the expression's value is larger than {EXPRESSION_OUTPUT_BYTES_MAX} bytes")]
    TooLarge,
    /// An operation has no result: a field that is not there, types that do not go together, an overflow.
    #[error("{reason}")]
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// A compiled expression. Evaluation needs no lock and may run on many threads.
#[derive(Debug)]
pub struct Expression {
    tree: IdedExpr,
    patterns: Vec<Pattern>,
    nodes: usize,
}

/// Compiles an expression. Any text is answered; takes milliseconds, so call it where blocking is allowed.
pub fn compile(source: &str) -> Result<Expression, CompileError> {
    compile_over(source, &VARIABLES)
}

/// Compiles an expression of a template or a filter, which can refer to [`TEMPLATE_VARIABLES`]; otherwise like [`compile`].
pub fn compile_for_template(source: &str) -> Result<Expression, CompileError> {
    compile_over(source, &TEMPLATE_VARIABLES)
}

fn compile_over(source: &str, variables: &'static [&'static str]) -> Result<Expression, CompileError> {
    if source.len() > EXPRESSION_BYTES_MAX {
        return Err(CompileError::TooLong);
    }
    let source = source.to_owned();
    // The tree that is refused is dropped there too: dropping recurses like parsing.
    let parser = std::thread::Builder::new()
        .name("expression-parser".to_owned())
        .stack_size(PARSER_STACK_BYTES)
        .spawn(move || parse(&source, variables));
    match parser {
        Ok(parser) => parser.join().unwrap_or(Err(CompileError::Unparsable)),
        Err(error) => {
            tracing::warn!(%error, "no thread to parse an expression on");
            Err(CompileError::Busy)
        }
    }
}

fn parse(source: &str, variables: &'static [&'static str]) -> Result<Expression, CompileError> {
    let parser = environment::environment()
        .parser()
        .max_recursion_depth(environment::PARSER_NESTING_MAX);
    let (tree, info) = parser
        .parse_with_source_info(source)
        .map_err(|errors| first(source, &errors))?;
    check::check(tree, source, &info, variables)
}

/// The first of the parser's errors, which is the one that people can do something about.
fn first(source: &str, errors: &ParseErrors) -> CompileError {
    // Which has no place, and leaves errors behind that are none of the text's.
    let is_depth = |text: &str| text.contains("ecursion limit");
    if errors.errors.iter().any(|error| is_depth(&error.msg)) {
        return CompileError::TooDeep;
    }
    let Some(error) = errors.errors.first() else {
        return CompileError::Unparsable;
    };
    // The library's own state, printed.
    if error.msg.contains("ParseError {") {
        return CompileError::Unparsable;
    }
    let (Ok(line), Ok(column)) = (usize::try_from(error.pos.0), usize::try_from(error.pos.1)) else {
        return CompileError::Unparsable;
    };
    let position = check::within(source, Position { line, column });
    CompileError::Refused {
        position,
        reason: shortened(&error.msg),
    }
}

impl Expression {
    /// Nodes of its syntax tree: what an evaluation costs.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Its regular expressions.
    pub fn patterns(&self) -> usize {
        self.patterns.len()
    }

    /// Whether the event passes this filter.
    pub fn matches(&self, subject: &Subject) -> Result<bool, EvaluateError> {
        self.guarded(
            |context| {
                let value = cel::Value::resolve_val(&self.tree, context).map_err(|error| failed(&error))?;
                value
                    .downcast_ref::<CelBool>()
                    .map(|bool| *bool.inner())
                    .ok_or(EvaluateError::NotBoolean)
            },
            subject,
        )
    }

    /// The expression's value for the event, as JSON; the keys of a map are in order, so that the same event gives
    /// the same bytes.
    pub fn evaluate(&self, subject: &Subject) -> Result<serde_json::Value, EvaluateError> {
        self.guarded(
            |context| {
                let value = cel::Value::resolve(&self.tree, context).map_err(|error| failed(&error))?;
                subject::to_json(&value, &mut EXPRESSION_OUTPUT_BYTES_MAX.clone())
            },
            subject,
        )
    }

    fn guarded<T>(
        &self,
        evaluate: impl FnOnce(&Context<'_, '_>) -> Result<T, EvaluateError>,
        subject: &Subject,
    ) -> Result<T, EvaluateError> {
        let scope = Scope {
            subject,
            patterns: &self.patterns,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(environment::environment());
            context.set_variable_resolver(&scope);
            evaluate(&context)
        }));
        outcome.unwrap_or_else(|_| {
            tracing::error!("the expression library panicked");
            Err(EvaluateError::Failed {
                reason: "the expression cannot be evaluated".to_owned(),
            })
        })
    }
}

/// The library's errors print whole values; this says the same in bounded space.
fn failed(error: &ExecutionError) -> EvaluateError {
    let reason = match error {
        ExecutionError::FunctionError { message, .. } if message == environment::TOO_LARGE => {
            return EvaluateError::TooLarge;
        }
        ExecutionError::NoSuchKey(name) => format!("there is no field `{}`", shortened(name)),
        ExecutionError::UndeclaredReference(name) => format!("the event has no `{}`", shortened(name)),
        ExecutionError::NoSuchOverload(overload) => shortened(&overload.to_string()),
        ExecutionError::FunctionError { function, message } => shortened(&format!("{function}: {message}")),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "division by zero".to_owned()
        }
        ExecutionError::Overflow(..) => "a number is out of range".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "an index is out of bounds".to_owned(),
        ExecutionError::DuplicateKey(_) => "a map holds a key twice".to_owned(),
        _ => "the values' types do not go together".to_owned(),
    };
    EvaluateError::Failed { reason }
}

/// At most 200 characters of a text that may hold a stranger's.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
