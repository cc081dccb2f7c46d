//! What of CEL is accepted, judged on the syntax tree: known names, known functions, and the bounds.
//!
//! An allow-list: what a later version of the library adds stays refused until it is added here. The tree that
//! comes out has `+` and `matches` replaced by their bounded forms (see [`super::environment`]).

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use regex::RegexBuilder;

use super::environment::{BOUNDED_ADD, COMPILED_MATCHES, Pattern, SCALAR};
use super::{CompileError, Expression, Position, functions, shortened};
use crate::limits::{
    EXPRESSION_COMPUTED_ELEMENTS_MAX, EXPRESSION_DEPTH_MAX, EXPRESSION_NODES_MAX,
    EXPRESSION_PATTERN_COMPILED_BYTES_MAX, EXPRESSION_PATTERNS_MAX,
};

const OPERATORS: [&str; 17] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
];

/// Operators on numbers and texts. The library copies their operands into its error when they are lists or maps, so
/// they are kept from it.
const SCALAR_OPERATORS: [&str; 9] = [
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::INDEX,
];

/// The standard library's functions called as `f(x)`, all with one argument; ours ([`functions`]) too.
const GLOBAL: [&str; 7] = ["size", "string", "int", "uint", "double", "bool", "type"];

/// Functions called as `x.f(…)`, with their number of arguments.
const MEMBER: [(&str, usize); 4] = [("size", 0), ("contains", 1), ("startsWith", 1), ("endsWith", 1)];

const MATCHES: &str = "matches";

/// The standard macros: named so that the error can say what they are.
const MACROS: [&str; 5] = [
    operators::ALL,
    operators::EXISTS,
    operators::EXISTS_ONE,
    operators::MAP,
    operators::FILTER,
];

/// Names of types, for comparisons such as `type(data.value) == int`.
const TYPES: [&str; 9] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "list",
    "map",
    "null_type",
    "type",
];

/// Judges the tree, which may refer to `variables`; gives back what to evaluate.
pub(super) fn check(
    mut tree: IdedExpr,
    source: &str,
    info: &SourceInfo,
    variables: &'static [&'static str],
) -> Result<Expression, CompileError> {
    let mut checker = Checker {
        source,
        info,
        variables,
        nodes: 0,
        computed_elements: 0,
        patterns: Vec::new(),
    };
    checker.node(&mut tree, 1)?;
    let (patterns, nodes) = (checker.patterns, checker.nodes);
    Ok(Expression {
        tree,
        patterns,
        nodes,
    })
}

struct Checker<'a> {
    source: &'a str,
    info: &'a SourceInfo,
    variables: &'static [&'static str],
    nodes: usize,
    computed_elements: usize,
    patterns: Vec<Pattern>,
}

