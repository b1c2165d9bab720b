//! What an engine says came of a call, checked before anyone believes it.

use nex_protocol::link::message::{Failure, FailureKind, Headers, Outcome};

use crate::call;

/// Most bytes of reply headers, names and values together.
const HEADER_BYTES: usize = 64 << 10;

/// An outcome that is within the limits and fit to travel; otherwise the failure it is instead.
pub(crate) fn check(outcome: Outcome, reply_bytes: u64) -> Outcome {
    let (headers, body) = outcome?;
    if body.len() as u64 > reply_bytes {
        return Err(call::reply_too_large(reply_bytes));
    }
    if let Some(why) = wrong(&headers) {
        return Err(Failure::new(FailureKind::Function, why));
    }
    Ok((headers, body))
}

fn wrong(headers: &Headers) -> Option<String> {
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > HEADER_BYTES {
        return Some(format!("the reply's headers have {bytes} bytes, {HEADER_BYTES} are allowed"));
    }
    let fit = |(name, value): &&(String, String)| {
        let name_fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        // A line end in a value would be a header, or a payload, of the function's making.
        name_fits && !value.contains(['\r', '\n', '\0'])
    };
    let unfit = headers.iter().find(|header| !fit(header));
    unfit.map(|(name, _)| format!("'{}' with its value is no message header", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn checked(headers: &[(&str, &str)], body: &'static [u8]) -> Outcome {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        check(Ok((headers, Bytes::from_static(body))), 4)
    }

    #[test]
    fn headers_and_size_are_checked() {
        assert!(checked(&[("Nats-X", "a b")], b"1234").is_ok());
        assert_eq!(checked(&[], b"12345").unwrap_err().kind, FailureKind::ReplyTooLarge);
        let long = "x".repeat(HEADER_BYTES);
        for bad in [("", "a"), ("a:b", "c"), ("a b", "c"), ("ä", "c"), ("a", "b\r\nC: d"), ("a", long.as_str())] {
            assert_eq!(checked(&[bad], b"").unwrap_err().kind, FailureKind::Function, "{bad:?}");
        }
    }
}
