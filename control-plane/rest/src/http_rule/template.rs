//! URL templates of `google.api.http`: literal segments, `{field}` segments, and a custom verb at the end.
//!
//! Invariant: a template that is not understood whole is refused. Wildcards across segments (`**`,
//! `{name=shelves/*}`) are not supported: no RPC could tell from its answer which part matched.

use std::fmt;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    segments: Vec<Segment>,
    verb: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// The field path that the segment's text is put into.
    Variable(String),
}

impl Template {
    /// Parses a template, or says what is not supported about it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let path = text
            .strip_prefix('/')
            .ok_or_else(|| format!("the template {text:?} must begin with a slash"))?;
        let last_segment = path.rfind(['/', '}']).map_or(0, |at| at + 1);
        let (path, verb) = match path[last_segment..].find(':') {
            Some(colon) => (
                &path[..last_segment + colon],
                Some(path[last_segment + colon + 1..].to_owned()),
            ),
            None => (path, None),
        };
        if verb.as_deref().is_some_and(|verb| !is_literal(verb)) {
            return Err(format!("the template {text:?} has a bad verb"));
        }
        let segments = split(path)
            .into_iter()
            .map(segment)
            .collect::<Result<Vec<_>, _>>();
        let segments = segments.map_err(|reason| format!("the template {text:?} has {reason}"))?;
        Ok(Self { segments, verb })
    }

    /// The variables' values if the decoded segments of a path match. An empty segment matches no variable.
    pub(crate) fn matches<'a>(&'a self, path: &'a [String]) -> Option<Vec<(&'a str, &'a str)>> {
        if path.len() != self.segments.len() {
            return None;
        }
        let mut variables = Vec::new();
        for (index, (segment, text)) in self.segments.iter().zip(path).enumerate() {
            let mut text = text.as_str();
            if let (Some(verb), true) = (&self.verb, index + 1 == path.len()) {
                text = text.strip_suffix(verb.as_str())?.strip_suffix(':')?;
            }
            match segment {
                Segment::Literal(literal) if literal == text => {}
                Segment::Variable(field) if !text.is_empty() => variables.push((field.as_str(), text)),
                _ => return None,
            }
        }
        Some(variables)
    }

    /// The field paths that the URL binds.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable(field) => Some(field.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Sorts before others that match the same path but say less about it.
    pub(crate) fn precedence(&self) -> (bool, Vec<bool>) {
        let is_variable = |segment: &Segment| matches!(segment, Segment::Variable(_));
        (
            self.verb.is_none(),
            self.segments.iter().map(is_variable).collect(),
        )
    }

    /// Two templates of one shape match the same paths.
    pub(crate) fn shape(&self) -> String {
        let mut shape = Self {
            segments: self.segments.clone(),
            verb: self.verb.clone(),
        };
        for segment in &mut shape.segments {
            if let Segment::Variable(field) = segment {
                field.clear();
            }
        }
        shape.to_string()
    }
}

/// As OpenAPI writes it.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Variable(field) => write!(f, "/{{{field}}}")?,
            }
        }
        self.verb.as_ref().map_or(Ok(()), |verb| write!(f, ":{verb}"))
    }
}

/// Splits at slashes outside braces, so that `{name=shelves/*}` is refused as one thing.
fn split(path: &str) -> Vec<&str> {
    let mut inside = false;
    path.split(|c| {
        inside = (inside || c == '{') && c != '}';
        c == '/' && !inside
    })
    .collect()
}

fn segment(text: &str) -> Result<Segment, String> {
    if let Some(variable) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let (field, pattern) = variable.split_once('=').unwrap_or((variable, "*"));
        return match pattern {
            "*" if is_field_path(field) => Ok(Segment::Variable(field.to_owned())),
            "*" => Err(format!("a bad field path {field:?}")),
            _ => Err(format!("{text}: only one whole segment can be a variable")),
        };
    }
    match text {
        "*" | "**" => Err(format!("the unsupported wildcard {text}")),
        _ if is_literal(text) => Ok(Segment::Literal(text.to_owned())),
        _ => Err(format!("the unsupported segment {text:?}")),
    }
}

fn is_literal(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

fn is_field_path(path: &str) -> bool {
    path.split('.').all(|name| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(template: &str, path: &str) -> Option<Vec<(String, String)>> {
        let template = Template::parse(template).expect("supported");
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        let variables = template.matches(&path)?;
        Some(
            variables
                .into_iter()
                .map(|(field, text)| (field.to_owned(), text.to_owned()))
                .collect(),
        )
    }

    #[test]
    fn a_template_matches_whole_paths_only() {
        let id = |text: &str| Some(vec![("id".to_owned(), text.to_owned())]);
        for (template, path, expected) in [
            ("/v1/codes", "v1/codes", Some(vec![])),
            ("/v1/codes", "v1/codes/", None),
            ("/v1/codes", "v1", None),
            ("/v1/codes/{id}", "v1/codes/x", id("x")),
            ("/v1/codes/{id=*}", "v1/codes/x:y", id("x:y")),
            ("/v1/codes/{id}", "v1/codes/", None),
            ("/v1/codes/{id}/test", "v1/codes/a b/test", id("a b")),
            ("/v1/events:stream", "v1/events:stream", Some(vec![])),
            ("/v1/events:stream", "v1/events", None),
            ("/v1/codes/{id}:go", "v1/codes/x:go", id("x")),
            ("/v1/codes/{id}:go", "v1/codes/:go", None),
            ("/v1/codes/{id}:go", "v1/codes/xgo", None),
        ] {
            assert_eq!(matched(template, path), expected, "{template} {path}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_with_the_reason() {
        for (template, reason) in [
            ("v1", "must begin with a slash"),
            ("/v1/{x=**}", "{x=**}: only one whole segment can be a variable"),
            (
                "/v1/{x=shelves/*}",
                "{x=shelves/*}: only one whole segment can be a variable",
            ),
            ("/v1/*", "wildcard"),
            ("/v1/**", "wildcard"),
            ("/v1//a", "unsupported segment"),
            ("/v1/{}", "bad field path"),
            ("/v1/{a..b}", "bad field path"),
            ("/v1/{a", "unsupported segment"),
            ("/v1/a{b}", "unsupported segment"),
            ("/v1/a:", "bad verb"),
            ("/v1/{a}:b:c", "bad verb"),
        ] {
            let error = Template::parse(template).expect_err(template);
            assert!(error.contains(reason), "{template}: {error}");
        }
    }

    #[test]
    fn a_template_is_shown_as_openapi_writes_it() {
        for text in ["/v1/codes/{id}", "/v1/events:stream", "/v1/{a.b}/c:d"] {
            assert_eq!(Template::parse(text).expect("supported").to_string(), text);
        }
        assert_eq!(
            Template::parse("/v1/{id=*}").expect("supported").to_string(),
            "/v1/{id}"
        );
    }
}
