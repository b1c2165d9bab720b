//! The fuzz targets of `fuzz/`, each for a bounded time.
//!
//! They are built here with the flags that cargo-fuzz would give, so that neither it nor a nightly toolchain is needed;
//! without a sanitizer, for nex's decoders are safe Rust. A run starts from the kept corpus and never changes it: what
//! it finds stays under `fuzz/target`, and what breaks a target under `fuzz/artifacts`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::steps::Steps;
use crate::{cargo, layout, narrate};

/// All targets: the files of `fuzz/fuzz_targets`.
const TARGETS: [&str; 8] = ["claims", "config", "envelope", "link", "requests", "sealed", "state", "subject"];

/// Seconds for each, when nothing is said.
const SECONDS: u64 = 20;

/// Longest input. Claims are cut at 16 KiB; nothing else gets more interesting with its length.
const LONGEST: u32 = 20_000;

const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "--cfg=fuzzing",
];

/// Runs the targets that are named, all when none is, as steps of their own.
pub(crate) fn run(steps: &mut Steps, arguments: &[OsString]) -> Result<()> {
    let (seconds, targets) = parse(arguments)?;
    let mut built = false;
    steps.run_if_possible("fuzz build", || {
        if !has_cxx_compiler() {
            return Ok(Some("there is no C++ compiler, which libFuzzer is built with: no decoder was fuzzed"));
        }
        build(&targets)?;
        built = true;
        Ok(None)
    });
    if built {
        for target in targets {
            steps.run(target, || fuzz(target, seconds));
        }
    }
    Ok(())
}

/// Seconds and targets.
fn parse(arguments: &[OsString]) -> Result<(u64, Vec<&'static str>)> {
    let (mut seconds, mut targets) = (SECONDS, Vec::new());
    let mut arguments = arguments.iter().map(|argument| argument.to_str().unwrap_or_default());
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            let number = arguments.next().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
            seconds = number.context("--seconds needs a number, 1 or more")?;
            continue;
        }
        let target = TARGETS.iter().find(|target| **target == argument);
        let target = target
            .with_context(|| format!("there is no fuzz target '{argument}', there are {}", TARGETS.join(", ")))?;
        targets.push(*target);
    }
    if targets.is_empty() {
        targets.extend(TARGETS);
    }
    Ok((seconds, targets))
}

/// Whether the compiler is there that the `cc` crate would take.
fn has_cxx_compiler() -> bool {
    let named = ["CXX", "HOST_CXX", "TARGET_CXX"].into_iter().find_map(std::env::var_os);
    let compiler = named.unwrap_or_else(|| "c++".into());
    let compiler = compiler.to_string_lossy();
    let mut words = compiler.split_whitespace();
    let Some(program) = words.next() else { return false };
    let mut command = Command::new(program);
    command.args(words).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn folder() -> PathBuf {
    layout::root().join("fuzz")
}

fn build(targets: &[&str]) -> Result<()> {
    let mut command = cargo::cargo(["build", "--release", "--target"]);
    // With a target named, the flags are not for build scripts and macros.
    command.arg(triple()?);
    for target in targets {
        command.args(["--bin", target]);
    }
    let mut flags = FLAGS.join("\x1f");
    if cfg!(target_os = "linux") {
        flags.push_str("\x1f-Cllvm-args=-sanitizer-coverage-stack-depth");
    }
    command.current_dir(folder()).env("CARGO_TARGET_DIR", folder().join("target")).env_remove("RUSTFLAGS");
    cargo::succeed(command.env("CARGO_ENCODED_RUSTFLAGS", flags))
}

/// The target that rustc builds for by itself.
fn triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("cannot start rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not tell which machine it builds for")
}

