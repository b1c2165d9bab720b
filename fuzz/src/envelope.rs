//! Envelopes, and the replies in them. The first byte chooses the reply that is expected.

use nex_protocol::control::deploy::RunResponse;
use nex_protocol::control::info::InfoResponse;
use nex_protocol::control::lame_duck::LameDuckResponse;
use nex_protocol::control::ping::PingResponse;
use nex_protocol::control::stop::StopResponse;
use nex_protocol::control::workload_ping::WorkloadPingResponse;
use nex_protocol::envelope::{self, EnvelopeError, kind};
use nex_protocol::{Code, Fault, event, log};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What opens is the same when it is sealed again; a refusal keeps its text; any text can be a refusal's.
pub fn check(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    match choice % 8 {
        0 => reply::<PingResponse>(kind::PING, bytes),
        1 => reply::<WorkloadPingResponse>(kind::PING, bytes),
        2 => reply::<PingResponse>(kind::AUCTION, bytes),
        3 => reply::<InfoResponse>(kind::INFO, bytes),
        4 => reply::<RunResponse>(kind::RUN, bytes),
        5 => reply::<StopResponse>(kind::STOP, bytes),
        6 => reply::<LameDuckResponse>(kind::LAMEDUCK, bytes),
        _ => published(bytes),
    }
}

fn reply<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(kind: &str, bytes: &[u8]) {
    match envelope::open::<T>(kind, bytes) {
        Ok(data) => {
            let again = envelope::success(kind, &data).expect("a reply can be written");
            let read = envelope::open::<T>(kind, &again).expect("what was written opens");
            assert_eq!(read, data);
            let error = envelope::open::<T>("another type", &again).expect_err("of another type");
            assert!(matches!(error, EnvelopeError::WrongType { .. }));
        }
        Err(EnvelopeError::Refused { code, message, .. }) => {
            let fault = Fault::new(code.unwrap_or(Code::Internal), message.clone());
            let again = envelope::failure(kind, &fault);
            match envelope::open::<T>(kind, &again) {
                Err(EnvelopeError::Refused { code: Some(read), message: text, help: Some(help) }) => {
                    assert_eq!((read, text, help.as_str()), (fault.code, message, fault.code.help()));
                }
                other => panic!("a refusal reads as {other:?}"),
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Events and log entries: what clients read that nodes publish unasked.
fn published(bytes: &[u8]) {
    if let Ok(entry) = serde_json::from_slice::<log::Entry>(bytes) {
        let again = serde_json::to_vec(&entry).expect("an entry can be written");
        assert_eq!(serde_json::from_slice::<log::Entry>(&again).expect("what was written reads"), entry);
    }
    if let Ok(event) = serde_json::from_slice::<event::CloudEvent>(bytes) {
        let again = serde_json::to_vec(&event).expect("an event can be written");
        let read: event::CloudEvent = serde_json::from_slice(&again).expect("what was written reads");
        // The data may hold fractions, which JSON texts do not keep to the last bit.
        assert_eq!((read.id, read.r#type, read.namespace), (event.id, event.r#type, event.namespace));
    }
}
