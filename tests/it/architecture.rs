//! The invariants of ARCHITECTURE.md that a compiler does not check: which crate may know which, what stands at the
//! top level, how a file opens and what it may be called.
//!
//! Reads `cargo metadata` and the source files, and starts nothing. A new crate, or a new top-level file, fails
//! here until somebody has decided where it belongs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// Every crate of the workspace, and the crates of the workspace that its product code may depend on.
const MAY_DEPEND_ON: [(&str, &[&str]); 10] = [
    ("qrelay-proto", &[]),
    ("qrelay-store", &[]),
    ("qrelay-rest", &[]),
    ("qrelay-control", &["qrelay-proto", "qrelay-rest", "qrelay-store"]),
    ("qrelay-edge", &["qrelay-store"]),
    ("qrelay-dispatcher", &["qrelay-store"]),
    ("qrelay-peers", &["qrelay-proto", "qrelay-store"]),
    (
        "qrelay",
        &[
            "qrelay-proto",
            "qrelay-rest",
            "qrelay-control",
            "qrelay-store",
            "qrelay-edge",
            "qrelay-dispatcher",
            "qrelay-peers",
        ],
    ),
    // The tests see everything; the load generator sees only what any client sees.
    (
        "qrelay-tests",
        &[
            "qrelay",
            "qrelay-proto",
            "qrelay-rest",
            "qrelay-control",
            "qrelay-store",
            "qrelay-edge",
            "qrelay-dispatcher",
            "qrelay-loadtest",
        ],
    ),
    ("qrelay-loadtest", &[]),
];

/// What the planes speak with the outside, and the store therefore never sees, directly or through another crate.
const NOT_IN_STORE: [&str; 6] = ["hyper", "hyper-util", "tonic", "prost", "axum", "h2"];

/// Everything that may stand at the top level.
const TOP_LEVEL: [&str; 21] = [
    ".cargo",
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "control-plane",
    "data-plane",
    "deny.toml",
    "helm",
    "loadtest",
    "proto",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
];

/// Names under which a reader cannot know what to look for.
const EMPTY_NAMES: [&str; 9] = [
    "utils", "util", "helpers", "helper", "common", "misc", "shared", "stuff", "manager",
];

/// How code opens a connection to somewhere else. The dispatcher alone may, in product code: a tenant's URL is
/// called only under its owner's limits and target check.
const OPENS_CONNECTIONS: [&str; 6] = [
    "TcpStream::connect",
    "TcpSocket::new",
    "client::conn",
    "client::legacy",
    "transport::Channel",
    "transport::Endpoint",
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the tests' crate stands at the top level")
        .to_path_buf()
}

fn command() -> MetadataCommand {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml"));
    command.other_options(["--offline", "--locked", "--filter-platform", "host-tuple"].map(String::from));
    command
}

fn workspace() -> Metadata {
    command()
        .no_deps()
        .exec()
        .expect("cargo metadata reads the workspace")
}

/// The names of the packages that `package` declares for its product code and build script.
fn declared(package: &Package) -> BTreeSet<&str> {
    let product = package
        .dependencies
        .iter()
        .filter(|d| d.kind != DependencyKind::Development);
    product.map(|dependency| dependency.name.as_str()).collect()
}

/// The `.rs` files of the repository, generated ones excepted, with their text.
fn sources() -> Vec<(PathBuf, String)> {
    let files = tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).expect("a tracked source file is readable");
        (path, text)
    };
    files.map(read).collect()
}

/// The files that git tracks and that exist, or all files where this is no git repository (a source archive).
fn tracked() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .arg("-C")
        .arg(root())
        .args(["ls-files", "-z", "--cached"])
        .output();
    let files: Vec<PathBuf> = match listed {
        Ok(output) if output.status.success() => {
            let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
            names.split_terminator('\0').map(PathBuf::from).collect()
        }
        _ => walk(&root()),
    };
    let files: Vec<_> = files
        .into_iter()
        .filter(|path| root().join(path).exists())
        .collect();
    assert!(
        files.len() > 20,
        "only {} files found: this test would prove nothing",
        files.len()
    );
    files
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder is readable") {
            let path = entry.expect("a source folder is readable").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".cache" {
                folders.push(path);
            } else if path.is_file() {
                files.push(
                    path.strip_prefix(root())
                        .expect("found below the root")
                        .to_path_buf(),
                );
            }
        }
    }
    files
}

/// Whether a file is of a crate's product code: not its tests, which may do what the product may not.
fn is_product_code(path: &Path, crates: &[&str]) -> bool {
    let is_test_name =
        |name: &str| name.starts_with("test") || name.ends_with("_tests") || name == "conformance";
    crates
        .iter()
        .any(|folder| path.starts_with(Path::new(folder).join("src")))
        && !path
            .with_extension("")
            .iter()
            .any(|part| part.to_str().is_some_and(is_test_name))
}