fn fuzz(target: &str, seconds: u64) -> Result<()> {
    let (found, artifacts) = (folder().join("target/found").join(target), folder().join("artifacts").join(target));
    for folder in [&found, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = Command::new(program(target)?);
    command.current_dir(folder()).args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={LONGEST}"),
        "-timeout=10".to_owned(),
        "-rss_limit_mb=2048".to_owned(),
        "-print_final_stats=1".to_owned(),
        "-verbosity=1".to_owned(),
        format!("-artifact_prefix=artifacts/{target}/"),
    ]);
    // Inputs that a run finds go into the first folder.
    command.args([format!("target/found/{target}"), format!("corpus/{target}")]).stdin(Stdio::null());
    println!("$ {}", cargo::describe(&command));
    let start = Instant::now();
    let output = command.output().with_context(|| format!("cannot start {target}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let (runs, coverage) = summary(&text);
        let seconds = start.elapsed().as_secs_f64();
        narrate::headline(format!("{target}: {runs} runs, {coverage} edges covered, {seconds:.1} s"));
        return Ok(());
    }
    for line in last_words(&text) {
        narrate::detail(line);
    }
    match reproducer(&text) {
        Some(file) => bail!(
            "fuzz target {target} failed ({}), on the input fuzz/{file}\n\
             To see it again, from the folder fuzz: {} {file}",
            output.status,
            program(target)?.strip_prefix(folder()).unwrap_or(Path::new(target)).display(),
        ),
        None => bail!("fuzz target {target} failed ({}) and left no input", output.status),
    }
}

fn program(target: &str) -> Result<PathBuf> {
    Ok(folder().join("target").join(triple()?).join("release").join(target))
}

/// Runs and covered edges, from libFuzzer's last words.
fn summary(text: &str) -> (String, String) {
    let after = |line: &str, word: &str| line.split_once(word).and_then(|(_, rest)| first_word(rest));
    let runs = text.lines().rev().find_map(|line| after(line, "stat::number_of_executed_units:"));
    let coverage = text.lines().rev().find_map(|line| after(line, " cov:"));
    (runs.unwrap_or_else(|| "?".to_owned()), coverage.unwrap_or_else(|| "?".to_owned()))
}

fn first_word(text: &str) -> Option<String> {
    text.split_whitespace().next().map(str::to_owned)
}

/// The file with the input that broke a target.
fn reproducer(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, file)| file.trim()))
}

/// What is told of a failure: the panic and what follows, without libFuzzer's progress.
fn last_words(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("stat::")).collect();
    let start = lines.iter().position(|line| line.contains("panicked at")).unwrap_or(lines.len().saturating_sub(40));
    lines.into_iter().skip(start).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_known_and_has_a_kept_corpus() {
        let files = fs::read_dir(folder().join("fuzz_targets")).unwrap();
        let mut found: Vec<String> =
            files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
        found.sort();
        assert_eq!(found, TARGETS);
        for target in TARGETS {
            assert!(fs::read_dir(folder().join("corpus").join(target)).unwrap().count() > 2, "{target}");
        }
    }

    #[test]
    fn the_arguments_are_a_time_and_targets() {
        let parse = |words: &[&str]| parse(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(parse(&[]).unwrap(), (SECONDS, TARGETS.to_vec()));
        assert_eq!(parse(&["--seconds", "3", "link"]).unwrap(), (3, vec!["link"]));
        for bad in [&["--seconds"][..], &["--seconds", "0"], &["nothing"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_libfuzzer_says_is_understood() {
        let text = "#2\tINITED cov: 12 ft: 13 corp: 1/1b\n#99\tDONE   cov: 345 ft: 400 corp: 9/9b\nDone 99 runs\n\
                    stat::number_of_executed_units: 99\n";
        assert_eq!(summary(text), ("99".to_owned(), "345".to_owned()));
        let text = "thread 'x' panicked at y\nartifact_prefix='a/'; Test unit written to artifacts/link/crash-01\n";
        assert_eq!(reproducer(text), Some("artifacts/link/crash-01"));
        assert_eq!(last_words(text).len(), 2);
    }
}
