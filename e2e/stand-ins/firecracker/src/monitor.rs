//! The program in the place of `firecracker`: its command line, its log, its API socket.
//!
//! Ends with the guest, or with what Firecracker ends with.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::net::UnixListener;

use crate::arguments::{Arguments, Known, Question, checked_instance_id};
use crate::machine::Machine;
use crate::settings::Settings;
use crate::version::Version;
use crate::{api, guest};

/// The command line is not understood.
const BAD_ARGUMENTS: u8 = 153;

/// A level of the log that is none.
const BAD_CONFIGURATION: u8 = 152;

/// A driver that gives up what protects it. Not of Firecracker.
const NO_SECCOMP: u8 = 2;

const LARGEST_BODY: usize = 51_200;

const KNOWN: &[Known] = &[
    Known::value("api-sock"),
    Known::value("id"),
    Known { excludes: Some("no-seccomp"), ..Known::value("seccomp-filter") },
    Known { excludes: Some("seccomp-filter"), ..Known::flag("no-seccomp") },
    Known::value("start-time-us"),
    Known::value("start-time-cpu-us"),
    Known::value("parent-cpu-time-us"),
    Known::value("config-file"),
    Known::value("metadata"),
    Known { needs: Some("config-file"), ..Known::flag("no-api") },
    Known::value("log-path"),
    Known::value("level"),
    Known::value("module"),
    Known::flag("show-level"),
    Known::flag("show-log-origin"),
    Known::value("metrics-path"),
    Known::flag("boot-timer"),
    Known::flag("snapshot-version"),
    Known::value("describe-snapshot"),
    Known::value("http-api-max-payload-size"),
    Known::value("mmds-size-limit"),
    Known::flag("enable-pci"),
];

/// How the machine was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) id: String,
    pub(crate) pci: bool,
    pub(crate) mmds_limit: usize,
}

/// Runs the stand-in for `firecracker` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Not of Firecracker: how the stand-in starts the agent of its guest.
    if let [first, agent] = words.as_slice()
        && first == guest::AS_THE_GUEST
    {
        return guest::become_the_agent(&PathBuf::from(agent));
    }
    match run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(End { code, message }) => {
            eprintln!("Error: {message}");
            ExitCode::from(code)
        }
    }
}

struct End {
    code: u8,
    message: String,
}

fn end(code: u8) -> impl Fn(String) -> End {
    move |message| End { code, message }
}

fn run(words: Vec<String>) -> Result<(), End> {
    let settings = Settings::load().map_err(|error| end(1)(error.to_string()))?;
    let known: Vec<Known> =
        KNOWN.iter().filter(|known| known.name != "enable-pci" || settings.version >= Version::PCI).copied().collect();
    let arguments = Arguments::parse(&known, words)
        .map_err(|error| end(BAD_ARGUMENTS)(format!("Arguments parsing error: {error}")))?;
    let version = settings.version;
    match arguments.asks() {
        Some(Question::Version) => {
            println!("Firecracker v{version}\n");
            return Ok(());
        }
        Some(Question::Help) => {
            println!("Firecracker v{version}\n");
            known.iter().for_each(|known| println!("  --{}", known.name));
            return Ok(());
        }
        None if arguments.has("snapshot-version") => {
            println!("v{}.0.0", version.snapshot_format());
            return Ok(());
        }
        None => {}
    }
    start(&arguments, settings)
}

fn start(arguments: &Arguments, settings: Settings) -> Result<(), End> {
    let id = arguments.value("id").unwrap_or("anonymous-instance");
    checked_instance_id(id).map_err(|error| end(1)(format!("Invalid instance ID: {error}")))?;
    if arguments.has("no-seccomp") && !settings.allow_no_seccomp {
        return Err(end(NO_SECCOMP)("the driver must not turn seccomp off".to_owned()));
    }
    for unplayed in ["config-file", "no-api", "metadata", "describe-snapshot", "seccomp-filter"] {
        if arguments.has(unplayed) {
            return Err(end(1)(format!("the stand-in does not play --{unplayed}: drive it over its API")));
        }
    }
    for number in ["start-time-us", "start-time-cpu-us", "parent-cpu-time-us"] {
        if arguments.value(number).is_some_and(|value| value.parse::<u64>().is_err()) {
            return Err(end(1)(format!("'{number}' parameter expected to be of 'u64' type.")));
        }
    }
    const LEVELS: &[&str] = &["off", "trace", "debug", "info", "warn", "warning", "error"];
    if let Some(level) = arguments.value("level")
        && !LEVELS.contains(&level.to_lowercase().as_str())
    {
        return Err(end(BAD_CONFIGURATION)(format!("Invalid value for logger level: {level}.")));
    }
    let size = |name: &str, otherwise: usize| match arguments.value(name).map(str::parse) {
        None => Ok(otherwise),
        Some(Ok(size)) => Ok(size),
        Some(Err(_)) => Err(end(1)(format!("'{name}' parameter expected to be of 'usize' type."))),
    };
    let largest_body = size("http-api-max-payload-size", LARGEST_BODY)?;
    let mmds_limit = size("mmds-size-limit", largest_body)?;
    if settings.faults.die_at_start {
        return Err(end(1)("the stand-in was told to die".to_owned()));
    }
    let socket = PathBuf::from(arguments.value("api-sock").unwrap_or("/run/firecracker.socket"));
    let started = Started { id: id.to_owned(), pci: arguments.has("enable-pci"), mmds_limit };
    let mut machine = Machine::new(started, settings);
    machine.log_to(arguments.value("log-path"), arguments.value("metrics-path")).map_err(end(1))?;
    machine.note(&format!("Running Firecracker v{}", machine.version()));

    // One thread: the agent is tied to the life of the thread that starts it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| end(1)(error.to_string()))?;
    runtime.block_on(async {
        let listener = UnixListener::bind(&socket)
            .map_err(|error| end(1)(format!("Failed to open the API socket at {}: {error}", socket.display())))?;
        machine.note(&format!("Listening on API socket ({}).", socket.display()));
        machine.note("API server started.");
        let error = api::serve(listener, machine, largest_body).await;
        Err(end(1)(error.to_string()))
    })
}
