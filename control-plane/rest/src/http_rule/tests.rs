//! Which options are refused at start, and which route a request finds.

use http::Method;

use crate::{
    config::Config,
    error::{BuildError, RequestError},
    schema::Schema,
    testing,
};

use super::*;

fn refused(option: &str) -> String {
    let declarations = format!(
        "message M {{ string id = 1; M inner = 2; repeated string many = 3; map<string, M> by = 4; }}
         service S {{ rpc R(M) returns (M) {{ option (google.api.http) = {{ {option} }}; }} }}"
    );
    testing::transcoder(&declarations).expect_err(option).to_string()
}

#[test]
fn options_that_cannot_be_served_exactly_are_refused_at_start() {
    for (option, reason) in [
        ("get: \"/v1/{id=**}\"", "only one whole segment can be a variable"),
        (
            "get: \"/v1/x\" response_body: \"id\"",
            "response_body is not supported",
        ),
        (
            "custom { kind: \"LINK\" path: \"/v1\" }",
            "custom is not supported",
        ),
        ("get: \"/v1/{nothing}\"", "{nothing} is no field"),
        ("get: \"/v1/{many}\"", "{many} is a repeated field"),
        ("get: \"/v1/{inner}\"", "{inner} is not a scalar field"),
        ("get: \"/v1/{id.x}\"", "{id.x} is not a scalar field"),
        ("get: \"/v1/{by.x}\"", "{by.x} is not a scalar field"),
        (
            "post: \"/v1\" body: \"nothing\"",
            "the body \"nothing\" is no field",
        ),
        ("post: \"/v1\" body: \"id\"", "the body \"id\" is not one message"),
        ("post: \"/v1\" body: \"by\"", "the body \"by\" is not one message"),
        ("get: \"/v1\" body: \"*\"", "GET must have no body"),
        (
            "post: \"/v1/{inner.id}\" body: \"inner\"",
            "inner.id is in the URL and in the body",
        ),
        (
            "get: \"/v1\" additional_bindings { get: \"/a\" additional_bindings { get: \"/b\" } }",
            "additional_bindings must not be nested",
        ),
        (
            "get: \"/v1/{id}\" additional_bindings { get: \"/v1/{inner.id}\" }",
            "both want GET /v1/{inner.id}",
        ),
    ] {
        let error = refused(option);
        assert!(
            error.contains(reason) && error.contains("test.S.R"),
            "{option}: {error}"
        );
    }
}

#[test]
fn a_client_stream_with_an_option_is_refused() {
    let error = testing::transcoder(
        "message M {} service S { rpc R(stream M) returns (M) { option (google.api.http) = { get: \"/v1\" }; } }",
    );
    assert!(
        error
            .expect_err("refused")
            .to_string()
            .contains("a client stream cannot be called over REST")
    );
}

#[test]
fn unknown_services_and_a_set_without_http_options_are_refused() {
    let config = Config {
        services: vec!["qrelay.v1.NoService".to_owned()],
        ..Config::default()
    };
    let error = crate::Transcoder::new(qrelay_proto::FILE_DESCRIPTOR_SET, config).expect_err("unknown");
    assert!(matches!(error, BuildError::UnknownService(name) if name == "qrelay.v1.NoService"));
    let error = crate::Transcoder::new(tonic_types::pb::FILE_DESCRIPTOR_SET, Config::default());
    assert!(matches!(error, Err(BuildError::NoHttpOption)));
    let config = Config {
        depth_max: 33,
        ..Config::default()
    };
    let error = crate::Transcoder::new(qrelay_proto::FILE_DESCRIPTOR_SET, config);
    assert!(matches!(error, Err(BuildError::Depth(33))));
}

fn routes() -> Routes {
    let schema = Schema::load(&testing::compile(testing::KINDS)).expect("valid");
    Routes::build(&schema, &Config::default()).expect("supported")
}

fn found(method: Method, path: &str) -> Result<String, RequestError> {
    let routes = routes();
    let matched = routes.find(&method, path)?;
    Ok(format!(
        "{} {} {:?}",
        matched.route.rpc.name(),
        matched.route.template,
        matched.variables
    ))
}

#[test]
fn a_literal_goes_before_a_variable_and_a_verb_before_none() {
    for (method, path, expected) in [
        (Method::GET, "/v1/things/all", "Get /v1/things/all []"),
        (Method::GET, "/v1/things/%61ll", "Get /v1/things/all []"),
        (
            Method::HEAD,
            "/v1/things/a%2Fb",
            "Get /v1/things/{text} [(\"text\", \"a/b\")]",
        ),
        (
            Method::GET,
            "/v1/things/a:get",
            "Get /v1/things/{text} [(\"text\", \"a:get\")]",
        ),
        (
            Method::POST,
            "/v1/things/a:get",
            "Get /v1/things/{text}:get [(\"text\", \"a\")]",
        ),
        (
            Method::GET,
            "/v1/sizes/7/of/%E2%82%AC",
            "Get /v1/sizes/{leaf_alone.size}/of/{leaf_alone.name} [(\"leaf_alone.size\", \"7\"), (\"leaf_alone.name\", \"€\")]",
        ),
        (
            Method::PATCH,
            "/v1/things/a",
            "Put /v1/things/{id} [(\"id\", \"a\")]",
        ),
    ] {
        assert_eq!(found(method, path).as_deref(), Ok(expected), "{path}");
    }
}

#[test]
fn another_method_is_answered_with_the_allowed_ones_and_another_path_is_unknown() {
    let allow = "GET, HEAD, OPTIONS, PATCH, PUT".to_owned();
    assert_eq!(
        found(Method::DELETE, "/v1/things/a"),
        Err(RequestError::MethodNotAllowed { allow })
    );
    for path in [
        "/",
        "*",
        "/v1/things",
        "/v1/things/",
        "/v1/things/a/",
        "//v1/things/a",
        "/v1/THINGS/a",
    ] {
        assert_eq!(found(Method::GET, path), Err(RequestError::NotFound), "{path}");
    }
    assert_eq!(
        found(Method::GET, "/v1/things/%"),
        Err(RequestError::MalformedUri("path"))
    );
    let head_of_post = found(Method::HEAD, "/v1/nothing/a:get");
    assert_eq!(head_of_post, Err(RequestError::NotFound));
}
