//! Templates: a JSON document whose texts may hold `${…}` expressions.
//!
//! - A text that is one expression becomes that expression's value, of any type; in a longer text values are written
//!   as text, null as nothing. `$${` is a plain `${`.
//! - An expression without a value (a field that is not there, types that do not go together) is null.
//! - An object with a member `$if` is null unless that member's value is true; the member itself is not written.
//! - Members keep the template's order. The members of a map that comes from the event are in the order of their names.
//!
//! Bounds: [`crate::limits`] (`TEMPLATE_…`). Output is counted while it is made, so a template cannot fill the memory.

mod document;

use serde_json::Value;
use url::form_urlencoded;

use crate::{
    expression::{CompileError, EvaluateError, Expression, Subject, compile_for_template},
    limits::{
        EXPRESSION_PATTERNS_MAX, TEMPLATE_DEPTH_MAX, TEMPLATE_EXPRESSIONS_MAX, TEMPLATE_NODES_MAX,
        TEMPLATE_OUTPUT_BYTES_MAX,
    },
};

/// The member that says whether its object is there.
const CONDITION: &str = "$if";

/// How a template's document is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// As JSON.
    Json,
    /// As `application/x-www-form-urlencoded`: the document is a flat object.
    Form,
}

/// Why a text is no template. Public text, to go on from the field's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Not JSON.
    #[error("is not a JSON document: {0}")]
    NotJson(String),
    /// A number that would be sent as another one.
    #[error("has the number {0}, which has more digits than are kept: write it as a text")]
    Number(String),
    /// A form whose document is not an object of texts, numbers, booleans and nulls.
    #[error("must be a flat object, because it is sent as a form")]
    NotFlat,
    /// Too much of something.
    #[error("has more than {max} {what}")]
    TooMany {
        /// How many are allowed.
        max: usize,
        /// Of what.
        what: &'static str,
    },
    /// An expression without its end.
    #[error("at {at}: `${{` without `}}`")]
    Open {
        /// Where in the document: `data.items[2]`.
        at: String,
    },
    /// An expression that is none.
    #[error("at {at}: {error}")]
    Expression {
        /// Where in the document.
        at: String,
        /// What is wrong.
        error: CompileError,
    },
    /// It could not be judged now: not the text's fault.
    #[error("could not be judged now, try again")]
    Busy,
}

/// Why a template makes no body of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenderError {
    /// There is no template for events of this type.
    NoTemplate,
    /// The body would be too large.
    TooLarge,
    /// A form with a list or a map in it.
    NotFlat,
}

impl std::error::Error for RenderError {}

impl std::fmt::Display for RenderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl RenderError {
    /// What is wrong: public text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoTemplate => "the endpoint's payload has no template for this event type",
            Self::TooLarge => "the endpoint's payload template makes more than 64 KiB of this event",
            Self::NotFlat => {
                "the endpoint's payload is a form, and its template makes a list or a map of this event"
            }
        }
    }
}

/// A compiled template. Rendering needs no lock and may run on many threads.
#[derive(Debug)]
pub struct Template {
    root: Node,
    encoding: Encoding,
}

#[derive(Debug)]
enum Node {
    /// A number, a boolean or null.
    Fixed(Value),
    /// A text that is one expression.
    Value(Expression),
    /// Any other text.
    Text(Vec<Part>),
    List(Vec<Node>),
    Object {
        condition: Option<Box<Node>>,
        members: Vec<(String, Node)>,
    },
}

#[derive(Debug)]
enum Part {
    Plain(String),
    Value(Expression),
}

impl Template {
    /// Compiles a template. Any text is answered; takes milliseconds, so call it where blocking is allowed.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn compile(text: &str, encoding: Encoding) -> Result<Self, TemplateError> {
        let document = document::read(text)?;
        let root = Compiler::default().node(document, "", 1)?;
        if encoding == Encoding::Form && !is_flat(&root) {
            return Err(TemplateError::NotFlat);
        }
        Ok(Self { root, encoding })
    }

    /// The body.
    ///
    /// # Errors
    /// When there is none; the same for the same event each time.
    pub fn render(&self, subject: &Subject) -> Result<Vec<u8>, RenderError> {
        let mut output = Output(Vec::new());
        match (self.encoding, &self.root) {
            (Encoding::Form, Node::Object { members, .. }) => output.form(members, subject)?,
            (_, root) => output.json(root, subject)?,
        }
        Ok(output.0)
    }
}

