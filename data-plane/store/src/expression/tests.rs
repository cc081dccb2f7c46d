//! What is accepted, what is refused and where, and that nothing hostile hurts.

use serde_json::json;

use super::*;
use crate::limits::{
    EXPRESSION_COMPUTED_ELEMENTS_MAX, EXPRESSION_DEPTH_MAX, EXPRESSION_MATCHED_BYTES_MAX,
    EXPRESSION_PATTERNS_MAX,
};

fn event() -> Subject {
    Subject::new(&json!({
        "type": "scan.created",
        "id": "evt_1",
        "created_at": "2026-05-09T14:01:23.451Z",
        "data": {
            "short_id": "aBc12dEf", "country": "FR", "city": null, "is_bot": false, "tags": ["menu", "spring"],
            "count": 3, "big": 18_446_744_073_709_551_615_u64, "ratio": 0.5,
            "destination_url": "https://example.com/menus/spring-2026", "metadata": {"shop": "12", "table-no": 4},
        },
        "unknown": 1,
    }))
}

#[track_caller]
fn value(source: &str) -> Result<serde_json::Value, EvaluateError> {
    compile(source)
        .unwrap_or_else(|error| panic!("{source}: {error}"))
        .evaluate(&event())
}

#[track_caller]
fn refusal(source: &str) -> (usize, usize, String) {
    match compile(source) {
        Err(CompileError::Refused { position, reason }) => (position.line, position.column, reason),
        other => panic!("{source}: {other:?}"),
    }
}

