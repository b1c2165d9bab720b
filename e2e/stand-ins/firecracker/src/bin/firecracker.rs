//! `firecracker-stand-in`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    firecracker_stand_in::monitor_main()
}
