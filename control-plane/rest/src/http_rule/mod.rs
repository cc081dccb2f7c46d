//! Reads the `google.api.http` options into the table of routes and finds the route of a request.
//!
//! Invariants: a rule is checked whole against its RPC's messages at start; no two routes match the same
//! requests with equal right; a literal segment goes before a variable, a custom verb before none.

mod template;

use http::Method;
use prost_reflect::{
    DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor, Value,
};

pub(crate) use template::Template;

use crate::{
    config::Config,
    error::{BuildError, RequestError},
    request::PATH_NAMES_MAX,
    schema::Schema,
    uri,
};

/// Where the request's body goes.
#[derive(Debug, Clone)]
pub(crate) enum BodyRule {
    /// The request takes none.
    None,
    /// The body is the request message.
    Whole,
    /// The body is this message field of the request.
    Field(FieldDescriptor),
}

/// One HTTP binding of one RPC.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) rpc: MethodDescriptor,
    pub(crate) verb: Method,
    pub(crate) template: Template,
    pub(crate) body: BodyRule,
}

/// All bindings, those that say more about a path first.
#[derive(Debug)]
pub(crate) struct Routes {
    list: Vec<Route>,
}

/// A route with the values of its URL's variables.
#[derive(Debug)]
pub(crate) struct Matched<'a> {
    pub(crate) route: &'a Route,
    /// Field paths and their values.
    pub(crate) variables: Vec<(String, String)>,
}

impl Routes {
    pub(crate) fn build(schema: &Schema, config: &Config) -> Result<Self, BuildError> {
        let http = schema
            .pool
            .get_extension_by_name("google.api.http")
            .ok_or(BuildError::NoHttpOption)?;
        let mut list = Vec::new();
        for service in exposed(schema, &config.services)? {
            for rpc in service.methods() {
                bind(&rpc, &http, &mut list).map_err(|reason| BuildError::Rule {
                    method: rpc.full_name().to_owned(),
                    reason,
                })?;
            }
        }
        refuse_ambiguous(&list)?;
        list.sort_by_key(|route| route.template.precedence());
        Ok(Self { list })
    }

    /// Every binding; those of one RPC in the order of its option.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.list.iter()
    }

    /// The route of a request. HEAD finds the route of GET.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Result<Matched<'_>, RequestError> {
        let wanted = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let segments = uri::segments(path)?.ok_or(RequestError::NotFound)?;
        let mut found = self.list.iter().filter(|route| route.verb == *wanted);
        let matched = found.find_map(|route| {
            let variables = route.template.matches(&segments)?;
            let variables = variables
                .into_iter()
                .map(|(field, text)| (field.to_owned(), text.to_owned()));
            Some(Matched {
                route,
                variables: variables.collect(),
            })
        });
        matched.ok_or_else(|| match self.allowed(&segments) {
            Some(allow) => RequestError::MethodNotAllowed { allow },
            None => RequestError::NotFound,
        })
    }

    /// The methods that a path has, as the header `Allow` lists them.
    pub(crate) fn allow(&self, path: &str) -> Result<String, RequestError> {
        let segments = uri::segments(path)?.ok_or(RequestError::NotFound)?;
        self.allowed(&segments).ok_or(RequestError::NotFound)
    }

    fn allowed(&self, segments: &[String]) -> Option<String> {
        let mut allowed: Vec<&str> = Vec::new();
        for route in self
            .list
            .iter()
            .filter(|route| route.template.matches(segments).is_some())
        {
            allowed.push(route.verb.as_str());
            if route.verb == Method::GET {
                allowed.push("HEAD");
            }
        }
        if allowed.is_empty() {
            return None;
        }
        allowed.push("OPTIONS");
        allowed.sort_unstable();
        allowed.dedup();
        Some(allowed.join(", "))
    }
}

fn exposed(schema: &Schema, names: &[String]) -> Result<Vec<ServiceDescriptor>, BuildError> {
    if names.is_empty() {
        return Ok(schema.pool.services().collect());
    }
    let find = |name: &String| {
        schema
            .pool
            .get_service_by_name(name)
            .ok_or_else(|| BuildError::UnknownService(name.clone()))
    };
    names.iter().map(find).collect()
}

