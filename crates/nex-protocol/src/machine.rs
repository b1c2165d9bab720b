//! What a microVM is told when it is taken into use: its birth.
//!
//! ```text
//! node                          nex-init, process 1 of the guest
//!   Birth, one line     ->      once per life: after a boot, and after each restore from a snapshot
//!                       <-      Born, one line
//!   the agent's link   <->      from here on the bytes are those of [`crate::link`]
//! ```
//! A machine that is restored from a snapshot is a copy: whatever must differ between copies (name, randomness, addresses)
//! or has moved on since (the clock) comes with the birth and nowhere else. It goes over the link, which only the node can
//! reach, and is read by process 1 alone: a workload never sees it.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The vsock port on which process 1 waits for its birth.
pub const LINK_PORT: u32 = 1024;

/// Longest line of this exchange, bytes, with its end.
pub const MAX_LINE: usize = 4096;

/// All that a machine is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// Time of day, milliseconds since 1970.
    pub clock_unix_ms: u64,
    /// Randomness for the guest's kernel.
    pub entropy: Entropy,
    /// Name of the guest.
    pub name: String,
    /// Its network; none when it has none.
    pub network: Option<GuestNetwork>,
}

/// 32 random bytes, written as hexadecimal digits. Never shown.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Entropy(pub [u8; 32]);

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

impl From<Entropy> for String {
    fn from(entropy: Entropy) -> Self {
        entropy.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for Entropy {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const FORM: &str = "entropy is 64 hexadecimal digits";
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(FORM);
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * index..2 * index + 2).ok_or(FORM)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| FORM)?;
        }
        Ok(Self(bytes))
    }
}

/// The network as a guest sees it: one interface, one way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix, bits.
    pub prefix: u8,
    /// The way out.
    pub gateway: Ipv4Addr,
    /// Address of its interface.
    pub mac: [u8; 6],
    /// Name servers.
    pub nameservers: Vec<Ipv4Addr>,
    /// Largest packet, bytes.
    pub mtu: u16,
}

/// The answer to a birth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Born {
    /// What of it could not be done; the machine is of no use then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The bytes of a line.
///
/// # Errors
/// When the value cannot be represented.
pub fn line<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_birth_is_one_line_and_reads_as_it_was() {
        let birth = Birth {
            clock_unix_ms: 1_700_000_000_123,
            entropy: Entropy([0xa5; 32]),
            name: "nex-1".into(),
            network: Some(GuestNetwork {
                address: Ipv4Addr::new(192, 168, 127, 2),
                prefix: 30,
                gateway: Ipv4Addr::new(192, 168, 127, 1),
                mac: [2, 0, 0, 0, 0, 1],
                nameservers: vec![Ipv4Addr::new(9, 9, 9, 9)],
                mtu: 1500,
            }),
        };
        let line = line(&birth).unwrap();
        assert!(line.len() < MAX_LINE && line.iter().filter(|byte| **byte == b'\n').count() == 1);
        assert_eq!(serde_json::from_slice::<Birth>(&line).unwrap(), birth);
        assert!(!format!("{birth:?}").contains("a5"), "randomness is not shown");
        assert_eq!(serde_json::from_str::<Born>("{}").unwrap(), Born::default());
    }

    #[test]
    fn entropy_of_another_form_is_refused() {
        for bad in ["", "a5", &"g".repeat(64), &"é".repeat(32), &"a".repeat(65)] {
            assert!(Entropy::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