fn is_flat(root: &Node) -> bool {
    match root {
        Node::Object {
            condition: None,
            members,
        } => members
            .iter()
            .all(|(_, node)| !matches!(node, Node::List(_) | Node::Object { .. })),
        _ => false,
    }
}

#[derive(Default)]
struct Compiler {
    expressions: usize,
    nodes: usize,
    patterns: usize,
}

impl Compiler {
    fn node(&mut self, value: Value, at: &str, depth: usize) -> Result<Node, TemplateError> {
        if depth > TEMPLATE_DEPTH_MAX {
            return Err(too_many(TEMPLATE_DEPTH_MAX, "levels"));
        }
        Ok(match value {
            Value::String(text) => self.text(&text, at)?,
            Value::Array(list) => {
                let nodes = list.into_iter().enumerate();
                Node::List(
                    nodes
                        .map(|(index, value)| self.node(value, &format!("{at}[{index}]"), depth + 1))
                        .collect::<Result<_, _>>()?,
                )
            }
            Value::Object(members) => {
                let mut condition = None;
                let mut nodes = Vec::with_capacity(members.len());
                for (name, value) in members {
                    let below = if at.is_empty() {
                        name.clone()
                    } else {
                        format!("{at}.{name}")
                    };
                    let node = self.node(value, &below, depth + 1)?;
                    if name == CONDITION {
                        condition = Some(Box::new(node));
                    } else {
                        nodes.push((name, node));
                    }
                }
                Node::Object {
                    condition,
                    members: nodes,
                }
            }
            fixed => Node::Fixed(fixed),
        })
    }

