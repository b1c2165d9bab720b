//! Downloads on bad days: what arrives is what the manifest means, or nothing changes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]
#![allow(dead_code, unreachable_pub, reason = "the support is that of two tests")]

mod support;

use nex_preflight::{Manifest, Origin};
use support::{Machine, Say, Server, cut, kernel, manifest, response, rest, sha256, whole};

fn of_kernel(url: &str) -> Manifest {
    let content = kernel();
    manifest("kernel", url, &sha256(&content), content.len(), r#"{"kind":"file"}"#)
}

/// What a machine without a kernel says after a download of one from a server with these answers.
fn download(answers: Vec<Say>) -> (Machine, Result<(), String>, Vec<String>) {
    let server = Server::start(answers);
    let machine = Machine::without_a_kernel();
    let result = machine.mend(&of_kernel(&server.url("/releases/vmlinux-9.9")), Origin::Upstream);
    (machine, result.map(|_| ()), server.requests())
}

fn is_installed(machine: &Machine) {
    assert_eq!(std::fs::read(machine.path("vmlinux")).unwrap(), kernel());
    assert_eq!(machine.names(), ["firecracker", "jailer", "vmlinux"], "nothing else is left");
}

fn nothing_is_left(machine: &Machine) {
    assert_eq!(machine.names(), ["firecracker", "jailer"]);
}

#[test]
fn a_file_is_downloaded_verified_and_installed() {
    let (machine, result, requests) = download(vec![whole(&kernel())]);
    result.unwrap();
    is_installed(&machine);
    assert!(requests[0].starts_with("get /releases/vmlinux-9.9 http/1.1\n"), "{requests:?}");
    assert!(requests[0].contains("user-agent: nex/"), "{requests:?}");
    assert!(machine.plan(&of_kernel("http://unused/vmlinux")).is_empty(), "there is nothing left to do");
}

#[test]
fn a_tampered_file_is_refused_and_nothing_of_it_kept() {
    let mut tampered = kernel();
    tampered[5000] ^= 1;
    let (machine, result, _) = download(vec![whole(&tampered)]);
    let error = result.unwrap_err();
    assert!(error.contains(&sha256(&tampered)) && error.contains(&sha256(&kernel())), "{error}");
    nothing_is_left(&machine);
}

#[test]
fn a_truncated_file_is_never_installed() {
    // The server says that this is all of it.
    let (machine, result, _) = download(vec![whole(&kernel()[..1000])]);
    assert!(result.unwrap_err().contains("SHA-256"));
    nothing_is_left(&machine);
}

#[test]
fn a_connection_that_breaks_is_taken_up_again_where_it_broke() {
    let content = kernel();
    let (machine, result, requests) =
        download(vec![cut(&content, 300_000), rest(&content, 300_000, 500_000), rest(&content, 500_000, 800_000)]);
    result.unwrap();
    is_installed(&machine);
    assert!(requests[1].contains("range: bytes=300000-\n"), "{requests:?}");
    assert!(requests[1].contains("if-range: \"v1\"\n"), "{requests:?}");
    assert!(requests[2].contains("range: bytes=500000-\n"), "{requests:?}");
}

#[test]
fn what_an_earlier_run_left_is_gone_on_with() {
    let content = kernel();
    let machine = Machine::without_a_kernel();
    let server = Server::start(vec![cut(&content, 300_000), Say::Bytes(response("503 Service Unavailable", &[], b""))]);
    let error = machine.mend(&of_kernel(&server.url("/vmlinux-9.9")), Origin::Upstream).unwrap_err();
    assert!(error.contains("503"), "{error}");
    assert_eq!(std::fs::read(machine.path(".vmlinux-9.9.part")).unwrap().len(), 300_000);
    assert!(!machine.path("vmlinux").exists());

    let server = Server::start(vec![rest(&content, 300_000, 800_000)]);
    machine.mend(&of_kernel(&server.url("/vmlinux-9.9")), Origin::Upstream).unwrap();
    is_installed(&machine);
    assert!(server.requests()[0].contains("if-range: \"v1\"\n"));
}

#[test]
fn a_server_that_ignores_the_range_sends_all_of_it_again() {
    let content = kernel();
    let (machine, result, requests) = download(vec![cut(&content, 300_000), whole(&content)]);
    result.unwrap();
    is_installed(&machine);
    assert_eq!(requests.len(), 2);
}

#[test]
fn a_server_that_goes_on_from_elsewhere_is_asked_again_from_the_beginning() {
    let content = kernel();
    let unsatisfiable = Say::Bytes(response("416 Range Not Satisfiable", &["Content-Length: 0"], b""));
    for odd in [rest(&content, 200_000, 800_000), unsatisfiable] {
        let (machine, result, requests) = download(vec![cut(&content, 300_000), odd, whole(&content)]);
        result.unwrap();
        is_installed(&machine);
        assert!(!requests[2].contains("range"), "{requests:?}");
    }
}

#[test]
fn leftovers_of_another_file_are_thrown_away_and_the_file_fetched_anew() {
    let content = kernel();
    let machine = Machine::without_a_kernel();
    std::fs::write(machine.path(".vmlinux-9.9.part"), vec![7; 1000]).unwrap();
    let server = Server::start(vec![rest(&content, 1000, 800_000), whole(&content)]);
    machine.mend(&of_kernel(&server.url("/vmlinux-9.9")), Origin::Upstream).unwrap();
    is_installed(&machine);
}

#[test]
fn a_server_that_breaks_off_each_time_is_given_up_and_what_came_is_kept() {
    let content = kernel();
    let (machine, result, _) = download(vec![cut(&content, 300_000), cut(&content, 300_000)]);
    let error = result.unwrap_err();
    assert!(error.contains("300000 bytes") && error.contains("the next run goes on"), "{error}");
    assert!(machine.path(".vmlinux-9.9.part").exists() && !machine.path("vmlinux").exists());
}

#[test]
fn a_file_that_is_not_there_is_said_with_the_ways_out() {
    let (machine, result, _) = download(vec![Say::Bytes(response("404 Not Found", &["Content-Length: 4"], b"gone"))]);
    let error = result.unwrap_err();
    assert!(error.contains("404") && error.contains("--mirror") && error.contains("--from"), "{error}");
    nothing_is_left(&machine);
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let machine = Machine::without_a_kernel();
    let url = format!("http://127.0.0.1:{port}/vmlinux-9.9");
    let error = machine.mend(&of_kernel(&url), Origin::Upstream).unwrap_err();
    assert!(error.contains("cannot be reached") && error.contains("efused"), "{error}");
    nothing_is_left(&machine);
}

#[test]
fn redirections_are_followed_to_another_server_but_not_for_ever() {
    let other = Server::start(vec![whole(&kernel())]);
    let location = format!("Location: {}", other.url("/elsewhere?signature=x"));
    let (machine, result, _) = download(vec![Say::Bytes(response("302 Found", &[&location], b""))]);
    result.unwrap();
    is_installed(&machine);
    assert!(other.requests()[0].starts_with("get /elsewhere?signature=x "));

    let again = || Say::Bytes(response("302 Found", &["Location: /releases/vmlinux-9.9"], b""));
    let (machine, result, _) = download((0..11).map(|_| again()).collect());
    assert!(result.unwrap_err().contains("again and again"));
    nothing_is_left(&machine);
}

#[test]
fn more_than_the_manifest_says_is_refused_whether_or_not_it_is_announced() {
    let mut larger = kernel();
    larger.push(0);
    let unannounced = Say::Bytes(response("200 OK", &[], &larger));
    for say in [whole(&larger), unannounced] {
        let (machine, result, _) = download(vec![say]);
        let error = result.unwrap_err();
        assert!(error.contains("more than the 800000 bytes"), "{error}");
        nothing_is_left(&machine);
    }
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let content = kernel();
    let Say::Bytes(begun) = cut(&content, 100_000) else { panic!() };
    let (machine, result, _) = download(vec![Say::Stall(begun)]);
    let error = result.unwrap_err();
    assert!(error.contains("nothing came") && error.contains("100000 bytes"), "{error}");
    assert!(!machine.path("vmlinux").exists());
}

#[test]
fn a_mirror_is_asked_for_the_same_name_and_not_the_maker() {
    let maker = Server::start(Vec::new());
    let mirror = Server::start(vec![whole(&kernel())]);
    let machine = Machine::without_a_kernel();
    let origin = Origin::mirror(&mirror.url("/nex")).unwrap();
    machine.mend(&of_kernel(&maker.url("/releases/vmlinux-9.9")), origin).unwrap();
    is_installed(&machine);
    assert!(mirror.requests()[0].starts_with("get /nex/vmlinux-9.9 "));
    assert_eq!(maker.heard(), 0);
}

#[test]
fn a_folder_takes_the_place_of_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::without_a_kernel();
    let of = || of_kernel("http://127.0.0.1:9/vmlinux-9.9");
    let from = || Origin::Folder(folder.path().to_owned());
    let error = machine.mend(&of(), from()).unwrap_err();
    assert!(error.contains("vmlinux-9.9") && error.contains("No such file"), "{error}");
    nothing_is_left(&machine);
    let mut tampered = kernel();
    tampered[9] ^= 1;
    std::fs::write(folder.path().join("vmlinux-9.9"), &tampered).unwrap();
    assert!(machine.mend(&of(), from()).unwrap_err().contains("SHA-256"));
    nothing_is_left(&machine);
    std::fs::write(folder.path().join("vmlinux-9.9"), kernel()).unwrap();
    machine.mend(&of(), from()).unwrap();
    is_installed(&machine);
    assert_eq!(std::fs::read(folder.path().join("vmlinux-9.9")).unwrap(), kernel(), "the folder is as it was");
}

#[test]
fn two_at_a_time_do_not_write_into_the_same_file() {
    let machine = Machine::without_a_kernel();
    let other = std::fs::File::create(machine.path(".vmlinux-9.9.part")).unwrap();
    other.lock().unwrap();
    let error = machine.mend(&of_kernel("http://127.0.0.1:9/vmlinux-9.9"), Origin::Upstream).unwrap_err();
    assert!(error.contains("another process"), "{error}");
}
