//! `wasi:blobstore`.

use crate::wasi::blobstore::blobstore as blobs;
use crate::wasi::blobstore::container::Container;
use crate::wasi::blobstore::types::{IncomingValue, ObjectId, OutgoingValue};
use crate::wasi::io::streams::{OutputStream, StreamError};

const ALL: u64 = u64::MAX;

/// Most bytes `blocking-write-and-flush` takes at once.
const PIECE: usize = 4096;

fn write(stream: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    bytes.chunks(PIECE).try_for_each(|piece| stream.blocking_write_and_flush(piece))
}

fn put(container: &Container, name: &str, bytes: &[u8]) -> Result<(), String> {
    let value = OutgoingValue::new_outgoing_value();
    let stream = value.outgoing_value_write_body().unwrap();
    container.write_data(name, &value)?;
    write(&stream, bytes).map_err(|error| format!("{error:?}"))?;
    drop(stream);
    OutgoingValue::finish(value)
}

fn get(container: &Container, name: &str, start: u64, end: u64) -> Result<String, String> {
    let value = container.get_data(name, start, end)?;
    let bytes = IncomingValue::incoming_value_consume_sync(value)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn names(container: &Container) -> Vec<String> {
    let stream = container.list_objects().unwrap();
    let mut all = Vec::new();
    loop {
        let (mut some, end) = stream.read_stream_object_names(2).unwrap();
        all.append(&mut some);
        if end {
            all.sort();
            return all;
        }
    }
}

fn id(container: &str, object: &str) -> ObjectId {
    ObjectId { container: container.into(), object: object.into() }
}

pub(crate) fn containers() -> String {
    let before = blobs::container_exists("pictures").unwrap();
    let missing = blobs::get_container("pictures").map(drop);
    let pictures = blobs::create_container("pictures").unwrap();
    put(&pictures, "cat", b"meow").unwrap();
    let default = blobs::get_container("default").unwrap();
    let seen = names(&default);
    let info = pictures.info().unwrap();
    blobs::delete_container("pictures").unwrap();
    let after = blobs::container_exists("pictures").unwrap();
    format!(
        "{before} {missing:?} {seen:?} {} {} {after} {:?}",
        info.name,
        info.created_at > 1_600_000_000,
        names(&default)
    )
}

pub(crate) fn objects() -> String {
    let docs = blobs::create_container("docs").unwrap();
    put(&docs, "a", b"first").unwrap();
    // Written before it is given to the container.
    let value = OutgoingValue::new_outgoing_value();
    let stream = value.outgoing_value_write_body().unwrap();
    write(&stream, b"second").unwrap();
    drop(stream);
    docs.write_data("b", &value).unwrap();
    OutgoingValue::finish(value).unwrap();
    put(&docs, "empty", b"").unwrap();
    blobs::copy_object(&id("docs", "a"), &id("default", "copied")).unwrap();
    blobs::move_object(&id("docs", "b"), &id("docs", "moved")).unwrap();
    let default = blobs::get_container("").unwrap();
    let info = docs.object_info("moved").unwrap();
    let listed = names(&docs);
    docs.delete_objects(&["moved".into(), "never".into()]).unwrap();
    let has = (docs.has_object("a").unwrap(), docs.has_object("moved").unwrap());
    docs.clear().unwrap();
    format!(
        "{listed:?} {:?} {} {} {} {has:?} {:?} {}",
        get(&default, "copied", 0, ALL).unwrap(),
        info.name,
        info.container,
        info.size,
        names(&docs),
        blobs::container_exists("docs").unwrap(),
    )
}

pub(crate) fn ranges() -> String {
    let all = blobs::get_container("default").unwrap();
    put(&all, "digits", b"0123456789").unwrap();
    let read = |start, end| get(&all, "digits", start, end).unwrap();
    let size = all.get_data("digits", 2, 4).unwrap().size();
    format!("{:?} {size}", [read(0, ALL), read(2, 4), read(9, 9), read(5, 100), read(10, 20), read(4, 2)])
}

pub(crate) fn errors() -> String {
    let all = blobs::get_container("default").unwrap();
    let unfinished = OutgoingValue::finish(OutgoingValue::new_outgoing_value());
    let twice = OutgoingValue::new_outgoing_value();
    let _stream = twice.outgoing_value_write_body().unwrap();
    let no_second_stream = twice.outgoing_value_write_body().is_err();
    all.write_data("x", &twice).unwrap();
    [
        all.get_data("missing", 0, ALL).map(drop),
        all.object_info("missing").map(drop),
        blobs::get_container("missing").map(drop),
        blobs::create_container("a/b").map(drop),
        blobs::delete_container("default"),
        blobs::copy_object(&id("missing", "a"), &id("default", "b")),
        blobs::copy_object(&id("default", "missing"), &id("default", "b")),
        all.write_data("y", &twice),
        put(&all, "", b""),
        unfinished,
    ]
    .map(|result| format!("{result:?}\n"))
    .concat()
        + &no_second_stream.to_string()
}

/// Streams so many MiB up and down again, more than it has memory.
pub(crate) fn through(mebibytes: &str) -> String {
    let all = blobs::get_container("default").unwrap();
    let value = OutgoingValue::new_outgoing_value();
    let stream = value.outgoing_value_write_body().unwrap();
    all.write_data("large", &value).unwrap();
    let count: u64 = mebibytes.parse().unwrap();
    let piece: Vec<u8> = (0..PIECE).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for _ in 0..count * 256 {
        stream.blocking_write_and_flush(&piece).unwrap();
    }
    drop(stream);
    OutgoingValue::finish(value).unwrap();
    let value = all.get_data("large", 0, ALL).unwrap();
    let size = value.size();
    let stream = IncomingValue::incoming_value_consume_async(value).unwrap();
    let mut read = 0_u64;
    let mut whole = true;
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    whole &= usize::from(*byte) == ((usize::try_from(read).unwrap() + at) % PIECE) % 251;
                }
                read += u64::try_from(bytes.len()).unwrap();
            }
            Err(StreamError::Closed) => break,
            Err(error) => return format!("{error:?}"),
        }
    }
    all.delete_object("large").unwrap();
    format!("{size} {read} {whole}")
}

/// Leaves an upload without its end.
pub(crate) fn half() -> String {
    let all = blobs::get_container("default").unwrap();
    let value = OutgoingValue::new_outgoing_value();
    let stream = value.outgoing_value_write_body().unwrap();
    all.write_data("half", &value).unwrap();
    write(&stream, &vec![1; 300 << 10]).unwrap();
    drop((stream, value));
    format!("{}", all.has_object("half").unwrap())
}

/// Stores more than there is room for.
pub(crate) fn too_much(kibibytes: &str) -> String {
    let all = blobs::get_container("default").unwrap();
    let bytes = vec![1; kibibytes.parse::<usize>().unwrap() << 10];
    format!("{:?} {:?}", put(&all, "much", &bytes), names(&all))
}

pub(crate) fn read(name: &str) -> String {
    let all = blobs::get_container("default").unwrap();
    format!("{:?}", get(&all, name, 0, ALL))
}
