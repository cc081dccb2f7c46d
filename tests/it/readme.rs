//! What README.md tells people to paste works: its signature snippets verify a real delivery.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use qrelay_tests::{
    http,
    receiver::{Arrival, Behaviour, Receiver},
    server::{Setup, code_and_endpoint},
    wait_until,
};

/// A language of README.md, what makes a program of its snippet, and how that program is run. The program takes
/// secret, id, timestamp and signature as arguments and the body on stdin; it exits 0 when `verify` says yes.
struct Language {
    fence: &'static str,
    file: &'static str,
    wrap: fn(&str) -> String,
    run: &'static [&'static str],
}

const LANGUAGES: [Language; 4] = [
    Language {
        fence: "python",
        file: "verify.py",
        wrap: |snippet| {
            format!("{snippet}\nimport sys\nsys.exit(not verify(*sys.argv[1:], sys.stdin.buffer.read()))\n")
        },
        run: &["python3", "verify.py"],
    },
    Language {
        fence: "javascript",
        file: "verify.cjs",
        wrap: |snippet| {
            format!(
                "{snippet}\nconst body = require('node:fs').readFileSync(0);\nprocess.exit(verify(...process.argv.slice(2), body) ? 0 : 1);\n"
            )
        },
        run: &["node", "verify.cjs"],
    },
    Language {
        fence: "go",
        file: "verify.go",
        wrap: |snippet| {
            let snippet = snippet.replace("import (", "import (\n\t\"io\"\n\t\"os\"");
            format!(
                "{snippet}\nfunc main() {{\n\tbody, _ := io.ReadAll(os.Stdin)\n\ta := os.Args\n\
                 \tif !verify(a[1], a[2], a[3], a[4], body) {{\n\t\tos.Exit(1)\n\t}}\n}}\n"
            )
        },
        run: &["go", "run", "verify.go"],
    },
    Language {
        fence: "java",
        file: "Main.java",
        wrap: |snippet| {
            let (imports, class) = snippet
                .split_once("class Webhook")
                .expect("the snippet is a class");
            format!(
                "{imports}\npublic class Main {{\n  public static void main(String[] a) throws Exception {{\n\
                 \x20   System.exit(Webhook.verify(a[0], a[1], a[2], a[3], System.in.readAllBytes()) ? 0 : 1);\n  }}\n}}\nclass Webhook{class}"
            )
        },
        run: &["java", "Main.java"],
    },
];

#[tokio::test]
#[ignore = "needs python3, node, go and java: run by make test"]
async fn the_signature_snippets_of_the_readme_verify_a_real_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("readme").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    let (_, endpoint) = code_and_endpoint(&api, "readme", &receiver.url()).await;
    http::get(server.edge(), "/readme").await.unwrap();
    let arrival = wait_until("the webhook", async || receiver.arrivals().into_iter().next()).await;
    let secret = endpoint["secret"].as_str().unwrap();

    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    for language in LANGUAGES {
        let snippet = fenced(&readme, language.fence);
        std::fs::write(dir.path().join(language.file), (language.wrap)(&snippet)).unwrap();
        assert!(
            says_yes(&language, dir.path(), secret, &arrival, &arrival.body),
            "{} refuses a genuine delivery",
            language.fence
        );
        assert!(
            !says_yes(&language, dir.path(), secret, &arrival, b"forged"),
            "{} takes a forged body",
            language.fence
        );
    }
    server.stop().await;
}

fn fenced(readme: &str, language: &str) -> String {
    let (_, rest) = readme
        .split_once(&format!("```{language}\n"))
        .unwrap_or_else(|| panic!("README.md has no {language}"));
    rest.split_once("```").expect("a fence is closed").0.to_owned()
}

fn says_yes(language: &Language, dir: &Path, secret: &str, arrival: &Arrival, body: &[u8]) -> bool {
    let header = |name: &str| arrival.headers[name].to_str().unwrap().to_owned();
    let mut child = Command::new(language.run[0])
        .args(&language.run[1..])
        .args([
            secret,
            &arrival.id,
            &header("webhook-timestamp"),
            &header("webhook-signature"),
        ])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(body).unwrap();
    let status = child.wait().unwrap();
    assert!(
        status.code().is_some_and(|code| code <= 1),
        "{}: {status}",
        language.fence
    );
    status.success()
}
