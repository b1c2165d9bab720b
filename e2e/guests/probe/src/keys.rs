//! `wasi:keyvalue`.

use crate::wasi::keyvalue::atomics::{self, Cas, CasError};
use crate::wasi::keyvalue::batch as many;
use crate::wasi::keyvalue::store::{self, Bucket};

fn bucket() -> Bucket {
    store::open("default").unwrap()
}

fn text(value: Option<Vec<u8>>) -> Option<String> {
    value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

pub(crate) fn store() -> String {
    let bucket = bucket();
    bucket.set("a", b"one").unwrap();
    bucket.set("b", b"").unwrap();
    bucket.set("c", b"gone").unwrap();
    bucket.delete("c").unwrap();
    bucket.delete("never").unwrap();
    let page = bucket.list_keys(None).unwrap();
    format!(
        "{:?} {:?} {:?} {} {} {:?} {:?}",
        text(bucket.get("a").unwrap()),
        text(bucket.get("b").unwrap()),
        text(bucket.get("c").unwrap()),
        bucket.exists("a").unwrap(),
        bucket.exists("c").unwrap(),
        page.keys,
        page.cursor,
    )
}

pub(crate) fn errors() -> String {
    let other = store::open("elsewhere").map(drop);
    let bad = bucket().get("no key");
    let large = bucket().set("large", &vec![0; 600 << 10]);
    bucket().set("word", b"word").unwrap();
    let number = atomics::increment(&bucket(), "word", 1);
    let cursor = bucket().list_keys(Some("x"));
    format!("{other:?}\n{bad:?}\n{large:?}\n{number:?}\n{}", cursor.is_err())
}

pub(crate) fn atomics() -> String {
    let bucket = bucket();
    let sums = [1, 41, -2].map(|delta| atomics::increment(&bucket, "n", delta).unwrap());
    let stale = Cas::new(&bucket, "swapped").unwrap();
    let before = text(stale.current().unwrap());
    bucket.set("swapped", b"theirs").unwrap();
    let fresh = match atomics::swap(stale, b"mine") {
        Err(CasError::CasFailed(fresh)) => fresh,
        other => return format!("{other:?}"),
    };
    let now = text(fresh.current().unwrap());
    atomics::swap(fresh, b"mine").unwrap();
    format!("{sums:?} {before:?} {now:?} {:?}", text(bucket.get("swapped").unwrap()))
}

pub(crate) fn batch() -> String {
    let bucket = bucket();
    let pairs: Vec<(String, Vec<u8>)> = (0..40).map(|n| (format!("k{n}"), n.to_string().into_bytes())).collect();
    many::set_many(&bucket, &pairs).unwrap();
    many::delete_many(&bucket, &["k1".into(), "never".into()]).unwrap();
    let found = many::get_many(&bucket, &["k0".into(), "k1".into(), "k39".into()]).unwrap();
    let found: Vec<_> = found.into_iter().map(|(key, value)| (key, text(value))).collect();
    format!("{} {found:?}", bucket.list_keys(None).unwrap().keys.len())
}

pub(crate) fn get(key: &str) -> String {
    format!("{:?}", bucket().get(key).map(text))
}

pub(crate) fn set(pair: &str) -> String {
    let (key, value) = pair.split_once('=').unwrap();
    format!("{:?}", bucket().set(key, value.as_bytes()))
}

pub(crate) fn count_to(count: &str) -> String {
    let bucket = bucket();
    let mut last = 0;
    for _ in 0..count.parse().unwrap() {
        last = atomics::increment(&bucket, "counted", 1).unwrap();
    }
    last.to_string()
}

/// Makes calls and tells how long each took, nanoseconds: `get COUNT` or `request COUNT`.
pub(crate) fn time(asked: &str) -> String {
    let (kind, count) = asked.split_once(' ').unwrap();
    let bucket = bucket();
    let call = || match kind {
        "get" => drop(bucket.get("key").unwrap()),
        _ => drop(crate::nex::messaging::messaging::request("bench.echo", &[], b"x", None).unwrap()),
    };
    let times: Vec<u128> = (0..count.parse().unwrap())
        .map(|_| {
            let begun = std::time::Instant::now();
            call();
            begun.elapsed().as_nanos()
        })
        .collect();
    format!("{times:?}")
}

/// Never ends by itself.
pub(crate) fn spin() -> String {
    let bucket = bucket();
    loop {
        let _ = bucket.get("spinning");
    }
}