    fn text(&mut self, text: &str, at: &str) -> Result<Node, TemplateError> {
        let mut parts = Vec::new();
        let (mut plain, mut rest) = (String::new(), text);
        while let Some(start) = rest.find("${") {
            if let Some(before) = rest[..start].strip_suffix('$') {
                plain.push_str(before);
                plain.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            plain.push_str(&rest[..start]);
            let source = &rest[start + 2..];
            let end = end_of(source).ok_or_else(|| TemplateError::Open { at: place(at) })?;
            if !plain.is_empty() {
                parts.push(Part::Plain(std::mem::take(&mut plain)));
            }
            parts.push(Part::Value(self.expression(&source[..end], at)?));
            rest = &source[end + 1..];
        }
        plain.push_str(rest);
        if parts.is_empty() {
            return Ok(Node::Fixed(plain.into()));
        }
        if !plain.is_empty() {
            parts.push(Part::Plain(plain));
        }
        Ok(match <[Part; 1]>::try_from(parts) {
            Ok([Part::Value(expression)]) => Node::Value(expression),
            Ok(parts) => Node::Text(parts.into()),
            Err(parts) => Node::Text(parts),
        })
    }

    fn expression(&mut self, source: &str, at: &str) -> Result<Expression, TemplateError> {
        self.expressions += 1;
        // Before compiling, which takes a thread.
        if self.expressions > TEMPLATE_EXPRESSIONS_MAX {
            return Err(too_many(TEMPLATE_EXPRESSIONS_MAX, "expressions"));
        }
        let expression = compile_for_template(source).map_err(|error| match error {
            CompileError::Busy => TemplateError::Busy,
            error => TemplateError::Expression { at: place(at), error },
        })?;
        self.nodes += expression.nodes();
        self.patterns += expression.patterns();
        if self.nodes > TEMPLATE_NODES_MAX {
            return Err(too_many(TEMPLATE_NODES_MAX, "parts of expressions"));
        }
        if self.patterns > EXPRESSION_PATTERNS_MAX {
            return Err(too_many(EXPRESSION_PATTERNS_MAX, "patterns"));
        }
        Ok(expression)
    }
}

fn too_many(max: usize, what: &'static str) -> TemplateError {
    TemplateError::TooMany { max, what }
}

/// A place in the document, cut where a stranger's names make it long.
fn place(at: &str) -> String {
    const CHARS_MAX: usize = 100;
    match at {
        "" => "the top".to_owned(),
        at => at.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect(),
    }
}

/// The byte at which the expression's closing brace stands: braces of maps and within quotes are its own.
fn end_of(source: &str) -> Option<usize> {
    let (mut depth, mut quote, mut is_escaped) = (0_usize, None, false);
    for (at, character) in source.char_indices() {
        match (quote, character) {
            _ if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), close) if open == close => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

/// An expression without a value is null: an event may lack what another one has.
fn value(expression: &Expression, subject: &Subject) -> Result<Value, RenderError> {
    match expression.evaluate(subject) {
        Ok(value) => Ok(value),
        Err(EvaluateError::TooLarge) => Err(RenderError::TooLarge),
        Err(EvaluateError::Failed { .. } | EvaluateError::NotBoolean) => Ok(Value::Null),
    }
}

/// What was written so far.
struct Output(Vec<u8>);

impl Output {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), RenderError> {
        if self.0.len().saturating_add(bytes.len()) > TEMPLATE_OUTPUT_BYTES_MAX {
            return Err(RenderError::TooLarge);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    /// A value is at most as large as an expression's may be, so its text is bounded before it is counted.
    fn value(&mut self, value: &Value) -> Result<(), RenderError> {
        self.raw(value.to_string().as_bytes())
    }

    fn json(&mut self, node: &Node, subject: &Subject) -> Result<(), RenderError> {
        match node {
            Node::Fixed(fixed) => self.value(fixed),
            Node::Value(expression) => self.value(&value(expression, subject)?),
            Node::Text(parts) => self.value(&Value::String(text(parts, subject)?)),
            Node::List(nodes) => {
                self.raw(b"[")?;
                for (index, node) in nodes.iter().enumerate() {
                    if index > 0 {
                        self.raw(b",")?;
                    }
                    self.json(node, subject)?;
                }
                self.raw(b"]")
            }
            Node::Object { condition, members } => {
                if let Some(condition) = condition
                    && !is_true(condition, subject)?
                {
                    return self.raw(b"null");
                }
                self.raw(b"{")?;
                for (index, (name, node)) in members.iter().enumerate() {
                    if index > 0 {
                        self.raw(b",")?;
                    }
                    self.value(&Value::from(name.as_str()))?;
                    self.raw(b":")?;
                    self.json(node, subject)?;
                }
                self.raw(b"}")
            }
        }
    }

    fn form(&mut self, members: &[(String, Node)], subject: &Subject) -> Result<(), RenderError> {
        for (index, (name, node)) in members.iter().enumerate() {
            let value = match node {
                Node::Fixed(fixed) => plain(fixed.clone()),
                Node::Value(expression) => match value(expression, subject)? {
                    Value::Array(_) | Value::Object(_) => return Err(RenderError::NotFlat),
                    scalar => plain(scalar),
                },
                Node::Text(parts) => text(parts, subject)?,
                Node::List(_) | Node::Object { .. } => return Err(RenderError::NotFlat),
            };
            let mut pair = form_urlencoded::Serializer::new(String::new());
            pair.append_pair(name, &value);
            if index > 0 {
                self.raw(b"&")?;
            }
            self.raw(pair.finish().as_bytes())?;
        }
        Ok(())
    }
}

fn is_true(condition: &Node, subject: &Subject) -> Result<bool, RenderError> {
    Ok(match condition {
        Node::Fixed(fixed) => *fixed == Value::Bool(true),
        Node::Value(expression) => value(expression, subject)? == Value::Bool(true),
        Node::Text(_) | Node::List(_) | Node::Object { .. } => false,
    })
}

fn text(parts: &[Part], subject: &Subject) -> Result<String, RenderError> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Plain(plain) => text.push_str(plain),
            Part::Value(expression) => text.push_str(&plain(value(expression, subject)?)),
        }
        if text.len() > TEMPLATE_OUTPUT_BYTES_MAX {
            return Err(RenderError::TooLarge);
        }
    }
    Ok(text)
}

/// A value within a text: a text as it is, null as nothing, anything else as JSON.
fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
