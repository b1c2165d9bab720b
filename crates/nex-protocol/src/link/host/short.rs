//! Short heads: the replies of most calls, in a few bytes that are no JSON.
//!
//! A head begins with one byte that says which reply it is. No JSON text begins with any of them. To write and to read
//! JSON for such a reply was a good part of what a worker and an agent computed for a call.
//!
//! | Bytes | Reply |
//! |---|---|
//! | 1 | [`HostReply::Done`] |
//! | 2 | [`HostReply::Missing`] |
//! | 3, and 8 of the revision, the highest first | [`HostReply::Revision`] |
//! | 4, and 0 or 1 | [`HostReply::Flag`] |
//! | 5 | [`HostReply::Messages`] with one that has no headers: all of the payload |

use bytes::Bytes;

use super::{HostReply, MessageHead};

const DONE: u8 = 1;
const MISSING: u8 = 2;
const REVISION: u8 = 3;
const FLAG: u8 = 4;
const MESSAGE: u8 = 5;

/// The short head of a reply with so many bytes of payload; none when it has to be JSON.
pub(in crate::link) fn head(reply: &HostReply, payload: usize) -> Option<Bytes> {
    Some(match reply {
        HostReply::Done => Bytes::from_static(&[DONE]),
        HostReply::Missing => Bytes::from_static(&[MISSING]),
        HostReply::Revision { revision } => {
            let [a, b, c, d, e, f, g, h] = revision.to_be_bytes();
            Bytes::copy_from_slice(&[REVISION, a, b, c, d, e, f, g, h])
        }
        HostReply::Flag { value: false } => Bytes::from_static(&[FLAG, 0]),
        HostReply::Flag { value: true } => Bytes::from_static(&[FLAG, 1]),
        HostReply::Messages { messages } => match messages.as_slice() {
            [MessageHead { headers, length }] if headers.is_empty() && *length == payload => {
                Bytes::from_static(&[MESSAGE])
            }
            _ => return None,
        },
        HostReply::Keys { .. } | HostReply::Object { .. } | HostReply::Objects { .. } | HostReply::Http { .. } => {
            return None;
        }
    })
}

/// The reply with that head; none when it is no short one.
pub(in crate::link) fn reply(head: &[u8], payload: usize) -> Option<HostReply> {
    Some(match head {
        [DONE] => HostReply::Done,
        [MISSING] => HostReply::Missing,
        [REVISION, revision @ ..] => HostReply::Revision { revision: u64::from_be_bytes(revision.try_into().ok()?) },
        [FLAG, 0] => HostReply::Flag { value: false },
        [FLAG, 1] => HostReply::Flag { value: true },
        [MESSAGE] => HostReply::Messages { messages: vec![MessageHead { headers: Vec::new(), length: payload }] },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(length: usize) -> MessageHead {
        MessageHead { headers: Vec::new(), length }
    }

    #[test]
    fn what_has_a_short_head_is_read_as_it_was_written() {
        for reply_ in [
            HostReply::Done,
            HostReply::Missing,
            HostReply::Revision { revision: 0x0102_0304_0506_0708 },
            HostReply::Flag { value: true },
            HostReply::Flag { value: false },
            HostReply::Messages { messages: vec![message(3)] },
        ] {
            let head = head(&reply_, 3).unwrap();
            assert_eq!(reply(&head, 3), Some(reply_), "{head:?}");
        }
    }

    #[test]
    fn more_or_other_messages_than_one_that_is_all_of_the_payload_have_no_short_head() {
        let headers = vec![("A".to_owned(), "b".to_owned())];
        let with_headers = MessageHead { headers, length: 3 };
        for messages in [vec![], vec![message(2)], vec![message(1), message(2)], vec![with_headers]] {
            assert_eq!(head(&HostReply::Messages { messages }, 3), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_short_head_or_none(bytes: Vec<u8>) {
            if let Some(found) = reply(&bytes, 3) {
                prop_assert_eq!(head(&found, 3).unwrap(), bytes);
            }
        }
    }
}