impl Checker<'_> {
    fn node(&mut self, node: &mut IdedExpr, depth: usize) -> Result<(), CompileError> {
        let id = node.id;
        self.nodes += 1;
        if self.nodes > EXPRESSION_NODES_MAX {
            return self.refuse(
                id,
                format!("the expression has more than {EXPRESSION_NODES_MAX} parts"),
            );
        }
        if depth > EXPRESSION_DEPTH_MAX {
            return self.refuse(
                id,
                format!("the expression is nested deeper than {EXPRESSION_DEPTH_MAX}"),
            );
        }
        match &mut node.expr {
            Expr::Literal(LiteralValue::Bytes(_)) => self.refuse(id, "bytes are not supported"),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(id, name),
            Expr::Select(select) => self.node(&mut select.operand, depth + 1),
            Expr::List(list) => list
                .elements
                .iter_mut()
                .try_for_each(|element| self.element(element, depth + 1)),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    let EntryExpr::MapEntry(pair) = &mut entry.expr else {
                        return self.refuse(id, "messages are not supported");
                    };
                    self.node(&mut pair.key, depth + 1)?;
                    self.element(&mut pair.value, depth + 1)?;
                }
                Ok(())
            }
            Expr::Call(call) => self.call(id, call, depth),
            Expr::Struct(_) => self.refuse(id, "messages are not supported"),
            Expr::Comprehension(_) => self.refuse(id, "macros other than has() are not supported"),
            Expr::Unspecified => self.refuse(id, "the expression is incomplete"),
        }
    }

    fn name(&self, id: u64, name: &str) -> Result<(), CompileError> {
        if self.variables.contains(&name) || TYPES.contains(&name) {
            return Ok(());
        }
        let name = shortened(name);
        self.refuse(
            id,
            format!(
                "unknown name `{name}`: an event has {}",
                self.variables.join(", ")
            ),
        )
    }

    fn call(&mut self, id: u64, call: &mut CallExpr, depth: usize) -> Result<(), CompileError> {
        if call.func_name == MATCHES {
            self.pattern(id, call)?;
        } else {
            self.function(id, call)?;
        }
        if let Some(target) = &mut call.target {
            self.node(target, depth + 1)?;
        }
        for argument in &mut call.args {
            if !is_pattern(argument) {
                self.node(argument, depth + 1)?;
            }
        }
        if call.func_name == operators::ADD {
            BOUNDED_ADD.clone_into(&mut call.func_name);
        }
        if SCALAR_OPERATORS.contains(&call.func_name.as_str()) {
            let container = usize::from(call.func_name == operators::INDEX);
            call.args.iter_mut().skip(container).for_each(guard);
        }
        Ok(())
    }

    /// An element of a list or map that is not a literal is copied at every evaluation.
    fn element(&mut self, node: &mut IdedExpr, depth: usize) -> Result<(), CompileError> {
        if !matches!(node.expr, Expr::Literal(_)) {
            self.computed_elements += 1;
            if self.computed_elements > EXPRESSION_COMPUTED_ELEMENTS_MAX {
                return self.refuse(node.id, "too many computed elements of lists and maps");
            }
        }
        self.node(node, depth)
    }

    fn function(&self, id: u64, call: &CallExpr) -> Result<(), CompileError> {
        let name = call.func_name.as_str();
        let arguments = call.args.len();
        let (known, wanted) = match &call.target {
            // Operators have as many operands as their grammar gives them. `a in b` is one too.
            None if OPERATORS.contains(&name) || name == operators::IN => return Ok(()),
            None => (GLOBAL.contains(&name) || functions::is_known(name), Some(1)),
            Some(_) => {
                let wanted = MEMBER
                    .iter()
                    .find(|(member, _)| *member == name)
                    .map(|(_, wanted)| *wanted);
                (wanted.is_some(), wanted)
            }
        };
        match wanted {
            _ if MACROS.contains(&name) => self.refuse(id, format!("`{name}` is not supported: no loops")),
            Some(wanted) if known && wanted != arguments => self.refuse(
                id,
                format!("`{name}` takes {wanted} argument(s) here, not {arguments}"),
            ),
            _ if known => Ok(()),
            _ => self.refuse(id, format!("unknown function `{}`", shortened(name))),
        }
    }

    /// Compiles the pattern of `x.matches("…")` or `matches(x, "…")` and puts it in place of the literal.
    fn pattern(&mut self, id: u64, call: &mut CallExpr) -> Result<(), CompileError> {
        let subject = call.target.take().map(|target| *target);
        let arguments: Vec<IdedExpr> = subject
            .into_iter()
            .chain(std::mem::take(&mut call.args))
            .collect();
        let Ok([text, mut literal]) = <[IdedExpr; 2]>::try_from(arguments) else {
            return self.refuse(id, "`matches` takes a text and a pattern");
        };
        let Expr::Literal(LiteralValue::String(pattern)) = &literal.expr else {
            return self.refuse(literal.id, "the pattern of `matches` must be a literal");
        };
        if self.patterns.len() == EXPRESSION_PATTERNS_MAX {
            return self.refuse(id, format!("more than {EXPRESSION_PATTERNS_MAX} patterns"));
        }
        let compiled = RegexBuilder::new(&ascii_classes(pattern.inner()))
            .size_limit(EXPRESSION_PATTERN_COMPILED_BYTES_MAX)
            .dfa_size_limit(4 * EXPRESSION_PATTERN_COMPILED_BYTES_MAX)
            .build();
        match compiled {
            Ok(compiled) => self.patterns.push(Pattern(compiled)),
            Err(regex::Error::CompiledTooBig(_)) => {
                return self.refuse(literal.id, "the pattern is too large");
            }
            // The library's text draws the pattern over many lines; its last one says what is wrong.
            Err(error) => {
                let text = error.to_string();
                let reason = text
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ");
                return self.refuse(
                    literal.id,
                    format!("the pattern is malformed: {}", shortened(reason)),
                );
            }
        }
        self.nodes += 1;
        literal.expr = Expr::Ident(pattern_name(self.patterns.len() - 1));
        COMPILED_MATCHES.clone_into(&mut call.func_name);
        call.args = vec![text, literal];
        Ok(())
    }

    fn refuse<T>(&self, id: u64, reason: impl Into<String>) -> Result<T, CompileError> {
        let offset = self.info.offset_for(id).map_or(0, |(start, _)| start);
        Err(CompileError::Refused {
            position: position(self.source, offset),
            reason: reason.into(),
        })
    }
}

/// The pattern with `\w`, `\d`, `\s` and `\b` in their ASCII meaning, which is CEL's (RE2's). The library's own is
/// Unicode's, whose automata are a hundred times as large.
fn ascii_classes(pattern: &str) -> String {
    let mut ascii = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            ascii.push(character);
            continue;
        }
        match characters.next() {
            Some('w') => ascii.push_str("[0-9A-Za-z_]"),
            Some('W') => ascii.push_str("[^0-9A-Za-z_]"),
            Some('d') => ascii.push_str("[0-9]"),
            Some('D') => ascii.push_str("[^0-9]"),
            Some('s') => ascii.push_str(r"[\t\n\x0C\r\x20]"),
            Some('S') => ascii.push_str(r"[^\t\n\x0C\r\x20]"),
            Some('b') => ascii.push_str(r"(?-u:\b)"),
            other => {
                ascii.push('\\');
                ascii.extend(other);
            }
        }
    }
    ascii
}

/// Puts an operand behind [`SCALAR`], unless it plainly is one.
fn guard(operand: &mut IdedExpr) {
    if !matches!(operand.expr, Expr::Literal(_)) {
        let inner = std::mem::take(operand);
        operand.id = inner.id;
        let call = CallExpr {
            func_name: SCALAR.to_owned(),
            target: None,
            args: vec![inner],
        };
        operand.expr = Expr::Call(call);
    }
}

/// What a pattern is called in the tree; no source text can hold such a name.
pub(super) fn pattern_name(index: usize) -> String {
    format!("@{index}")
}

fn is_pattern(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Ident(name) if name.starts_with('@'))
}

/// The line and column of a byte offset.
fn position(source: &str, offset: u32) -> Position {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let (mut line, mut column) = (1, 1);
    for (_, character) in source.char_indices().take_while(|(at, _)| *at < offset) {
        if character == '\n' {
            (line, column) = (line + 1, 1);
        } else {
            column += 1;
        }
    }
    Position { line, column }
}

/// The parser's own position, kept inside the source.
pub(super) fn within(source: &str, position: Position) -> Position {
    let line = position.line.clamp(1, source.lines().count().max(1));
    Position {
        line,
        column: position.column.max(1),
    }
}
