//! The command line where no NATS is needed, or none is there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should say where; the exemption for tests does not reach their shared functions"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

struct Nex {
    home: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

fn nex() -> Nex {
    Nex { home: tempfile::tempdir().unwrap(), environment: Vec::new() }
}

impl Nex {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nex"));
        command.env_clear().env("HOME", self.home.path()).current_dir(self.home.path()).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    }

    /// Runs a command that must fail with this code; its one line on standard error.
    fn failure(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        stderr.trim_end().strip_prefix("nex: ").unwrap_or_else(|| panic!("{stderr}")).to_owned()
    }

    fn success(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn closed_port() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("nats://127.0.0.1:{port}")
}

#[test]
fn help_version_and_completions_need_nothing() {
    let nex = nex();
    let help = nex.success(&["--help"]);
    for word in ["node", "devrun", "run", "stop", "version", "completions", "--server", "NATS_URL", "--context"] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
    assert!(nex.success(&["node", "ls", "--help"]).contains("--full"));
    assert_eq!(nex.success(&["version"]), nex.success(&["--version"]));
    let version: serde_json::Value = serde_json::from_str(&nex.success(&["version", "--json"])).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(nex.success(&["completions", shell]).contains("devrun"), "{shell}");
    }
}

#[test]
fn usage_errors_are_one_line_and_exit_with_2() {
    let nex = nex();
    let message = nex.failure(2, &["devrun", "f.js", "nokey"]);
    assert!(message.contains("KEY=VALUE") && message.ends_with("(see `nex devrun --help`)"), "{message}");
    assert!(nex.failure(2, &["node", "lss"]).contains("'ls'"));
    assert!(nex.failure(2, &["--timeout", "5", "node", "ls"]).contains("500ms"));
    assert!(nex.failure(2, &["--namespace", "a.b", "node", "ls"]).contains("namespace"));
}