/// The lines before a file's unit tests, without comments.
fn product_lines(text: &str) -> impl Iterator<Item = &str> {
    let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    code.filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn each_crate_knows_only_the_crates_it_may() {
    let metadata = workspace();
    let allowed: BTreeMap<_, _> = MAY_DEPEND_ON.into_iter().collect();
    let members: BTreeSet<_> = metadata
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let known: BTreeSet<_> = allowed.keys().copied().collect();
    assert_eq!(
        members, known,
        "a crate came or went: say in MAY_DEPEND_ON what it may know"
    );
    for package in &metadata.packages {
        let may: BTreeSet<_> = allowed[package.name.as_str()].iter().copied().collect();
        let does: BTreeSet<_> = declared(package).intersection(&members).copied().collect();
        let beyond: Vec<_> = does.difference(&may).collect();
        assert!(
            beyond.is_empty(),
            "{} must not depend on {beyond:?}",
            package.name
        );
    }
}

#[test]
fn the_planes_do_not_know_each_other_even_in_their_tests() {
    let planes = ["qrelay-edge", "qrelay-dispatcher", "qrelay-control"];
    for package in workspace()
        .packages
        .iter()
        .filter(|package| planes.contains(&package.name.as_str()))
    {
        for dependency in &package.dependencies {
            let other =
                planes.contains(&dependency.name.as_str()) && dependency.name != package.name.as_str();
            assert!(!other, "{} depends on {}", package.name, dependency.name);
        }
    }
}

#[test]
fn the_store_knows_no_protocol_of_the_planes_even_through_others() {
    let metadata = command()
        .exec()
        .expect("cargo metadata resolves the dependencies");
    let resolve = metadata
        .resolve
        .as_ref()
        .expect("metadata with dependencies has a graph");
    let names: BTreeMap<&PackageId, &str> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package.name.as_str()))
        .collect();
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let store = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "qrelay-store");
    let mut open = vec![&store.expect("the store is in the workspace").id];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let is_in_product = |kind: &cargo_metadata::DepKindInfo| kind.kind == DependencyKind::Normal;
        let product = nodes[id]
            .deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(is_in_product));
        for dependency in product {
            let name = names[&dependency.pkg];
            assert!(
                !NOT_IN_STORE.contains(&name),
                "the store knows {name}, through {}",
                names[id]
            );
            open.push(&dependency.pkg);
        }
    }
    assert!(
        seen.len() > 10,
        "the graph has only {} crates: this test would prove nothing",
        seen.len()
    );
}

#[test]
fn only_the_dispatcher_opens_connections() {
    let others = [
        "control-plane/service",
        "control-plane/rest",
        "data-plane/store",
        "data-plane/edge",
        "proto",
    ];
    let mut found = Vec::new();
    for (path, text) in sources()
        .iter()
        .filter(|(path, _)| is_product_code(path, &others))
    {
        for line in product_lines(text) {
            if OPENS_CONNECTIONS.iter().any(|call| line.contains(call)) {
                found.push(format!("{}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(
        found.is_empty(),
        "only the dispatcher connects to other hosts:\n{}",
        found.join("\n")
    );
}

#[test]
fn nothing_stands_at_the_top_level_that_was_not_decided() {
    let known: BTreeSet<_> = TOP_LEVEL.into_iter().collect();
    let first = |path: &PathBuf| path.iter().next().map(|part| part.to_string_lossy().into_owned());
    let top: BTreeSet<_> = tracked().iter().filter_map(first).collect();
    let unknown: Vec<_> = top.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "unknown at the top level: {unknown:?}");
}

#[test]
fn every_source_file_opens_by_saying_what_it_is_for() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| {
            let first = text.lines().next().and_then(|line| line.strip_prefix("//!"));
            // A placeholder of a word or two says nothing.
            first.is_none_or(|said| said.trim().len() < 15)
        })
        .map(|(path, _)| path)
        .collect();
    assert!(
        silent.is_empty(),
        "these files do not open with a `//!` line that says something: {silent:?}"
    );
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let nameless: Vec<_> = tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs" || e == "proto"))
        .filter(|path| {
            path.with_extension("")
                .iter()
                .any(|part| EMPTY_NAMES.contains(&part.to_str().unwrap_or_default()))
        })
        .collect();
    assert!(nameless.is_empty(), "say what is in there: {nameless:?}");
    for (path, text) in sources() {
        for line in text.lines() {
            let named = line
                .trim()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ");
            let module = named
                .strip_prefix("mod ")
                .map(|rest| rest.trim_end_matches([';', '{', ' ']));
            let empty = module.is_some_and(|module| EMPTY_NAMES.contains(&module));
            assert!(
                !empty,
                "{} has a module that says nothing: {line}",
                path.display()
            );
        }
    }
}

#[test]
fn no_function_is_called_get() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        // Only what has a visibility of its own: a trait of another crate names its methods as it likes.
        let getters = text
            .lines()
            .map(str::trim_start)
            .filter(|line| line.starts_with("pub") && line.contains(concat!("fn ", "get_")));
        found.extend(getters.map(|line| format!("{}: {line}", path.display())));
    }
    assert!(
        found.is_empty(),
        "the thing itself is name enough:\n{}",
        found.join("\n")
    );
}
