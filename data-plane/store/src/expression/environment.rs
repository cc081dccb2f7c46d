//! The CEL environment: the standard library without macros and optionals, our own [`functions`], and those that the
//! checker puts in place of `+` and `matches`.

use std::any::Any;
use std::sync::{Arc, LazyLock};

use cel::common::ast::Expr;
use cel::common::functions::Function;
use cel::common::types::{CelBool, CelString, DYN_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::parser::Macro;
use cel::{Env, ExecutionError};
use regex::Regex;

use super::functions;
use crate::limits::{EXPRESSION_MATCHED_BYTES_MAX, EXPRESSION_OUTPUT_BYTES_MAX};

/// `+` with a bound on what it makes. No source text can hold the name.
pub(super) const BOUNDED_ADD: &str = "@add";
/// `matches` with a compiled pattern.
pub(super) const COMPILED_MATCHES: &str = "@matches";
/// Its argument, if that is no list or map: see the checker.
pub(super) const SCALAR: &str = "@scalar";
/// What [`BOUNDED_ADD`] says when it refuses.
pub(super) const TOO_LARGE: &str = "too large";
/// How deep brackets and conditionals may nest in a source: what the parser's stack is sized for.
pub(super) const PARSER_NESTING_MAX: u16 = 32;

/// A list's element is a boxed value.
const ELEMENT_BYTES: usize = 16;

/// A table that never changes; building it for each expression would cost more than the expression.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(build()));

/// The environment that expressions are parsed and evaluated in.
pub(super) fn environment() -> Arc<Env> {
    Arc::clone(&ENVIRONMENT)
}

fn build() -> Env {
    let mut env = Env::default().with_optional_support(false).with_stdlib();
    env.add_macro(has())
        .expect("invariant: an environment without macros has no `has`");
    let replacing: [(&str, usize, Function); 3] = [
        (BOUNDED_ADD, 2, add),
        (COMPILED_MATCHES, 2, matches),
        (SCALAR, 1, scalar),
    ];
    let ours = functions::ALL.map(|(name, function)| (name, 1, function));
    for (name, arguments, function) in replacing.into_iter().chain(ours) {
        env.add_overload(
            name,
            name,
            std::iter::repeat_with(|| DYN_TYPE).take(arguments).collect(),
            function,
        )
        .expect("invariant: the standard library has none of these names");
    }
    env
}

/// `has(a.b)`: whether the field is there. The one macro that costs nothing.
fn has() -> Macro {
    Macro::global("has", 1, |helper, _, args| match args.pop() {
        Some(argument) => match argument.expr {
            Expr::Select(mut select) => {
                select.test = true;
                Ok(Some(helper.next_expr(Expr::Select(select))))
            }
            _ => Err(helper.new_error(argument.id, "has() takes a field, such as has(data.country)")),
        },
        None => Ok(None),
    })
}

fn add<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [left, right] = &args[..] else {
        return Err(ExecutionError::invalid_argument_count(2, args.len()));
    };
    if size(left.as_ref()).saturating_add(size(right.as_ref())) > EXPRESSION_OUTPUT_BYTES_MAX {
        return Err(ExecutionError::function_error("+", TOO_LARGE));
    }
    let types = || {
        vec![
            left.get_type().name().to_owned(),
            right.get_type().name().to_owned(),
        ]
    };
    let adder = left
        .as_adder()
        .ok_or_else(|| ExecutionError::no_such_overload("+", types()))?;
    Ok(CowVal::Owned(adder.add(right.as_ref())?.into_owned()))
}

fn scalar<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    match args.pop() {
        Some(value) if value.as_sizer().is_none() => Ok(value),
        Some(value) => Err(ExecutionError::no_such_overload(
            "operator",
            vec![value.get_type().name().to_owned()],
        )),
        None => Err(ExecutionError::invalid_argument_count(1, 0)),
    }
}

/// Bytes of a text, or what a list's elements take at least; nothing for what does not grow.
fn size(value: &dyn Val) -> usize {
    match (value.downcast_ref::<CelString>(), value.as_sizer()) {
        (Some(text), _) => text.inner().len(),
        (None, Some(sizer)) => usize::try_from(*sizer.size().inner())
            .unwrap_or(usize::MAX)
            .saturating_mul(ELEMENT_BYTES),
        (None, None) => 0,
    }
}

fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [text, pattern] = &args[..] else {
        return Err(ExecutionError::invalid_argument_count(2, args.len()));
    };
    let types = || vec![text.get_type().name().to_owned()];
    let (Some(text), Some(pattern)) = (
        text.downcast_ref::<CelString>(),
        pattern.downcast_ref::<Pattern>(),
    ) else {
        return Err(ExecutionError::no_such_member_overload("matches", types()));
    };
    if text.inner().len() > EXPRESSION_MATCHED_BYTES_MAX {
        let message = format!("the text is longer than {EXPRESSION_MATCHED_BYTES_MAX} bytes");
        return Err(ExecutionError::function_error("matches", message));
    }
    Ok(CowVal::owned(CelBool::from(pattern.0.is_match(text.inner()))))
}

/// A compiled regular expression, as a value that only [`COMPILED_MATCHES`] is ever given.
#[derive(Clone, Debug)]
pub(super) struct Pattern(pub(super) Regex);

static PATTERN_TYPE: Type = Type::new_unspecified_type("@pattern");

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN_TYPE
    }

    fn cel_type() -> &'static Type {
        &PATTERN_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}