#[test]
fn a_root_image_needs_deno_or_to_be_told_that_it_does_not() {
    let nex = nex().with("PATH", "/nowhere");
    let program = nex.file("program", "");
    let build = ["rootfs", "--agent", &program, "--nex-init", &program];
    let message = nex.failure(1, &build);
    assert!(message.contains("--deno FILE") && message.contains("--without js"), "{message}");
    let message = nex.failure(1, &[&build[..], &["--without", "js"]].concat());
    assert!(message.contains("no 64-bit ELF"), "{message}");
    let message = nex.failure(1, &[&build[..], &["--without", "js", "--base", "alpine:3.20"]].concat());
    assert!(message.contains("docker:NAME:TAG"), "{message}");
    let message =
        nex.failure(1, &[&build[..], &["--without", "js", "--image", "a/b", "--mirror", "http://x"]].concat());
    assert!(message.contains("--base"), "{message}");
    assert!(nex.failure(2, &[&build[..], &["--size", "3"]].concat()).contains("16 MiB"));
    assert!(nex.failure(2, &[&build[..], &["--script-network"]].concat()).contains("--script"));
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let server = closed_port();
    let nex = nex().with("NATS_URL", &server);
    let started = Instant::now();
    for arguments in [&["node", "ls"][..], &["node", "ls", "--json"], &["node", "info", "NABCD"]] {
        assert_eq!(
            nex.failure(1, arguments),
            format!(
                "cannot reach {server}: connection refused (is a NATS server running there? set --server or NATS_URL)"
            )
        );
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn flags_win_over_variables_and_these_over_contexts() {
    let (flag, variable, context) = (closed_port(), closed_port(), closed_port());
    let with_context = nex();
    with_context.file(".config/nats/context/mine.json", format!(r#"{{"url":"{context}"}}"#));
    with_context.file(".config/nats/context.txt", "mine");
    assert!(with_context.failure(1, &["node", "ls"]).contains(&context));
    assert!(
        with_context
            .failure(1, &["node", "ls", "--context", "no"])
            .starts_with("unknown context provided: 'no' (known: mine)")
    );
    let with_variable = with_context.with("NATS_URL", &variable);
    assert!(with_variable.failure(1, &["node", "ls"]).contains(&variable));
    assert!(with_variable.failure(1, &["node", "ls", "-s", &flag]).contains(&flag));
    // Set to nothing is not set.
    assert!(
        nex()
            .with("NATS_CREDS", "")
            .with("NEX_NODE_TAGS", "")
            .with("NATS_URL", &variable)
            .failure(1, &["node", "ls"])
            .contains(&variable)
    );
}

#[test]
fn devrun_finds_what_is_wrong_with_a_file_before_it_connects() {
    let nex = nex().with("NATS_URL", closed_port());
    let script = nex.file("echo.js", "(s, p) => p");
    let text = nex.file("notes.txt", "hello");
    let empty = nex.file("empty.js", "");
    let elf = nex.file("service", [b"\x7fELF\x02\x01".as_slice(), &[0; 58]].concat());
    for (arguments, expected) in [
        (vec![script.as_str()], "--trigger_subject"),
        (vec![&script, "--trigger_subject", "a", "--essential"], "--essential"),
        (vec![&script, "--trigger_subject", "a", "--argv", "x"], "--argv"),
        (vec![&script, "--type", "native"], "not an ELF program"),
        (vec![&script, "--trigger_subject", "a", "--name", "a.b"], "--name"),
        (vec![&text], "--type"),
        (vec![&empty], "the file is empty"),
        (vec![&elf, "--type", "wasm"], "the content is that of type native"),
        (vec![&elf, "--trigger_subject", "a"], "a service subscribes by itself"),
        (vec!["missing.js"], "missing.js"),
    ] {
        let arguments: Vec<&str> = std::iter::once("devrun").chain(arguments).collect();
        let message = nex.failure(1, &arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    assert!(!Path::new(&nex.path(".nex")).exists(), "no keys are made for a file that cannot run");
}

#[test]
fn keys_are_made_once_and_kept() {
    use std::os::unix::fs::PermissionsExt;
    let nex = nex().with("NATS_URL", closed_port());
    let script = nex.file("echo.js", "(s, p) => p");
    let arguments = ["devrun", &script, "--trigger_subject", "a"];
    let issuer = nex.path(".nex/issuer.nk");
    let told = |output: Output| String::from_utf8(output.stdout).unwrap();
    let first = told(nex.run(&arguments));
    assert_eq!(
        first.lines().collect::<Vec<_>>(),
        [
            format!("Created issuer account key: {issuer}"),
            format!("Created publisher xkey: {}", nex.path(".nex/publisher.xk"))
        ]
    );
    let seed = std::fs::read(&issuer).unwrap();
    assert!(told(nex.run(&arguments)).starts_with(&format!("Reusing existing issuer account key: {issuer}\n")));
    assert_eq!(std::fs::read(&issuer).unwrap(), seed);
    assert_eq!(std::fs::metadata(&issuer).unwrap().permissions().mode() & 0o777, 0o600);
    let elsewhere = nex.with("NEX_HOME", "/nonexistent/nowhere");
    assert!(elsewhere.failure(1, &["stop", "N", "w"]).contains("/nonexistent/nowhere/issuer.nk"));
}

#[test]
fn node_check_tells_everything_at_once() {
    let nex = nex();
    let good = nex.file("good.json", r#"{"no_sandbox":true}"#);
    let output = nex.run(&["node", "check", "--config", &good, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["file"], good.as_str());
    // Whether an agent is found is a matter of the machine; the file itself is right.
    assert_eq!(report["ok"], output.status.success());

    let bad =
        nex.file("bad.json", r#"{"no_sandbox":true,"machine_pool_size":"x","workload_types":["elf9"],"tagz":{}}"#);
    let output = nex.run(&["node", "check", "--config", &bad]);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout.matches(": problem: ").count() >= 2, "{stdout}");
    assert!(stdout.contains(": warning: ") && stdout.contains("tagz"), "{stdout}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");

    let message = nex.failure(1, &["node", "check", "--config", "missing.json"]);
    assert!(message.starts_with("missing.json: 1 problem"), "{message}");
}

#[test]
fn node_up_without_a_server_ends_with_one_error() {
    let server = closed_port();
    let nex = nex().with("NATS_URL", &server);
    let state = nex.path("state");
    let output = nex.run(&["node", "up", "--no-sandbox", "--state-dir", &state, "--loglevel", "none"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// A configuration that needs no agent of this machine: what it names is there, and never started.
fn with_an_agent(nex: &Nex) -> String {
    use std::os::unix::fs::PermissionsExt;
    let agent = nex.file("agent", "#!/bin/false\n");
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    nex.file("node.json", serde_json::json!({"no_sandbox": true, "agent_path": agent}).to_string())
}

#[test]
fn node_up_says_what_to_do_when_the_port_for_metrics_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let nex = nex().with("NEX_NODE_METRICS_PORT", &port);
    let (config, state) = (with_an_agent(&nex), nex.path("state"));
    let up = ["node", "up", "--config", &config, "--state-dir", &state, "--loglevel", "none", "--metrics"];
    let message = nex.failure(1, &up);
    let begin = format!("cannot serve metrics on 127.0.0.1:{port}: another program listens there");
    assert!(message.starts_with(&begin) && message.contains("--metrics_port"), "{message}");
}

#[test]
fn a_variable_that_is_set_to_nothing_counts_as_not_set() {
    let variables = [
        "NEX_NODE_NOSANDBOX",
        "NEX_NODE_METRICS",
        "NEX_NODE_METRICS_PORT",
        "NEX_NODE_TAGS",
        "NEX_STATE_DIR",
        "NEX_NAMESPACE",
        "NEX_LOGLEVEL",
        "NEX_LOGJSON",
        "NEX_LOGGER",
        "NATS_URL",
        "NATS_TIMEOUT",
        "NATS_TLSFIRST",
        "NATS_CREDS",
    ];
    let nex = variables.iter().fold(nex(), |nex, variable| nex.with(variable, ""));
    let config = with_an_agent(&nex);
    nex.success(&["node", "check", "--config", &config]);
}

#[test]
fn metrics_are_for_prometheus_and_a_file_is_refused_with_what_to_use_instead() {
    let nex = nex();
    let config = with_an_agent(&nex);
    let check = ["node", "check", "--config", &config, "--metrics", "--metrics_port=0", "--otel_metrics_exporter"];
    assert!(nex.success(&[&check[..], &["prometheus"]].concat()).ends_with(": ok\n"));
    let refused = nex.run(&[&check[..], &["file"]].concat());
    let text = String::from_utf8(refused.stdout).unwrap();
    assert!(!refused.status.success() && text.contains("use \"prometheus\""), "{text}");
    let unwanted = nex.file(
        "off.json",
        std::fs::read_to_string(&config).unwrap().replacen('{', r#"{"otel_metrics_exporter":"file","#, 1),
    );
    nex.success(&["node", "check", "--config", &unwanted]);
}

#[test]
fn node_up_wants_the_configuration_it_was_given() {
    let message = nex().failure(1, &["node", "up", "--config", "missing.json"]);
    assert!(message.starts_with("missing.json: "), "{message}");
}

#[test]
fn output_for_pipes_has_no_colours() {
    let nex = nex().with("NO_COLOR", "1").with("NATS_URL", closed_port());
    for arguments in [&["--help"][..], &["node", "ls"], &["node", "ls", "--loglevel", "debug"]] {
        let output = nex.run(arguments);
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{arguments:?}");
    }
}