/// Adds the bindings of one RPC; one without the option is for gRPC only.
fn bind(rpc: &MethodDescriptor, http: &ExtensionDescriptor, routes: &mut Vec<Route>) -> Result<(), String> {
    let options = rpc.options();
    if !options.has_extension(http) {
        return Ok(());
    }
    let value = options.get_extension(http);
    let rule = value.as_message().ok_or("google.api.http is not a message")?;
    if rpc.is_client_streaming() {
        return Err("a client stream cannot be called over REST".to_owned());
    }
    routes.push(route(rpc, rule)?);
    for additional in list(rule, "additional_bindings") {
        if !list(&additional, "additional_bindings").is_empty() {
            return Err("additional_bindings must not be nested".to_owned());
        }
        routes.push(route(rpc, &additional)?);
    }
    Ok(())
}

fn route(rpc: &MethodDescriptor, rule: &DynamicMessage) -> Result<Route, String> {
    if !text(rule, "response_body").is_empty() {
        return Err("response_body is not supported".to_owned());
    }
    let verbs = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ];
    let (name, verb) = verbs
        .into_iter()
        .find(|(name, _)| rule.has_field_by_name(name))
        .ok_or("the rule has no get, put, post, delete or patch (custom is not supported)")?;
    let template = Template::parse(&text(rule, name))?;
    let body = body_rule(rpc, &text(rule, "body"))?;
    if !matches!(body, BodyRule::None) && (verb == Method::GET || verb == Method::DELETE) {
        return Err(format!("{verb} must have no body"));
    }
    for variable in template.variables() {
        check_variable(&rpc.input(), variable)?;
        if matches!(&body, BodyRule::Field(field) if variable.split('.').next() == Some(field.name())) {
            return Err(format!("{variable} is in the URL and in the body"));
        }
    }
    Ok(Route {
        rpc: rpc.clone(),
        verb,
        template,
        body,
    })
}

fn body_rule(rpc: &MethodDescriptor, body: &str) -> Result<BodyRule, String> {
    if body.is_empty() || body == "*" {
        return Ok(if body.is_empty() {
            BodyRule::None
        } else {
            BodyRule::Whole
        });
    }
    let field = rpc
        .input()
        .get_field_by_name(body)
        .ok_or_else(|| format!("the body {body:?} is no field"))?;
    let is_message = matches!(field.kind(), Kind::Message(_)) && !field.is_list() && !field.is_map();
    if is_message {
        Ok(BodyRule::Field(field))
    } else {
        Err(format!("the body {body:?} is not one message"))
    }
}

/// A variable must lead through messages to one scalar.
fn check_variable(input: &MessageDescriptor, path: &str) -> Result<(), String> {
    if path.split('.').nth(PATH_NAMES_MAX).is_some() {
        return Err(format!("{{{path}}} nests deeper than {PATH_NAMES_MAX} names"));
    }
    let mut message = input.clone();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let field = message
            .get_field_by_name(name)
            .ok_or_else(|| format!("{{{path}}} is no field"))?;
        let single = !field.is_list() && !field.is_map();
        match (field.kind(), names.peek()) {
            (Kind::Message(inner), Some(_)) if single => message = inner,
            (Kind::Message(_), _) | (_, Some(_)) => return Err(format!("{{{path}}} is not a scalar field")),
            (_, None) if single => {}
            (_, None) => return Err(format!("{{{path}}} is a repeated field")),
        }
    }
    Ok(())
}

fn refuse_ambiguous(routes: &[Route]) -> Result<(), BuildError> {
    let mut seen = std::collections::HashMap::new();
    for route in routes {
        if let Some(first) = seen.insert((route.verb.clone(), route.template.shape()), &route.rpc) {
            return Err(BuildError::Ambiguous {
                first: first.full_name().to_owned(),
                second: route.rpc.full_name().to_owned(),
                verb: route.verb.to_string(),
                template: route.template.to_string(),
            });
        }
    }
    Ok(())
}

fn text(rule: &DynamicMessage, field: &str) -> String {
    let value = rule.get_field_by_name(field);
    value
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn list(rule: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let Some(value) = rule.get_field_by_name(field) else {
        return Vec::new();
    };
    match value.as_ref() {
        Value::List(values) => values.iter().filter_map(Value::as_message).cloned().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