#[test]
fn filters_over_an_event() {
    for (source, expected) in [
        ("true", true),
        (r#"data.country == "FR""#, true),
        (r#"data.country in ["DE", "AT", "CH"]"#, false),
        (r#"type == "scan.created" && !data.is_bot"#, true),
        (r#""menu" in data.tags"#, true),
        (r#"data.tags[1] == "spring""#, true),
        (r#"data.metadata["table-no"] > 3"#, true),
        ("data.count == 3 && data.count + 1 == 4 && data.ratio < 1.0", true),
        ("data.big == 18446744073709551615u", true),
        ("has(data.metadata.shop) && !has(data.metadata.missing)", true),
        (r#"has(data.nothing) && data.nothing == "x""#, false),
        (r#"data.destination_url.startsWith("https://example.com/")"#, true),
        (r#"data.destination_url.matches("spring-[0-9]{4}$")"#, true),
        (r#"matches(data.short_id, "^[a-z]+$")"#, false),
        (
            r#"data.short_id.matches("^\\w{8}$") && data.short_id.matches(r"\bA?aBc\d*[\W\d]")"#,
            true,
        ),
        (
            r#""é".matches(r"^\W$") && "\\w".matches(r"^\\w$") && "x".matches("^.$")"#,
            true,
        ),
        (r#"size(data.tags) == 2 && data.short_id.size() == 8"#, true),
        (r#"data.city == null"#, true),
        (r#"(data.country == "FR" ? "a" : "b") == "a""#, true),
        (r#"type(data.count) == int && string(data.count) == "3""#, true),
        (r#"data.missing == "x" || true"#, true),
        (
            r#"data.country.contains("F") && data.country.endsWith("R")"#,
            true,
        ),
        ("// a comment\ntrue", true),
    ] {
        let compiled = compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(compiled.matches(&event()), Ok(expected), "{source}");
    }
}

#[test]
fn values_keep_their_type_and_maps_their_order() {
    assert_eq!(value("data.count * 2"), Ok(json!(6)));
    assert_eq!(
        value(r#""scan of " + data.short_id"#),
        Ok(json!("scan of aBc12dEf"))
    );
    assert_eq!(value("data.tags + [\"x\"]"), Ok(json!(["menu", "spring", "x"])));
    let map = value(r#"{"z": 1, "a": data.metadata, "m": [1.5, null, true]}"#).unwrap();
    assert_eq!(
        map.to_string(),
        r#"{"a":{"shop":"12","table-no":4},"m":[1.5,null,true],"z":1}"#
    );
    assert_eq!(value("1.0 / 0.0"), Ok(json!(null)));
}

#[test]
fn what_cannot_be_evaluated_is_an_error_without_the_events_content() {
    for (source, reason) in [
        ("data.missing", "there is no field `missing`"),
        ("data.count / 0", "division by zero"),
        ("9223372036854775807 + data.count", "a number is out of range"),
        ("data.tags[9]", "an index is out of bounds"),
    ] {
        assert_eq!(
            value(source),
            Err(EvaluateError::Failed {
                reason: reason.to_owned()
            }),
            "{source}"
        );
    }
    for source in [
        "data.tags - data.tags",
        "data < data",
        "data.tags[data]",
        r#"data.country + 1"#,
        "data.count < \"x\"",
        "-data.country",
        "data.count.contains(\"x\")",
    ] {
        let Err(EvaluateError::Failed { reason }) = value(source) else {
            panic!("{source}")
        };
        assert!(!reason.contains("FR") && reason.len() < 300, "{reason}");
    }
    assert_eq!(
        compile("data.country").unwrap().matches(&event()),
        Err(EvaluateError::NotBoolean)
    );
    assert!(
        compile("data.country == 'FR'")
            .unwrap()
            .matches(&Subject::new(&json!([])))
            .is_err()
    );
}

#[test]
fn what_is_refused_is_named_with_its_place() {
    for (source, line, column, reason) in [
        ("true && country == 'FR'", 1, 9, "unknown name `country`"),
        ("true &&\n  nope", 2, 3, "unknown name `nope`"),
        ("'é😀' == nope", 1, 9, "unknown name `nope`"),
        (
            "data.tags.exists(t, t == 'a')",
            1,
            17,
            "`exists` is not supported",
        ),
        ("data.tags.map(t, t)", 1, 14, "`map` is not supported"),
        ("evil(1)", 1, 5, "unknown function `evil`"),
        (
            "data.country.lowerAscii()",
            1,
            24,
            "unknown function `lowerAscii`",
        ),
        ("size(1, 2)", 1, 5, "`size` takes 1 argument(s) here, not 2"),
        ("has(1)", 1, 5, "has() takes a field"),
        (
            "data.country.matches(data.city)",
            1,
            26,
            "the pattern of `matches` must be a literal",
        ),
        ("data.country.matches('(')", 1, 22, "the pattern is malformed"),
        (
            "data.country.matches('a{1000}{1000}')",
            1,
            22,
            "the pattern is too large",
        ),
        ("b'x' == b'x'", 1, 1, "bytes are not supported"),
        ("Message{field: 1}", 1, 8, "messages are not supported"),
        (".data", 1, 2, "unknown name"),
    ] {
        let (at_line, at_column, text) = refusal(source);
        assert!(text.starts_with(reason), "{source}: {text}");
        assert_eq!((at_line, at_column), (line, column), "{source}: {text}");
    }
}

#[test]
fn what_is_not_cel_is_refused_with_its_place() {
    for source in [
        "",
        " ",
        "data.",
        "1 +",
        "(",
        ")",
        "\"",
        "a b",
        "data.?x",
        "data[?0]",
        "'\u{0}",
        "\\",
        "@0",
        "@add(1, 2)",
    ] {
        let (line, column, _) = refusal(source);
        assert!(
            line == 1 && column <= source.chars().count() + 1,
            "{source:?}: {line}:{column}"
        );
    }
    assert_eq!(refusal("data.country ==").1, 16);
    assert_eq!(refusal("'é😀' ==\n'é' == )").1, 8);
    assert_eq!(
        compile(&"1".repeat(EXPRESSION_BYTES_MAX + 1)).unwrap_err(),
        CompileError::TooLong
    );
}

#[test]
fn the_number_of_parts_the_nesting_and_the_patterns_are_bounded() {
    let many = vec!["true"; 150].join(" && ");
    assert!(refusal(&many).2.contains("parts"));
    compile(&vec!["true"; 100].join(" && ")).unwrap();
    let deep = vec!["1"; EXPRESSION_DEPTH_MAX + 1].join("+");
    assert!(refusal(&deep).2.contains("nested"));
    let matches = |count| vec!["data.country.matches('a')"; count].join(" && ");
    compile(&matches(EXPRESSION_PATTERNS_MAX)).unwrap();
    assert!(
        refusal(&matches(EXPRESSION_PATTERNS_MAX + 1))
            .2
            .contains("patterns")
    );
}

/// Each of these is as deep or as broad as the allowed length lets it be.
fn adversaries() -> Vec<String> {
    let fill = |unit: &str| unit.repeat(EXPRESSION_BYTES_MAX / unit.len());
    let mut all: Vec<String> = [
        "(",
        "[",
        "{",
        "!",
        "-",
        "((",
        "[[",
        "{1:",
        "(1)",
        "!(",
        "-(",
        "1+",
        "1<",
        "1?",
        "1?1:",
        "a.",
        "a[",
        "a(",
        "a{",
        ".a",
        "a.b",
        "[0]",
        "[[0]",
        "1&&",
        "1||1&&",
        "\"",
        "'''",
        "r'",
        "\\",
        "?",
        "data[",
        "size(",
        "true?true:",
        "a.b(",
        "!-",
        "/*",
        "//\n",
        "\u{0}",
        "\u{2028}",
        "é",
        "😀",
        "\\u{",
        "1e",
        "0x",
        "..",
        "in ",
        "1 in ",
        ",",
        ":",
    ]
    .iter()
    .map(|unit| fill(unit))
    .collect();
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("[", "", "]"),
        ("{1:", "1", "}"),
        ("size(", "1", ")"),
        ("!(", "1", ")"),
    ] {
        let times = EXPRESSION_BYTES_MAX / (open.len() + close.len()) - 1;
        all.push(format!("{}{middle}{}", open.repeat(times), close.repeat(times)));
    }
    all.push(format!("data{}", fill(".a")[..2000].to_owned()));
    all.push(format!("data{}", fill("[0]")[..1998].to_owned()));
    all.push(format!("1{}", fill("+1")[..2000].to_owned()));
    all.push(format!("1{}", fill("<1")[..2000].to_owned()));
    all.push(format!("{}1", fill("1?1:")[..2000].to_owned()));
    all.push(fill("[1].map(x,"));
    all
}

#[test]
fn no_adversary_takes_the_parser_down() {
    for source in adversaries() {
        // An overflowing stack would end the process; a panic is told as unparsable.
        assert_ne!(compile(&source).err(), Some(CompileError::Unparsable), "{source}");
    }
}

#[test]
fn the_deepest_accepted_expression_is_evaluated_on_a_small_stack() {
    let sum = vec!["1"; EXPRESSION_DEPTH_MAX].join("+");
    let nested = format!("{}1{}", "size([".repeat(14), "])".repeat(14));
    let (sum, nested) = (compile(&sum).unwrap(), compile(&nested).unwrap());
    // Half of what a worker thread has.
    let thread = std::thread::Builder::new()
        .stack_size(1024 * 1024)
        .spawn(move || (sum.evaluate(&event()).is_ok(), nested.evaluate(&event()).is_ok()));
    assert_eq!(thread.unwrap().join().unwrap(), (true, true));
}

#[test]
fn what_is_made_while_evaluating_is_bounded() {
    let text = "x".repeat(EXPRESSION_OUTPUT_BYTES_MAX / 2);
    let subject =
        Subject::new(&json!({"data": {"text": text, "list": vec![0; EXPRESSION_OUTPUT_BYTES_MAX / 32]}}));
    let evaluate = |source: &str| compile(source).unwrap().evaluate(&subject).map(|_| ());
    assert_eq!(evaluate("data.text + data.text == ''"), Ok(()));
    assert_eq!(
        evaluate("data.text + data.text + data.text == ''"),
        Err(EvaluateError::TooLarge)
    );
    assert_eq!(
        evaluate("size(data.list + data.list + data.list)"),
        Err(EvaluateError::TooLarge)
    );
    let copies = vec!["data"; EXPRESSION_COMPUTED_ELEMENTS_MAX + 1].join(",");
    assert!(refusal(&format!("[{copies}]")).2.contains("computed elements"));
    assert_eq!(
        evaluate("[data.text, data.text, data.text]"),
        Err(EvaluateError::TooLarge)
    );
    assert!(evaluate("data.text.matches('y')").is_err());
    let fits = "x".repeat(EXPRESSION_MATCHED_BYTES_MAX);
    let subject = Subject::new(&json!({"data": {"text": fits}}));
    assert_eq!(
        compile("data.text.matches('y')").unwrap().matches(&subject),
        Ok(false)
    );
}

#[test]
fn an_expression_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Expression>();
    shared::<Subject>();
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(400))]

    #[test]
    fn any_text_is_answered(source in "\\PC{0,200}") {
        if let Ok(expression) = compile(&source) {
            drop(expression.evaluate(&event()));
        }
    }

    #[test]
    fn any_text_made_of_cels_pieces_is_answered(pieces in proptest::collection::vec(0..PIECES.len(), 0..40)) {
        let source: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
        if let Ok(expression) = compile(&source) {
            drop(expression.evaluate(&event()));
            drop(expression.matches(&event()));
        }
    }
}

#[test]
fn what_is_nested_too_deep_is_refused_in_words_of_its_own() {
    for source in [
        format!("{}1{}", "(".repeat(60), ")".repeat(60)),
        format!("{}1{}", "[".repeat(60), "]".repeat(60)),
        format!("{}1", "true ? 1 : ".repeat(60)),
    ] {
        match compile(&source) {
            Err(error) => {
                let shown = error.to_string();
                assert!(
                    shown.contains("levels deep") || shown.contains("parts"),
                    "{shown}"
                );
            }
            Ok(_) => assert!(source.starts_with("true"), "{source}"),
        }
    }
}

const PIECES: &[&str] = &[
    "data",
    ".country",
    ".tags",
    ".metadata",
    ".missing",
    "type",
    "id",
    "[0]",
    "['shop']",
    "[-1]",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "||",
    "!",
    " in ",
    "1",
    "-1",
    "0",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615u",
    "1.5",
    "1e309",
    "'a'",
    "\"é\"",
    "r'\\d'",
    "b'x'",
    "true",
    "null",
    "size(",
    "has(",
    "string(",
    "int(",
    "double(",
    ".matches('a*')",
    ".size()",
    ".contains('R')",
    ".startsWith(",
    "int",
    "list",
    " ",
    "\n",
    "//",
    "'''x'''",
    "\\",
    "`a`",
];
